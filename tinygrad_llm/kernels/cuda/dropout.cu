// Dropout, alone or added to a shortcut, by a mask that is made where it is needed: see philox.cuh.
//
//   dropout    y = plus + (word(i) >= limit ? scale : 0) x,  plus = 0 where there is none
//   keep_mask  keep = word(i) >= limit
//
// The key is a number, or lies in memory, `drawn`, where a captured launch finds another one each time.
//
// Bytes moved, n elements of s bytes: 2 s n, with a shortcut 3 s n; keep_mask n.
// Layout: a thread takes a pack, for which a counter or two are enough, then one a grid further on.
// y and plus are `param`, x is `real`: a shortcut may be float where what is added to it has 16 bits.

#include "common.cuh"
#include "philox.cuh"

#ifdef REAL
extern "C" __global__ void dropout(const real *x, const param *plus, param *y, long long n, long long key,
                                   const long long *drawn, long long limit, float scale)
{
    if (drawn) key = *drawn;
    long long step = (long long)gridDim.x * blockDim.x * VEC;
    for (long long i = (blockIdx.x * (long long)blockDim.x + threadIdx.x) * VEC; i < n; i += step) {
        Pack<VEC> p = load<VEC>(x + i);
        drop(p, i, key, limit, scale);
        if (plus) {
            Pack<VEC> q = load<VEC>(plus + i);
#pragma unroll
            for (int j = 0; j < VEC; j++) p.x[j] += q.x[j];
        }
        store<VEC>(y + i, p);
    }
}
#endif

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
