#!/bin/sh
# build_core.sh VENV
#
# Brings the compiled modules in blazen/_core up to date for the Python of VENV. Quick when they are: builds only if a
# source is newer than the last build or a module is missing.
set -eu

venv=${1:?usage: build_core.sh VENV}
python=$venv/bin/python
suffix=$("$python" -c 'import sysconfig; print(sysconfig.get_config_var("EXT_SUFFIX"))')
stamp=blazen/_core/.built$suffix

is_current() {
    [ -f "$stamp" ] || return 1
    for source in blazen/_core/*.pyx; do
        [ -e "${source%.pyx}$suffix" ] || return 1
    done
    [ -z "$(find setup.py requirements-test.txt csrc blazen/_core -newer "$stamp" \
        \( -name '*.py' -o -name '*.txt' -o -name '*.pyx' -o -name '*.pxd' -o -name '*.pxi' -o -name '*.[ch]' \) \
        ! -path 'csrc/tests/*' ! -path 'csrc/build/*' ! -path 'blazen/_core/*.c' -print | head -n 1)" ]
}

is_current && exit 0
# A Python from elsewhere may name the compiler it was built with, which need not exist here.
if [ -z "${CC:-}" ]; then
    recorded=$("$python" -c 'import sysconfig; print((sysconfig.get_config_var("CC") or "cc").split()[0])')
    command -v "$recorded" >/dev/null 2>&1 || export CC=cc
fi
mkdir -p build
log=build/build_core.log
touch "$stamp.new" # before the build: a source saved while it runs is newer, and built the next time
echo "Building the compiled core for $("$python" -V) ..."
if ! "$python" setup.py build_ext --inplace --parallel "$(getconf _NPROCESSORS_ONLN)" >"$log" 2>&1; then
    cat "$log" >&2
    rm -f "$stamp.new"
    echo "The compiled core could not be built: see above, or $log." >&2
    exit 1
fi
mv "$stamp.new" "$stamp"
