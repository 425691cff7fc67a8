#!/bin/sh
# coverage.sh VENV
#
# Measures what the tests reach, in a copy of the checkout: the line-tracing build of the core is several times slower
# and must not replace the one in use.
set -eu

venv=$(cd "${1:?usage: coverage.sh VENV}" && pwd)
tree=build/coverage

mkdir -p "$tree"
# Generated C and objects of earlier measurements stay, so that only what changed is compiled again.
find "$tree" -mindepth 1 -maxdepth 1 ! -name build ! -name blazen -exec rm -rf {} +
find "$tree/blazen" -type f ! -name '*.c' ! -name '*.so' -delete 2>/dev/null || true
tar -cf - --exclude='*.so' --exclude='blazen/_core/*.c' --exclude='__pycache__' --exclude='csrc/build' \
    setup.py pyproject.toml README.md LICENSE MANIFEST.in requirements-*.txt Makefile CHANGELOG.md CONTRIBUTING.md \
    blazen csrc tests docs examples scripts | tar -xf - -C "$tree"

cd "$tree"
echo "Building the core with line tracing ..."
BLAZEN_COVERAGE=1 "$venv/bin/python" setup.py build_ext --inplace >coverage_build.log 2>&1 || {
    cat coverage_build.log >&2
    exit 1
}
rm -f .coverage
# The copy comes before the checkout that the environment knows; tests that start processes pass it on.
# Left out: the traced way, since Cython's own line tracing and a test's sys.settrace get in each other's way; and threads
# sharing a store, since line tracing lets other threads run between two C statements, which the real build does not.
PYTHONPATH=$PWD "$venv/bin/python" -m coverage run -m pytest -q -p no:cacheprovider -m "not slow" \
    --deselect "tests/test_run_model.py::test_a_run_does_step_for_step_what_the_model_does[traced]" \
    --deselect tests/test_state.py::test_threads_may_share_a_store \
    --deselect tests/test_typed_state.py::test_threads_may_share_a_state
"$venv/bin/python" -m coverage report
"$venv/bin/python" -m coverage json --quiet -o coverage.json
exec "$venv/bin/python" scripts/coverage_gate.py coverage.json
