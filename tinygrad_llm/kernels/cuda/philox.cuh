// A counter-based random stream: word i of a key is a function of both alone, so that the backward pass, a second forward
// pass and any number of threads find the same mask of dropout, which is made where it is needed and never stored.
//
// word(4 k + j) is word j of Philox4x32-10 of the counter (k, 0) under the key; some 15 operations a word.
// Source: Salmon et al., Parallel random numbers: as easy as 1, 2, 3 (2011), section 3.3.

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

// p, of which the first number is number i of its array (a multiple of n, for n > 1): times scale where the word is at
// least limit, times 0 elsewhere.
template <int n>
__device__ void drop(Pack<n> &p, long long i, unsigned long long key, unsigned limit, float scale)
{
#pragma unroll
    for (int j = 0; j < n; j += 4) {
        uint4 w = philox((i + j) / 4, key);
#pragma unroll
        for (int k = 0; k < 4 && j + k < n; k++)
            p.x[j + k] *= word(w, n < 4 ? (i + j + k) % 4 : k) >= limit ? scale : 0.0f;
    }
}
