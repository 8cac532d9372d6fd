// What a device does in a second: copies to and from pinned memory of the host, and the kernels, each beside a copy on
// the device in the same run.
//
//     measure [MEBIBYTES]     of buffers, 1024 if not given; prints a table in Markdown

#include "CKernels.h"
#include "device.h"

enum { TURNS = 7, LEAST_CHUNK = 64 << 10, MOST_CHUNK = 4 << 20, BLOCK = 256, TEAMS = 1056 };

static size_t whole;
static pccl_cuda_stream streams[2];

static double median_of(void (*work)(void *), void *context) {
    double took[TURNS];
    work(context);
    for (int i = 0; i < TURNS; i++) {
        double start = seconds();
        work(context);
        took[i] = seconds() - start;
    }
    return median(took, TURNS);
}

// ---- Copies -----------------------------------------------------------------------------------------

typedef struct copies {
    void *host[2];
    pccl_cuda_pointer device[2];
    size_t chunk;
    int out, in;
} copies;

static void copy(void *context) {
    const copies *c = context;
    for (size_t place = 0; place < whole; place += c->chunk) {
        size_t bytes = whole - place < c->chunk ? whole - place : c->chunk;
        if (c->out)
            MUST(pccl_cuda_copy_to_host((char *)c->host[0] + place, c->device[0] + place, bytes, streams[0]));
        if (c->in)
            MUST(pccl_cuda_copy_to_device(c->device[1] + place, (char *)c->host[1] + place, bytes, streams[1]));
    }
    MUST(pccl_cuda_stream_synchronize(streams[0]));
    MUST(pccl_cuda_stream_synchronize(streams[1]));
}

static void measure_copies(pccl_cuda_pointer first, pccl_cuda_pointer second) {
    copies c = {{NULL, NULL}, {first, second}, 0, 0, 0};
    for (int i = 0; i < 2; i++) {
        c.host[i] = aligned_alloc(4096, whole);
        memset(c.host[i], 1, whole);
        MUST(pccl_cuda_host_register(c.host[i], whole, pccl_cuda_host_register_portable));
    }
    printf("| chunk | device to host GB/s | host to device GB/s | both at once, each GB/s |\n|---|---|---|---|\n");
    for (c.chunk = LEAST_CHUNK; c.chunk <= MOST_CHUNK; c.chunk *= 2) {
        double rates[3];
        for (int i = 0; i < 3; i++) {
            c.out = i != 1;
            c.in = i != 0;
            rates[i] = (double)whole / median_of(copy, &c) * 1e-9;
        }
        printf("| %zu KiB | %.1f | %.1f | %.1f |\n", c.chunk >> 10, rates[0], rates[1], rates[2]);
    }
    for (int i = 0; i < 2; i++) {
        MUST(pccl_cuda_host_unregister(c.host[i]));
        free(c.host[i]);
    }
}

// ---- Kernels ----------------------------------------------------------------------------------------

typedef struct work {
    const char *name;
    pccl_cuda_function function;
    void *parameters[8];
} work;

static void run(void *context) {
    work *w = context;
    if (w->function)
        MUST(pccl_cuda_launch(w->function, TEAMS, 1, 1, pccl_cuda_threads_of_team, 1, 1, 0, NULL, w->parameters, NULL));
    else
        MUST(pccl_cuda_copy_on_device(*(pccl_cuda_pointer *)w->parameters[0], *(pccl_cuda_pointer *)w->parameters[1],
                                      whole, NULL));
    MUST(pccl_cuda_stream_synchronize(NULL));
}

static double copy_rate;

// `moved`: bytes read and written.
static void measure(const char *name, pccl_cuda_kernels kernels, double moved, void **parameters, int count) {
    work w = {name, NULL, {NULL}};
    memcpy(w.parameters, parameters, (size_t)count * sizeof *parameters);
    doing = name;
    pccl_cuda_module module = NULL;
    if (name[0] != ' ') {
        MUST(pccl_cuda_module_load(&module, pccl_cuda_ptx(kernels)));
        MUST(pccl_cuda_module_function(&w.function, module, name));
    }
    double rate = moved / median_of(run, &w) * 1e-9;
    if (!module)
        copy_rate = rate;
    printf("| %s | %.0f | %.0f %% |\n", module ? name : "copy on the device", rate, 100 * rate / copy_rate);
    if (module)
        MUST(pccl_cuda_module_unload(module));
}

