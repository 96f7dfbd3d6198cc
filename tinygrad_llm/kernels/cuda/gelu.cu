// GELU, forward and backward.
//
//   ERF       y = x P,  P = (1 + erf(x / sqrt 2)) / 2;   dx = g (P + x exp(-x^2 / 2) / sqrt(2 pi))
//   otherwise y = x s,  s = sigmoid(2 sqrt(2/pi) (x + 0.044715 x^3));
//             dx = g (s + x s (1 - s) 2 sqrt(2/pi) (1 + 3 0.044715 x^2))
//
// Bytes moved, n elements: forward 8 n, backward 12 n, or 16 n where y is wanted again.
// Layout: a thread takes VEC elements, then those a grid further on.

#include "common.cuh"

#define TWO_ROOT 1.5957691216057308f  // 2 sqrt(2/pi)
#define CUBIC 0.044715f

// The share s of x in gelu(x) = x s, and its derivative.
__device__ float share(float x, float *slope)
{
#ifdef ERF
    *slope = 0.3989422804014327f * expf(-0.5f * x * x);
    return 0.5f * erfcf(-0.7071067811865476f * x);
#else
    float s = 1 / (1 + expf(-TWO_ROOT * x * (1 + CUBIC * x * x)));
    // first the factors that vanish: the others may overflow where x is large
    *slope = s * (1 - s) == 0 ? 0.0f : s * (1 - s) * TWO_ROOT * (1 + 3 * CUBIC * x * x);
    return s;
#endif
}

extern "C" __global__ void gelu(const float *x, float *y, long long n)
{
    long long step = (long long)gridDim.x * blockDim.x * VEC;
    for (long long i = (blockIdx.x * (long long)blockDim.x + threadIdx.x) * VEC; i < n; i += step) {
        Pack<VEC> p = load<VEC>(x + i);
#pragma unroll
        for (int j = 0; j < VEC; j++) {
            float slope;
            p.x[j] *= share(p.x[j], &slope);
        }
        store<VEC>(y + i, p);
    }
}

extern "C" __global__ void gelu_backward(const float *g, const float *x, float *dx, float *y, long long n)
{
    long long step = (long long)gridDim.x * blockDim.x * VEC;
    for (long long i = (blockIdx.x * (long long)blockDim.x + threadIdx.x) * VEC; i < n; i += step) {
        Pack<VEC> p = load<VEC>(x + i), d = load<VEC>(g + i);
#pragma unroll
        for (int j = 0; j < VEC; j++) {
            float slope, s = share(p.x[j], &slope);
            d.x[j] *= s + (slope == 0 ? 0.0f : p.x[j] * slope);
            p.x[j] *= s;
        }
        store<VEC>(dx + i, d);
        if (y) store<VEC>(y + i, p);
    }
}
