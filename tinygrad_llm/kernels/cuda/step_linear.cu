// A linear layer for the few rows of a token's step: y = f(W h + b), or that added to y, where h is x or norm(x); x
// (rows, k), W (n, k), y (rows, n), f none or an activation.
//
//   layer norm   h = (x - mean) / sqrt(variance + eps) scale + shift,  by row
//
// Bytes moved: W once, n k of them, each read in 16 bytes; with more than ROWS rows the level-2 cache gives W again.
// What else there is, the rows, is small. The norm and the activation are here because a launch of their own would cost
// more than they do.
// A launch takes a few microseconds, in which an answer of memory takes a third: what limits it is how many loads wait
// for one another. So all that does not depend on x (W, bias, what a norm scales by) is asked for before x is looked at.
// Layout: few_rows, a warp for FEATURES rows of W and ROWS rows of x; `split` warps of a block share the columns, so
// that all multiprocessors have something to read. A thread asks for AHEAD packs of each row of W before it looks at
// one, and has all its sums in registers; the warp adds them up by halves, so that lane l ends with the l-th. All warps
// of a block normalise its rows. And while a launch computes and the next one starts, memory is idle: `next`, which a
// launch soon after reads, is brought to the level-2 cache meanwhile.
// many_rows, of 16 bits, on the tensor cores: a warp for 16 rows of W and TILES x 8 rows of x; `split` warps of a block
// share the columns. A thread loads 8 neighbouring numbers, 16 bytes, and the instruction wants pairs that lie 8 apart:
// the columns are taken in another order, the same for both factors, which changes no sum. AHEAD packs of W are always
// on their way; the rows of x come from the level-2 or the first cache, which with many rows of W, as a vocabulary has,
// sets the pace beside memory. norm_rows, a block a row.

#include "common.cuh"

#define THREADS 256
#define WARPS 8
#define LINE int(32 / sizeof(real))  // numbers that memory gives at once

// z times its share: form 0 none, 1 GELU, 2 GELU by tanh, 3 SiLU. See activate.cu.
__device__ float activated(float z, int form)
{
    if (form == 1) return z * 0.5f * erfcf(-0.7071067811865476f * z);
    if (form == 2) return z / (1 + expf(-1.5957691216057308f * z * (1 + 0.044715f * z * z)));
    if (form == 3) return z / (1 + expf(-z));
    return z;
}

// The sum over n warps that are neighbours, in each of their threads; all warps of a block take part. room: a float each.
template <int n> __device__ float sum_of_warps(float x, float *room)
{
    int warp = threadIdx.x / 32;
    x = warp_sum(x);
    if (n == 1) return x;
    __syncthreads();  // room may still be read for the sum before
    if (threadIdx.x % 32 == 0) room[warp] = x;
    __syncthreads();
    x = 0;
#pragma unroll
    for (int i = 0; i < n; i++) x += room[warp / n * n + i];
    return x;
}

// norm(x) of a row by n warps that are neighbours, written by `write(column, number)`; other warps have other rows. A
// thread asks for HELD numbers before it looks at one. What the row is scaled and shifted by comes meanwhile.
template <int n, typename Write>
__device__ void normalise(const float *x, const real *scale, const real *shift, float eps, int k, float *room, Write write)
{
    constexpr int STEP = 32 * n, HELD = n == WARPS ? 4 : 8;
    int first = threadIdx.x % STEP;
    for (int i = first * LINE; i < k; i += STEP * LINE) {
        if (scale) expect(scale + i);
        if (shift) expect(shift + i);
    }
    float mean = 0, r = 0;
    for (int pass = 0; pass < 2; pass++) {  // over the numbers, then over their squared distances
        float sum = 0;
        for (int start = first; start < k; start += HELD * STEP) {
            float here[HELD];
#pragma unroll
            for (int e = 0; e < HELD; e++) here[e] = start + e * STEP < k ? x[start + e * STEP] : mean;
#pragma unroll
            for (int e = 0; e < HELD; e++) sum += pass ? (here[e] - mean) * (here[e] - mean) : here[e];
        }
        sum = sum_of_warps<n>(sum, room) / k;
        if (pass) r = 1 / sqrtf(sum + eps);
        else mean = sum;
    }
    for (int start = first; start < k; start += HELD * STEP) {
        float here[HELD], by[HELD], plus[HELD];
#pragma unroll
        for (int e = 0; e < HELD; e++) {
            int i = start + e * STEP < k ? start + e * STEP : k - 1;
            here[e] = x[i];
            by[e] = scale ? number(scale[i]) : 1.0f;
            plus[e] = shift ? number(shift[i]) : 0.0f;
        }
#pragma unroll
        for (int e = 0; e < HELD; e++)
            if (start + e * STEP < k) write(start + e * STEP, (here[e] - mean) * r * by[e] + plus[e]);
    }
}

