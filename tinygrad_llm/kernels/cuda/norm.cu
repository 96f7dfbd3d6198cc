// Layer norm and RMS norm over rows of C numbers, forward and backward.
//
//   layer norm   y = (x - mean) rstd weight + bias,  mean = sum x / C,  rstd = 1 / sqrt(sum (x - mean)^2 / C + eps)
//   RMS norm     the same with mean = 0 and no bias
//   backward     h = (x - mean) rstd,  u = g weight:  dx = rstd (u - mean(u) - h mean(u h)),
//                dweight = sum g h,  dbias = sum g over the rows; RMS norm without the term mean(u)
//
// Bytes moved, N rows of numbers of s bytes: forward 2 s N C (x in, y out), backward 3 s N C (x and g in, dx out), and a few
// rows of sums, which are float, as mean and rstd are.
// Layout: norm.cuh. Of a row that is too wide for a warp's registers, forward finds its second and third look in the
// level-1 cache.

#include "norm.cuh"

template <bool centred>
__device__ void forward(const real *x, const param *weight, const param *bias, real *y, float *mean, float *rstd,
                        long long n, int c, float eps)
{
    long long row = blockIdx.x * (long long)(blockDim.x / 32) + threadIdx.x / 32;
    int lane = threadIdx.x % 32;
    if (row >= n) return;
    x += row * c;
    y += row * c;
#ifdef ROW
    Pack<VEC> p[ROW];
#pragma unroll
    for (int k = 0; k < ROW; k++)
        if ((k * 32 + lane) * VEC < c) p[k] = load<VEC>(x + (k * 32 + lane) * VEC);
    norm_of_row<centred>(p, weight, bias, y, mean + row, rstd + row, c, eps);
#else
    float centre = 0;
    if (centred) {
        float sum = 0;
        for (int i = lane * VEC; i < c; i += 32 * VEC) {
            Pack<VEC> p = load<VEC>(x + i);
#pragma unroll
            for (int j = 0; j < VEC; j++) sum += p.x[j];
        }
        centre = warp_sum(sum) / c;
    }
    float squares = 0;
    for (int i = lane * VEC; i < c; i += 32 * VEC) {
        Pack<VEC> p = load<VEC>(x + i);
#pragma unroll
        for (int j = 0; j < VEC; j++) squares += (p.x[j] - centre) * (p.x[j] - centre);
    }
    float r = 1 / sqrtf(warp_sum(squares) / c + eps);
    for (int i = lane * VEC; i < c; i += 32 * VEC) {
        Pack<VEC> p = load<VEC>(x + i);
        normalise(p, centre, r, weight, bias, i);
        store<VEC>(y + i, p);
    }
    if (lane == 0) {
        if (centred) mean[row] = centre;
        rstd[row] = r;
    }
#endif
}

extern "C" __global__ void layer_norm(const real *x, const param *weight, const param *bias, real *y, float *mean,
                                      float *rstd, long long n, int c, float eps)
{
    forward<true>(x, weight, bias, y, mean, rstd, n, c, eps);
}

extern "C" __global__ void rms_norm(const real *x, const param *weight, real *y, float *rstd, long long n, int c,
                                    float eps)
{
    forward<false>(x, weight, nullptr, y, nullptr, rstd, n, c, eps);
}

#ifdef PACKS
// sums: a row for each block, of dweight's columns if they are needed, then dbias's.
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)
layer_norm_backward(const real *g, const real *x, const param *weight, const float *mean,
                                               const float *rstd, real *dx, float *sums, int need_weight,
                                               int need_bias, long long n, int c)
{
    backward<true>(g, x, weight, mean, rstd, dx, sums, need_weight, need_bias, n, c);
}

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)
rms_norm_backward(const real *g, const real *x, const param *weight, const float *rstd,
                                             real *dx, float *sums, int need_weight, long long n, int c)
{
    backward<false>(g, x, weight, nullptr, rstd, dx, sums, need_weight, false, n, c);
}
#endif
