#!/bin/sh
# Runs stress.py for so many seconds, with the library of PREFIX and the Python package as it lies in the sources.
#
#     Tests/Stress/run.sh PREFIX SECONDS [more options of stress.py]
set -eu

here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
prefix=$(cd "$1" && pwd)
seconds=$2
shift 2

python=$root/.build/python-venv/bin/python
[ -x "$python" ] || sh "$root/bindings/python/make-environment.sh" "$prefix/lib/libpccl.so" >/dev/null
export PCCL_LIBRARY="$prefix/lib/libpccl.so" PYTHONPATH="$root/bindings/python/src"
exec "$python" "$here/stress.py" --prefix "$prefix" --seconds "$seconds" "$@"
