// Two members of one process reduce what travels as codes: every float type with every quantised type and algorithm of
// the original's API, and every codec of pccl_ext.h. Both get the same bits, no further from the truth than the codes
// explain; what travels is as small as it is said to be; what codes would not make smaller is exact.

#define _DEFAULT_SOURCE

#include "calls.h"

#include <math.h>

enum { COUNT = 5000 };

static pcclComm_t *members[2];
static uint64_t nextTag = 1;

static size_t sizeOf(pcclDataType_t type) {
    static const size_t sizes[] = {1, 1, 2, 2, 4, 4, 8, 8, 2, 2, 4, 8};
    return sizes[type];
}

static void store(void *place, pcclDataType_t type, double value) {
    float single = (float)value;
    uint32_t bits;
    switch (type) {
    case pcclFloat16: {
        // Towards zero, and what is no normal number there is 0: any half will do.
        memcpy(&bits, &single, 4);
        int exponent = (int)(bits >> 23 & 255) - 112;
        uint16_t half =
            exponent <= 0 ? 0 : (uint16_t)((bits >> 16 & 0x8000) | (uint32_t)exponent << 10 | (bits >> 13 & 1023));
        memcpy(place, &half, 2);
        break;
    }
    case pcclBFloat16: {
        memcpy(&bits, &single, 4);
        uint16_t upper = (uint16_t)(bits >> 16);
        memcpy(place, &upper, 2);
        break;
    }
    case pcclFloat:
        memcpy(place, &single, 4);
        break;
    case pcclDouble:
        memcpy(place, &value, 8);
        break;
    default: {
        int64_t whole = (int64_t)value;
        memcpy(place, &whole, sizeOf(type));
        break;
    }
    }
}

static double load(const void *place, pcclDataType_t type) {
    float single;
    double value;
    switch (type) {
    case pcclFloat16: {
        uint16_t half;
        memcpy(&half, place, 2);
        int exponent = half >> 10 & 31, mantissa = half & 1023;
        CHECK(exponent < 31);
        value = exponent == 0 ? ldexp(mantissa, -24) : ldexp(1024 + mantissa, exponent - 25);
        return half & 0x8000 ? -value : value;
    }
    case pcclBFloat16: {
        uint16_t upper;
        memcpy(&upper, place, 2);
        uint32_t bits = (uint32_t)upper << 16;
        memcpy(&single, &bits, 4);
        return (double)single;
    }
    case pcclFloat:
        memcpy(&single, place, 4);
        return (double)single;
    case pcclDouble:
        memcpy(&value, place, 8);
        return value;
    default: {
        int32_t whole = 0;
        memcpy(&whole, place, sizeOf(type));
        return type == pcclInt32 ? (double)whole : (double)(uint8_t)whole;
    }
    }
}

// From -1 to 1, different at each member; integers from 0 to 100.
static double contribution(pcclDataType_t type, int member, int index) {
    if (type == pcclInt32 || type == pcclUint8)
        return (index * 7 + member * 13) % 101;
    return sin(index * 0.7 + member) * (index % 97 == 0 ? 1 : 0.25);
}

typedef struct Reduction {
    pcclComm_t *communicator;
    pcclReduceDescriptor_t descriptor;
    const pcclReduceOptions_t *options;
    void *buffer;
    pcclReduceInfo_t info;
    pcclResult_t result;
} Reduction;

static void *run(void *argument) {
    Reduction *reduction = argument;
    reduction->result =
        pcclAllReduceWithOptions(reduction->buffer, reduction->buffer, &reduction->descriptor, reduction->communicator,
                                 reduction->options, &reduction->info, NULL, 0, NULL);
    return NULL;
}

// The worst error of the sum, and the bytes that a member has sent; both members must agree, and `bytes` be what was
// sent.
static double reduceBoth(pcclReduceDescriptor_t descriptor, const pcclReduceOptions_t *options, uint64_t *bytes) {
    const pcclDataType_t type = descriptor.src_descriptor.datatype;
    static char buffers[2][COUNT * 8];
    Reduction reductions[2];
    pthread_t threads[2];
    memset(reductions, 0, sizeof(reductions));
    for (int i = 0; i < 2; i++) {
        for (int k = 0; k < COUNT; k++)
            store(buffers[i] + (size_t)k * sizeOf(type), type, contribution(type, i, k));
        reductions[i].communicator = members[i];
        reductions[i].descriptor = descriptor;
        reductions[i].options = options;
        reductions[i].buffer = buffers[i];
        CHECK(pthread_create(&threads[i], NULL, run, &reductions[i]) == 0);
    }
    for (int i = 0; i < 2; i++) {
        CHECK(pthread_join(threads[i], NULL) == 0);
        EXPECT(pcclSuccess, reductions[i].result);
        CHECK(reductions[i].info.local_world_size == 2);
    }
    CHECK(memcmp(buffers[0], buffers[1], COUNT * sizeOf(type)) == 0);
    CHECK(reductions[0].info.tx_bytes == reductions[1].info.rx_bytes);
    *bytes = reductions[0].info.tx_bytes;
    double worst = 0;
    for (int k = 0; k < COUNT; k++) {
        char exact[2][8];
        double sum = 0;
        for (int i = 0; i < 2; i++) {
            store(exact[i], type, contribution(type, i, k));
            sum += load(exact[i], type);
        }
        double error = fabs(load(buffers[0] + (size_t)k * sizeOf(type), type) - sum);
        worst = error > worst ? error : worst;
    }
    return worst;
}

