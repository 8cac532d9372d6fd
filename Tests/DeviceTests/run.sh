#!/usr/bin/env bash
# The kernels of devices, run by a driver that stands in for one: that the committed PTX is what its source makes, that
# every kernel gives the bits of the processor, and that changes of the PTX would be noticed.
#
#     Tests/DeviceTests/run.sh [MUTANTS]      so many changes, 60 if not given
#
# Prints "ok NAME" or "FAILED NAME" for each check, with the output of those that failed, and ends with a non-zero
# status if any did.
set -u
cd "$(dirname "$0")/../.." || exit 2

. Tests/checks.sh

check ptx_is_of_its_source scripts/device-kernels --check
check fake_driver_compiles sh Tests/FakeCUDA/build.sh "$work/libcuda.so"
check tests_compile clang -std=c2x -Wall -Wextra -Werror -Wno-c23-extensions -O2 -g -ffp-contract=off -pthread \
    -DPCCL_PLAIN_KERNELS -ISources/CCUDA/include -ISources/CKernels/include -ISources/CKernels \
    Tests/DeviceTests/kernels.c Sources/CCUDA/*.c Sources/CKernels/*.c -ldl -lm -o "$work/kernels"
[ $failed = 0 ] || exit 1

export PCCL_LIBCUDA=$work/libcuda.so FAKE_CUDA_DELAY=0 FAKE_CUDA_VERBOSE=1
check every_kernel "$work/kernels"
seed=$RANDOM
check "every_kernel_with_seed_$seed" env KERNEL_SEED=$seed "$work/kernels"

# Three members on one device, one killed after the other; with windows, and through the host as a whole and in pieces.
if [ -e dist/lib/libpccl.so ]; then
    check killing_compiles clang -std=gnu2x -Wall -Wextra -Werror -Wno-c23-extensions -O1 -g -pthread \
        -ISources/CCUDA/include -Idist/include Tests/DeviceTests/kills.c Sources/CCUDA/*.c -Ldist/lib -lpccl -ldl \
        "-Wl,-rpath,$PWD/dist/lib" -o "$work/kills"
    killed() {
        check "members_killed_with_seed_${seed}_and_$1" env FAKE_CUDA_JITTER=300 "$1" "$2" "$work/kills" "$3" "$seed"
    }
    killed PCCL_DEVICE_WINDOW=8 PCCL_DEVICE_ROUND=64 50
    killed PCCL_DEVICE_WINDOW=0 PCCL_DEVICE_PIECE=1024 20
    export PCCL_ALGORITHM=direct
    killed PCCL_DEVICE_WINDOW=0 PCCL_DEVICE_PIECE=16 50
    unset PCCL_ALGORITHM
fi

# What is taken to a machine with a GPU, on the driver that stands in for one; its figures mean nothing.
if [ -e dist/lib/libpccl.so ]; then
    check session_is_bundled scripts/gpu-session bundle "$work/session" &&
        check session_runs env SESSION_MEBIBYTES=1 SESSION_MEASURED=0.0625 SESSION_KILLS=3 SESSION_KERNEL=hash_chunks \
            "$work/session/run" "$work/report.md"
else
    echo "skipped session_runs: there is no dist/lib/libpccl.so; make lib builds it"
fi

# Of the changes that nobody notices nearly all make no difference (docs/cuda.md), so the share is not higher.
check changes_are_noticed python3 Tests/DeviceTests/mutate.py "$work/kernels" "$work/libcuda.so" \
    Sources/CCUDA/kernels/*.ptx --count "${1:-60}" --seed 1 --least 90
tail -n 1 "$work/output"
exit $failed
