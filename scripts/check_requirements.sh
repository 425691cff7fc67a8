#!/bin/sh
# check_requirements.sh PYTHON
#
# Succeeds when this machine can build blazen with the interpreter PYTHON. Otherwise names on stderr everything that
# is missing, with the packages that bring it on Debian and Fedora, and exits with 1.
set -u

python=${1:?usage: check_requirements.sh PYTHON}
compiler=${CC:-cc}
missing=
debian=
fedora=

lacks() { # WHAT DEBIAN_PACKAGES FEDORA_PACKAGES
    missing="$missing
  - $1"
    debian="$debian $2"
    fedora="$fedora $3"
}

# Written so that Python 2 understands it too: an old python3 or python must get the same clear answer.
version=$("$python" -c 'import sys; sys.stdout.write("%d.%d" % sys.version_info[:2])' 2>/dev/null) || version=
headers=
case $version in
'')
    lacks "Python 3.11 or later: '$python' does not run" "python3 python3-venv python3-dev" "python3 python3-devel"
    ;;
2.* | 3.[0-9] | 3.10)
    lacks "Python 3.11 or later: '$python' is Python $version (choose another with: make PYTHON=python3.12)" \
        "python3.11 python3.11-venv python3.11-dev" "python3.11 python3.11-devel"
    ;;
*)
    if ! "$python" -c 'import venv, ensurepip' >/dev/null 2>&1; then
        lacks "the modules venv and ensurepip of Python $version ('$python')" "python$version-venv" "python3-libs"
    fi
    headers=$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')
    if [ ! -f "$headers/Python.h" ]; then
        lacks "the C headers of Python $version: there is no $headers/Python.h" "python$version-dev" "python3-devel"
        headers=
    fi
    ;;
esac

# CC may carry options, as in CC="gcc -m64": only its first word is a program, and the words stay apart below.
if ! command -v "${compiler%% *}" >/dev/null 2>&1; then
    lacks "a C compiler: '${compiler%% *}' is not on PATH" "gcc libc6-dev" "gcc glibc-devel"
elif [ -n "$headers" ]; then
    trial=$(mktemp -d) || exit 1
    trap 'rm -rf "$trial"' EXIT
    printf '#include <Python.h>\n#include <stdlib.h>\nint main(void) { return EXIT_SUCCESS; }\n' >"$trial/trial.c"
    # shellcheck disable=SC2086
    if ! $compiler -I"$headers" -c "$trial/trial.c" -o "$trial/trial.o" >"$trial/log" 2>&1; then
        lacks "a C compiler that works: '$compiler' cannot compile a program that includes Python.h and stdlib.h:
$(sed 's/^/      /' "$trial/log" | head -n 10)" "gcc libc6-dev" "gcc glibc-devel"
    fi
fi

[ -z "$missing" ] && exit 0
{
    printf 'blazen cannot be built here. Missing:%s\n' "$missing"
    printf 'Debian, Ubuntu:  apt-get install%s\n' "$debian"
    printf 'Fedora:          dnf install%s\n' "$fedora"
} >&2
exit 1
