// What the behavioural tests share: checks that say what they saw, a watchdog that turns a hang into a failure, and a
// master on a free port.
#ifndef PCCL_ABI_TESTING_H
#define PCCL_ABI_TESTING_H

#include <pccl.h>
#include <pccl_ext.h>

#include <arpa/inet.h>
#include <dirent.h>
#include <netinet/in.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define WATCHDOG_SECONDS 60

static const char *volatile testing_phase = "start";

static inline const char *resultName(pcclResult_t result) {
    static const char *const names[] = {"success",
                                        "not initialized",
                                        "internal error",
                                        "invalid argument",
                                        "invalid usage",
                                        "too few peers",
                                        "master connection failed",
                                        "rank connection failed",
                                        "rank connection lost",
                                        "no shared state available",
                                        "pending async ops",
                                        "update topology failed",
                                        "topology optimization failed"};
    return (unsigned)result < sizeof(names) / sizeof(names[0]) ? names[result] : "no result at all";
}

// Only functions that a signal handler may call.
static inline void testing_onAlarm(int number) {
    const char *phase = testing_phase;
    static const char before[] = "watchdog: hangs at: ";
    ssize_t written = write(STDOUT_FILENO, before, sizeof(before) - 1);
    written += write(STDOUT_FILENO, phase, strlen(phase));
    written += write(STDOUT_FILENO, "\n", 1);
    _exit(written > 0 ? 128 + number : 127);
}

static inline void startWatchdog(void) {
    signal(SIGALRM, testing_onAlarm);
    alarm(WATCHDOG_SECONDS);
}

// The first failure ends the test: what comes after it would wait for a peer that went another way.
#define FAIL(...)                                                                                                      \
    do {                                                                                                               \
        printf("%s:%d: in \"%s\": ", __FILE__, __LINE__, testing_phase);                                               \
        printf(__VA_ARGS__);                                                                                           \
        printf("\n");                                                                                                  \
        fflush(stdout);                                                                                                \
        _exit(1);                                                                                                      \
    } while (0)

#define CHECK(condition)                                                                                               \
    do {                                                                                                               \
        if (!(condition))                                                                                              \
            FAIL("not so: %s", #condition);                                                                            \
    } while (0)

#define EXPECT(expected, call)                                                                                         \
    do {                                                                                                               \
        pcclResult_t testing_result = (call);                                                                          \
        if (testing_result != (expected))                                                                              \
            FAIL("%s: %s, expected %s", #call, resultName(testing_result), resultName(expected));                      \
    } while (0)

// Of descriptors in /proc/self/fd, for example.
static inline int countEntries(const char *path) {
    DIR *folder = opendir(path);
    CHECK(folder != NULL);
    int count = 0;
    while (readdir(folder) != NULL)
        count++;
    closedir(folder);
    return count;
}

static inline ccoip_socket_address_t loopback(uint16_t port) {
    ccoip_socket_address_t address;
    memset(&address, 0, sizeof(address));
    address.inet.protocol = inetIPv4;
    address.inet.ipv4.data[0] = 127;
    address.inet.ipv4.data[3] = 1;
    address.port = port;
    return address;
}

// A socket bound to a loopback port that the system chose; the port is in use for as long as it is open and listens.
static inline int openListener(uint16_t *port) {
    struct sockaddr_in address;
    socklen_t length = sizeof(address);
    memset(&address, 0, sizeof(address));
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    if (listener < 0 || bind(listener, (struct sockaddr *)&address, sizeof(address)) != 0 || listen(listener, 1) != 0 ||
        getsockname(listener, (struct sockaddr *)&address, &length) != 0)
        FAIL("no loopback port to be had");
    *port = ntohs(address.sin_port);
    return listener;
}

static inline uint16_t freePort(void) {
    uint16_t port;
    close(openListener(&port));
    return port;
}

// Another process may take the port between the look and the use, so a busy one is answered with another try.
static inline pcclMasterInstance_t *startMaster(uint16_t *port) {
    for (int attempt = 0; attempt < 20; attempt++) {
        pcclMasterInstance_t *master = NULL;
        *port = freePort();
        EXPECT(pcclSuccess, pcclCreateMaster(loopback(*port), &master));
        pcclResult_t result = pcclRunMaster(master);
        if (result == pcclSuccess)
            return master;
        if (result != pcclInvalidUsage)
            FAIL("pcclRunMaster: %s", resultName(result));
        EXPECT(pcclSuccess, pcclDestroyMaster(master));
    }
    FAIL("twenty ports in a row were taken");
}

static inline void stopMaster(pcclMasterInstance_t *master) {
    EXPECT(pcclSuccess, pcclInterruptMaster(master));
    EXPECT(pcclSuccess, pcclMasterAwaitTermination(master));
    EXPECT(pcclSuccess, pcclDestroyMaster(master));
}

static inline pcclCommCreateParams_t parametersFor(uint16_t port) {
    pcclCommCreateParams_t parameters;
    memset(&parameters, 0, sizeof(parameters));
    parameters.master_address = loopback(port);
    return parameters;
}

// Options with this choice and no other, until the next ones of this thread.
static inline const pcclReduceOptions_t *onLoss(pcclOnLoss_t choice) {
    static __thread pcclReduceOptions_t options;
    memset(&options, 0, sizeof(options));
    options.struct_size = sizeof(options);
    options.on_loss = choice;
    return &options;
}

static inline pcclReduceDescriptor_t reduction(uint64_t tag, size_t count, pcclDataType_t type, pcclRedOp_t op) {
    pcclReduceDescriptor_t descriptor;
    memset(&descriptor, 0, sizeof(descriptor));
    descriptor.count = count;
    descriptor.op = op;
    descriptor.tag = tag;
    descriptor.src_descriptor.datatype = type;
    descriptor.quantization_options.quantized_datatype = type;
    return descriptor;
}

static inline int attribute(const pcclComm_t *communicator, pcclAttribute_t which) {
    int value = -1;
    EXPECT(pcclSuccess, pcclGetAttribute(communicator, which, &value));
    return value;
}

static inline int groupSize(const pcclComm_t *communicator) {
    return attribute(communicator, PCCL_ATTRIBUTE_PEER_GROUP_WORLD_SIZE);
}

#endif