#ifdef ROWS
// Pairs of lanes that differ in a bit of `half` share out 2 half sums, each pair adding up its own.
template <int half> __device__ void fold(float *x)
{
    if constexpr (half > 0) {
        bool upper = threadIdx.x & half;
#pragma unroll
        for (int i = 0; i < half; i++) {
            float given = upper ? x[i] : x[i + half], kept = upper ? x[i + half] : x[i];
            x[i] = kept + __shfl_xor_sync(0xffffffff, given, half);
        }
        fold<half / 2>(x);
    }
}

// n sums over a warp at once, n a power of two: lane l gets that of x[l % n]. What is added to what is always the same.
template <int n> __device__ float sum_by_lane(float *x)
{
    fold<n / 2>(x);
#pragma unroll
    for (int other = n; other < 32; other *= 2) x[0] += __shfl_xor_sync(0xffffffff, x[0], other);
    return x[0];
}

// normed: h is norm(x), for which a block has shared memory of ROWS x k floats; else x.
extern "C" __global__ void __launch_bounds__(THREADS, ROWS == 1 ? 3 : 1)
few_rows(const float *x, const real *scale, const real *shift, float eps, int normed, const real *weight,
         const param *bias, float *y, int form, int add, int rows, int n, int k, int split, const real *next,
         long long next_count)
{
    constexpr int SUMS = FEATURES * ROWS, AHEAD = ROWS <= 2 ? 4 : ROWS == 4 ? 2 : 1;
    extern __shared__ float4 memory[];
    float *normal = reinterpret_cast<float *>(memory);
    __shared__ float sums[WARPS][SUMS], room[WARPS];
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, part = warp % split, step = 32 * VEC * split;
    int first_row = blockIdx.y * ROWS, first = (blockIdx.x * (WARPS / split) + warp / split) * FEATURES;
    const float *from = x + first_row * (long long)k;
    Stored<VEC, real> w[AHEAD][FEATURES];
    auto fetch = [&](int start) {
#pragma unroll
        for (int a = 0; a < AHEAD; a++)
#pragma unroll
            for (int f = 0; f < FEATURES; f++) {
                const real *there = weight + (first + f) * (long long)k + start + a * step;
                w[a][f] = {};
                if (start + a * step < k && first + f < n)
                    w[a][f] = *reinterpret_cast<const Stored<VEC, real> *>(there);
            }
    };
    int start = (part * 32 + lane) * VEC;
    fetch(start);  // and while it is on its way the rows are normalised
    long long block = blockIdx.y * (long long)gridDim.x + blockIdx.x, blocks = gridDim.x * (long long)gridDim.y;
    for (long long i = (block * THREADS + threadIdx.x) * LINE; i < next_count; i += blocks * THREADS * LINE)
        expect(next + i);
    int group = threadIdx.x / SUMS, which = threadIdx.x % SUMS, row = first_row + which % ROWS;
    int feature = (blockIdx.x * (WARPS / split) + group) * FEATURES + which / ROWS;
    bool ends = group < WARPS / split && feature < n && row < rows;  // whether this thread will have a result
    float z = ends && bias ? number(bias[feature]) : 0.0f;
    y += row * (long long)n + feature;
    float before = ends && add ? *y : 0.0f;
    if (normed) {
        int r = warp / (WARPS / ROWS);
        const float *there = from + (first_row + r < rows ? r : 0) * (long long)k;
        normalise<WARPS / ROWS>(there, scale, shift, eps, k, room, [&](int i, float h) { normal[r * k + i] = h; });
        __syncthreads();
        from = normal;
    }
    float found[SUMS] = {};
    for (int i = start; i < k; i += AHEAD * step) {
        if (i != start) fetch(i);
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            const float *row = from + (first_row + r < rows ? r : 0) * k;
            Pack<VEC> h[AHEAD];
#pragma unroll
            for (int a = 0; a < AHEAD; a++) {
                h[a] = {};
                if (i + a * step < k) h[a] = load<VEC>(row + i + a * step);
            }
#pragma unroll
            for (int a = 0; a < AHEAD; a++)
#pragma unroll
                for (int f = 0; f < FEATURES; f++)
#pragma unroll
                    for (int j = 0; j < VEC; j++) found[f * ROWS + r] += number(w[a][f].x[j]) * h[a].x[j];
        }
    }
    float sum = sum_by_lane<SUMS>(found);
    if (lane < SUMS) sums[warp][lane] = sum;
    __syncthreads();
    if (!ends) return;
    for (int i = 0; i < split; i++) z += sums[group * split + i][which];
    *y = before + activated(z, form);
}
#endif

