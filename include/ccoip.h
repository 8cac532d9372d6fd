/*
 * The TCP ports by convention. A master may listen on any port; 48148 is the one that users expect when nobody says
 * otherwise. The other three are kept for programs that name them, in firewall rules above all.
 */
#ifndef CCOIP_H
#define CCOIP_H

#include <stdint.h>

/** The master's port. */
#define CCOIP_PROTOCOL_PORT_MASTER 48148

/** The base from which a peer looks for a port to hand out shared state. */
#define CCOIP_PROTOCOL_PORT_SHARED_STATE 48149

/** The base from which a peer looks for a port to be reached on by other peers. */
#define CCOIP_PROTOCOL_PORT_P2P 48150

/** The base from which a peer looks for a port to measure bandwidth on. */
#define CCOIP_PROTOCOL_PORT_BANDWIDTH_BENCHMARK 48151

#endif /* CCOIP_H */