#define MEASURE(name, kernels, moved, ...)                                                                             \
    do {                                                                                                               \
        void *parameters[] = {__VA_ARGS__};                                                                            \
        measure(name, kernels, moved, parameters, sizeof parameters / sizeof *parameters);                             \
    } while (0)

static void measure_kernels(pccl_cuda_pointer first, pccl_cuda_pointer second, pccl_cuda_pointer third) {
    pccl_cuda_pointer table[2] = {first, second}, tables = device_memory(sizeof table);
    write_device(tables, table, sizeof table);
    uint32_t two = 2;
    size_t floats = whole / sizeof(float), halves = whole / 2, block = BLOCK, chunk = 1 << 20, bytes = whole;
    double all = (double)whole;
    printf("\n| kernel | GB/s read and written | of a copy |\n|---|---|---|\n");
    MEASURE(" copy", pccl_cuda_reduce, 2 * all, &third, &first);
    MEASURE("reduce_sum_f32", pccl_cuda_reduce, 3 * all, &third, &tables, &two, &floats, &two);
    MEASURE("reduce_average_f32", pccl_cuda_reduce, 3 * all, &third, &tables, &two, &floats, &two);
    MEASURE("reduce_sum_bf16", pccl_cuda_reduce, 3 * all, &third, &tables, &two, &halves, &two);
    MEASURE("reduce_sum_f16", pccl_cuda_reduce, 3 * all, &third, &tables, &two, &halves, &two);
    MEASURE("reduce_maximum_i8", pccl_cuda_reduce, 3 * all, &third, &tables, &two, &bytes, &two);
    double eight = all / 4 * (1 + 8.0 / BLOCK), four = all / 8 * (1 + 8.0 / BLOCK);
    MEASURE("encode_min_max_8_f32", pccl_cuda_codec, all + eight, &third, &first, &floats, &block);
    MEASURE("decode_min_max_8_f32", pccl_cuda_codec, all + eight, &second, &third, &floats, &block);
    MEASURE("add_min_max_8_f32", pccl_cuda_codec, 2 * all + eight, &second, &third, &floats, &block);
    MEASURE("encode_e3m0_float", pccl_cuda_codec, all + four, &third, &first, &floats, &block);
    MEASURE("decode_e3m0_float", pccl_cuda_codec, all + four, &second, &third, &floats, &block);
    MEASURE("encode_cast_bf16", pccl_cuda_codec, 1.5 * all, &third, &first, &floats, &block);
    MEASURE("hash_chunks", pccl_cuda_hash, all, &third, &first, &bytes, &chunk);
    MUST(pccl_cuda_device_free(tables));
}

int main(int count, char **arguments) {
    whole = (size_t)((count > 1 ? atof(arguments[1]) : 1024) * (1 << 20));
    start_device();
    for (int i = 0; i < 2; i++)
        MUST(pccl_cuda_stream_create(&streams[i], pccl_cuda_stream_non_blocking));
    pccl_cuda_pointer buffers[3];
    float *values = malloc(whole);
    for (size_t i = 0; i < whole / sizeof(float); i++)
        values[i] = (float)((i * 2654435761u) >> 8 & 0xffff) * 0x1p-16f - 0.5f;
    for (int i = 0; i < 3; i++) {
        buffers[i] = device_memory(whole);
        write_device(buffers[i], values, whole);
    }
    free(values);
    printf("Buffers of %zu KiB, medians of %d.\n\n", whole >> 10, TURNS);
    measure_copies(buffers[0], buffers[1]);
    measure_kernels(buffers[0], buffers[1], buffers[2]);
    return 0;
}