// h = norm(x), or x where it is not to be normed, rounded.
extern "C" __global__ void __launch_bounds__(THREADS)
norm_rows(const float *x, const real *scale, const real *shift, float eps, int normed, real *h, int k)
{
    __shared__ float room[WARPS];
    x += blockIdx.x * (long long)k;
    h += blockIdx.x * (long long)k;
    if (normed) normalise<WARPS>(x, scale, shift, eps, k, room, [&](int i, float there) { put(h + i, there); });
    else
        for (int i = threadIdx.x; i < k; i += THREADS) put(h + i, x[i]);
}

#ifdef TILES
#if REAL == 1
#define multiply_16 multiply_bf16
#else
#define multiply_16 multiply_f16
#endif

// The result goes to y, or rounded to z. k is a multiple of 8.
extern "C" __global__ void __launch_bounds__(THREADS, TILES == 8 ? 1 : 2)
many_rows(const real *x, const real *weight, const param *bias, float *y, real *z, int form, int add, int rows, int n,
          int k, int split)
{
    constexpr int ROWS = 8 * TILES, AHEAD = 4;
    __shared__ float sums[WARPS][ROWS][20];  // 20: the threads of a warp write to different banks
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, part = warp % split, g = lane / 4, t = lane % 4;
    int groups = WARPS / split, first_row = blockIdx.y * ROWS, first = (blockIdx.x * groups + warp / split) * 16;
    const real *upper = weight + (first + g < n ? first + g : n - 1) * (long long)k;
    const real *lower = weight + (first + g + 8 < n ? first + g + 8 : n - 1) * (long long)k;
    const real *rows_of[TILES];
#pragma unroll
    for (int tile = 0; tile < TILES; tile++) {
        int row = first_row + 8 * tile + g;
        rows_of[tile] = x + (row < rows ? row : rows - 1) * (long long)k;
    }
    int step = 32 * split;
    uint4 w[AHEAD][2];
    auto fetch = [&](uint4 *there, int i) {
        there[0] = there[1] = {};
        if (i < k) {
            there[0] = *reinterpret_cast<const uint4 *>(upper + i);
            there[1] = *reinterpret_cast<const uint4 *>(lower + i);
        }
    };
#pragma unroll
    for (int a = 0; a < AHEAD; a++) fetch(w[a], part * 32 + 8 * t + a * step);
    int column = threadIdx.x % 16, slot = threadIdx.x / 16;
    int feature = (blockIdx.x * groups + slot % groups) * 16 + column;
    float shift = bias && feature < n ? number(bias[feature]) : 0.0f;

    float found[TILES][4] = {};
    for (int start = part * 32; start < k; start += AHEAD * step)
#pragma unroll
        for (int a = 0; a < AHEAD; a++) {
            int here = start + a * step, i = here + 8 * t;  // all lanes multiply, also those without a column
            if (here >= k) break;
            uint4 h[TILES];  // all asked for before one is looked at; beyond k any, which meet zeros
#pragma unroll
            for (int tile = 0; tile < TILES; tile++)
                h[tile] = *reinterpret_cast<const uint4 *>(rows_of[tile] + (i < k ? i : 0));
            unsigned left[4] = {w[a][0].x, w[a][1].x, w[a][0].y, w[a][1].y};
            unsigned right[4] = {w[a][0].z, w[a][1].z, w[a][0].w, w[a][1].w};
#pragma unroll
            for (int tile = 0; tile < TILES; tile++) {
                multiply_16(found[tile], left, h[tile].x, h[tile].y);
                multiply_16(found[tile], right, h[tile].z, h[tile].w);
            }
            fetch(w[a], i + AHEAD * step);
        }
#pragma unroll
    for (int tile = 0; tile < TILES; tile++)
#pragma unroll
        for (int i = 0; i < 4; i++) sums[warp][8 * tile + 2 * t + i % 2][g + i / 2 * 8] = found[tile][i];
    __syncthreads();
    if (feature >= n) return;
    for (int row = slot / groups; row < ROWS && first_row + row < rows; row += THREADS / 16 / groups) {
        float sum = shift;
        for (int p = 0; p < split; p++) sum += sums[slot % groups * split + p][row][column];
        sum = activated(sum, form);
        long long place = (first_row + row) * (long long)n + feature;
        if (z) put(z + place, sum);
        else y[place] = add ? y[place] + sum : sum;
    }
}
#endif
