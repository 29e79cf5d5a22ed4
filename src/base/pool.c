/*
 * pool.c - the thread pool.
 *
 * Everything here waits at a gate: a number that somebody advances. Who waits looks at it for a while and then
 * sleeps in the kernel (futex); who advances it makes a system call only if somebody sleeps. Three gates:
 *
 *     start     helpers wait here between regions; pool_run() advances it
 *     done      pool_run() waits here; the last helper to leave the region advances it
 *     barrier   all wait here inside a region; the last to come advances it
 *
 * How long to look before sleeping is learned by each gate. A wait that was over sooner than LOOK_MOST doubles its
 * patience, one that was not halves it: where regions follow one another nobody sleeps, and where processors are
 * shared with other programs, or the program does something else for a while, little time is lost to looking. A
 * pool of more workers than processors never looks: another worker may need that very processor.
 *
 * Helpers are pinned if there is exactly one worker for each processor this process may run on; fewer are placed
 * by the system, since other programs with as many threads would be pinned to the same first ones. The caller is a
 * thread of the program's own and keeps its mask, which threads it makes later inherit. Only when a region starts
 * while it sits on a helper's processor is it sent to the free one, once, by narrowing its mask and widening it
 * again; the scheduler would let both share for milliseconds. A control group's quota bounds the default count,
 * rounded up: threads beyond it only use it up sooner, and then all stand still.
 *
 * A hand is a cache line with a cursor. The cursor of an empty hand is not advanced, but by those who saw its last
 * item at the same time; so it exceeds `items` by less than the number of workers.
 */
#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <math.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/base.h"

enum { LINE = 64, MOST_WORKERS = 4096 };

/* nanoseconds of looking */
enum { LOOK_LEAST = 500, LOOK_MOST = 100000 };

struct gate {
    atomic_uint value;
    atomic_uint sleepers;
    atomic_uint patience; /* nanoseconds to look before sleeping; 0: stays 0 */
};

struct hand {
    _Alignas(LINE) atomic_uint next;
    uint32_t items;
};

struct helper {
    struct pool *pool;
    pthread_t thread;
    uint32_t worker;
};

/* What is written and read together shares a cache line; nothing else does. */
struct pool {
    _Alignas(LINE) struct gate start;
    unsigned runs; /* regions started */
    void (*work)(void *context, uint32_t worker);
    void *context;
    _Alignas(LINE) struct gate done;
    atomic_uint running; /* helpers inside the region */
    _Alignas(LINE) struct gate barrier;
    atomic_uint arrived; /* workers at the barrier */
    _Alignas(LINE) uint32_t workers;
    uint32_t helpers; /* threads made: workers - 1 */
    bool quit;
    bool guide;            /* helpers are pinned and the caller's own processor is known */
    int caller;            /* that processor */
    struct helper *helper; /* [helpers] */
    struct hand *hands;    /* [POOL_DEALS, workers] */
};

/* ---------------------------------------------------------------------------------------- gates */

/* Tells the processor that this is a loop of looking: its sibling may have the units, and leaving is cheap. A hint
 * that changes no result, so that it stands here and not with the kernels. */
static inline void relax(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("isb");
#endif
}

static bool closed(struct gate *g, unsigned old) {
    return atomic_load_explicit(&g->value, memory_order_acquire) == old;
}

/* True if the gate opened within `seconds` of `started`. */
static bool look(struct gate *g, unsigned old, double started, double seconds) {
    do
        for (int i = 0; i < 8; i++) {
            if (!closed(g, old))
                return true;
            relax();
        }
    while (clock_seconds() - started < seconds);
    return !closed(g, old);
}

static void gate_sleep(struct gate *g, unsigned old) {
    atomic_fetch_add(&g->sleepers, 1);
    while (atomic_load(&g->value) == old)
        syscall(SYS_futex, &g->value, FUTEX_WAIT_PRIVATE, old, NULL, NULL, 0);
    atomic_fetch_sub(&g->sleepers, 1);
}

