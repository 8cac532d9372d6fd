/*
 * Internet addresses as the PCCL C API passes them. Plain data in host order, no pointers: copy them freely.
 */
#ifndef CCOIP_INET_H
#define CCOIP_INET_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/** Which of the two addresses inside a ccoip_inet_address_t is the one that counts. */
typedef enum ccoip_inet_protocol_t { inetIPv4 = 0, inetIPv6 = 1 } ccoip_inet_protocol_t;

/** An IPv4 address; data[0] is the leftmost number of the dotted form, so 127.0.0.1 is {127, 0, 0, 1}. */
typedef struct ccoip_ipv4_address_t {
    uint8_t data[4];
} ccoip_ipv4_address_t;

/** An IPv6 address in the order in which it is written, so ::1 is fifteen zeros and a one. */
typedef struct ccoip_ipv6_address_t {
    uint8_t data[16];
} ccoip_ipv6_address_t;

/** An address of either kind. The member that `protocol` does not name is ignored. This is a struct, not a union. */
typedef struct ccoip_inet_address_t {
    ccoip_inet_protocol_t protocol;
    ccoip_ipv4_address_t ipv4;
    ccoip_ipv6_address_t ipv6;
} ccoip_inet_address_t;

/** An address and a TCP port. The port is an ordinary number: do not pass it through htons. */
typedef struct ccoip_socket_address_t {
    ccoip_inet_address_t inet;
    uint16_t port;
} ccoip_socket_address_t;

#ifdef __cplusplus
}
#endif

#endif /* CCOIP_INET_H */
