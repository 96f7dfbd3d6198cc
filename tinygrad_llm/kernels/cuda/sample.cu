// A token for each row of logits, chosen on the GPU: what is read back is a number a row.
//
//   weight    w = round(2^40 exp((x - top) / temperature)), a whole number: sums do not depend on their order
//   top_k     of all tokens by falling logits, then rising number, the first k stay
//   top_p     of these the fewest first ones stay that have top_p of their sum
//   min_p     of these stay those with w >= min_p 2^40, what the likeliest weighs
//   draw      the first token at which the running sum of weights, by number, reaches (1 - u) of the whole
//
// survey reads the row in chunks, a warp each, and leaves of a chunk its largest logit and its sum, and of each thread's
// tokens the largest, `maxima`. sample then looks at few tokens. Where all may stay, the chunks' sums say in which one the
// draw ends. Else the maxima give a border that nothing stays below: as many of them as top_k, or as many as weigh top_p
// of the whole, reach it, and each is a token. What reaches it is collected in shared memory; where that is too much, the
// whole row takes its place.
// What top_k and top_p leave is `the logits above a border, and the first few of those equal to it`. The border is found
// without sorting: floats in order are whole numbers in order, and of those the 32 bits are found 8 at a time, by
// counting (or weighing) what has each of the 256 values among what begins as the border does (a radix select).
//
// Bytes moved: V logits a row. How chunks are cut depends on V alone, so that the token does not depend on the blocks.
// Layout: survey a warp a chunk, whose threads take every 32nd token, and no barrier; sample a block a row, whose threads
// take runs of neighbours in what is looked at, so that running sums go by threads.
// Instructions a number of 16 bits in survey: 13; an H100 could give 19 while it reads.

#include "common.cuh"

#define LIKELIEST 1099511627776.0f  // 2^40, what the likeliest token weighs
#define LOG2E 1.4426950408889634f

typedef unsigned long long Weight;

constexpr int AT_ONCE = 16;  // tokens that a thread of survey loads at once
constexpr int ROOM = 1024;   // tokens that are collected

// Of each chunk of 32 `each` tokens its largest logit and the sum of exp((x - that) / temperature): stats (rows, chunks,
// 2); and the largest of each thread's: maxima (rows, chunks, 32), or null. A nan is seen in the sum.
extern "C" __global__ void __launch_bounds__(256)
survey(const real *x, float *stats, float *maxima, int v, int chunks, int each, float inverse_temperature)
{
    int chunk = blockIdx.y * (blockDim.x / 32) + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (chunk >= chunks) return;
    int start = chunk * 32 * each + lane, last = min(v, (chunk + 1) * 32 * each);
    x += blockIdx.x * (long long)v;
    float top = -INF, sum = 0, scale = LOG2E * inverse_temperature;
    for (; start < last; start += 32 * AT_ONCE) {
        float p[AT_ONCE], higher = top;
        if (start + 32 * (AT_ONCE - 1) < last) {
#pragma unroll
            for (int k = 0; k < AT_ONCE; k++) p[k] = number(x[start + 32 * k]);
        } else {
#pragma unroll
            for (int k = 0; k < AT_ONCE; k++) p[k] = start + 32 * k < last ? number(x[start + 32 * k]) : -INF;
        }
#pragma unroll
        for (int k = 0; k < AT_ONCE; k++) higher = fmaxf(higher, p[k]);
        sum *= exp2_fast((top == -INF ? -INF : top - higher) * scale);
        top = higher;
        float base = top == -INF ? 0.0f : top;
#pragma unroll
        for (int k = 0; k < AT_ONCE; k++) sum += exp2_fast((p[k] - base) * scale);
    }
    float largest = warp_max(top);
    sum = warp_sum(top == -INF ? sum : sum * exp2_fast((top - largest) * scale));
    long long place = blockIdx.x * (long long)chunks + chunk;
    if (maxima) maxima[place * 32 + lane] = top;
    if (lane) return;
    stats[2 * place] = largest;
    stats[2 * place + 1] = sum;
}

// Logits to choose among: a stretch of a row, or, with their numbers, what was collected.
struct Tokens {
    const real *x;
    const float *logits;
    const int *ids;
    int start, count;  // the first one's number; how many

    __device__ float operator[](int i) const { return logits ? logits[i] : number(x[start + i]); }
    __device__ int id(int i) const { return ids ? ids[i] : start + i; }
};

