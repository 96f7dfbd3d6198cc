// Sums over the rows of an array, always in the same order.
//
//   sum_columns  out[k][c] = the sum of the rows k chunk ... (k + 1) chunk - 1 of x (n, c)
//   sum_blocks   first[c] = the sum over the rows of x[:, 0, c], second[c] that of x[:, 1, c]
//
// Bytes moved: n c numbers in, and the sums, which are float. Many rows take sum_columns, and sum_blocks for what it gives.
// Layout: sum_columns a block of 32 x 8 threads for 32 VEC columns of a chunk of rows; sum_blocks 32 x 32 threads for 32
// columns of a part: few rows and columns, in one launch.

#include "common.cuh"

#if VEC  // numbers that a thread takes of a row: 4 bytes of them
extern "C" __global__ void sum_columns(const real *x, float *out, long long n, int c, long long chunk)
{
    __shared__ float sums[8][32 * VEC];
    int column = (blockIdx.x * 32 + threadIdx.x) * VEC;
    long long first = blockIdx.y * chunk, last = first + chunk < n ? first + chunk : n;
    Pack<VEC> sum = {};
    if (column < c) {
#pragma unroll 8
        for (long long row = first + threadIdx.y; row < last; row += 8) {
            Pack<VEC> p = load<VEC>(x + row * c + column);
#pragma unroll
            for (int j = 0; j < VEC; j++) sum.x[j] += p.x[j];
        }
    }
    for (int j = 0; j < VEC; j++) sums[threadIdx.y][threadIdx.x + 32 * j] = sum.x[j];
    __syncthreads();
    if (threadIdx.y || column >= c) return;
    for (int j = 0; j < VEC; j++) {
        for (int i = 1; i < 8; i++) sum.x[j] += sums[i][threadIdx.x + 32 * j];
        out[blockIdx.y * (long long)c + column + j] = sum.x[j];
    }
}
#endif

// x has n rows and as many parts as the grid; second is not looked at where there is one.
extern "C" __global__ void sum_blocks(const real *x, float *first, float *second, int n, int c)
{
    __shared__ float sums[32][33];
    int column = blockIdx.x * 32 + threadIdx.x;
    float sum = 0;
    if (column < c) {
#pragma unroll 4
        for (int row = threadIdx.y; row < n; row += 32)
            sum += number(x[(row * (long long)gridDim.y + blockIdx.y) * c + column]);
    }
    sums[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    sum = warp_sum(sums[threadIdx.x][threadIdx.y]);  // a warp a column
    column = blockIdx.x * 32 + threadIdx.y;
    if (threadIdx.x == 0 && column < c) (blockIdx.y ? second : first)[column] = sum;
}