static pcclReduceDescriptor_t sum(pcclDataType_t type) { return reduction(nextTag++, COUNT, type, pcclSum); }

// Of values up to 1, and so a sum up to 2: one contribution is coded, and the sum; and the type rounds the result.
static double allowed(double contributions, pcclDataType_t type) {
    return 3 * contributions + (type == pcclFloat16 ? 1.0 / 1024 : type == pcclBFloat16 ? 1.0 / 128 : 1e-6);
}

static void everyQuantisedType(void) {
    testing_phase = "every type with every quantised type and algorithm";
    static const pcclDataType_t types[] = {pcclFloat16, pcclBFloat16, pcclFloat, pcclDouble, pcclInt32, pcclUint8};
    for (size_t t = 0; t < sizeof(types) / sizeof(types[0]); t++) {
        uint64_t plain;
        double rounding = reduceBoth(sum(types[t]), NULL, &plain);
        for (int quantised = pcclUint8; quantised <= pcclDouble; quantised++) {
            for (int algorithm = pcclQuantMinMax; algorithm <= pcclQuantZeroPointScale; algorithm++) {
                pcclReduceDescriptor_t descriptor = sum(types[t]);
                descriptor.quantization_options.quantized_datatype = (pcclDataType_t)quantised;
                descriptor.quantization_options.algorithm = (pcclQuantizationAlgorithm_t)algorithm;
                uint64_t bytes;
                double worst = reduceBoth(descriptor, NULL, &bytes);
                bool isFloat = types[t] >= pcclFloat16;
                size_t size = sizeOf((pcclDataType_t)quantised);
                bool isCast = quantised == pcclFloat16 || quantised == pcclBFloat16;
                bool isCoded = isFloat && size < sizeOf(types[t]) && (quantised < pcclFloat16 || isCast);
                if (!isCoded) {
                    CHECK(bytes == plain && worst == rounding);
                    continue;
                }
                double step = isCast ? 1.0 / 256 : 2.0 / (pow(256, (double)size) - 1);
                if (worst > allowed(step, types[t]))
                    FAIL("type %d as %d, algorithm %d: off by %g", (int)types[t], quantised, algorithm, worst);
                if ((double)bytes > (double)plain * ((double)size + 0.07) / (double)sizeOf(types[t]))
                    FAIL("type %d as %d: %llu bytes of %llu", (int)types[t], quantised, (unsigned long long)bytes,
                         (unsigned long long)plain);
            }
        }
    }
}

static void everyCodec(void) {
    testing_phase = "every codec, to nearest and at random, with and without error feedback";
    static const double steps[] = {0,           2.0 / 255,        1.0 / 32767, 1.0 / 2147483647, 2.0 / 255,
                                   1.0 / 32767, 1.0 / 2147483647, 1.0 / 7,     1.0 / 4,          1.0 / 2,
                                   1.0 / 2,     1.0 / 8,          1.0 / 8,     1.0 / 1024,       1.0 / 128};
    static const double bits[] = {0, 8, 16, 32, 8, 16, 32, 4, 4, 4, 4, 8, 8, 16, 16};
    for (int codec = pcclCodecMinMax8; codec <= pcclCodecBFloat16; codec++) {
        pcclDataType_t type = bits[codec] == 32 ? pcclDouble : pcclFloat;
        uint64_t plain, bytes;
        reduceBoth(sum(type), NULL, &plain);
        for (int variant = 0; variant < 4; variant++) {
            pcclReduceOptions_t options;
            memset(&options, 0, sizeof(options));
            options.struct_size = sizeof(options);
            options.codec = (pcclCodec_t)codec;
            options.rounding = (pcclRounding_t)(variant % 2);
            options.error_feedback = variant >= 2;
            options.block_elements = variant == 0 ? 0 : 128;
            pcclReduceDescriptor_t descriptor = sum(type);
            double worst = reduceBoth(descriptor, &options, &bytes);
            if (worst > allowed(steps[codec], type))
                FAIL("codec %d, variant %d: off by %g", codec, variant, worst);
            if ((double)bytes > (double)plain * (bits[codec] + 2) / 8 / (double)sizeOf(type))
                FAIL("codec %d: %llu bytes of %llu", codec, (unsigned long long)bytes, (unsigned long long)plain);
            for (int i = 0; i < 2; i++) {
                EXPECT(options.error_feedback ? pcclSuccess : pcclInvalidArgument,
                       pcclFreeErrorFeedback(members[i], descriptor.tag));
                EXPECT(pcclInvalidArgument, pcclFreeErrorFeedback(members[i], descriptor.tag));
            }
        }
    }
}

