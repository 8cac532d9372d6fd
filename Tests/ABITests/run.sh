#!/bin/sh
# The ABI tests: compiles them against an installed tree and runs them.
#
#     Tests/ABITests/run.sh [prefix]        prefix has include/ and lib/libpccl.so; "dist" if not given
#
# CC and CXX choose the compilers. Prints "ok NAME" or "FAILED NAME" for each test, with the output of those that
# failed, and ends with a non-zero status if any did.
set -u

prefix=${1:-dist}
here=$(cd "$(dirname "$0")" && pwd) || exit 2
library=$prefix/lib/libpccl.so
if [ ! -e "$library" ] || [ ! -e "$prefix/include/pccl.h" ]; then
    echo "$0: $prefix has no lib/libpccl.so or no include/pccl.h; build and install the library there first" >&2
    exit 2
fi
prefix=$(cd "$prefix" && pwd) || exit 2
library=$prefix/lib/libpccl.so

. "$here/../checks.sh"

warnings="-Wall -Wextra -Wpedantic -Werror"
c99() { ${CC:-cc} -std=c99 $warnings -O1 -g -pthread -I"$prefix/include" "$@"; }
cxx() { ${CXX:-c++} $warnings -I"$prefix/include" "$@"; }
link="-L$prefix/lib -Wl,-rpath,$prefix/lib -lpccl -lm"

only_pccl_symbols() {
    nm -D --defined-only "$library" >"$work/symbols" || return 1
    # The last column is the name; a version after an @ is no part of it.
    others=$(awk '{ sub(/@.*/, "", $NF); if ($NF !~ /^pccl/) print $NF }' "$work/symbols")
    [ -s "$work/symbols" ] || { echo "no symbols at all"; return 1; }
    [ -z "$others" ] || { echo "exported, and not of the API:"; echo "$others"; return 1; }
}

self_contained() {
    ldd "$library" >"$work/needed" || return 1
    if grep -E 'libswift|[Ff]oundation|libdispatch|libBlocksRuntime|not found' "$work/needed"; then
        echo "the library must bring its Swift runtime with it"
        return 1
    fi
}

for order in 1 2 3 4 5 6; do
    check "header_c99_order_$order" c99 -DORDER=$order -fsyntax-only "$here/header_c99.c"
done

for standard in c++11 c++20; do
    check "header_cxx_${standard}_compiles" \
        cxx -std=$standard "$here/header_cxx.cpp" -o "$work/header_$standard" $link &&
        check "header_cxx_$standard" "$work/header_$standard"
done

for test in layout arguments two_peers contract evicted quantised collectives shared_state snapshots leaks growth; do
    check "${test}_compiles" c99 "$here/$test.c" -o "$work/$test" $link &&
        check "$test" "$work/$test"
done

check fake_driver_compiles sh "$here/../FakeCUDA/build.sh" "$work/libcuda.so" &&
    check device_compiles c99 "$here/device.c" -o "$work/device" $link -ldl && {
    check device env PCCL_LIBCUDA="$work/libcuda.so" "$work/device" "$work/libcuda.so"
    check device_without_kernels env PCCL_LIBCUDA="$work/libcuda.so" FAKE_CUDA_NO_KERNELS=1 "$work/device" "$work/libcuda.so"
    check no_device env PCCL_LIBCUDA="$work/nothing.so" "$work/device"
    check windows_compiles c99 "$here/windows.c" -o "$work/windows" $link -ldl
    export FAKE_CUDA_DELAY=0
    windows() { env PCCL_LIBCUDA="$work/libcuda.so" "$@"; }
    check windows windows "$work/windows" "$work/libcuda.so"
    for call in cuLaunchKernel:2 cuMemcpyHtoDAsync_v2:3 cuMemcpyDtoDAsync_v2:2 cuMemcpyDtoDAsync_v2:60; do
        check "windows_when_${call}_fails" windows "$work/windows" "$work/libcuda.so" ${call%%:*} ${call##*:}
    done
    check pieces_compiles c99 "$here/pieces.c" -o "$work/pieces" $link -ldl
    for way in PCCL_ALGORITHM=direct PCCL_ALGORITHM=ring PCCL_ALGORITHM=oneshot FAKE_CUDA_NO_KERNELS=1; do
        check "pieces_with_$way" windows "$way" "$work/pieces" "$work/libcuda.so"
    done
    # Where there can be none, everything goes through the host.
    for reason in FAKE_CUDA_NO_PEER_ACCESS=1 FAKE_CUDA_FAIL=cuMemCreate:1:2 FAKE_CUDA_FAIL=cuMemMap:2:1 \
        FAKE_CUDA_FAIL=cuMemImportFromShareableHandle:3:1 FAKE_CUDA_FAIL=cuStreamCreate:3:2 FAKE_CUDA_NO_KERNELS=1; do
        check "no_windows_with_$reason" windows "$reason" "$work/windows" "$work/libcuda.so" none
    done
    unset FAKE_CUDA_DELAY
}
[ -e "$work/libcuda.so" ] && check device_diloco_compiles c99 "$here/device_diloco.c" -o "$work/device_diloco" $link -ldl && {
    check device_diloco env PCCL_LIBCUDA="$work/libcuda.so" FAKE_CUDA_DELAY=20 "$work/device_diloco" "$work/libcuda.so"
    check device_diloco_without_kernels env PCCL_LIBCUDA="$work/libcuda.so" FAKE_CUDA_NO_KERNELS=1 "$work/device_diloco" "$work/libcuda.so"
}
check exports_only_pccl only_pccl_symbols
check needs_no_swift_runtime self_contained

exit $failed
