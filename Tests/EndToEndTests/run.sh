#!/usr/bin/env bash
# The tests with real processes: compiles the worker against an installed tree and lets the driver play with it.
#
#     Tests/EndToEndTests/run.sh [PREFIX [DRIVER-OPTION...] [CASE...]]
#
# PREFIX has bin/, include/ and lib/libpccl.so; "dist" if not given. CASE is a name or a pattern like 'kill_*'; all of
# them if none is given. `run.sh dist --list` names them, `--seed N` repeats the kills of an earlier run.
set -euo pipefail

prefix=${1:-dist}
[ $# -eq 0 ] || shift
here=$(cd "$(dirname "$0")" && pwd)
for file in include/pccl.h lib/libpccl.so bin/pccl-master; do
    if [ ! -e "$prefix/$file" ]; then
        echo "$0: $prefix has no $file; build and install the library there first" >&2
        exit 2
    fi
done
prefix=$(cd "$prefix" && pwd)

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
"${CC:-cc}" -std=gnu99 -O2 -Wall -Wextra -Werror -I"$prefix/include" "$here/worker.c" -o "$work/worker" \
    -L"$prefix/lib" -Wl,-rpath,"$prefix/lib" -lpccl
PYTHONDONTWRITEBYTECODE=1 "${PYTHON:-python3}" "$here/driver.py" --master "$prefix/bin/pccl-master" \
    --worker "$work/worker" --logs "$work/logs" "$@"