// Bits of a float as a number that grows with it; 0 and -0 are equal.
__device__ unsigned ordered(float x)
{
    unsigned bits = __float_as_uint(x == 0 ? 0.0f : x);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

__device__ float logit_of(unsigned key)
{
    return __uint_as_float(key & 0x80000000u ? key & 0x7fffffffu : ~key);
}

struct Scale {
    float top, inverse_temperature;

    __device__ Weight operator()(float x) const
    {
        return Weight(expf((x - top) * inverse_temperature) * LIKELIEST + 0.5f);
    }
};

// The sum over the threads of this warp up to this one.
__device__ Weight sum_up_to(Weight x)
{
    for (int i = 1; i < 32; i *= 2) {
        Weight other = __shfl_up_sync(0xffffffff, x, i);
        if (threadIdx.x % 32 >= i) x += other;
    }
    return x;
}

// The sum over the threads before this one; `whole` gets that over all. room: a number a warp.
__device__ Weight sum_before(Weight x, Weight *room, Weight &whole)
{
    int warp = threadIdx.x / 32, warps = blockDim.x / 32;
    Weight sum = sum_up_to(x);
    __syncthreads();
    if (threadIdx.x % 32 == 31) room[warp] = sum;
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

// Does a token stay? `seen` counts those equal to the border up to it.
__device__ bool stays(unsigned key, const Kept &kept, Weight &seen)
{
    return key > kept.border || (key == kept.border && seen++ < kept.equal);
}

// A warp finds the value of the next 8 bits: the largest at which what lies above, with its own bucket, reaches `target`;
// the smallest where none does. found gets it behind the border's bits, and what lies above it.
__device__ void next_digit(const Weight *buckets, Weight above, Weight target, int shift, Kept *found)
{
    int lane = threadIdx.x, most = 255 - 8 * lane;  // a lane has 8 values, falling
    Weight mine = 0;
    for (int i = 0; i < 8; i++) mine += buckets[most - i];
    Weight upto = above + sum_up_to(mine), before = upto - mine;
    if (!(before < target || lane == 0) || (upto < target && lane < 31)) return;
    int digit = most;
    while (digit > most - 7 && before + buckets[digit] < target) before += buckets[digit--];
    found->border |= unsigned(digit) << shift;
    found->equal = before;
}

// The border at which the sum of what stays reaches `target`: of tokens (each counts 1), or of weights.
// Of those outside `within` none counts. equals_before: tokens of other threads before `first` that equal its border.
// bits: how many of the border's are found, 8, 16, 24 or 32; with fewer it lies a little lower.
template <bool weighs, int bits = 32>
__device__ Kept select(const Tokens &tokens, int first, int last, const Scale &weight, const Kept &within,
                       Weight equals_before, Weight target, Weight *buckets, Kept *shared)
{
    unsigned border = 0;
    Weight above = 0;
    __syncthreads();
    if (threadIdx.x == 0) *shared = {0, 0};
    for (int shift = 24; shift >= 32 - bits; shift -= 8) {
        for (int i = threadIdx.x; i < 256; i += blockDim.x) buckets[i] = 0;
        __syncthreads();
        Weight seen = equals_before, found = 0;  // in `bucket`: neighbours often share it, and additions to one wait
        unsigned bucket = 0;
        for (int i = first; i < last; i++) {
            float logit = tokens[i];
            unsigned key = ordered(logit);
            if (!stays(key, within, seen) || (shift < 24 && (key ^ border) >> (shift + 8))) continue;
            if ((key >> shift & 255) != bucket) {
                if (found) atomicAdd(&buckets[bucket], found);
                bucket = key >> shift & 255;
                found = 0;
            }
            found += weighs ? weight(logit) : Weight(1);
        }
        if (found) atomicAdd(&buckets[bucket], found);
        __syncthreads();
        if (threadIdx.x < 32) next_digit(buckets, above, target, shift, shared);
        __syncthreads();
        border = shared->border;
        above = shared->equal;
    }
    Weight each = weighs ? weight(logit_of(border)) : Weight(1), missing = target > above ? target - above : 0;
    return {border, each ? (missing + each - 1) / each : 0};
}

__device__ Weight count_equal(const Tokens &tokens, int first, int last, unsigned border)
{
    Weight found = 0;
    for (int i = first; i < last; i++) found += ordered(tokens[i]) == border;
    return found;
}

// A share (0, 1] of a whole: at least 1, no more than all.
__device__ Weight part(double share, Weight whole)
{
    Weight wanted = Weight(ceil(share * double(whole)));
    return wanted < 1 ? 1 : wanted > whole ? whole : wanted;
}

// The tokens that reach the border and weigh at least so much, from the threads of survey whose largest does; the whole row
// where there is no room for them.
__device__ Tokens collected(const real *x, const float *maxima, int v, int chunks, int each, float border, Weight least,
                            const Scale &weight)
{
    __shared__ float logits[2][ROOM];
    __shared__ int ids[2][ROOM], threads[ROOM], found, count;
    auto may_stay = [&](float logit) { return logit >= border && (!least || weight(logit) >= least); };
    if (threadIdx.x == 0) found = count = 0;
    __syncthreads();
    for (int i = threadIdx.x; i < chunks * 32; i += blockDim.x) {
        if (!may_stay(maxima[i])) continue;
        int place = atomicAdd(&found, 1);
        if (place < ROOM) threads[place] = i;
    }
    __syncthreads();
    if (found > ROOM) return {x, nullptr, nullptr, 0, v};
    for (int i = threadIdx.x / 32; i < found; i += blockDim.x / 32) {  // a warp looks at 32 tokens of a thread at once
        int start = threads[i] / 32 * 32 * each + threads[i] % 32;
        for (int k = threadIdx.x % 32; k < each; k += 32) {
            int token = start + 32 * k;
            float logit = token < v ? number(x[token]) : -INF;
            if (token >= v || !may_stay(logit)) continue;
            int place = atomicAdd(&count, 1);
            if (place >= ROOM) continue;
            logits[0][place] = logit;
            ids[0][place] = token;
        }
    }
    __syncthreads();
    if (count > ROOM) return {x, nullptr, nullptr, 0, v};
    for (int i = threadIdx.x; i < count; i += blockDim.x) {  // by number, whoever came first
        int rank = 0;
        for (int j = 0; j < count; j++) rank += ids[0][j] < ids[0][i];
        logits[1][rank] = logits[0][i];
        ids[1][rank] = ids[0][i];
    }
    __syncthreads();
    return {x, logits[1], ids[1], 0, count};
}

// top_k 0, top_p 1 and min_p 0 refuse nothing; u: numbers of [0, 1). tokens: -1 where nothing is likeliest. maxima: null
// where nothing is refused. There are no more chunks than threads.
extern "C" __global__ void __launch_bounds__(1024, 1)
sample(const real *x, const double *u, const float *stats, const float *maxima, long long *tokens, int v, int chunks,
       int each, float inverse_temperature, int top_k, double top_p, double min_p)
{
    __shared__ Weight buckets[256], sums[32];
    __shared__ Kept shared;
    __shared__ float room[32];
    x += blockIdx.x * (long long)v;
    stats += 2 * blockIdx.x * (long long)chunks;
    bool has = threadIdx.x < chunks;  // a chunk
    float largest = has ? stats[2 * threadIdx.x] : -INF, sum = has ? stats[2 * threadIdx.x + 1] : 0.0f;
    float top = block_max(isnan(sum) ? INF : largest, room);
    if (threadIdx.x == 0) tokens[blockIdx.x] = -1;
    if (isinf(top)) return;
    Scale weight = {top, inverse_temperature};
    Weight here = Weight(double(weight(largest)) * sum), all;  // 0 where its likeliest is
    Weight before = sum_before(here, sums, all);
    Weight least = Weight(ceil(min_p * LIKELIEST)), wanted = part(1 - u[blockIdx.x], all), whole, equals_before = 0;
    Kept kept = {0, Weight(chunks) * 32 * each};  // everything
    Tokens among = {x, nullptr, nullptr, 0, v};
    if (maxima) {
        maxima += blockIdx.x * (long long)chunks * 32;
        Tokens likely = {x, maxima, nullptr, 0, chunks * 32};
        int run = (likely.count + blockDim.x - 1) / blockDim.x;
        int first = min(int(threadIdx.x) * run, likely.count), last = min(first + run, likely.count);
        Kept border = {0, 0};
        if (top_k > 0 && top_k < v)
            border = select<false, 16>(likely, first, last, weight, kept, 0, top_k, buckets, &shared);
        else if (top_p < 1)  // and a little more, since sums were rounded
            border = select<true, 16>(likely, first, last, weight, kept, 0, Weight(top_p * 1.00001 * double(all)) + 1,
                                      buckets, &shared);
        float lowest = border.border < ordered(-INF) ? -INF : logit_of(border.border);  // keys below it are no numbers
        among = collected(x, maxima, v, chunks, each, lowest, top_p < 1 ? 0 : least, weight);
    } else {
        __shared__ int chunk;
        __shared__ Weight rest;
        if (wanted > before && wanted <= before + here) chunk = threadIdx.x, rest = wanted - before;
        __syncthreads();
        wanted = rest;
        among.start = chunk * 32 * each;
        among.count = min(v - among.start, 32 * each);
    }

    int run = (among.count + blockDim.x - 1) / blockDim.x;
    int first = min(int(threadIdx.x) * run, among.count), last = min(first + run, among.count);
    if (top_k > 0 && top_k < v) {
        kept = select<false>(among, first, last, weight, kept, 0, top_k, buckets, &shared);
        equals_before = sum_before(count_equal(among, first, last, kept.border), sums, whole);
        Weight mine = 0, seen = equals_before;
        for (int i = first; i < last; i++)
            if (stays(ordered(among[i]), kept, seen)) mine += weight(among[i]);
        sum_before(mine, sums, all);
    }
    if (top_p < 1) {
        Weight target = Weight(ceil(top_p * double(all)));
        kept = select<true>(among, first, last, weight, kept, equals_before, target, buckets, &shared);
        equals_before = sum_before(count_equal(among, first, last, kept.border), sums, whole);
    }
    Weight mine = 0, seen = equals_before;
    for (int i = first; i < last; i++) {
        Weight w = weight(among[i]);
        if (stays(ordered(among[i]), kept, seen) && w >= least) mine += w;
    }
    before = sum_before(mine, sums, whole);
    wanted = maxima ? part(1 - u[blockIdx.x], whole) : wanted > whole ? whole : wanted;
    if (wanted <= before || wanted > before + mine) return;
    seen = equals_before;
    for (int i = first; i < last; i++) {
        Weight w = weight(among[i]);
        if (!stays(ordered(among[i]), kept, seen) || w < least) continue;
        before += w;
        if (before >= wanted) {
            tokens[blockIdx.x] = among.id(i);
            return;
        }
    }
}
