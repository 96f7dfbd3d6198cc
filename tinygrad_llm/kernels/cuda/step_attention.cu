// Attention of one new position of each row over all that the row remembers: q k^T scale, softmax, times v. The new key
// and value are put into the memory by the same launch.
//
//   qkv (rows, (heads + 2 kv_heads) d), keys and values (rows, kv_heads, size, d), of which lengths[row] positions
//   count, the new one included. heads / kv_heads heads look at the same keys.
//
// Bytes moved: the keys and values that count, once. With few rows not these set the pace but what waits for what: the
// length, then keys and values, then the sums over groups, warps and blocks.
// Layout (flash decoding): a block for CHUNK positions of a row and head, so that a long memory is read by all
// multiprocessors; those beyond the length do nothing. LANES threads share a position, each reading 16 bytes at a time,
// and such a group asks for the keys and values of EACH positions before it looks at one. It keeps a largest score, a
// sum and a mix, corrected as larger scores come; so do then the warp, the block, and, of several, the block that comes
// last to an end, always in the same order. The new position comes from qkv, and nobody waits for it to be in memory.
// The lengths are read from memory: a captured launch serves every token. Compiled with D, at least d, a multiple of
// 32, VEC and CHUNK.
//
// Source: Dao, Haziza, Massa and Sizov, Flash-Decoding for long-context inference (2023).

#include "common.cuh"

#define THREADS 256
#define WARPS (THREADS / 32)
#define LANES (D / VEC < 32 ? D / VEC : 32)
#define PACKS (D / VEC / LANES)
#define GROUPS (THREADS / LANES)
#define EACH 4

// What numbers are multiplied with when the largest score becomes `top`: 0 where none has been there.
__device__ float correction(float before, float top) { return expf(before == -INF ? -INF : before - top); }

// A number as memory gives it back.
__device__ float rounded(float x)
{
    real there;
    put(&there, x);
    return number(there);
}

