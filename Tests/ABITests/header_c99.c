// Each header stands on its own, and they go together in either order. ORDER says which of them; the runner compiles
// this file once for each. The types are named by their struct tags too, which C programs may forward-declare.
#ifndef ORDER
#define ORDER 4
#endif

#if ORDER == 1
#include <ccoip_inet.h>
#elif ORDER == 2
#include <ccoip.h>
#elif ORDER == 3
#include <pccl.h>
#elif ORDER == 4
#include <pccl.h>

#include <ccoip.h>
#include <ccoip_inet.h>
#elif ORDER == 5
#include <ccoip_inet.h>

#include <ccoip.h>

#include <pccl.h>
#elif ORDER == 6
#include <pccl_ext.h>

#include <ccoip.h>
#include <pccl.h>
#else
#error "ORDER is 1 to 6"
#endif

#if ORDER == 1 || ORDER >= 3
struct ccoip_socket_address_t *socketAddress(ccoip_socket_address_t *address);
struct ccoip_socket_address_t *socketAddress(ccoip_socket_address_t *address) {
    return address;
}
#endif

#if ORDER == 2 || ORDER >= 4
#if CCOIP_PROTOCOL_PORT_MASTER != 48148
#error "the port is not a number that the preprocessor knows"
#endif
#endif

#if ORDER >= 3
#if !defined(PCCL_EXPORT) || !defined(PCCL_NULLABLE)
#error "a macro is missing"
#endif

#define TAG(tag, type)                                                                                                 \
    struct tag *tag_##type(type *value);                                                                               \
    struct tag *tag_##type(type *value) {                                                                              \
        return value;                                                                                                  \
    }
TAG(pcclCommCreateParams_t, pcclCommCreateParams_t)
TAG(pcclReduceSingleDescriptor_t, pcclReduceOpDescriptor_t)
TAG(pcclMasterInstanceState_t, pcclMasterInstance_t)
TAG(pcclComm_t, pcclComm_t)
TAG(pcclRankInfo_t, pcclRankInfo_t)
TAG(pcclReduceDescriptor_t, pcclReduceDescriptor_t)
TAG(pcclSharedState_t, pcclSharedState_t)

bool boolComesWithTheHeader(pcclTensorInfo_t *info);
bool boolComesWithTheHeader(pcclTensorInfo_t *info) { return info->allow_content_inequality; }
#endif

int main(void) { return 0; }
