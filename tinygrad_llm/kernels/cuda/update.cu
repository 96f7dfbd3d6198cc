// AdamW over all parameters of a group, the norm of all gradients, casts of weights: one launch for many arrays.
//
//   adamw    p *= 1 - lr decay;  m += (1 - beta1) (g - m);  v += (1 - beta2) (g^2 - v);
//            p -= step_size m / (sqrt(v) / root + eps),  step_size = lr / (1 - beta1^t),  root = sqrt(1 - beta2^t)
//   squares  sums[block] = the sum of x^2 over a block's piece
//   total    the sum of the pieces' sums, and norm, its root
//   cast     y = x rounded to `real`
//   unscale  x *= factor, and whether one is no finite number then
//   scale    x *= max_norm / (norm + 1e-6) where that is below 1, for every piece
//
// Bytes moved, n elements: adamw 28 n (p, g, m, v in; p, m, v out), squares 4 n, cast 6 n, unscale 8 n, scale 8 n or
// nothing.
// Layout: arrays are cut into pieces of PIECE elements, a block a piece. `pieces` has for each the number of its array
// and its first element there, `arrays` for each array its length and its addresses; the blocks of a launch find what
// is theirs in the two tables. A thread loads 16 bytes at a time where the addresses are multiples of that; in squares it
// has four such loads under way. total is one block, so that the order is fixed.

#include "common.cuh"

// The array that a block's piece is of, a row of `arrays`; the piece goes from `first` up to `last`.
__device__ const long long *piece_of(const long long *pieces, const long long *arrays, int columns, long long &first,
                                     long long &last)
{
    const long long *array = arrays + pieces[2 * blockIdx.x] * columns;
    first = pieces[2 * blockIdx.x + 1];
    last = first + PIECE < array[0] ? first + PIECE : array[0];
    return array;
}

template <int vec>
__device__ void adamw_step(float *p, const float *g, float *m, float *v, float keep, float step_size,
                           float one_minus_beta1, float one_minus_beta2, float root, float eps)
{
    Pack<vec> a = load<vec>(p), d = load<vec>(g), b = load<vec>(m), c = load<vec>(v);
#pragma unroll
    for (int j = 0; j < vec; j++) {
        b.x[j] += one_minus_beta1 * (d.x[j] - b.x[j]);
        c.x[j] += one_minus_beta2 * (d.x[j] * d.x[j] - c.x[j]);
        a.x[j] = a.x[j] * keep - step_size * b.x[j] / (sqrtf(c.x[j]) / root + eps);
    }
    store<vec>(p, a);
    store<vec>(m, b);
    store<vec>(v, c);
}

// arrays: length, and the addresses of p, g, m and v. drawn: the numbers behind it, where a captured launch finds others
// each time.
extern "C" __global__ void adamw(const long long *pieces, const long long *arrays, const double *drawn, float keep,
                                 float step_size, float one_minus_beta1, float one_minus_beta2, float root, float eps)
{
    if (drawn) {
        keep = float(drawn[0]), step_size = float(drawn[1]), one_minus_beta1 = float(drawn[2]);
        one_minus_beta2 = float(drawn[3]), root = float(drawn[4]), eps = float(drawn[5]);
    }
    long long first, last;
    const long long *array = piece_of(pieces, arrays, 5, first, last);
    float *p = reinterpret_cast<float *>(array[1]), *m = reinterpret_cast<float *>(array[3]);
    float *v = reinterpret_cast<float *>(array[4]);
    const float *g = reinterpret_cast<const float *>(array[2]);
    long long whole = (array[1] | array[2] | array[3] | array[4]) % 16 ? first : last - (last - first) % 4;
    for (long long i = first + threadIdx.x * 4; i < whole; i += blockDim.x * 4)
        adamw_step<4>(p + i, g + i, m + i, v + i, keep, step_size, one_minus_beta1, one_minus_beta2, root, eps);
    for (long long i = whole + threadIdx.x; i < last; i += blockDim.x)
        adamw_step<1>(p + i, g + i, m + i, v + i, keep, step_size, one_minus_beta1, one_minus_beta2, root, eps);
}

