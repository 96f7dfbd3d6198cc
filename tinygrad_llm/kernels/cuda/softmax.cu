// Softmax over rows of V numbers, and the losses made of it.
//
//   softmax                 y = exp(x - top) / sum exp(x - top)
//   softmax_backward        dx = y (g - sum g y)
//   cross_entropy           lse = ln sum exp x,  nll = lse - x[target]
//   cross_entropy_backward  dx = g_softmax exp(x - lse) - g_target onehot(target) + g_all
//   loss_then_gradient      both at once: nll, and in x's place g (exp(x - lse) - onehot(target))
//
// Bytes moved, N rows of numbers of s bytes: softmax 2 s N V, softmax_backward 3 s N V, cross_entropy s N V, its backward
// 2 s N V, loss_then_gradient 2 s N V. What there is one of a row (nll, lse, g) is float.
// Layout: a block per row, 16 bytes a thread at a time; a row may start anywhere, so that the elements at either end that
// fill no 16 bytes are taken one by one. A thread keeps the largest so far and the sum of exponentials relative to it; a
// second look at the row finds it in a cache, or, in loss_then_gradient, in shared memory. Several loads are under way
// before the first is used, since they do not pass a store.
// Instructions a number in 16 bits: softmax 16, cross_entropy 9; an H100 could give 38 and 19 while a copy moves
// their bytes.

#include "common.cuh"

constexpr int PACK = 16 / sizeof(real);  // numbers that are loaded at once
constexpr int AT_ONCE = 4;               // packs that a thread has under way

// f(elements, their place) for the packs and single elements of a row that are this thread's.
template <class F> __device__ void along_row(const real *x, int v, F f)
{
    int head = min(v, int((16 - reinterpret_cast<long long>(x) % 16) / sizeof(real) % PACK)), packs = (v - head) / PACK;
    if (threadIdx.x < head) f(load<1>(x + threadIdx.x), threadIdx.x);
    for (int i = threadIdx.x; i < packs; i += AT_ONCE * blockDim.x) {
        Stored<PACK, real> p[AT_ONCE];
#pragma unroll
        for (int k = 0; k < AT_ONCE; k++)
            if (i + k * blockDim.x < packs) p[k] = stored<PACK>(x + head + PACK * (i + k * blockDim.x));
#pragma unroll
        for (int k = 0; k < AT_ONCE; k++)
            if (i + k * blockDim.x < packs) f(widened(p[k]), head + PACK * (i + k * blockDim.x));
    }
    int last = head + PACK * packs + threadIdx.x;
    if (last < v) f(load<1>(x + last), last);
}

// The largest of a row and the sum of exp(x - largest), in every thread.
__device__ void largest_and_sum(const real *x, int v, float *room, float *largest, float *sum, real *copy = nullptr)
{
    float top = -INF, s = 0;
    along_row(x, v, [&](auto p, int at) {
        constexpr int n = sizeof(p) / 4;
        if (copy) store(copy + at, p);
        float higher = top;
#pragma unroll
        for (int j = 0; j < n; j++) higher = fmaxf(higher, p.x[j]);
        if (higher > top) {
            s *= exp_fast(top - higher);
            top = higher;
        }
        float base = top == -INF ? 0.0f : top;  // exp(-inf) is 0, and a nan makes s nan
#pragma unroll
        for (int j = 0; j < n; j++) s += exp_fast(p.x[j] - base);
    });
    *largest = block_max(top, room);
    *sum = block_sum(top == -INF ? s : s * exp_fast(top - *largest), room);
}

extern "C" __global__ void softmax(const real *x, real *y, int v)
{
    __shared__ float room[32];
    x += blockIdx.x * (long long)v;
    y += blockIdx.x * (long long)v;
    float top, sum;
    largest_and_sum(x, v, room, &top, &sum);
    float share = 1 / sum;
    along_row(x, v, [&](auto p, int at) {
        for (float &e : p.x) e = exp_fast(e - top) * share;  // -inf alone: nan
        store(y + at, p);
    });
}

