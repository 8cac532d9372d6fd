// A shared state is saved and loaded without a communicator: what comes back is what was there at the call; wrong
// arguments are refused and change nothing; what is damaged is passed over.

#define _DEFAULT_SOURCE

#include "testing.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/wait.h>

enum { COUNT = 1 << 20 };

static char directory[] = "/tmp/pccl-abi-snapshots.XXXXXX";
static float *weights;
static int64_t steps[3];
static pcclTensorInfo_t infos[3];
static pcclSharedState_t state = {0, 3, infos};

static void setUp(void) {
    CHECK(mkdtemp(directory) != NULL);
    weights = malloc(COUNT * sizeof(float));
    CHECK(weights != NULL);
    infos[0] = (pcclTensorInfo_t){"layer \"1\"", weights, COUNT, pcclFloat, pcclDeviceCpu, false};
    infos[1] = (pcclTensorInfo_t){"steps", steps, 3, pcclInt64, pcclDeviceCpu, true};
    infos[2] = (pcclTensorInfo_t){"nothing", NULL, 0, pcclBFloat16, pcclDeviceCpu, false};
}

static void fill(float value) {
    for (int i = 0; i < COUNT; i++)
        weights[i] = value + (float)i;
    for (int i = 0; i < 3; i++)
        steps[i] = (int64_t)value * 1000 + i;
}

static void checkHolds(float value) {
    for (int i = 0; i < COUNT; i++)
        CHECK(weights[i] == value + (float)i);
    for (int i = 0; i < 3; i++)
        CHECK(steps[i] == (int64_t)value * 1000 + i);
}

static const char *fileOf(unsigned revision) {
    static char path[100];
    snprintf(path, sizeof(path), "%s/snapshot-%020u.safetensors", directory, revision);
    return path;
}

static bool exists(unsigned revision) { return access(fileOf(revision), R_OK) == 0; }

static void save(unsigned revision, const pcclSaveOptions_t *options) {
    pcclSnapshot_t *snapshot = NULL;
    state.revision = revision;
    EXPECT(pcclSuccess, pcclSaveSharedState(&state, directory, options, &snapshot));
    CHECK(snapshot != NULL);
    EXPECT(pcclSuccess, pcclAwaitSnapshot(snapshot));
    EXPECT(pcclInvalidArgument, pcclAwaitSnapshot(snapshot));
    CHECK(exists(revision));
}

static void checkRoundTrip(void) {
    testing_phase = "round trip";
    state.revision = 5;
    EXPECT(pcclNoSharedStateAvailable, pcclLoadSharedState(directory, &state));
    EXPECT(pcclNoSharedStateAvailable, pcclLoadSharedState("/nonexistent", &state));
    CHECK(state.revision == 5);
    fill(1);
    state.revision = 41;
    pcclSnapshot_t *snapshot = NULL;
    EXPECT(pcclSuccess, pcclSaveSharedState(&state, directory, NULL, &snapshot));
    fill(2);
    EXPECT(pcclSuccess, pcclAwaitSnapshot(snapshot));
    CHECK(waitpid(-1, NULL, WNOHANG) == -1);
    state.revision = 0;
    EXPECT(pcclSuccess, pcclLoadSharedState(directory, &state));
    CHECK(state.revision == 41);
    checkHolds(1);
    // One file, and nobody who waits.
    state.revision = 42;
    EXPECT(pcclSuccess, pcclSaveSharedState(&state, directory, NULL, NULL));
    while (!exists(42))
        usleep(1000);
    fill(3);
    EXPECT(pcclSuccess, pcclLoadSharedState(fileOf(42), &state));
    CHECK(state.revision == 42);
    checkHolds(1);
}

