// AdamW, and the sum of squares of many arrays.
//
//   adamw    p *= 1 - lr decay;  m += (1 - beta1) (g - m);  v += (1 - beta2) (g^2 - v);
//            p -= step_size m / (sqrt(v) / root + eps),  step_size = lr / (1 - beta1^t),  root = sqrt(1 - beta2^t)
//   squares  sums[block] = the sum of x^2 over a block's piece, which may be of any of many arrays
//   total    the sum of the pieces' sums
//   scale    x *= max_norm / (norm + 1e-6) where that is below 1, for every piece;  norm = sqrt(total)
//
// Bytes moved, n elements: adamw 28 n (p, g, m, v in; p, m, v out), squares 4 n, scale 8 n or nothing.
// Layout: adamw VEC elements a thread, then those a grid further on. squares a block a piece, whose address and length
// stand in a table, so that one launch serves all gradients of a model; total one block, so that the order is fixed.

#include "common.cuh"

extern "C" __global__ void adamw(float *p, const float *g, float *m, float *v, long long n, float keep, float step_size,
                                 float one_minus_beta1, float one_minus_beta2, float root, float eps)
{
    long long step = (long long)gridDim.x * blockDim.x * VEC;
    for (long long i = (blockIdx.x * (long long)blockDim.x + threadIdx.x) * VEC; i < n; i += step) {
        Pack<VEC> a = load<VEC>(p + i), d = load<VEC>(g + i), b = load<VEC>(m + i), c = load<VEC>(v + i);
#pragma unroll
        for (int j = 0; j < VEC; j++) {
            b.x[j] += one_minus_beta1 * (d.x[j] - b.x[j]);
            c.x[j] += one_minus_beta2 * (d.x[j] * d.x[j] - c.x[j]);
            a.x[j] = a.x[j] * keep - step_size * b.x[j] / (sqrtf(c.x[j]) / root + eps);
        }
        store<VEC>(p + i, a);
        store<VEC>(m + i, b);
        store<VEC>(v + i, c);
    }
}

// table: for each piece the address of its first float and their number.
extern "C" __global__ void squares(const long long *table, double *sums)
{
    __shared__ double room[32];
    const float *x = reinterpret_cast<const float *>(table[2 * blockIdx.x]);
    int n = table[2 * blockIdx.x + 1];
    float sum = 0;
    int whole = reinterpret_cast<long long>(x) % 16 ? 0 : n / 4 * 4;
    for (int i = threadIdx.x * 4; i < whole; i += blockDim.x * 4) {
        Pack<4> p = load<4>(x + i);
        sum += p.x[0] * p.x[0] + p.x[1] * p.x[1] + p.x[2] * p.x[2] + p.x[3] * p.x[3];
    }
    for (int i = whole + threadIdx.x; i < n; i += blockDim.x) sum += x[i] * x[i];
    room[threadIdx.x % 32] = 0;
    sum = warp_sum(sum);
    __syncthreads();
    if (threadIdx.x % 32 == 0) room[threadIdx.x / 32] = sum;
    __syncthreads();
    if (threadIdx.x) return;
    double total = 0;
    for (int i = 0; i < 32; i++) total += room[i];
    sums[blockIdx.x] = total;
}

extern "C" __global__ void total(const double *sums, double *out, int n)
{
    __shared__ double room[256];
    double sum = 0;
    for (int i = threadIdx.x; i < n; i += 256) sum += sums[i];
    room[threadIdx.x] = sum;
    for (int half = 128; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half) room[threadIdx.x] += room[threadIdx.x + half];
    }
    if (threadIdx.x == 0) *out = room[0];
}

extern "C" __global__ void scale(const long long *table, const double *squares, double max_norm)
{
    double factor = max_norm / (sqrt(*squares) + 1e-6);
    if (factor >= 1) return;  // where it is nan all become nan
    float *x = reinterpret_cast<float *>(table[2 * blockIdx.x]);
    int n = table[2 * blockIdx.x + 1];
    for (int i = threadIdx.x; i < n; i += blockDim.x) x[i] *= float(factor);
}
