// A linear layer for the few rows of a token's step: y = f(W h + b), or that added to y, where h is x or norm(x); x
// (rows, k), W (n, k), y (rows, n), f none or an activation.
//
//   layer norm   h = (x - mean) / sqrt(variance + eps) scale + shift,  by row
//
// Bytes moved: W once, n k of them, each read in 16 bytes; with more than ROWS rows the level-2 cache gives W again.
// What else there is, the rows, is small. The norm and the activation are here because a launch of their own would cost
// more than they do.
// Layout: few_rows, a warp for FEATURES rows of W and ROWS rows of x; `split` warps of a block share the columns, so
// that all multiprocessors have something to read. A thread asks for AHEAD packs of each row of W before it looks at
// one, and has all its sums in registers; the warp adds them up by halves, so that lane l ends with the l-th.
// many_rows, of 16 bits, on the tensor cores: a warp for 16 rows of W and TILES x 8 rows of x. A thread loads 8
// neighbouring numbers, 16 bytes, and the instruction wants pairs that lie 8 apart: the columns are taken in another
// order, the same for both factors, which changes no sum. norm_rows, a warp a row.

#include "common.cuh"

#define THREADS 256
#define WARPS 8

// z times its share: form 0 none, 1 GELU, 2 GELU by tanh, 3 SiLU. See activate.cu.
__device__ float activated(float z, int form)
{
    if (form == 1) return z * 0.5f * erfcf(-0.7071067811865476f * z);
    if (form == 2) return z / (1 + expf(-1.5957691216057308f * z * (1 + 0.044715f * z * z)));
    if (form == 3) return z / (1 + expf(-z));
    return z;
}

// norm(x) of a row by one warp, written by `write(column, number)`.
template <typename Write>
__device__ void normalise(const float *x, const real *scale, const real *shift, float eps, int k, Write write)
{
    int lane = threadIdx.x % 32;
    float sum = 0, squares = 0;
#pragma unroll 4
    for (int i = lane; i < k; i += 32) sum += x[i];
    float mean = warp_sum(sum) / k;
#pragma unroll 4
    for (int i = lane; i < k; i += 32) squares += (x[i] - mean) * (x[i] - mean);
    float r = 1 / sqrtf(warp_sum(squares) / k + eps);
#pragma unroll 4
    for (int i = lane; i < k; i += 32) {
        float h = (x[i] - mean) * r;
        if (scale) h *= number(scale[i]);
        if (shift) h += number(shift[i]);
        write(i, h);
    }
}

#ifdef ROWS
// n sums over a warp at once, n a power of two: lane l gets that of x[l % n]. What is added to what is always the same.
template <int n> __device__ float sum_by_lane(float *x)
{
    int lane = threadIdx.x % 32;
#pragma unroll
    for (int half = n / 2; half > 0; half /= 2) {
        bool upper = lane & half;
#pragma unroll
        for (int i = 0; i < half; i++) {
            float given = upper ? x[i] : x[i + half], kept = upper ? x[i + half] : x[i];
            x[i] = kept + __shfl_xor_sync(0xffffffff, given, half);
        }
    }
#pragma unroll
    for (int other = n; other < 32; other *= 2) x[0] += __shfl_xor_sync(0xffffffff, x[0], other);
    return x[0];
}

// normed: h is norm(x), for which a block has shared memory of ROWS x k floats; else x.
extern "C" __global__ void __launch_bounds__(THREADS, 1)
few_rows(const float *x, const real *scale, const real *shift, float eps, int normed, const real *weight,
         const real *bias, float *y, int form, int add, int rows, int n, int k, int split)
{
    constexpr int SUMS = FEATURES * ROWS, AHEAD = ROWS <= 2 ? 4 : ROWS == 4 ? 2 : 1;
    extern __shared__ float4 memory[];
    float *room = reinterpret_cast<float *>(memory);
    __shared__ float sums[WARPS][SUMS];
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, part = warp % split, step = 32 * VEC * split;
    int first_row = blockIdx.y * ROWS, first = (blockIdx.x * (WARPS / split) + warp / split) * FEATURES;
    const float *from = x + first_row * (long long)k;
    Stored<VEC, real> w[AHEAD][FEATURES];
    auto fetch = [&](int start) {
#pragma unroll
        for (int a = 0; a < AHEAD; a++)
#pragma unroll
            for (int f = 0; f < FEATURES; f++)
                if (start + a * step < k && first + f < n) {
                    const real *there = weight + (first + f) * (long long)k + start + a * step;
                    w[a][f] = *reinterpret_cast<const Stored<VEC, real> *>(there);
                }
    };
    int start = (part * 32 + lane) * VEC;
    fetch(start);  // and while it is on its way the rows are normalised
    if (normed) {
        for (int r = warp; r < ROWS && first_row + r < rows; r += WARPS)
            normalise(from + r * (long long)k, scale, shift, eps, k, [&](int i, float h) { room[r * k + i] = h; });
        __syncthreads();
        from = room;
    }
    float found[SUMS] = {};
    for (int i = start; i < k; i += AHEAD * step) {
        if (i != start) fetch(i);
#pragma unroll
        for (int a = 0; a < AHEAD; a++) {
            if (i + a * step >= k) break;
#pragma unroll
            for (int r = 0; r < ROWS; r++) {
                Pack<VEC> h = load<VEC>(from + (first_row + r < rows ? r : 0) * k + i + a * step);
#pragma unroll
                for (int f = 0; f < FEATURES; f++)
#pragma unroll
                    for (int j = 0; j < VEC; j++) found[f * ROWS + r] += number(w[a][f].x[j]) * h.x[j];
            }
        }
    }
    float sum = sum_by_lane<SUMS>(found);
    if (lane < SUMS) sums[warp][lane] = sum;
    __syncthreads();
    int group = threadIdx.x / SUMS, which = threadIdx.x % SUMS;
    int feature = (blockIdx.x * (WARPS / split) + group) * FEATURES + which / ROWS, row = first_row + which % ROWS;
    if (group >= WARPS / split || feature >= n || row >= rows) return;
    float z = bias ? number(bias[feature]) : 0.0f;
    for (int i = 0; i < split; i++) z += sums[group * split + i][which];
    y += row * (long long)n + feature;
    z = activated(z, form);
    *y = add ? *y + z : z;
}
#endif