static void checkOptions(void) {
    testing_phase = "options";
    uint64_t matrix[] = {1024, 1024}, wrong[] = {1024, 1025};
    pcclShape_t shapes[3] = {{matrix, 2}, {NULL, 0}, {NULL, 0}};
    pcclSaveOptions_t options;
    memset(&options, 0, sizeof(options));
    options.struct_size = sizeof(options);
    options.keep = 2;
    options.foreground = 1;
    options.shapes = shapes;
    fill(4);
    save(43, &options);
    CHECK(!exists(41) && exists(42));
    int file = open(fileOf(43), O_RDONLY);
    // Behind the length, which has zero bytes.
    char *header = calloc(1, 4096);
    CHECK(file >= 0 && header != NULL && read(file, header, 4095) == 4095);
    CHECK(strstr(header + 8, "\"layer \\\"1\\\"\":{\"dtype\":\"F32\",\"shape\":[1024,1024],") != NULL);
    CHECK(strstr(header + 8, "\"steps\":{\"dtype\":\"I64\",\"shape\":[3],") != NULL);
    free(header);
    close(file);

    pcclSnapshot_t *snapshot = NULL;
    shapes[0].extents = wrong;
    EXPECT(pcclInvalidArgument, pcclSaveSharedState(&state, directory, &options, &snapshot));
    shapes[0].extents = matrix;
    shapes[0].rank = SIZE_MAX;
    EXPECT(pcclInvalidArgument, pcclSaveSharedState(&state, directory, &options, &snapshot));
    options.shapes = NULL;
    options.foreground = 2;
    EXPECT(pcclInvalidArgument, pcclSaveSharedState(&state, directory, &options, &snapshot));
    options.foreground = 0;
    options.struct_size = 0;
    EXPECT(pcclInvalidArgument, pcclSaveSharedState(&state, directory, &options, &snapshot));
    CHECK(snapshot == NULL);
    // That of an older release, which had less.
    options.struct_size = 12;
    save(44, &options);
    CHECK(!exists(42) && exists(43));
}

static void checkArguments(void) {
    testing_phase = "arguments";
    pcclSnapshot_t *snapshot = NULL;
    EXPECT(pcclInvalidArgument, pcclSaveSharedState(NULL, directory, NULL, &snapshot));
    EXPECT(pcclInvalidArgument, pcclSaveSharedState(&state, NULL, NULL, &snapshot));
    EXPECT(pcclInvalidArgument, pcclSaveSharedState(&state, "/nonexistent", NULL, &snapshot));
    EXPECT(pcclInvalidArgument, pcclSaveSharedState(&state, "\xff", NULL, &snapshot));
    EXPECT(pcclInvalidArgument, pcclAwaitSnapshot(NULL));
    EXPECT(pcclInvalidArgument, pcclLoadSharedState(NULL, &state));
    EXPECT(pcclInvalidArgument, pcclLoadSharedState(directory, NULL));
    infos[0].name = "__metadata__";
    EXPECT(pcclInvalidArgument, pcclSaveSharedState(&state, directory, NULL, &snapshot));
    infos[0].name = "steps";
    EXPECT(pcclInvalidArgument, pcclSaveSharedState(&state, directory, NULL, &snapshot));
    infos[0].name = "another";
    EXPECT(pcclInvalidArgument, pcclLoadSharedState(directory, &state));
    infos[0].name = "layer \"1\"";
    infos[0].device_type = pcclDeviceCuda;
    EXPECT(pcclInvalidUsage, pcclSaveSharedState(&state, directory, NULL, &snapshot));
    EXPECT(pcclInvalidUsage, pcclLoadSharedState(directory, &state));
    infos[0].device_type = pcclDeviceCpu;
    infos[0].datatype = pcclInt32;
    state.revision = 7;
    EXPECT(pcclInvalidArgument, pcclLoadSharedState(directory, &state));
    CHECK(state.revision == 7 && snapshot == NULL);
    infos[0].datatype = pcclFloat;
    state.count = 2;
    EXPECT(pcclInvalidArgument, pcclLoadSharedState(directory, &state));
    state.count = 3;
    checkHolds(4);
}

static void checkDamage(void) {
    testing_phase = "damage";
    fill(6);
    save(45, NULL);
    struct stat status;
    CHECK(stat(fileOf(45), &status) == 0);
    int file = open(fileOf(45), O_WRONLY);
    CHECK(file >= 0 && pwrite(file, "damage", 6, status.st_size / 2) == 6);
    close(file);
    fill(7);
    EXPECT(pcclNoSharedStateAvailable, pcclLoadSharedState(fileOf(45), &state));
    EXPECT(pcclSuccess, pcclLoadSharedState(directory, &state));
    CHECK(state.revision == 44);
    checkHolds(4);
}

int main(void) {
    startWatchdog();
    // No driver, whatever this machine has.
    setenv("PCCL_LIBCUDA", "/nonexistent/libcuda.so.1", 1);
    setUp();
    checkRoundTrip();
    checkOptions();
    checkArguments();
    checkDamage();
    for (unsigned revision = 41; revision <= 45; revision++)
        unlink(fileOf(revision));
    // Nothing else is left there.
    CHECK(rmdir(directory) == 0);
    free(weights);
    return 0;
}