// The contributions of both stay the same; so does the error of a result, but for what was lost before.
static void feedback(void) {
    testing_phase = "with error feedback the mean of many results is right";
    enum { ROUNDS = 40 };
    pcclReduceOptions_t options;
    memset(&options, 0, sizeof(options));
    options.struct_size = sizeof(options);
    options.codec = pcclCodecInt4;
    double worst[2];
    for (int with = 0; with < 2; with++) {
        options.error_feedback = with == 1;
        static double sums[COUNT];
        memset(sums, 0, sizeof(sums));
        for (int round = 0; round < ROUNDS; round++) {
            static float buffers[2][COUNT];
            Reduction reductions[2];
            pthread_t threads[2];
            for (int i = 0; i < 2; i++) {
                for (int k = 0; k < COUNT; k++)
                    buffers[i][k] = (float)contribution(pcclFloat, i, k);
                memset(&reductions[i], 0, sizeof(reductions[i]));
                reductions[i].communicator = members[i];
                reductions[i].descriptor = reduction(7, COUNT, pcclFloat, pcclAvg);
                reductions[i].options = &options;
                reductions[i].buffer = buffers[i];
                CHECK(pthread_create(&threads[i], NULL, run, &reductions[i]) == 0);
            }
            for (int i = 0; i < 2; i++) {
                CHECK(pthread_join(threads[i], NULL) == 0);
                EXPECT(pcclSuccess, reductions[i].result);
            }
            for (int k = 0; k < COUNT; k++)
                sums[k] += (double)buffers[0][k];
        }
        worst[with] = 0;
        for (int k = 0; k < COUNT; k++) {
            double mean =
                ((double)(float)contribution(pcclFloat, 0, k) + (double)(float)contribution(pcclFloat, 1, k)) / 2;
            double error = fabs(sums[k] / ROUNDS - mean);
            worst[with] = error > worst[with] ? error : worst[with];
        }
    }
    if (worst[1] > worst[0] / 8)
        FAIL("off by %g with, by %g without", worst[1], worst[0]);
    for (int i = 0; i < 2; i++)
        EXPECT(pcclSuccess, pcclFreeErrorFeedback(members[i], 7));
}

// Members that ask for different codes find out, and nothing is changed.
static void mismatch(void) {
    testing_phase = "different codecs";
    float values[2][4] = {{1, 2, 3, 4}, {5, 6, 7, 8}};
    Call calls[2];
    for (int i = 0; i < 2; i++) {
        pcclReduceDescriptor_t descriptor = reduction(9, 4, pcclFloat, pcclSum);
        descriptor.quantization_options.quantized_datatype = pcclUint8;
        descriptor.quantization_options.algorithm = i == 0 ? pcclQuantMinMax : pcclQuantZeroPointScale;
        beginReduction(&calls[i], reducing, members[i], descriptor, values[i]);
    }
    for (int i = 0; i < 2; i++)
        EXPECT(pcclInvalidArgument, end(&calls[i]));
    CHECK(values[0][0] == 1 && values[1][3] == 8);
}

int main(void) {
    startWatchdog();
    CHECK(setenv("PCCL_LOG_LEVEL", "FATAL", 0) == 0);
    EXPECT(pcclSuccess, pcclInit());
    uint16_t port;
    pcclMasterInstance_t *master = startMaster(&port);
    makeGroup(members, 2, port, 0);
    everyQuantisedType();
    everyCodec();
    feedback();
    mismatch();
    for (int i = 0; i < 2; i++)
        EXPECT(pcclSuccess, pcclDestroyCommunicator(members[i]));
    stopMaster(master);
    printf("quantised: every codec right, small, and the same at both members\n");
    return 0;
}
