#include "CCUDA.h"

#pragma clang diagnostic ignored "-Wc23-extensions"

const char pccl_cuda_ptx_reduce[] = {
#embed "kernels/reduce.ptx"
    , 0};

const char pccl_cuda_ptx_codec[] = {
#embed "kernels/codec.ptx"
    , 0};

const char pccl_cuda_ptx_hash[] = {
#embed "kernels/hash.ptx"
    , 0};
