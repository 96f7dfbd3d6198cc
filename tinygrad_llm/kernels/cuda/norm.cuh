// What the norms share with the one that follows a shortcut.
//
// Layout of forward: a warp per row, which stays in its registers, ROW x VEC numbers of it in a thread's.
// Layout of backward: WARPS warps share a row, ROWS rows a block at once; a thread owns PACKS x VEC columns, whose dweight
// and dbias it keeps in registers over all its rows. All of a row is loaded before anything is done with it, and a row that
// is one warp's needs no barrier. The blocks' sums (a row each of dweight's, dbias's or both) are added up by sum_blocks, in
// a fixed order. Compiled with VEC and ROW, or PACKS, WARPS and BLOCKS: how many blocks a multiprocessor has at once, which
// bounds the registers. There are no more blocks than that, so that all end together.
// Instructions a number of 16 bits, backward: layer norm 22, RMS norm 18, behind a shortcut with dropout 46 (half of them
// make the mask); an H100 could give 57, 57 and 95 while a copy moves their bytes.

#include "common.cuh"
#include "philox.cuh"

// (p - centre) r weight + bias in place, for the columns from i on.
__device__ void normalise(Pack<VEC> &p, float centre, float r, const param *weight, const param *bias, int i)
{
    Pack<VEC> w, b;
    if (weight) w = load<VEC>(weight + i);
    if (bias) b = load<VEC>(bias + i);
#pragma unroll
    for (int j = 0; j < VEC; j++) {
        p.x[j] = (p.x[j] - centre) * r;
        if (weight) p.x[j] *= w.x[j];
        if (bias) p.x[j] += b.x[j];
    }
}

#ifdef ROW
// The norm of a row whose numbers are in p, those of columns (32 k + lane) VEC and the next in p[k].
template <bool centred>
__device__ void norm_of_row(Pack<VEC> p[ROW], const param *weight, const param *bias, real *y, float *mean, float *rstd,
                            int c, float eps)
{
    int lane = threadIdx.x % 32;
    float sum = 0, squares = 0, centre = 0;
    if (centred) {
#pragma unroll
        for (int k = 0; k < ROW; k++) {
            if ((k * 32 + lane) * VEC >= c) break;
#pragma unroll
            for (int j = 0; j < VEC; j++) sum += p[k].x[j];
        }
        centre = warp_sum(sum) / c;
    }
#pragma unroll
    for (int k = 0; k < ROW; k++) {
        if ((k * 32 + lane) * VEC >= c) break;
#pragma unroll
        for (int j = 0; j < VEC; j++) squares += (p[k].x[j] - centre) * (p[k].x[j] - centre);
    }
    float r = 1 / sqrtf(warp_sum(squares) / c + eps);
#pragma unroll
    for (int k = 0; k < ROW; k++) {
        int i = (k * 32 + lane) * VEC;
        if (i >= c) break;
        normalise(p[k], centre, r, weight, bias, i);
        store<VEC>(y + i, p[k]);
    }
    if (lane) return;
    if (centred) *mean = centre;
    *rstd = r;
}
#endif

// A mask of dropout: see philox.cuh. limit 0 keeps everything.
struct Drop {
    unsigned long long key;
    unsigned limit;
    float scale;
};

#ifdef PACKS
constexpr int ROWS = WARPS == 1 ? 4 : 1, THREADS = 32 * WARPS * ROWS;

// The sums over a row's threads, in each of them. turn: 0 and 1 one after the other, so that one barrier a row is enough.
__device__ void row_sums(float &x, float &y, int turn)
{
    x = warp_sum(x);
    y = warp_sum(y);
#if WARPS > 1
    __shared__ float room[2][2][WARPS];
    if (threadIdx.x % 32 == 0) {
        room[turn][0][threadIdx.x / 32] = x;
        room[turn][1][threadIdx.x / 32] = y;
    }
    __syncthreads();
    x = y = 0;
#pragma unroll
    for (int i = 0; i < WARPS; i++) {
        x += room[turn][0][i];
        y += room[turn][1][i];
    }
#endif
}

