// Layer norm and RMS norm over rows of C floats, forward and backward, and sums of columns.
//
//   layer norm   y = (x - mean) rstd weight + bias,  mean = sum x / C,  rstd = 1 / sqrt(sum (x - mean)^2 / C + eps)
//   RMS norm     the same with mean = 0 and no bias
//   backward     h = (x - mean) rstd,  u = g weight:  dx = rstd (u - mean(u) - h mean(u h)),
//                dweight = sum g h,  dbias = sum g over the rows; RMS norm without the term mean(u)
//
// Bytes moved, N rows: forward 8 N C (x in, y out), backward 12 N C (x and g in, dx out), and a few rows of sums.
// Layout: forward a warp per row; its second and third look at the row find it in the level-1 cache. Backward a block
// per row in turns: a thread owns PACKS x VEC columns, whose dweight and dbias it keeps in registers over all its rows,
// and the blocks' sums (a row each of dweight's, dbias's or both) are added up by sum_blocks, in a fixed order.
// Compiled with VEC and, for backward, PACKS = columns / (threads x VEC), rounded up.

#include "common.cuh"

template <bool centred>
__device__ void forward(const float *x, const float *weight, const float *bias, float *y, float *mean, float *rstd,
                        long long n, int c, float eps)
{
    long long row = blockIdx.x * (long long)(blockDim.x / 32) + threadIdx.x / 32;
    int lane = threadIdx.x % 32;
    if (row >= n) return;
    x += row * c;
    y += row * c;
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
#pragma unroll
        for (int j = 0; j < VEC; j++) {
            p.x[j] = (p.x[j] - centre) * r;
            if (weight) p.x[j] *= weight[i + j];
            if (bias) p.x[j] += bias[i + j];
        }
        store<VEC>(y + i, p);
    }
    if (lane == 0) {
        if (centred) mean[row] = centre;
        rstd[row] = r;
    }
}

extern "C" __global__ void layer_norm(const float *x, const float *weight, const float *bias, float *y, float *mean,
                                      float *rstd, long long n, int c, float eps)
{
    forward<true>(x, weight, bias, y, mean, rstd, n, c, eps);
}

extern "C" __global__ void rms_norm(const float *x, const float *weight, float *y, float *rstd, long long n, int c,
                                    float eps)
{
    forward<false>(x, weight, nullptr, y, nullptr, rstd, n, c, eps);
}

#ifdef PACKS
template <bool centred>
__device__ void backward(const float *g, const float *x, const float *weight, const float *mean, const float *rstd,
                         float *dx, float *sums, bool need_weight, bool need_bias, long long n, int c)
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
#pragma unroll
            for (int j = 0; j < VEC; j++) {
                h[k].x[j] = (h[k].x[j] - centre) * r;
                sum_gh[k][j] += u[k].x[j] * h[k].x[j];
                sum_g[k][j] += u[k].x[j];
                if (weight) u[k].x[j] *= weight[i + j];
                mean_u += u[k].x[j];
                mean_uh += u[k].x[j] * h[k].x[j];
            }
        }
        if (!dx) continue;
        block_sums(mean_u, mean_uh, room);
        mean_u = centred ? mean_u / c : 0.0f;
        mean_uh /= c;
#pragma unroll
        for (int k = 0; k < PACKS; k++) {
            int i = (k * blockDim.x + threadIdx.x) * VEC;
            if (i >= c) break;
#pragma unroll
            for (int j = 0; j < VEC; j++) u[k].x[j] = r * (u[k].x[j] - mean_u - h[k].x[j] * mean_uh);
            store<VEC>(dx + row * c + i, u[k]);
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

// sums: a row for each block, of dweight's columns if they are needed, then dbias's.
extern "C" __global__ void layer_norm_backward(const float *g, const float *x, const float *weight, const float *mean,
                                               const float *rstd, float *dx, float *sums, int need_weight,
                                               int need_bias, long long n, int c)
{
    backward<true>(g, x, weight, mean, rstd, dx, sums, need_weight, need_bias, n, c);
}

extern "C" __global__ void rms_norm_backward(const float *g, const float *x, const float *weight, const float *rstd,
                                             float *dx, float *sums, int need_weight, long long n, int c)
{
    backward<false>(g, x, weight, nullptr, rstd, dx, sums, need_weight, false, n, c);
}
#endif

// out[k][c] = the sum of the rows k chunk ... (k + 1) chunk - 1 of x. A block of 32 x 8 threads for 32 columns.
extern "C" __global__ void sum_columns(const float *x, float *out, long long n, int c, long long chunk)
{
    __shared__ float sums[8][33];
    int column = blockIdx.x * 32 + threadIdx.x;
    long long first = blockIdx.y * chunk, last = first + chunk < n ? first + chunk : n;
    float sum = 0;
    if (column < c) {
#pragma unroll 8
        for (long long row = first + threadIdx.y; row < last; row += 8) sum += x[row * c + column];
    }
    sums[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y || column >= c) return;
    for (int i = 1; i < 8; i++) sum += sums[i][threadIdx.x];
    out[blockIdx.y * (long long)c + column] = sum;
}

// first[c] = the sum of the rows of x[:, 0, c], second[c] that of x[:, 1, c], where x has n rows and as many parts as the
// grid. A block of 32 x 32 threads for 32 columns of a part: few rows and columns, in one launch.
extern "C" __global__ void sum_blocks(const float *x, float *first, float *second, int n, int c)
{
    __shared__ float sums[32][33];
    int column = blockIdx.x * 32 + threadIdx.x;
    float sum = 0;
    if (column < c) {
#pragma unroll 4
        for (int row = threadIdx.y; row < n; row += 32) sum += x[(row * (long long)gridDim.y + blockIdx.y) * c + column];
    }
    sums[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    sum = warp_sum(sums[threadIdx.x][threadIdx.y]);  // a warp a column
    column = blockIdx.x * 32 + threadIdx.y;
    if (threadIdx.x == 0 && column < c) (blockIdx.y ? second : first)[column] = sum;
}
