#include "CCUDA.h"

#pragma clang diagnostic ignored "-Wc23-extensions"

static const char reduce[] = {
#embed "kernels/reduce.ptx"
    , 0};

static const char codec[] = {
#embed "kernels/codec.ptx"
    , 0};

static const char hash[] = {
#embed "kernels/hash.ptx"
    , 0};

static const char outer[] = {
#embed "kernels/outer.ptx"
    , 0};

const char *pccl_cuda_ptx(pccl_cuda_kernels kernels) {
    switch (kernels) {
    case pccl_cuda_reduce:
        return reduce;
    case pccl_cuda_codec:
        return codec;
    case pccl_cuda_hash:
        return hash;
    case pccl_cuda_outer:
        return outer;
    }
    __builtin_unreachable();
}
