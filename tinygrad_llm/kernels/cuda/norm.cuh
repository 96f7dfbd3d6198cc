// What the norms share with the one that follows a shortcut.
//
// Layout of backward: a block per row in turns; a thread owns PACKS x VEC columns, whose dweight and dbias it keeps in
// registers over all its rows, and the blocks' sums (a row each of dweight's, dbias's or both) are added up by sum_blocks,
// in a fixed order. Compiled with VEC and, for backward, PACKS = columns / (threads x VEC), rounded up.

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

// A mask of dropout: see philox.cuh. limit 0 keeps everything.
struct Drop {
    unsigned long long key;
    unsigned limit;
    float scale;
};

#ifdef PACKS
// d: a gradient of x that comes on another way, added to dx, or null. dropped: takes what dropout hands back of dx, or null.
template <bool centred, typename G, typename X>
__device__ void backward(const G *g, const X *x, const param *weight, const float *mean, const float *rstd, X *dx,
                         float *sums, bool need_weight, bool need_bias, long long n, int c, const X *d = nullptr,
                         G *dropped = nullptr, Drop by = {})
{
    __shared__ float room[2][32];
    float sum_gh[PACKS][VEC] = {}, sum_g[PACKS][VEC] = {};
    for (long long row = blockIdx.x; row < n; row += gridDim.x) {
        float centre = centred ? mean[row] : 0.0f, r = rstd[row];
        Pack<VEC> u[PACKS], h[PACKS];
        float mean_u = 0, mean_uh = 0;
#pragma unroll
        for (int k = 0; k < PACKS; k++) {
            int i = (k * blockDim.x + threadIdx.x) * VEC;
            if (i >= c) break;
            u[k] = load<VEC>(g + row * c + i);
            h[k] = load<VEC>(x + row * c + i);
            Pack<VEC> w;
            if (weight) w = load<VEC>(weight + i);
#pragma unroll
            for (int j = 0; j < VEC; j++) {
                h[k].x[j] = (h[k].x[j] - centre) * r;
                sum_gh[k][j] += u[k].x[j] * h[k].x[j];
                sum_g[k][j] += u[k].x[j];
                if (weight) u[k].x[j] *= w.x[j];
                mean_u += u[k].x[j];
                mean_uh += u[k].x[j] * h[k].x[j];
            }
        }
        if (!dx && !dropped) continue;
        block_sums(mean_u, mean_uh, room);
        mean_u = centred ? mean_u / c : 0.0f;
        mean_uh /= c;
#pragma unroll
        for (int k = 0; k < PACKS; k++) {
            int i = (k * blockDim.x + threadIdx.x) * VEC;
            if (i >= c) break;
#pragma unroll
            for (int j = 0; j < VEC; j++) u[k].x[j] = r * (u[k].x[j] - mean_u - h[k].x[j] * mean_uh);
            if (d) {
                Pack<VEC> other = load<VEC>(d + row * c + i);
#pragma unroll
                for (int j = 0; j < VEC; j++) u[k].x[j] += other.x[j];
            }
            if (dx) store<VEC>(dx + row * c + i, u[k]);
            if (dropped) {
                if (by.limit) drop(u[k], row * c + i, by.key, by.limit, by.scale);
                store<VEC>(dropped + row * c + i, u[k]);
            }
        }
    }
    sums += blockIdx.x * (long long)(need_weight + need_bias) * c;
#pragma unroll
    for (int k = 0; k < PACKS; k++) {
        int i = (k * blockDim.x + threadIdx.x) * VEC;
        if (i >= c) break;
#pragma unroll
        for (int j = 0; j < VEC; j++) {
            if (need_weight) sums[i + j] = sum_gh[k][j];
            if (need_bias) sums[need_weight * c + i + j] = sum_g[k][j];
        }
    }
}
#endif
