#!/bin/sh
# test_other_pythons.sh VENV
#
# Runs the quick tests under every supported Python installed here other than that of VENV, each in a .venv-3.N of its
# own. What cannot be tried is named, and counts as a failure when CI or BLAZEN_REQUIRE_ALL is set; a Python that is not
# installed at all never does.
set -u

venv=${1:?usage: test_other_pythons.sh VENV}
here=$(dirname "$0")
own=$("$venv/bin/python" -c 'import sys; sys.stdout.write("%d.%d" % sys.version_info[:2])') || exit 1
required=
for setting in "${CI:-}" "${BLAZEN_REQUIRE_ALL:-}"; do
    case $setting in
    '' | 0 | false) ;;
    *) required=yes ;;
    esac
done
failed=
summary="Python $own: tested"

# Prints the interpreter of version $1. Having a file of that name is not enough: version managers put shims on PATH.
find_python() {
    for candidate in "python$1" "$HOME/.pyenv/versions/$1".*/bin/"python$1"; do
        found=$("$candidate" -c 'import sys; sys.stdout.write("%d.%d" % sys.version_info[:2])' 2>/dev/null) || continue
        if [ "$found" = "$1" ]; then
            printf '%s\n' "$candidate"
            return 0
        fi
    done
    return 1
}

for version in 3.11 3.12 3.13; do
    [ "$version" = "$own" ] && continue
    if ! python=$(find_python "$version"); then
        summary="$summary
Python $version: not installed, skipped"
        continue
    fi
    other=.venv-$version
    if ! sh "$here/make_venv.sh" "$other" requirements-test.txt "$python" || ! sh "$here/build_core.sh" "$other"; then
        if [ -n "$required" ]; then
            failed=yes
            summary="$summary
Python $version: FAILED, installed but cannot be tried (see above)"
        else
            summary="$summary
Python $version: installed but cannot be tried (see above), skipped"
        fi
        continue
    fi
    echo "Testing under Python $version ..."
    if "$other/bin/python" -m pytest -q -p no:cacheprovider -m "not slow"; then
        summary="$summary
Python $version: tested"
    else
        failed=yes
        summary="$summary
Python $version: FAILED"
    fi
done

printf '%s\n' "$summary"
[ -z "$failed" ]
