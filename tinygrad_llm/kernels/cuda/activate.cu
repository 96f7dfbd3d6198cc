// An activation z s of z = x + bias, forward and backward: x (n, c), bias (c,) or none.
//
//   GELU       s = (1 + erf(z / sqrt 2)) / 2,                       s' = exp(-z^2 / 2) / sqrt(2 pi)
//   GELU_TANH  s = sigmoid(2 sqrt(2/pi) (z + 0.044715 z^3)),        s' = s (1 - s) 2 sqrt(2/pi) (1 + 3 0.044715 z^2)
//   SILU       s = sigmoid(z),                                      s' = s (1 - s)
//   backward   dx = g (s + z s'),  dbias = sum dx over the rows
//
// Bytes moved, numbers of s bytes: forward 2 s n c, backward 3 s n c, or 4 s n c where z s is wanted again, and a few rows
// of sums, which are float.
// Layout: a thread has VEC columns, whose bias it keeps in registers, in a chunk of the rows, and adds up their gradients
// on its way down. The chunks' sums (one row each) are added up by sum_columns, in a fixed order. Without a bias an array
// is one long row. dx may lie where g lies.

#include "common.cuh"

#define TWO_ROOT 1.5957691216057308f  // 2 sqrt(2/pi)
#define CUBIC 0.044715f

// The share s of z in z s, and its derivative.
__device__ float share(float z, float *slope)
{
#if defined(GELU)
    *slope = 0.3989422804014327f * expf(-0.5f * z * z);
    return 0.5f * erfcf(-0.7071067811865476f * z);
#elif defined(GELU_TANH)
    float s = 1 / (1 + expf(-TWO_ROOT * z * (1 + CUBIC * z * z)));
    // first the factors that vanish: the others may overflow where z is large
    *slope = s * (1 - s) == 0 ? 0.0f : s * (1 - s) * TWO_ROOT * (1 + 3 * CUBIC * z * z);
    return s;
#else
    float s = 1 / (1 + expf(-z));
    *slope = s * (1 - s);
    return s;
#endif
}

extern "C" __global__ void activate(const real *x, const param *bias, real *y, long long n, long long c,
                                    long long chunk)
{
    long long column = (blockIdx.x * (long long)blockDim.x + threadIdx.x) * VEC;
    long long first = blockIdx.y * chunk, last = first + chunk < n ? first + chunk : n;
    if (column >= c) return;
    Pack<VEC> b = {};
    if (bias) b = load<VEC>(bias + column);
#pragma unroll 4
    for (long long row = first; row < last; row++) {
        Pack<VEC> z = load<VEC>(x + row * c + column);
#pragma unroll
        for (int j = 0; j < VEC; j++) {
            float slope;
            z.x[j] += b.x[j];
            z.x[j] *= share(z.x[j], &slope);
        }
        store<VEC>(y + row * c + column, z);
    }
}

extern "C" __global__ void activate_backward(const real *g, const real *x, const param *bias, real *dx, real *y,
                                             float *dbias, long long n, long long c, long long chunk)
{
    long long column = (blockIdx.x * (long long)blockDim.x + threadIdx.x) * VEC;
    long long first = blockIdx.y * chunk, last = first + chunk < n ? first + chunk : n;
    if (column >= c) return;
    Pack<VEC> b = {}, sum = {};
    if (bias) b = load<VEC>(bias + column);
#pragma unroll 2
    for (long long row = first; row < last; row++) {
        long long i = row * c + column;
        Pack<VEC> z = load<VEC>(x + i), d = load<VEC>(g + i);
#pragma unroll
        for (int j = 0; j < VEC; j++) {
            z.x[j] += b.x[j];
            float slope, s = share(z.x[j], &slope);
            d.x[j] *= s + (slope == 0 ? 0.0f : z.x[j] * slope);
            sum.x[j] += d.x[j];
            z.x[j] *= s;
        }
        if (dx) store<VEC>(dx + i, d);
        if (y) store<VEC>(y + i, z);
    }
    if (dbias) store<VEC>(dbias + blockIdx.y * c + column, sum);
}
