// A part added to the shortcut, and the norm of the sum: what stands between the parts of a transformer's blocks.
//
//   forward    s = shortcut + drop(x),  y = (s - mean) rstd weight + bias
//   backward   u = g weight,  h = (s - mean) rstd:  ds = d + rstd (u - mean(u) - h mean(u h)),  dx = drop(ds)
//
// drop is dropout by a mask made where it is needed (philox.cuh), or nothing where limit is 0. g is the gradient of y, d
// that of s on the other ways that lead from it; ds is also the shortcut's.
//
// Bytes moved, N rows of C numbers: with s_x bytes of `real` and s_t of `trunk`: forward (2 s_x + 2 s_t) N C, backward
// (s_x + 3 s_t) N C and, where something is dropped or dx is of another type, s_x N C more. One after the other add, norm,
// and their backward move s_t N C more forward, and 3 s_t N C more backward.
// Layout: norm.cuh.

#include "norm.cuh"

#ifdef ROW
__device__ float rounded(float x)
{
    trunk t;
    put(&t, x);
    return number(t);
}

extern "C" __global__ void dropout_add_norm(const real *x, const trunk *shortcut, const param *weight,
                                            const param *bias, trunk *s, real *y, float *mean, float *rstd,
                                            long long n, int c, float eps, long long key, const long long *drawn,
                                            long long limit, float scale)
{
    if (drawn) key = *drawn;
    long long row = blockIdx.x * (long long)(blockDim.x / 32) + threadIdx.x / 32, start = row * c;
    int lane = threadIdx.x % 32;
    if (row >= n) return;
    Pack<VEC> p[ROW];
#pragma unroll
    for (int k = 0; k < ROW; k++) {
        int i = (k * 32 + lane) * VEC;
        if (i >= c) break;
        Pack<VEC> q = load<VEC>(shortcut + start + i);
        p[k] = load<VEC>(x + start + i);
        if (limit) drop(p[k], start + i, key, limit, scale);
#pragma unroll
        for (int j = 0; j < VEC; j++)
            p[k].x[j] = rounded(p[k].x[j] + q.x[j]);  // backward finds the sum as it is stored
        store<VEC>(s + start + i, p[k]);
    }
    norm_of_row<true>(p, weight, bias, y + start, mean + row, rstd + row, c, eps);
}
#endif

#ifdef PACKS
// d, ds and dx may be null, as weight may; sums: as in layer_norm_backward.
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)
dropout_add_norm_backward(const real *g, const trunk *d, const trunk *s, const param *weight,
                                                     const float *mean, const float *rstd, trunk *ds, real *dx,
                                                     float *sums, int need_weight, int need_bias, long long n, int c,
                                                     long long key, const long long *drawn, long long limit,
                                                     float scale)
{
    if (drawn) key = *drawn;
    Drop by = {(unsigned long long)key, (unsigned)limit, scale};
    backward<true>(g, s, weight, mean, rstd, ds, sums, need_weight, need_bias, n, c, d, dx, by);
}
#endif