// h = norm(x), or x where it is not to be normed, rounded.
extern "C" __global__ void norm_rows(const float *x, const real *scale, const real *shift, float eps, int normed,
                                     real *h, int rows, int k)
{
    int row = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
    if (row >= rows) return;
    x += row * (long long)k;
    h += row * (long long)k;
    if (normed) normalise(x, scale, shift, eps, k, [&](int i, float there) { put(h + i, there); });
    else
        for (int i = threadIdx.x % 32; i < k; i += 32) put(h + i, x[i]);
}

#ifdef TILES
#if REAL == 1
#define multiply_16 multiply_bf16
#else
#define multiply_16 multiply_f16
#endif

// The result goes to y, or rounded to z. k is a multiple of 8.
extern "C" __global__ void __launch_bounds__(128)
many_rows(const real *x, const real *weight, const real *bias, float *y, real *z, int form, int add, int rows, int n,
          int k, int split)
{
    constexpr int ROWS = 8 * TILES;
    __shared__ float sums[4][ROWS][17];
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, part = warp % split, g = lane / 4, t = lane % 4;
    int groups = 4 / split, first_row = blockIdx.y * ROWS, first = (blockIdx.x * groups + warp / split) * 16;
    const real *upper = weight + (first + g < n ? first + g : n - 1) * (long long)k;
    const real *lower = weight + (first + g + 8 < n ? first + g + 8 : n - 1) * (long long)k;
    float found[TILES][4] = {};
    if (first < n) {
#pragma unroll 2
        for (int i = part * 32 + 8 * t; i - 8 * t < k; i += 32 * split) {  // all lanes, also those without a column
            uint4 none = {}, w = none, v = none;
            if (i < k) {
                w = *reinterpret_cast<const uint4 *>(upper + i);
                v = *reinterpret_cast<const uint4 *>(lower + i);
            }
            unsigned a[4] = {w.x, v.x, w.y, v.y}, b[4] = {w.z, v.z, w.w, v.w};
#pragma unroll
            for (int tile = 0; tile < TILES; tile++) {
                int row = first_row + 8 * tile + g;
                uint4 h = none;
                if (i < k && row < rows) h = *reinterpret_cast<const uint4 *>(x + row * (long long)k + i);
                multiply_16(found[tile], a, h.x, h.y);
                multiply_16(found[tile], b, h.z, h.w);
            }
        }
    }
#pragma unroll
    for (int tile = 0; tile < TILES; tile++)
#pragma unroll
        for (int i = 0; i < 4; i++) sums[warp][8 * tile + 2 * t + i % 2][g + i / 2 * 8] = found[tile][i];
    __syncthreads();
    for (int i = threadIdx.x; i < groups * ROWS * 16; i += 128) {
        int which = i % 16, group = i / 16 % groups, row = i / 16 / groups;
        int feature = (blockIdx.x * groups + group) * 16 + which;
        if (feature >= n || first_row + row >= rows) continue;
        float sum = bias ? number(bias[feature]) : 0.0f;
        for (int p = 0; p < split; p++) sum += sums[group * split + p][row][which];
        long long place = (first_row + row) * (long long)n + feature;
        sum = activated(sum, form);
        if (z) put(z + place, sum);
        else y[place] = add ? y[place] + sum : sum;
    }
}
#endif
