// Dropout, alone or added to a shortcut, by a mask that is made where it is needed and never stored.
//
//   dropout    y = plus + (word(i) >= limit ? scale : 0) x,  plus = 0 where there is none
//   keep_mask  keep = word(i) >= limit
//
// word(4 k + j) is word j of Philox4x32-10 of the counter (k, 0) under the key: a function of the place alone, so that
// the backward pass, a second forward pass and any number of threads find the same mask.
// Source: Salmon et al., Parallel random numbers: as easy as 1, 2, 3 (2011), section 3.3.
//
// The key is a number, or lies in memory, `drawn`, where a captured launch finds another one each time.
//
// Bytes moved, n elements: 8 n, with a shortcut 12 n; keep_mask n. Philox takes some 15 operations an element.
// Layout: a thread takes a pack, for which one counter is enough, then one a grid further on.

#include "common.cuh"

__device__ uint4 philox(unsigned long long counter, unsigned long long key)
{
    unsigned a = counter, b = counter >> 32, c = 0, d = 0, low = key, high = key >> 32;
#pragma unroll
    for (int round = 0; round < 10; round++) {
        unsigned long long p = 0xD2511F53ull * a, q = 0xCD9E8D57ull * c;
        a = (unsigned)(q >> 32) ^ b ^ low;
        b = q;
        c = (unsigned)(p >> 32) ^ d ^ high;
        d = p;
        low += 0x9E3779B9u;
        high += 0xBB67AE85u;
    }
    return make_uint4(a, b, c, d);
}

__device__ unsigned word(uint4 w, int j) { return j < 2 ? (j ? w.y : w.x) : (j == 2 ? w.z : w.w); }

extern "C" __global__ void dropout(const float *x, const float *plus, float *y, long long n, long long key,
                                   const long long *drawn, long long limit, float scale)
{
    if (drawn) key = *drawn;
    long long step = (long long)gridDim.x * blockDim.x * VEC;
    for (long long i = (blockIdx.x * (long long)blockDim.x + threadIdx.x) * VEC; i < n; i += step) {
        Pack<VEC> p = load<VEC>(x + i), q = {};
        if (plus) q = load<VEC>(plus + i);
        uint4 w = philox(i / 4, key);
#pragma unroll
        for (int j = 0; j < VEC; j++) {
            bool kept = word(w, VEC == 4 ? j : i % 4) >= (unsigned)limit;
            p.x[j] = q.x[j] + (kept ? scale : 0.0f) * p.x[j];
        }
        store<VEC>(y + i, p);
    }
}

extern "C" __global__ void keep_mask(bool *keep, long long n, long long key, const long long *drawn,
                                     long long limit)
{
    if (drawn) key = *drawn;
    long long i = (blockIdx.x * (long long)blockDim.x + threadIdx.x) * 4;
    if (i >= n) return;
    uint4 w = philox(i / 4, key);
    uchar4 kept = make_uchar4(w.x >= (unsigned)limit, w.y >= (unsigned)limit, w.z >= (unsigned)limit,
                              w.w >= (unsigned)limit);
    if (i + 4 <= n) {
        *reinterpret_cast<uchar4 *>(keep + i) = kept;
        return;
    }
    keep[i] = kept.x;
    if (i + 1 < n) keep[i + 1] = kept.y;
    if (i + 2 < n) keep[i + 2] = kept.z;
}