// A block's sums of columns: those of its threads, or of the warps that have rows of their own.
__device__ void put_sums(float *to, const float mine[PACKS][VEC], int c)
{
    int place = threadIdx.x % (32 * WARPS);
#if WARPS == 1
    __shared__ float all[ROWS][32 * PACKS * VEC];
    float *mine_to = all[threadIdx.x / 32];
    __syncthreads();
#else
    float *mine_to = to;
#endif
#pragma unroll
    for (int k = 0; k < PACKS; k++) {
        int i = (k * 32 * WARPS + place) * VEC;
        if (i >= c) break;
#pragma unroll
        for (int j = 0; j < VEC; j++) mine_to[i + j] = mine[k][j];
    }
#if WARPS == 1
    __syncthreads();
    for (int i = threadIdx.x; i < c; i += blockDim.x) to[i] = all[0][i] + all[1][i] + all[2][i] + all[3][i];
#endif
}

// Of the columns from i on; without a weight (PLAIN) ones, which the compiler leaves out.
__device__ Pack<VEC> weights(const param *weight, int i)
{
#ifdef PLAIN
    Pack<VEC> w;
#pragma unroll
    for (int j = 0; j < VEC; j++) w.x[j] = 1;
    return w;
#else
    return load<VEC>(weight + i);
#endif
}

// d: a gradient of x that comes on another way, added to dx, or null. dropped: takes what dropout hands back of dx, or null.
template <bool centred, typename G, typename X>
__device__ void backward(const G *g, const X *x, const param *weight, const float *mean, const float *rstd, X *dx,
                         float *sums, bool need_weight, bool need_bias, long long n, int c, const X *d = nullptr,
                         G *dropped = nullptr, Drop by = {})
{
    int place = threadIdx.x % (32 * WARPS), turn = 0;
    float sum_gh[PACKS][VEC] = {}, sum_g[PACKS][VEC] = {};
    for (long long row = blockIdx.x * ROWS + threadIdx.x / (32 * WARPS); row < n; row += gridDim.x * ROWS) {
        long long start = row * c;
        Stored<VEC, G> gs[PACKS];  // as they are in memory: the fewest registers
        Stored<VEC, X> xs[PACKS], ds[PACKS];
#pragma unroll
        for (int k = 0; k < PACKS; k++) {
            int i = (k * 32 * WARPS + place) * VEC;
            if (i >= c) break;
            gs[k] = stored<VEC>(g + start + i);
            xs[k] = stored<VEC>(x + start + i);
            if (d) ds[k] = stored<VEC>(d + start + i);
        }
        float r = rstd[row], centre = centred ? mean[row] : 0.0f, mean_u = 0, mean_uh = 0;
#pragma unroll
        for (int k = 0; k < PACKS; k++) {
            int i = (k * 32 * WARPS + place) * VEC;
            if (i >= c) break;
            Pack<VEC> u = widened(gs[k]), h = widened(xs[k]), w = weights(weight, i);
#pragma unroll
            for (int j = 0; j < VEC; j++) {
                h.x[j] = (h.x[j] - centre) * r;
                sum_gh[k][j] += u.x[j] * h.x[j];
                sum_g[k][j] += u.x[j];
                u.x[j] *= w.x[j];
                mean_u += u.x[j];
                mean_uh += u.x[j] * h.x[j];
            }
        }
        if (!dx && !dropped) continue;
        row_sums(mean_u, mean_uh, turn);
        turn ^= 1;
        float constant = centred ? -r * mean_u / c : 0.0f, slope = -r * r * mean_uh / c;
#pragma unroll
        for (int k = 0; k < PACKS; k++) {
            int i = (k * 32 * WARPS + place) * VEC;
            if (i >= c) break;
            Pack<VEC> u = widened(gs[k]), x = widened(xs[k]), w = weights(weight, i);
#pragma unroll
            for (int j = 0; j < VEC; j++) u.x[j] = u.x[j] * (w.x[j] * r) + constant + (x.x[j] - centre) * slope;
            if (d) {
                Pack<VEC> other = widened(ds[k]);
#pragma unroll
                for (int j = 0; j < VEC; j++) u.x[j] += other.x[j];
            }
            if (dx) store<VEC>(dx + start + i, u);
            if (dropped) {
                if (by.limit) drop(u, start + i, by.key, by.limit, by.scale);
                store<VEC>(dropped + start + i, u);
            }
        }
    }
    sums += blockIdx.x * (long long)(need_weight + need_bias) * c;
    if (need_weight) put_sums(sums, sum_gh, c);
    if (need_bias) put_sums(sums + need_weight * c, sum_g, c);
}
#endif
