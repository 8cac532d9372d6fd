// A peer that averages a vector with whoever else is in the run, again and again, while peers come and go.
//
//     cc peer.c $(pkg-config --cflags --libs pccl) -o peer
//     ./peer 127.0.0.1:48148 10 1.5        master, number of rounds, this peer's value
//
// It needs a master (`pccl-master`) at that address. Start a few of these, kill some, start others: the rest goes on.
#define _POSIX_C_SOURCE 200809L
#include <pccl.h>

#include <arpa/inet.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#define ELEMENTS 1024

static void require(pcclResult_t result, const char *call) {
    if (result != pcclSuccess) {
        fprintf(stderr, "%s failed with result %d; the line above says why\n", call, (int)result);
        exit(1);
    }
}
#define REQUIRE(call) require(call, #call)

// "host:port" or "[v6 address]:port", into the form that the library takes.
static ccoip_socket_address_t resolve(const char *text) {
    char host[256];
    const char *colon = strrchr(text, ':');
    size_t length = colon == NULL ? 0 : (size_t)(colon - text);
    if (length == 0 || length >= sizeof(host)) {
        fprintf(stderr, "%s: expected host:port\n", text);
        exit(2);
    }
    memcpy(host, text, length);
    host[length] = '\0';
    char *name = host;
    if (host[0] == '[' && host[length - 1] == ']') {
        host[length - 1] = '\0';
        name++;
    }

    struct addrinfo hints, *found;
    memset(&hints, 0, sizeof(hints));
    hints.ai_socktype = SOCK_STREAM;
    int problem = getaddrinfo(name, colon + 1, &hints, &found);
    if (problem != 0) {
        fprintf(stderr, "%s: %s\n", text, gai_strerror(problem));
        exit(2);
    }
    ccoip_socket_address_t address;
    memset(&address, 0, sizeof(address));
    if (found->ai_family == AF_INET6) {
        struct sockaddr_in6 from;
        memcpy(&from, found->ai_addr, sizeof(from));
        address.inet.protocol = inetIPv6;
        memcpy(address.inet.ipv6.data, &from.sin6_addr, 16);
        address.port = ntohs(from.sin6_port);
    } else {
        struct sockaddr_in from;
        memcpy(&from, found->ai_addr, sizeof(from));
        address.inet.protocol = inetIPv4;
        memcpy(address.inet.ipv4.data, &from.sin_addr, 4);
        address.port = ntohs(from.sin_port);
    }
    freeaddrinfo(found);
    return address;
}

static int groupSize(const pcclComm_t *communicator) {
    int size = 0;
    REQUIRE(pcclGetAttribute(communicator, PCCL_ATTRIBUTE_PEER_GROUP_WORLD_SIZE, &size));
    return size;
}

int main(int argc, char **argv) {
    if (argc != 4) {
        fprintf(stderr, "usage: %s host:port rounds value\n", argv[0]);
        return 2;
    }
    int rounds = atoi(argv[2]);
    float value = (float)atof(argv[3]);

    pcclCommCreateParams_t parameters;
    memset(&parameters, 0, sizeof(parameters));
    parameters.master_address = resolve(argv[1]);
    pcclComm_t *communicator = NULL;
    REQUIRE(pcclInit());
    REQUIRE(pcclCreateCommunicator(&parameters, &communicator));
    REQUIRE(pcclConnect(communicator));

    pcclReduceDescriptor_t average;
    memset(&average, 0, sizeof(average));
    average.count = ELEMENTS;
    average.op = pcclAvg;
    average.src_descriptor.datatype = pcclFloat;

    static float vector[ELEMENTS];
    // pcclConnect has brought us to where the others leave their join point: our first turn begins without one.
    bool justJoined = true;
    for (int round = 0; round < rounds;) {
        if (!justJoined)
            REQUIRE(pcclUpdateTopology(communicator));
        justJoined = false;

        if (groupSize(communicator) < 2) {
            // Alone: somebody may join at the next join point. There is no hurry to ask again.
            struct timespec pause = {0, 100 * 1000 * 1000};
            nanosleep(&pause, NULL);
            continue;
        }

        for (int i = 0; i < ELEMENTS; i++)
            vector[i] = value;
        // A lost member costs a call, not the input: the vector is whole, so the survivors simply call again.
        pcclResult_t result;
        pcclReduceInfo_t info;
        do
            result = pcclAllReduce(vector, vector, &average, communicator, &info);
        while (result == pcclRankConnectionLost);
        // All the others are gone: back to the join point, with the round still to do.
        if (result == pcclTooFewPeers)
            continue;
        require(result, "pcclAllReduce");

        printf("round %d: %u peers, average %g\n", round, (unsigned)info.local_world_size, (double)vector[0]);
        fflush(stdout);
        round++;
    }
    REQUIRE(pcclDestroyCommunicator(communicator));
    return 0;
}