// parts: for each row, head and block a mix (d), a largest score and a sum. arrived: a zero for each row and head, and
// zero again when all is done. The result goes to y (rows, heads d), or rounded to z.
extern "C" __global__ void __launch_bounds__(THREADS)
attention_step(const float *qkv, real *keys, real *values, const long long *lengths, float *parts, int *arrived,
               float *y, real *z, int heads, int kv_heads, int d, int size, float scale)
{
    __shared__ float mixed[WARPS][D], tops[WARPS], sums[WARPS];
    __shared__ bool is_last;
    int head = blockIdx.y, row = blockIdx.z, kv = head / (heads / kv_heads), which = row * heads + head;
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, group = threadIdx.x / LANES;
    int length = lengths[row], first = blockIdx.x * CHUNK;
    const float *q = qkv + row * (long long)(heads + 2 * kv_heads) * d;
    const float *new_key = q + (heads + kv) * d, *new_value = new_key + kv_heads * d;
    long long memory = (row * kv_heads + kv) * (long long)size * d;
    real *k = keys + memory, *v = values + memory;
    q += head * d;
    int at[PACKS];  // the first column of each pack
    Pack<VEC> mine[PACKS], fresh[PACKS], mix[PACKS];  // of the query, of the new key, of the new value and then of all
#pragma unroll
    for (int p = 0; p < PACKS; p++) {
        at[p] = (threadIdx.x % LANES + p * LANES) * VEC;
#pragma unroll
        for (int j = 0; j < VEC; j++) {
            mine[p].x[j] = at[p] < d ? q[at[p] + j] * scale : 0.0f;
            fresh[p].x[j] = at[p] < d ? new_key[at[p] + j] : 0.0f;
            mix[p].x[j] = at[p] < d ? new_value[at[p] + j] : 0.0f;
        }
    }
    if (first >= length) return;
    int used = (length + CHUNK - 1) / CHUNK, old = first + CHUNK < length ? first + CHUNK : length - 1;
    bool begins = group == 0 && first + CHUNK >= length;  // with the new position; of heads that share it each puts it
    float top = -INF, sum = begins, score = 0;
#pragma unroll
    for (int p = 0; p < PACKS; p++) {
        long long place = (length - 1) * (long long)d + at[p];
        if (begins && at[p] < d) {
            store<VEC>(k + place, fresh[p]);
            store<VEC>(v + place, mix[p]);
        }
#pragma unroll
        for (int j = 0; j < VEC; j++) {
            score += mine[p].x[j] * rounded(fresh[p].x[j]);
            mix[p].x[j] = begins ? rounded(mix[p].x[j]) : 0.0f;
        }
    }
    score = warp_sum(score, LANES);
    if (begins) top = score;

    for (int start = first; start < old; start += EACH * GROUPS) {
        Stored<VEC, real> key[EACH][PACKS], value[EACH][PACKS];
#pragma unroll
        for (int e = 0; e < EACH; e++)
#pragma unroll
            for (int p = 0; p < PACKS; p++) {
                int s = start + e * GROUPS + group, column = at[p] < d ? at[p] : 0;  // beyond the end of keys any: see below
                value[e][p] = {};
                key[e][p] = *reinterpret_cast<const Stored<VEC, real> *>(k + (s < old ? s : old - 1) * d + column);
                if (s < old) value[e][p] = *reinterpret_cast<const Stored<VEC, real> *>(v + s * d + column);
            }
        float scores[EACH], larger = top;
#pragma unroll
        for (int e = 0; e < EACH; e++) {
            float score = 0;
#pragma unroll
            for (int p = 0; p < PACKS; p++)
#pragma unroll
                for (int j = 0; j < VEC; j++) score += mine[p].x[j] * number(key[e][p].x[j]);
            score = warp_sum(score, LANES);
            scores[e] = start + e * GROUPS + group < old ? score : -INF;
            larger = fmaxf(larger, scores[e]);
        }
        float share = correction(top, larger);
        top = larger;
        sum *= share;
#pragma unroll
        for (int p = 0; p < PACKS; p++)
#pragma unroll
            for (int j = 0; j < VEC; j++) mix[p].x[j] *= share;
#pragma unroll
        for (int e = 0; e < EACH; e++) {
            float weight = correction(scores[e], top);
            sum += weight;
#pragma unroll
            for (int p = 0; p < PACKS; p++)
#pragma unroll
                for (int j = 0; j < VEC; j++) mix[p].x[j] += weight * number(value[e][p].x[j]);
        }
    }

    float larger = top;
    for (int other = LANES; other < 32; other *= 2) larger = fmaxf(larger, __shfl_xor_sync(0xffffffff, larger, other));
    float share = correction(top, larger);
    sum *= share;
    for (int other = LANES; other < 32; other *= 2) sum += __shfl_xor_sync(0xffffffff, sum, other);
#pragma unroll
    for (int p = 0; p < PACKS; p++)
#pragma unroll
        for (int j = 0; j < VEC; j++) {
            float x = mix[p].x[j] * share;
            for (int other = LANES; other < 32; other *= 2) x += __shfl_xor_sync(0xffffffff, x, other);
            if (lane < LANES) mixed[warp][at[p] + j] = x;
        }
    if (lane == 0) tops[warp] = larger, sums[warp] = sum;
    __syncthreads();
    top = -INF;
    sum = 0;
    for (int w = 0; w < WARPS; w++) top = fmaxf(top, tops[w]);
    for (int w = 0; w < WARPS; w++) sum += correction(tops[w], top) * sums[w];
    float *part = parts + (which * (long long)gridDim.x + blockIdx.x) * (d + 2);
    for (int i = threadIdx.x; i < d; i += THREADS) {
        float x = 0;
        for (int w = 0; w < WARPS; w++) x += correction(tops[w], top) * mixed[w][i];
        if (used == 1 && y) y[which * (long long)d + i] = x / sum;
        else if (used == 1) put(z + which * (long long)d + i, x / sum);
        else part[i] = x;
    }
    if (used == 1) return;
    if (threadIdx.x == 0) {
        part[d] = top;
        part[d + 1] = sum;
    }
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) is_last = atomicAdd(&arrived[which], 1) == used - 1;
    __syncthreads();
    if (!is_last) return;
    __threadfence();
    const volatile float *all = parts + which * (long long)gridDim.x * (d + 2);  // written by other blocks
    top = -INF;
    for (int b = 0; b < used; b++) top = fmaxf(top, all[b * (d + 2) + d]);
    for (int i = threadIdx.x; i < d; i += THREADS) {
        float x = 0;
        sum = 0;
        for (int b = 0; b < used; b++) {
            float share = expf(all[b * (d + 2) + d] - top);
            x += share * all[b * (d + 2) + i];
            sum += share * all[b * (d + 2) + d + 1];
        }
        if (y) y[which * (long long)d + i] = x / sum;
        else put(z + which * (long long)d + i, x / sum);
    }
    if (threadIdx.x == 0) arrived[which] = 0;
}
