// A token for each row of logits, chosen on the GPU: what is read back is a number a row.
//
//   weight    w = round(2^40 exp((x - top) / temperature)), a whole number: sums do not depend on their order
//   top_k     of all tokens by falling logits, then rising number, the first k stay
//   top_p     of these the fewest first ones stay that have top_p of their sum
//   min_p     of these stay those with w >= min_p 2^40, what the likeliest weighs
//   draw      the first token at which the running sum of weights, by number, reaches (1 - u) of the whole
//
// What top_k and top_p leave is `the logits above a border, and the first few of those equal to it`. The border is found
// without sorting: floats in order are whole numbers in order, and of those the 32 bits are found 8 at a time, by
// counting (or weighing) what has each of the 256 values among what begins as the border does (a radix select).
//
// Bytes moved: V logits a row from memory; then the level-2 cache gives up to 10 looks more.
// Layout: a block a row. A thread owns a run of neighbouring tokens, so that running sums go by threads.

#include "common.cuh"

#define LIKELIEST 1099511627776.0f  // 2^40, what the likeliest token weighs

typedef unsigned long long Weight;

// Bits of a float as a number that grows with it; 0 and -0 are equal.
__device__ unsigned ordered(float x)
{
    unsigned bits = __float_as_uint(x == 0 ? 0.0f : x);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

__device__ Weight weight_of(float x, float top, float inverse_temperature)
{
    return Weight(expf((x - top) * inverse_temperature) * LIKELIEST + 0.5f);
}

// The sum over the threads before this one; `whole` gets that over all. room: 33 numbers.
__device__ Weight sum_before(Weight x, Weight *room, Weight &whole)
{
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
    Weight sum = x;
    for (int i = 1; i < 32; i *= 2) {
        Weight other = __shfl_up_sync(0xffffffff, sum, i);
        if (lane >= i) sum += other;
    }
    __syncthreads();
    if (lane == 31) room[warp] = sum;
    __syncthreads();
    Weight before = 0;
    whole = 0;
    for (int i = 0; i < warps; i++) {
        if (i < warp) before += room[i];
        whole += room[i];
    }
    return before + sum - x;
}

// What stays: logits above the border, and so many of those equal to it, the first ones.
struct Kept {
    unsigned border;
    Weight equal;
};

// Does token i stay? `seen` counts those equal to the border up to it.
__device__ bool stays(unsigned key, const Kept &kept, Weight &seen)
{
    return key > kept.border || (key == kept.border && seen++ < kept.equal);
}

// The border at which the sum of what stays reaches `target`: of tokens (each counts 1), or of weights.
// Of those outside `within` none counts. equals_before: tokens of other threads before `first` that equal its border.
template <bool weighs>
__device__ Kept select(const real *x, int first, int last, float top, float inverse_temperature, const Kept &within,
                       Weight equals_before, Weight target, Weight *buckets, Kept *shared)
{
    unsigned border = 0;
    Weight above = 0;
    for (int shift = 24; shift >= 0; shift -= 8) {
        for (int i = threadIdx.x; i < 256; i += blockDim.x) buckets[i] = 0;
        __syncthreads();
        Weight seen = equals_before, found = 0;  // in `bucket`: neighbours often share it, and additions to one wait
        unsigned bucket = 0;
        for (int i = first; i < last; i++) {
            float logit = number(x[i]);
            unsigned key = ordered(logit);
            if (!stays(key, within, seen) || (shift < 24 && (key ^ border) >> (shift + 8))) continue;
            if ((key >> shift & 255) != bucket) {
                if (found) atomicAdd(&buckets[bucket], found);
                bucket = key >> shift & 255;
                found = 0;
            }
            found += weighs ? weight_of(logit, top, inverse_temperature) : Weight(1);
        }
        if (found) atomicAdd(&buckets[bucket], found);
        __syncthreads();
        if (threadIdx.x == 0) {
            int digit = 255;
            while (digit > 0 && above + buckets[digit] < target) above += buckets[digit--];
            shared->border = border | unsigned(digit) << shift;
            shared->equal = above;
        }
        __syncthreads();
        border = shared->border;
        above = shared->equal;
        __syncthreads();
    }
    Weight each = 1;
    if (weighs) {
        unsigned bits = border & 0x80000000u ? border & 0x7fffffffu : ~border;
        each = weight_of(__uint_as_float(bits), top, inverse_temperature);
    }
    Weight missing = target > above ? target - above : 0;
    return {border, each ? (missing + each - 1) / each : 0};
}

__device__ Weight count_equal(const real *x, int first, int last, unsigned border)
{
    Weight found = 0;
    for (int i = first; i < last; i++) found += ordered(number(x[i])) == border;
    return found;
}

// top_k 0, top_p 1 and min_p 0 refuse nothing; u: numbers of [0, 1). tokens: -1 where nothing is likeliest.
extern "C" __global__ void __launch_bounds__(1024, 1)
sample(const real *x, const double *u, long long *tokens, int v, float inverse_temperature, int top_k, double top_p,
       double min_p)
{
    __shared__ float room[32];
    __shared__ Weight buckets[256], sums[32];
    __shared__ Kept shared;
    __shared__ bool spoiled;
    x += blockIdx.x * (long long)v;
    int run = (v + blockDim.x - 1) / blockDim.x;
    int first = threadIdx.x * run < v ? threadIdx.x * run : v, last = first + run < v ? first + run : v;
    float top = -INF;
    if (threadIdx.x == 0) spoiled = false;
    __syncthreads();
    for (int i = first; i < last; i++) {
        float logit = number(x[i]);
        if (isnan(logit)) spoiled = true;
        top = fmaxf(top, logit);
    }
    top = block_max(top, room);
    __syncthreads();
    if (threadIdx.x == 0) tokens[blockIdx.x] = -1;
    if (spoiled || isinf(top)) return;

    Kept kept = {0, Weight(v)};
    Weight whole, equals_before = 0;
    if (top_k > 0 && top_k < v) {
        kept = select<false>(x, first, last, top, inverse_temperature, kept, 0, top_k, buckets, &shared);
        equals_before = sum_before(count_equal(x, first, last, kept.border), sums, whole);
    }
    if (top_p < 1) {
        Weight mine = 0, seen = equals_before;
        for (int i = first; i < last; i++)
            if (stays(ordered(number(x[i])), kept, seen)) mine += weight_of(number(x[i]), top, inverse_temperature);
        sum_before(mine, sums, whole);
        Weight target = Weight(ceil(top_p * double(whole)));
        kept = select<true>(x, first, last, top, inverse_temperature, kept, equals_before, target, buckets, &shared);
        equals_before = sum_before(count_equal(x, first, last, kept.border), sums, whole);
    }
    Weight least = Weight(ceil(min_p * LIKELIEST)), mine = 0, seen = equals_before;
    for (int i = first; i < last; i++) {
        Weight w = weight_of(number(x[i]), top, inverse_temperature);
        if (stays(ordered(number(x[i])), kept, seen) && w >= least) mine += w;
    }
    Weight before = sum_before(mine, sums, whole);
    Weight wanted = Weight(ceil((1 - u[blockIdx.x]) * double(whole)));
    wanted = wanted < 1 ? 1 : wanted > whole ? whole : wanted;
    if (wanted <= before || wanted > before + mine) return;
    seen = equals_before;
    for (int i = first; i < last; i++) {
        Weight w = weight_of(number(x[i]), top, inverse_temperature);
        if (!stays(ordered(number(x[i])), kept, seen) || w < least) continue;
        before += w;
        if (before >= wanted) {
            tokens[blockIdx.x] = i;
            return;
        }
    }
}