extern "C" __global__ void softmax_backward(const real *g, const real *y, real *dx, int v)
{
    __shared__ float room[32];
    long long row = blockIdx.x * (long long)v;
    float dot = 0;
    along_row(g + row, v, [&](auto d, int at) {
        constexpr int n = sizeof(d) / 4;
        Pack<n> p = load<n>(y + row + at);
#pragma unroll
        for (int j = 0; j < n; j++) dot += d.x[j] * p.x[j];
    });
    dot = block_sum(dot, room);
    along_row(g + row, v, [&](auto d, int at) {
        constexpr int n = sizeof(d) / 4;
        Pack<n> p = load<n>(y + row + at);
#pragma unroll
        for (int j = 0; j < n; j++) d.x[j] = p.x[j] * (d.x[j] - dot);
        store(dx + row + at, d);
    });
}

// A target out of range gives nan, and no read outside of the row.
__device__ float at_target(const real *x, long long target, int v)
{
    return target >= 0 && target < v ? number(x[target]) : __int_as_float(0x7fffffff);
}

extern "C" __global__ void cross_entropy(const real *x, const long long *targets, float *nll, float *lse, int v)
{
    __shared__ float room[32];
    x += blockIdx.x * (long long)v;
    float top, sum;
    largest_and_sum(x, v, room, &top, &sum);
    if (threadIdx.x) return;
    lse[blockIdx.x] = top + logf(sum);
    nll[blockIdx.x] = top + logf(sum) - at_target(x, targets[blockIdx.x], v);
}

extern "C" __global__ void cross_entropy_backward(const real *x, const long long *targets, const float *lse,
                                                  const float *g_target, const float *g_softmax, const float *g_all,
                                                  real *dx, int v)
{
    long long row = blockIdx.x, target = targets[row];
    float l = lse[row], gs = g_softmax[row], gt = g_target[row], ga = g_all[row];
    along_row(x + row * v, v, [&](auto p, int at) {
        constexpr int n = sizeof(p) / 4;
#pragma unroll
        for (int j = 0; j < n; j++) p.x[j] = gs * exp_fast(p.x[j] - l) + ga - (at + j == target ? gt : 0.0f);
        store(dx + row * v + at, p);
    });
}

// pitch: from a row to the next; what lies behind v becomes 0. in_shared: the block has shared memory for v numbers and
// 16 bytes more.
extern "C" __global__ void loss_then_gradient(real *x, const long long *targets, const float *g, float *nll, int v,
                                              int pitch, int needed, int in_shared)
{
    extern __shared__ float4 shared[];
    __shared__ float room[32];
    x += blockIdx.x * (long long)pitch;
    long long target = targets[blockIdx.x];
    int shift = reinterpret_cast<long long>(x) % 16 / sizeof(real);  // so that packs are packs there, too
    real *row = in_shared ? reinterpret_cast<real *>(shared) + shift : x;
    float top, sum, scale = g[blockIdx.x];
    largest_and_sum(x, v, room, &top, &sum, in_shared ? row : nullptr);
    if (threadIdx.x == 0) nll[blockIdx.x] = top + logf(sum) - at_target(x, target, v);
    if (!needed) return;
    for (int i = v + threadIdx.x; i < pitch; i += blockDim.x) put(x + i, 0);
    __syncthreads();  // x[target] was read
    float share = scale / sum;
    along_row(row, v, [&](auto p, int at) {
        constexpr int n = sizeof(p) / 4;
#pragma unroll
        for (int j = 0; j < n; j++) {
            p.x[j] = share * exp_fast(p.x[j] - top) - (at + j == target ? scale : 0.0f);
            if (scale == 0) p.x[j] = 0;  // a row that does not count may hold inf or nan
        }
        store(x + at, p);
    });
}
