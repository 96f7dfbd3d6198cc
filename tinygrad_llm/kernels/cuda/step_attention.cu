// Attention of one new position of each row over all that the row remembers: q k^T scale, softmax, times v. The new key
// and value are put into the memory by the same launch.
//
//   qkv (rows, (heads + 2 kv_heads) d), keys and values (rows, kv_heads, size, d), of which lengths[row] positions
//   count, the new one included. heads / kv_heads heads look at the same keys.
//
// Bytes moved: the keys and values that count, once.
// Layout (flash decoding): a block for CHUNK positions of a row and head, so that a long memory is read by all
// multiprocessors; those beyond the length do nothing. LANES threads share a position, each reading 16 bytes at a time.
// Each block leaves its largest score, its sum and its mix; the one that comes last to an end puts them together,
// always in the order of positions. The lengths are read from memory: a captured launch serves every token. Compiled
// with D, at least d, a multiple of 32, VEC and CHUNK.
//
// Source: Dao, Haziza, Massa and Sizov, Flash-Decoding for long-context inference (2023).

#include "common.cuh"

#define THREADS 128
#define LANES (D / VEC < 32 ? D / VEC : 32)
#define PACKS (D / VEC / LANES)
#define GROUPS (THREADS / LANES)

// parts: for each row, head and block a mix (d), a largest score and a sum. arrived: a zero for each row and head, and
// zero again when all is done. The result goes to y (rows, heads d), or rounded to z.
extern "C" __global__ void __launch_bounds__(THREADS)
attention_step(const float *qkv, real *keys, real *values, const long long *lengths, float *parts, int *arrived,
               float *y, real *z, int heads, int kv_heads, int d, int size, float scale)
{
    __shared__ float scores[CHUNK], room[32], mixed[THREADS / 32][D];
    __shared__ bool is_last;
    int head = blockIdx.y, row = blockIdx.z, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    int length = lengths[row], first = blockIdx.x * CHUNK, last = first + CHUNK < length ? first + CHUNK : length;
    if (first >= length) return;
    int used = (length + CHUNK - 1) / CHUNK, which = row * heads + head, kv = head / (heads / kv_heads);
    const float *q = qkv + row * (long long)(heads + 2 * kv_heads) * d;
    const float *new_key = q + (heads + kv) * d, *new_value = new_key + kv_heads * d;
    long long memory = (row * kv_heads + kv) * (long long)size * d;
    real *k = keys + memory, *v = values + memory;
    q += head * d;
    if (last == length) {  // of heads that share it each writes the same
        for (int i = threadIdx.x; i < d; i += THREADS) {
            put(k + (length - 1) * (long long)d + i, new_key[i]);
            put(v + (length - 1) * (long long)d + i, new_value[i]);
        }
        __syncthreads();
    }

    int group = threadIdx.x / LANES, column = threadIdx.x % LANES * VEC;
    Pack<VEC> mine[PACKS], mix[PACKS];
#pragma unroll
    for (int p = 0; p < PACKS; p++)
#pragma unroll
        for (int j = 0; j < VEC; j++) {
            int i = column + p * LANES * VEC + j;
            mine[p].x[j] = i < d ? q[i] * scale : 0.0f;
            mix[p].x[j] = 0;
        }
#pragma unroll 4
    for (int start = first; start < last; start += GROUPS) {
        int s = start + group;
        float score = 0;
#pragma unroll
        for (int p = 0; p < PACKS; p++) {
            int i = column + p * LANES * VEC;
            if (s >= last || i >= d) continue;
            Pack<VEC> there = load<VEC>(k + s * (long long)d + i);
#pragma unroll
            for (int j = 0; j < VEC; j++) score += mine[p].x[j] * there.x[j];
        }
        score = warp_sum(score, LANES);
        if (threadIdx.x % LANES == 0 && s < last) scores[s - first] = score;
    }
    __syncthreads();
    float top = -INF, sum = 0;
    for (int i = threadIdx.x; i < last - first; i += THREADS) top = fmaxf(top, scores[i]);
    top = block_max(top, room);
    for (int i = threadIdx.x; i < last - first; i += THREADS) sum += scores[i] = expf(scores[i] - top);
    sum = block_sum(sum, room);
    __syncthreads();
#pragma unroll 4
    for (int s = first + group; s < last; s += GROUPS) {
        float weight = scores[s - first];
#pragma unroll
        for (int p = 0; p < PACKS; p++) {
            int i = column + p * LANES * VEC;
            if (i >= d) continue;
            Pack<VEC> there = load<VEC>(v + s * (long long)d + i);
#pragma unroll
            for (int j = 0; j < VEC; j++) mix[p].x[j] += weight * there.x[j];
        }
    }
#pragma unroll
    for (int p = 0; p < PACKS; p++)
#pragma unroll
        for (int j = 0; j < VEC; j++) {
            float x = mix[p].x[j];
            for (int other = LANES; other < 32; other *= 2) x += __shfl_xor_sync(0xffffffff, x, other);
            if (lane < LANES) mixed[warp][column + p * LANES * VEC + j] = x;
        }
    __syncthreads();
    float *part = parts + (which * (long long)gridDim.x + blockIdx.x) * (d + 2);
    for (int i = threadIdx.x; i < d; i += THREADS) {
        float x = 0;
        for (int w = 0; w < THREADS / 32; w++) x += mixed[w][i];
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