/* Returns when the value is no longer `old`; what was written before it changed is seen. */
static void gate_wait(struct gate *g, unsigned old) {
    if (!closed(g, old))
        return;
    unsigned patience = atomic_load_explicit(&g->patience, memory_order_relaxed), better = patience;
    if (patience == 0) {
        gate_sleep(g, old);
        return;
    }
    double started = clock_seconds();
    if (!look(g, old, started, 1e-9 * patience)) {
        gate_sleep(g, old);
        better = patience / 2 > LOOK_LEAST ? patience / 2 : LOOK_LEAST;
    }
    if (patience < LOOK_MOST && clock_seconds() - started < 1e-9 * LOOK_MOST)
        better = patience * 2 < LOOK_MOST ? patience * 2 : LOOK_MOST;
    if (better != patience)
        atomic_store_explicit(&g->patience, better, memory_order_relaxed);
}

/* Either a sleeper has counted itself before the value changes here and is woken, or it sees the new value. */
static void gate_open(struct gate *g, unsigned value) {
    atomic_store(&g->value, value);
    if (atomic_load(&g->sleepers))
        syscall(SYS_futex, &g->value, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
}

/* ----------------------------------------------------------------------------------- processors */

/* Processors in the caller's mask, and the mask; 0 if it cannot be told. */
static uint32_t processors(cpu_set_t *mask) {
    CPU_ZERO(mask);
    return sched_getaffinity(0, sizeof(*mask), mask) ? 0 : (uint32_t)CPU_COUNT(mask);
}

static void pin(pthread_t thread, int processor) {
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(processor, &one);
    pthread_setaffinity_np(thread, sizeof(one), &one); /* unpinned works too */
}

/* One helper on each processor of the mask but that where the caller is now. */
static void pin_helpers(struct pool *pool, const cpu_set_t *mask) {
    uint32_t next = 0;
    pool->caller = sched_getcpu();
    if (pool->caller < 0 || !CPU_ISSET(pool->caller, mask))
        return;
    for (int c = 0; c < CPU_SETSIZE && next < pool->helpers; c++)
        if (CPU_ISSET(c, mask) && c != pool->caller)
            pin(pool->helper[next++].thread, c);
    pool->guide = true;
}

/* All processors but one have a helper of their own: the caller belongs on that one. Who has narrowed the caller's
 * mask since, so that it may not go there, is obeyed from then on. */
static void guide_caller(struct pool *pool) {
    cpu_set_t mask;
    if (!pool->guide || sched_getcpu() == pool->caller)
        return;
    pool->guide = processors(&mask) && CPU_ISSET(pool->caller, &mask);
    if (pool->guide) {
        pin(pthread_self(), pool->caller);
        pthread_setaffinity_np(pthread_self(), sizeof(mask), &mask);
    }
}

/* -------------------------------------------------------------------------------------- regions */

static void *help(void *argument) {
    struct helper *h = argument;
    struct pool *pool = h->pool;
    for (unsigned run = 0;; run++) {
        gate_wait(&pool->start, run);
        if (pool->quit)
            return NULL;
        pool->work(pool->context, h->worker);
        if (atomic_fetch_sub(&pool->running, 1) == 1)
            gate_open(&pool->done, run + 1);
    }
}

void pool_run(struct pool *pool, void (*work)(void *context, uint32_t worker), void *context) {
    if (pool->workers == 1) {
        work(context, 0);
        return;
    }
    guide_caller(pool);
    pool->work = work;
    pool->context = context;
    atomic_store_explicit(&pool->running, pool->helpers, memory_order_relaxed);
    gate_open(&pool->start, ++pool->runs);
    work(context, 0);
    gate_wait(&pool->done, pool->runs - 1);
}

void pool_barrier(struct pool *pool) {
    if (pool->workers == 1)
        return;
    unsigned phase = atomic_load_explicit(&pool->barrier.value, memory_order_relaxed);
    if (atomic_fetch_add(&pool->arrived, 1) == pool->workers - 1) {
        atomic_store_explicit(&pool->arrived, 0, memory_order_relaxed);
        gate_open(&pool->barrier, phase + 1);
    } else {
        gate_wait(&pool->barrier, phase);
    }
}

/* ---------------------------------------------------------------------------------------- deals */

void pool_deal(struct pool *pool, uint32_t deal, uint32_t items) {
    for (uint32_t w = 0; w < pool->workers; w++) {
        struct hand *hand = &pool->hands[(size_t)deal * pool->workers + w];
        atomic_store_explicit(&hand->next, 0, memory_order_relaxed);
        hand->items = items;
    }
}

bool pool_take(struct pool *pool, uint32_t deal, uint32_t worker, uint32_t *owner, uint32_t *item) {
    struct hand *hands = &pool->hands[(size_t)deal * pool->workers];
    for (uint32_t i = 0, w = worker; i < pool->workers; i++, w = w + 1 == pool->workers ? 0 : w + 1) {
        struct hand *hand = &hands[w];
        if (atomic_load_explicit(&hand->next, memory_order_relaxed) >= hand->items)
            continue;
        uint32_t next = atomic_fetch_add_explicit(&hand->next, 1, memory_order_relaxed);
        if (next < hand->items) {
            *owner = w;
            *item = next;
            return true;
        }
    }
    return false;
}

/* --------------------------------------------------------------------------------- open and close */

static void *lines(size_t bytes) {
    size_t whole = (bytes + LINE - 1) / LINE * LINE;
    void *memory = aligned_alloc(LINE, whole ? whole : LINE);
    return memory ? memset(memory, 0, whole) : NULL;
}

static int make_helpers(struct pool *pool, struct sonde_error *e) {
    int failed = 0;
    while (!failed && pool->helpers < pool->workers - 1) {
        struct helper *h = &pool->helper[pool->helpers];
        *h = (struct helper){.pool = pool, .worker = pool->helpers + 1};
        failed = thread_create(&h->thread, help, h);
        if (!failed)
            pool->helpers++;
    }
    errno = failed;
    return failed ? err_system(e, "no thread for worker %u of %u", pool->helpers + 1, pool->workers) : SONDE_OK;
}

int pool_open(uint32_t workers, struct pool **pool, struct sonde_error *e) {
    cpu_set_t mask;
    uint32_t available = processors(&mask);
    if (workers > MOST_WORKERS)
        return err_set(e, SONDE_ERROR_ARGUMENT, "%u workers, expected at most %d", workers, MOST_WORKERS);
    if (workers == 0)
        workers = (uint32_t)fmax(1, fmin(available, ceil(cgroup_processors())));
    struct pool *p = lines(sizeof(*p));
    if (!p)
        return err_memory(e);
    p->workers = workers;
    p->helper = calloc(workers, sizeof(*p->helper));
    p->hands = lines((size_t)workers * POOL_DEALS * sizeof(*p->hands));
    unsigned patience = workers <= available ? LOOK_MOST : 0;
    atomic_init(&p->start.patience, patience);
    atomic_init(&p->done.patience, patience);
    atomic_init(&p->barrier.patience, patience);
    int rc = p->helper && p->hands ? make_helpers(p, e) : err_memory(e);
    if (!rc && workers > 1 && workers == available)
        pin_helpers(p, &mask);
    if (rc)
        pool_close(p);
    else
        *pool = p;
    return rc;
}

void pool_close(struct pool *pool) {
    if (!pool)
        return;
    pool->quit = true;
    gate_open(&pool->start, pool->runs + 1);
    for (uint32_t i = 0; i < pool->helpers; i++)
        pthread_join(pool->helper[i].thread, NULL);
    free(pool->helper);
    free(pool->hands);
    free(pool);
}

uint32_t pool_workers(const struct pool *pool) {
    return pool->workers;
}
