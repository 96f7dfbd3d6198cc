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
// on its way down. It loads several rows before it stores the first: loads do not pass a store that may lie where they do.
// The chunks' sums (one row each) are added up by sum_blocks, in a fixed order. Without a bias the launcher is free to
// choose the rows. dx may lie where g lies.
// Instructions a number in 16 bits, forward and backward: GELU 23 and 33, GELU_TANH 13 and 25, SILU 10 and 20. An H100 could
// give 38 and 57 in the time in which a copy moves its bytes, so that memory is what limits it.

#include "common.cuh"

#define TWO_ROOT 1.5957691216057308f  // 2 sqrt(2/pi)
#define CUBIC 0.044715f
#if defined(GELU)  // BEYOND: of |z|, s is 0 or 1 but for less than 1e-26, and z s' can be left out
#define BEYOND 13.0f
#elif defined(GELU_TANH)
#define BEYOND 9.0f
#else
#define BEYOND 80.0f
#endif

// The share s of z in z s, and z s'. The errors of what is approximated are those of a few roundings.
__device__ float share(float z, float *gain)
{
#if defined(GELU)
    // the tail of the normal distribution as a polynomial of t, fitted to a relative error of 8e-8 for |z| < 14
    float e = exp_fast(-0.5f * z * z), t = reciprocal_fast(1 + 0.4f * fabsf(z)), tail = -0.0396016911f;
    tail = tail * t + 0.200604364f;
    tail = tail * t - 0.373688996f;
    tail = tail * t + 0.250979066f;
    tail = tail * t - 0.0123890508f;
    tail = tail * t + 0.158417717f;
    tail = tail * t + 0.15578638f;
    tail = tail * t + 0.159904212f;
    tail = (tail * t - 1.19887918e-5f) * e;
    float s = z < 0 ? tail : 1 - tail;
    *gain = 0.3989422804014327f * z * e;
#elif defined(GELU_TANH)
    float square = z * z, e = exp_fast(z * (-TWO_ROOT - TWO_ROOT * CUBIC * square)), s = reciprocal_fast(1 + e);
    *gain = s * (s * e) * z * (TWO_ROOT + TWO_ROOT * 3 * CUBIC * square);  // s e = 1 - s, without a difference
#else
    float e = exp_fast(-z), s = reciprocal_fast(1 + e);
    *gain = s * (s * e) * z;
#endif
    if (!(fabsf(z) < BEYOND)) *gain = 0;  // it could be 0 times infinity
    return s;
}

#define FORWARD 4  // rows that are loaded at once
#define BACKWARD 2

extern "C" __global__ void activate(const real *x, const param *bias, real *y, long long n, long long c,
                                    long long chunk)
{
    long long column = (blockIdx.x * (long long)blockDim.x + threadIdx.x) * VEC;
    long long first = blockIdx.y * chunk, last = first + chunk < n ? first + chunk : n;
    if (column >= c) return;
    Pack<VEC> b = {};
    if (bias) b = load<VEC>(bias + column);
    x += column;
    y += column;
    for (long long row = first; row < last; row += FORWARD) {
        Pack<VEC> z[FORWARD];
#pragma unroll
        for (int k = 0; k < FORWARD; k++)
            if (row + k < last) z[k] = load<VEC>(x + (row + k) * c);
#pragma unroll
        for (int k = 0; k < FORWARD; k++) {
            if (row + k >= last) break;
#pragma unroll
            for (int j = 0; j < VEC; j++) {
                float gain;
                z[k].x[j] += b.x[j];
                z[k].x[j] *= share(z[k].x[j], &gain);
            }
            store<VEC>(y + (row + k) * c, z[k]);
        }
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
    for (long long row = first; row < last; row += BACKWARD) {
        Pack<VEC> z[BACKWARD], d[BACKWARD];
#pragma unroll
        for (int k = 0; k < BACKWARD; k++) {
            if (row + k >= last) break;
            z[k] = load<VEC>(x + (row + k) * c + column);
            d[k] = load<VEC>(g + (row + k) * c + column);
        }
#pragma unroll
        for (int k = 0; k < BACKWARD; k++) {
            if (row + k >= last) break;
#pragma unroll
            for (int j = 0; j < VEC; j++) {
                z[k].x[j] += b.x[j];
                float gain, s = share(z[k].x[j], &gain);
                d[k].x[j] *= s + gain;
                sum.x[j] += d[k].x[j];
                z[k].x[j] *= s;
            }
            if (dx) store<VEC>(dx + (row + k) * c + column, d[k]);
            if (y) store<VEC>(y + (row + k) * c + column, z[k]);
        }
    }
    if (dbias) store<VEC>(dbias + blockIdx.y * c + column, sum);
}
