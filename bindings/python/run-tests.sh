#!/bin/sh
# Installs the package, with the library of PREFIX packed in, into a virtual environment and runs its tests.
#
#     bindings/python/run-tests.sh [PREFIX] [--torch] [arguments of pytest...]
#
# PREFIX is the folder that has lib/libpccl.so; default: dist, where `make lib` leaves it. With --torch in an environment
# that has torch; where that cannot be had nothing is run, and a line says so. make-environment.sh tells the rest.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
prefix=$root/dist
case ${1:-} in
'' | -*) ;;
*)
    prefix=$(cd "$1" && pwd)
    shift
    ;;
esac
with_torch=
if [ "${1:-}" = --torch ]; then
    with_torch=--torch
    shift
fi
library=$prefix/lib/libpccl.so
if [ ! -f "$library" ]; then
    echo "$0: $library is missing; run \`make lib\` first" >&2
    exit 2
fi

status=0
environment=$("$here/make-environment.sh" "$library" $with_torch) || status=$?
if [ $status = 3 ]; then
    echo "SKIPPED: torch cannot be installed here, so nothing that needs it was tested"
    exit 0
fi
[ $status = 0 ] || exit $status

# The tests must find the library in the package, as a user's program would.
unset PCCL_LIBRARY
cd "$here"
exec "$environment/bin/python" -m pytest "$@"
