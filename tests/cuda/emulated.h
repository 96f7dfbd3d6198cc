// Enough of CUDA for a C++ compiler to build a .cu file for the processor: a block's threads are contexts that take
// turns, one after the other. A thread runs until it must wait for others: at __syncthreads for its block, in a shuffle
// for its warp. Blocks run one after the other, so that shared memory is static memory; what a launch asks for is full
// of NaN when a block starts. What a GPU forbids is a fault, which fails the test: to have left a warp that works
// together, to meet at different barriers, to wait for those who never come, addresses that are no multiples of what is
// moved, writes just behind the shared memory that was asked for.

#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <new>
#include <setjmp.h>
#include <ucontext.h>
#include <vector>

#define __device__
#define __global__
#define __shared__ static
#define __launch_bounds__(...)

using std::isinf;
using std::isnan;
using std::max;
using std::min;

struct alignas(16) float4 { float x, y, z, w; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
struct alignas(4) uchar4 { unsigned char x, y, z, w; };
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
inline uchar4 make_uchar4(unsigned char x, unsigned char y, unsigned char z, unsigned char w) { return {x, y, z, w}; }
struct Index { unsigned x, y, z; };

namespace emulated {

constexpr int WARP = 32, STACK = 1 << 16, MOST = 1024;

// Threads that wait for each other; whoever ends is not waited for any more.
unsigned released;  // barriers so far, at which all have met
struct Barrier {
    int members = 0, waiting = 0;
    unsigned round = 0;
    void release_if_all_wait() { if (members && waiting == members) { waiting = 0; round++; released++; } }
};

// A context starts by setcontext, and goes on by _longjmp, which leaves the signals as they are and so costs no system call.
struct Thread {
    ucontext_t context;
    jmp_buf place;
    Index index;
    bool started, done;
};

Thread threads[MOST];
char *stacks = new char[size_t(STACK) * MOST];
constexpr size_t ROOM = 1 << 18, BEHIND = 1 << 12;  // bytes of shared memory at most; those that are watched behind it
constexpr size_t SHARED = 1024;  // where shared memory begins: before it lies what a Hopper keeps for itself
char *dynamic = new (std::align_val_t(1024)) char[ROOM + BEHIND];
size_t asked;
const char *fault;
jmp_buf scheduler;
int current, count;
bool late;  // whether copies that nobody has waited for have not yet arrived; else they have, and products have not
Index block_index, block_size, grid_size;
constexpr int GROUP = 4 * WARP;  // a warpgroup, whose products are a Hopper's
Barrier block_barrier, warp_barriers[MOST / WARP], group_barriers[MOST / GROUP];
unsigned long long slots[MOST];
const std::function<void()> *body;

void check(bool right, const char *what)
{
    if (!right && !fault) fault = what;
}

void check_aligned(const void *address, size_t bytes)
{
    check(reinterpret_cast<uintptr_t>(address) % bytes == 0, "an address is no multiple of what is moved");
}

void wait(Barrier &barrier)
{
    unsigned round = barrier.round;
    barrier.waiting++;
    barrier.release_if_all_wait();
    while (barrier.round == round)
        if (!_setjmp(threads[current].place)) _longjmp(scheduler, 1);
}

// The turn of thread `current`, until it waits or ends.
void take_turn()
{
    Thread &t = threads[current];
    if (_setjmp(scheduler)) return;
    if (t.started) _longjmp(t.place, 1);
    t.started = true;
    setcontext(&t.context);
}

void entry()
{
    (*body)();
    threads[current].done = true;
    for (Barrier *barrier : {&block_barrier, &warp_barriers[current / WARP], &group_barriers[current / GROUP]}) {
        barrier->members--;
        barrier->release_if_all_wait();
    }
    _longjmp(scheduler, 1);
}

// Wait for the whole warp, as an instruction does that its threads run together.
void meet()
{
    Barrier &warp = warp_barriers[current / WARP];
    check(warp.members == WARP, "a thread has left a warp that works together");
    wait(warp);
}

// Run a block; `step` is the distance to the thread whose turn is next, so that its order can differ.
void run_block(int step)
{
    memset(dynamic, 0xff, asked + BEHIND);
    block_barrier = Barrier{count};
    for (int w = 0; w * WARP < count; w++) warp_barriers[w] = Barrier{min(WARP, count - w * WARP)};
    for (int w = 0; w * GROUP < count; w++) group_barriers[w] = Barrier{min(GROUP, count - w * GROUP)};
    for (int i = 0; i < count; i++) {
        Thread &t = threads[i];
        t.index = {i % block_size.x, i / block_size.x % block_size.y, i / block_size.x / block_size.y};
        t.started = t.done = false;
        getcontext(&t.context);
        t.context.uc_stack.ss_sp = stacks + size_t(STACK) * i;
        t.context.uc_stack.ss_size = STACK;
        t.context.uc_link = nullptr;
        makecontext(&t.context, entry, 0);
    }
    unsigned before = released;
    int turns = 0, left = count;  // since somebody got on
    for (current = 0; block_barrier.members; current = (current + step) % count) {
        if (!threads[current].done) take_turn();
        if (released != before || block_barrier.members != left) turns = 0;
        before = released, left = block_barrier.members;
        if (++turns > 2 * count) return check(false, "threads wait for others that never come");
    }
    for (size_t i = asked; i < asked + BEHIND; i++) check(dynamic[i] == char(0xff), "written behind the shared memory");
}

// What went wrong, or null.
const char *run(const int *grid, const int *block, int step, int shared, const std::function<void()> &kernel)
{
    fault = nullptr;
    asked = shared;
    grid_size = {unsigned(grid[0]), unsigned(grid[1]), unsigned(grid[2])};
    block_size = {unsigned(block[0]), unsigned(block[1]), unsigned(block[2])};
    count = block[0] * block[1] * block[2];
    body = &kernel;
    late = step > 0;
    for (unsigned z = 0; z < grid_size.z; z++)
        for (unsigned y = 0; y < grid_size.y; y++)
            for (unsigned x = 0; x < grid_size.x; x++) {
                block_index = {x, y, z};
                run_block(step < 0 ? count - 1 : 1);
            }
    return fault;
}

// What a lane of this thread's warp hands over.
template <typename T> T shuffled(T x, int lane)
{
    memcpy(&slots[current], &x, sizeof x);
    meet();
    T other;
    memcpy(&other, &slots[current / WARP * WARP + lane], sizeof other);
    meet();
    return other;
}

}  // namespace emulated

#define threadIdx (emulated::threads[emulated::current].index)
#define blockIdx (emulated::block_index)
#define blockDim (emulated::block_size)
#define gridDim (emulated::grid_size)

// The barriers of a kernel are told apart by their lines.
inline void wait_for_block(int line)
{
    static int meeting;
    emulated::Barrier &block = emulated::block_barrier;
    if (!block.waiting) meeting = line;
    emulated::check(meeting == line, "threads of a block wait at different barriers");
    emulated::wait(block);
}
#define __syncthreads() wait_for_block(__LINE__)
inline size_t __cvta_generic_to_shared(const void *p) { return (const char *)p - emulated::dynamic + emulated::SHARED; }
template <typename T> T __shfl_sync(unsigned, T x, int lane) { return emulated::shuffled(x, lane); }
template <typename T> T __shfl_xor_sync(unsigned, T x, int mask) { return emulated::shuffled(x, emulated::current % 32 ^ mask); }
template <typename T> T __shfl_up_sync(unsigned, T x, int by)
{
    int lane = emulated::current % 32;
    return emulated::shuffled(x, lane >= by ? lane - by : lane);
}
inline bool __any_sync(unsigned, bool x)
{
    for (int mask = 16; mask; mask /= 2) x |= __shfl_xor_sync(~0u, x, mask);
    return x;
}
template <typename T> T atomicAdd(T *place, T x) { T old = *place; *place += x; return old; }
inline void __threadfence() {}
template <typename T> T atomicCAS(T *place, T is, T x) { T old = *place; if (old == is) *place = x; return old; }
inline float __uint_as_float(unsigned bits) { float x; memcpy(&x, &bits, 4); return x; }
inline float __int_as_float(int bits) { return __uint_as_float(bits); }
inline unsigned __float_as_uint(float x) { unsigned bits; memcpy(&bits, &x, 4); return bits; }
