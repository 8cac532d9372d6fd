#!/bin/sh
# Builds the driver that stands in for libcuda.so.1:
#
#     Tests/FakeCUDA/build.sh OUTPUT
set -eu
here=$(cd "$(dirname "$0")" && pwd)
exec ${CC:-cc} -std=c11 -Wall -Wextra -Wpedantic -Werror -O2 -g -pthread -shared -fPIC "$here/fake_cuda.c" \
    "$here/ptx_read.c" "$here/ptx_run.c" -lm -o "$1"
