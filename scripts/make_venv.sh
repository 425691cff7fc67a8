#!/bin/sh
# make_venv.sh VENV REQUIREMENTS [PYTHON]
#
# Makes VENV hold a working virtual environment with exactly REQUIREMENTS, and this checkout on its import path. Does
# nothing, and needs no network, when it already does. Without PYTHON any interpreter of 3.11 or later will do: the one
# VENV has, then the first found on PATH.
set -eu

venv=${1:?usage: make_venv.sh VENV REQUIREMENTS [PYTHON]}
requirements=${2:?usage: make_venv.sh VENV REQUIREMENTS [PYTHON]}
python=${3:-}
here=$(dirname "$0")

# Empty for an interpreter that does not run: a shim without its Python, a venv whose Python was removed.
version_of() {
    "$1" -c 'import sys; sys.stdout.write("%d.%d" % sys.version_info[:2])' 2>/dev/null || true
}
is_supported() {
    case $(version_of "$1") in
    '' | 2.* | 3.[0-9] | 3.10) return 1 ;;
    esac
}

present=$(version_of "$venv/bin/python")
if [ -z "$python" ]; then
    if is_supported "$venv/bin/python"; then
        python=$venv/bin/python
    else
        python=python3
        for candidate in python3 python3.13 python3.12 python3.11; do
            if is_supported "$candidate"; then
                python=$candidate
                break
            fi
        done
    fi
fi

# All that the content of the environment depends on. It names the checkout too, since scripts in bin/ do.
stamp=$venv/.blazen-requirements
wanted="$(version_of "$python") in $(pwd -P)
$(cat requirements-*.txt | cksum)"
[ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ] && [ -n "$present" ] && exit 0

sh "$here/check_requirements.sh" "$python"
if [ -z "$present" ] || [ "$present" != "$(version_of "$python")" ]; then
    echo "Making $venv with Python $(version_of "$python") ..."
    rm -rf "$venv"
    "$python" -m venv "$venv"
fi
echo "Installing $requirements into $venv ..."
if ! "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --requirement "$requirements"; then
    echo "Could not install $requirements into $venv: pip says why above. The first time this needs the network" \
        "(or PIP_FIND_LINKS with the packages); once installed, nothing is fetched again." >&2
    exit 1
fi
# Not an editable install: that would compile the core a second time, out of sight of build_core.sh.
packages=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
pwd -P >"$packages/blazen-checkout.pth"
printf '%s\n' "$wanted" >"$stamp"
