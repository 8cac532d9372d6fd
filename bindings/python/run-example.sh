#!/bin/sh
# Trains the small GPT of examples/train_gpt.py in all variants: plot, table, verdict. Up to 30 minutes on two cores.
#
#     bindings/python/run-example.sh [PREFIX] [arguments of `train_gpt.py all`...]
#
# PREFIX is the folder that has lib/libpccl.so and bin/pccl-master; default: dist, where `make lib` leaves them. It needs
# torch; make-environment.sh tells where that comes from.
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
library=$prefix/lib/libpccl.so
if [ ! -f "$library" ]; then
    echo "$0: $library is missing; run \`make lib\` first" >&2
    exit 2
fi

environment=$("$here/make-environment.sh" "$library" --torch)

# The example must find the library in the package, as a user's program would.
unset PCCL_LIBRARY
exec "$environment/bin/python" "$here/examples/train_gpt.py" all --pccl-master "$prefix/bin/pccl-master" "$@"
