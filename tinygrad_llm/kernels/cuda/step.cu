// What a token's step begins and ends with, for rows of a batch.
//
//   embedding_step   of each row: one position more; x = table[token] + places[position]; the next number to draw by
//   penalize         logits of tokens that a row holds: x / penalty where positive, else x penalty
//   likeliest        the first token whose logit is largest, -1 where none is: nan, infinity, all minus infinity
//
// state (3, rows): each row's last token, the positions that it has, and the steps since its draws were put there. All
// that changes from token to token is here, on the GPU, so that a captured launch serves every token.
//
// Bytes moved: two rows of tables; 9 V of logits and marks; V of logits. Layout: a block a row.

#include "common.cuh"

// draws (steps, rows): where there are some, u (rows) gets the row of this step. seen (rows, v): marked with the token.
// most: the positions that there are; a row that has them all stays at the last.
extern "C" __global__ void embedding_step(long long *state, const double *draws, double *u, const real *table,
                                          const real *places, float *x, bool *seen, int rows, int c, int v, int most)
{
    int row = blockIdx.x;
    long long token = state[row], length = state[rows + row], step = state[2 * rows + row];
    __syncthreads();
    token = token < 0 ? 0 : token;  // of spoiled logits
    length = length < most ? length + 1 : most;
    if (threadIdx.x == 0) {
        state[rows + row] = length;
        state[2 * rows + row] = step + 1;
        if (draws) u[row] = draws[step * rows + row];
        if (seen) seen[row * (long long)v + token] = true;
    }
    for (int i = threadIdx.x; i < c; i += blockDim.x)
        x[row * (long long)c + i] = number(table[token * c + i]) + number(places[(length - 1) * c + i]);
}

extern "C" __global__ void penalize(float *x, const bool *seen, float penalty, long long n)
{
    long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    if (i < n && seen[i]) x[i] = x[i] > 0 ? x[i] / penalty : x[i] * penalty;
}

// The larger of two numbers, the first of equal ones.
__device__ void keep_larger(float &top, int &place, float other, int other_place)
{
    if (other > top || (other == top && other_place < place)) top = other, place = other_place;
}

extern "C" __global__ void __launch_bounds__(1024) likeliest(const real *x, long long *tokens, int v)
{
    __shared__ float tops[32];
    __shared__ int places[32];
    __shared__ bool spoiled;
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32, place = v;
    if (threadIdx.x == 0) spoiled = false;
    __syncthreads();
    x += blockIdx.x * (long long)v;
    float top = -INF;
#pragma unroll 8
    for (int i = threadIdx.x; i < v; i += blockDim.x) {
        float here = number(x[i]);
        if (isnan(here)) spoiled = true;
        keep_larger(top, place, here, i);
    }
    for (int i = 16; i > 0; i /= 2)
        keep_larger(top, place, __shfl_xor_sync(0xffffffff, top, i), __shfl_xor_sync(0xffffffff, place, i));
    if (lane == 0) tops[warp] = top, places[warp] = place;
    __syncthreads();
    if (threadIdx.x) return;
    for (int i = 1; i < warps; i++) keep_larger(top, place, tops[i], places[i]);
    tokens[blockIdx.x] = spoiled || isinf(top) ? -1 : place;
}