// arrays: length and address.
extern "C" __global__ void squares(const long long *pieces, const long long *arrays, double *sums)
{
    __shared__ double room[32];
    long long first, last;
    const long long *array = piece_of(pieces, arrays, 2, first, last);
    const float *x = reinterpret_cast<const float *>(array[1]);
    float sum = 0;
    long long whole = array[1] % 16 ? first : last - (last - first) % 4;
    for (long long i = first + threadIdx.x * 4; i < whole; i += blockDim.x * 16) {
        Pack<4> p[4];
#pragma unroll
        for (int k = 0; k < 4; k++)
            if (i + k * blockDim.x * 4 < whole) p[k] = load<4>(x + i + k * blockDim.x * 4);
            else p[k] = {};
#pragma unroll
        for (int k = 0; k < 4; k++)
            sum += p[k].x[0] * p[k].x[0] + p[k].x[1] * p[k].x[1] + p[k].x[2] * p[k].x[2] + p[k].x[3] * p[k].x[3];
    }
    for (long long i = whole + threadIdx.x; i < last; i += blockDim.x) sum += x[i] * x[i];
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

// found: the sum and its root.
extern "C" __global__ void total(const double *sums, double *found, int n)
{
    __shared__ double room[256];
    double sum = 0;
#pragma unroll 4
    for (int i = threadIdx.x; i < n; i += 256) sum += sums[i];
    room[threadIdx.x] = sum;
    for (int half = 128; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half) room[threadIdx.x] += room[threadIdx.x + half];
    }
    if (threadIdx.x) return;
    found[0] = room[0];
    found[1] = sqrt(room[0]);
}

extern "C" __global__ void scale(const long long *pieces, const long long *arrays, const double *norm,
                                 double max_norm)
{
    double factor = max_norm / (*norm + 1e-6);
    if (factor >= 1) return;  // where it is nan all become nan
    long long first, last;
    const long long *array = piece_of(pieces, arrays, 2, first, last);
    float *x = reinterpret_cast<float *>(array[1]);
    long long whole = array[1] % 16 ? first : last - (last - first) % 4;
    for (long long i = first + threadIdx.x * 4; i < whole; i += blockDim.x * 4) {
        Pack<4> p = load<4>(x + i);
#pragma unroll
        for (int j = 0; j < 4; j++) p.x[j] *= float(factor);
        store<4>(x + i, p);
    }
    for (long long i = whole + threadIdx.x; i < last; i += blockDim.x) x[i] *= float(factor);
}

// arrays: length, and the addresses of y and x. A thread loads 32 bytes, and stores 16.
extern "C" __global__ void cast(const long long *pieces, const long long *arrays)
{
    long long first, last;
    const long long *array = piece_of(pieces, arrays, 3, first, last);
    real *y = reinterpret_cast<real *>(array[1]);
    const float *x = reinterpret_cast<const float *>(array[2]);
    long long whole = (array[1] | array[2]) % 16 ? first : last - (last - first) % 8;
#pragma unroll 2
    for (long long i = first + threadIdx.x * 8; i < whole; i += blockDim.x * 8) store<8>(y + i, load<8>(x + i));
    for (long long i = whole + threadIdx.x; i < last; i += blockDim.x) put(y + i, x[i]);
}

// arrays: length and address. drawn: the factor, where a captured launch finds another one each time. found was 0; all
// who write to it write the same.
extern "C" __global__ void unscale(const long long *pieces, const long long *arrays, int *found, const double *drawn,
                                   float factor)
{
    if (drawn) factor = float(*drawn);
    long long first, last;
    const long long *array = piece_of(pieces, arrays, 2, first, last);
    float *x = reinterpret_cast<float *>(array[1]);
    bool finite = true;
    long long whole = array[1] % 16 ? first : last - (last - first) % 4;
#pragma unroll 2
    for (long long i = first + threadIdx.x * 4; i < whole; i += blockDim.x * 4) {
        Pack<4> p = load<4>(x + i);
#pragma unroll
        for (int j = 0; j < 4; j++) {
            p.x[j] *= factor;
            finite = finite && fabsf(p.x[j]) < INF;
        }
        store<4>(x + i, p);
    }
    for (long long i = whole + threadIdx.x; i < last; i += blockDim.x) {
        x[i] *= factor;
        finite = finite && fabsf(x[i]) < INF;
    }
    if (!finite) *found = 1;
}
