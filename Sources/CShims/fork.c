#include <CShims.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <unistd.h>

// A child that a host process forks, and that does not exec, has copies of all our connections: they would stay open
// when the parent dies, and others would take it for alive. So the child closes them at once. All that happens in the
// child is safe there: no lock, no memory.

enum { WORD_BITS = 64, DESCRIPTORS = 1 << 20 };

static _Atomic uint64_t open_descriptors[DESCRIPTORS / WORD_BITS];
/// The words in use end below it.
static _Atomic int word_limit;
static _Atomic uint32_t generation;

static void close_in_child(void) {
    int limit = atomic_load(&word_limit);
    for (int word = 0; word < limit; word++) {
        uint64_t bits = atomic_exchange(&open_descriptors[word], 0);
        for (int bit = 0; bits != 0; bit++, bits >>= 1)
            if (bits & 1)
                close(word * WORD_BITS + bit);
    }
    atomic_fetch_add(&generation, 1);
}

static void watch_forks(void) { pthread_atfork(NULL, NULL, close_in_child); }

void pccl_shim_note_descriptor(int descriptor) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, watch_forks);
    if (descriptor < 0 || descriptor >= DESCRIPTORS)
        return;
    int word = descriptor / WORD_BITS;
    int limit = atomic_load(&word_limit);
    while (limit <= word && !atomic_compare_exchange_weak(&word_limit, &limit, word + 1)) {
    }
    atomic_fetch_or(&open_descriptors[word], UINT64_C(1) << (descriptor % WORD_BITS));
}

void pccl_shim_forget_descriptor(int descriptor) {
    if (descriptor < 0 || descriptor >= DESCRIPTORS)
        return;
    atomic_fetch_and(&open_descriptors[descriptor / WORD_BITS], ~(UINT64_C(1) << (descriptor % WORD_BITS)));
}

uint32_t pccl_shim_fork_generation(void) { return atomic_load(&generation); }
