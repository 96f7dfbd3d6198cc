// Attention without a T x S array, forward and backward.
//
//   forward   s = scale q k^T, where causal -inf where a key comes after its query;  p = softmax(s);  y = p v
//             lse = ln sum exp s, one number a query, from which backward computes p again
//   backward  delta = sum g y;  ds = p (g v^T - delta);  dv = p^T g,  dk = scale ds^T q,  dq = scale ds k
//
// Bytes moved: q, k, v in and y out, 16 B H T D; keys and values are read once for each tile of queries, from the
// level-2 cache. It is the arithmetic that takes the time: 4 B H T S D operations forward and 14 backward (half of
// them where causal), 4 of which compute s and g v^T a second time, so that each gradient has one writer.
// Layout: a block of 16 x 16 threads for a tile of 64 queries (of 64 keys in attention_dkv), which goes through the
// other side tile by tile in shared memory. Thread (ty, tx) computes the scores of rows ty + 16 i and columns
// tx + 16 j, i and j below 4, and W columns of four rows of the result, all in registers. Tiles lie with 16 bytes
// between rows, so that the 8 threads that read at once find 8 rows in different banks.
// The last tiles come first: where causal they take the longest.
// Compiled with D, the width of a head rounded up to 32, 64 or 128 (zeros stand behind the true width), VEC, and what
// attention.cuh asks for. Where heads share keys and values, a block of attention_dkv goes through all that share them.
//
// Source: Dao et al., FlashAttention (2022), algorithm 1; Dao, FlashAttention-2 (2023), algorithm 2.

#include "attention.cuh"

#define TILE 64
#define THREADS 256
#define BLOCKS (D > 64 || MASK || DROPOUT || VEC == 1 ? 1 : 2)  // at once on a multiprocessor: memory and registers
#define PITCH (D + 4)
#define SCORES (TILE + 4)
#define W (D / 16)         // columns of the result for each thread
#define P (W < 4 ? W : 4)  // of which so many lie side by side

// Rows first ... first + 63 of x, d floats each, stride floats apart; zeros where there is no row or column.
__device__ void fetch(float *tile, const float *x, long long stride, int first, int rows, int d)
{
#pragma unroll 1
    for (int i = threadIdx.x; i < TILE * (D / 4); i += THREADS) {
        int row = i / (D / 4), column = i % (D / 4) * 4;
        Pack<4> p = {};
        if (first + row < rows) {
            const float *from = x + (first + row) * stride + column;
#pragma unroll
            for (int j = 0; j < 4; j += VEC) {
                if (column + j >= d) break;
                Pack<VEC> part = load<VEC>(from + j);
#pragma unroll
                for (int e = 0; e < VEC; e++) p.x[j + e] = part.x[e];
            }
        }
        store<4>(tile + row * PITCH + column, p);
    }
}

// s[i][j] = row ty + 16 i of a times row tx + 16 j of b.
__device__ void dots(const float *a, const float *b, int ty, int tx, float s[4][4])
{
#pragma unroll
    for (int i = 0; i < 4; i++)
#pragma unroll
        for (int j = 0; j < 4; j++) s[i][j] = 0;
#pragma unroll (D > 32 ? 2 : 1)  // registers
    for (int c = 0; c < D; c += 4) {
        Pack<4> u[4], w[4];
#pragma unroll
        for (int i = 0; i < 4; i++) u[i] = load<4>(a + (ty + 16 * i) * PITCH + c);
#pragma unroll
        for (int j = 0; j < 4; j++) w[j] = load<4>(b + (tx + 16 * j) * PITCH + c);
#pragma unroll
        for (int i = 0; i < 4; i++)
#pragma unroll
            for (int j = 0; j < 4; j++)
#pragma unroll
                for (int e = 0; e < 4; e++) s[i][j] += u[i].x[e] * w[j].x[e];
    }
}

// o[i] += row ty + 16 i of the scores times the tile b, in this thread's columns.
__device__ void add_product(const float *scores, const float *b, int ty, int tx, float o[4][W])
{
#pragma unroll 1
    for (int k = 0; k < TILE; k += 4) {
        Pack<4> s[4];
#pragma unroll
        for (int i = 0; i < 4; i++) s[i] = load<4>(scores + (ty + 16 * i) * SCORES + k);
#pragma unroll
        for (int e = 0; e < 4; e++)
#pragma unroll
            for (int group = 0; group < W / P; group++) {
                Pack<P> w = load<P>(b + (k + e) * PITCH + (group * 16 + tx) * P);
#pragma unroll
                for (int i = 0; i < 4; i++)
#pragma unroll
                    for (int j = 0; j < P; j++) o[i][group * P + j] += s[i].x[e] * w.x[j];
            }
    }
}

// This thread's columns of row ty + 16 i of a result, times factor[i].
__device__ void put(float *x, long long stride, int first, int rows, int d, int ty, int tx, const float o[4][W],
                    const float factor[4])
{
#pragma unroll
    for (int i = 0; i < 4; i++) {
        int row = first + ty + 16 * i;
        if (row >= rows) continue;
#pragma unroll
        for (int j = 0; j < W; j++) {
            int column = (j / P * 16 + tx) * P + j % P;
            if (column < d) x[row * stride + column] = o[i][j] * factor[i];
        }
    }
}

// q and y have T rows a head, k and v S; *b, *h and *t are the distances between sequences, heads and rows, in floats.
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)
attention(const float *q, const float *k, const float *v, float *y, float *lse, int T, int S, int H, int group, int d,
          long long qb, long long qh, long long qt, long long kb, long long kh, long long kt,
          long long vb, long long vh, long long vt, long long yb, long long yh, long long yt, float scale, int causal,
          const bool *seen, const real *added, long long mb, long long mh, long long mt, long long ms,
          const long long *documents, const long long *ranges, long long key, const long long *drawn,
          long long limit, float keep_scale)
{
    extern __shared__ float4 shared[];
    float *queries = reinterpret_cast<float *>(shared), *keys = queries + TILE * PITCH, *scores = keys + TILE * PITCH;
    int ty = threadIdx.x / 16, tx = threadIdx.x % 16, b = blockIdx.y / H, h = blockIdx.y % H;
    int first = (gridDim.x - 1 - blockIdx.x) * TILE, end = causal ? min(S, first + TILE) : S;
    Sight sight(seen, added, mb, mh, mt, ms, documents, ranges, b, h, T, S, causal);
    Dropout dropout(drawn ? *drawn : key, limit, blockIdx.y, T, S);
    k += b * kb + h / group * kh;
    v += b * vb + h / group * vh;
    fetch(queries, q + b * qb + h * qh, qt, first, T, d);
    float o[4][W] = {}, top[4] = {-INF, -INF, -INF, -INF}, sum[4] = {};
    for (int column = sight.next(first, TILE, 0, TILE, end); column < end;
         column = sight.next(first, TILE, column + TILE, TILE, end)) {
        __syncthreads();
        fetch(keys, k, kt, column, S, d);
        __syncthreads();
        float s[4][4];
        dots(queries, keys, ty, tx, s);
        bool whole = sight.whole(first, TILE, column, TILE);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            int row = first + ty + 16 * i;
            float higher = top[i], part = 0;
#pragma unroll
            for (int j = 0; j < 4; j++) {
                if (!whole) s[i][j] = sight.score(s[i][j], scale * LOG2E, row, column + tx + 16 * j);
                s[i][j] *= FACTOR;
                higher = fmaxf(higher, s[i][j]);
            }
            higher = warp_max(higher, 16);
            float shift = higher == -INF ? 0.0f : higher, shrink = exp2f(top[i] - shift);
#pragma unroll
            for (int j = 0; j < 4; j++) {
                float e = exp2f(s[i][j] - shift);
                bool kept = !DROPOUT || dropout.keeps(row, column + tx + 16 * j);
                scores[(ty + 16 * i) * SCORES + tx + 16 * j] = kept ? e : 0.0f;
                part += e;
            }
            sum[i] = sum[i] * shrink + warp_sum(part, 16);
            top[i] = higher;
#pragma unroll
            for (int j = 0; j < W; j++) o[i][j] *= shrink;
        }
        __syncthreads();
        fetch(keys, v, vt, column, S, d);  // values take the keys' place
        __syncthreads();
        add_product(scores, keys, ty, tx, o);
    }
    float factor[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
        factor[i] = sum[i] == 0 ? 0.0f : keep_scale / sum[i];  // who sees nothing takes nothing
        int row = first + ty + 16 * i;
        if (tx == 0 && row < T)
            lse[blockIdx.y * (long long)T + row] = sum[i] == 0 ? INF : (top[i] + log2f(sum[i])) / LOG2E;
    }
    put(y + b * yb + h * yh, yt, first, T, d, ty, tx, o, factor);
}

// delta[row] = sum g y over the d floats of a row; a warp per row.
extern "C" __global__ void attention_delta(const float *g, const float *y, float *delta, int T, int H, int d,
                                           long long gb, long long gh, long long gt,
                                           long long yb, long long yh, long long yt)
{
    int row = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32, b = blockIdx.y / H, h = blockIdx.y % H;
    if (row >= T) return;
    g += b * gb + h * gh + row * gt;
    y += b * yb + h * yh + row * yt;
    float dot = 0;
    for (int i = threadIdx.x % 32; i < d; i += 32) dot += g[i] * y[i];
    dot = warp_sum(dot);
    if (threadIdx.x % 32 == 0) delta[blockIdx.y * (long long)T + row] = dot;
}

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)
attention_dq(const float *g, const float *q, const float *k, const float *v, const float *lse, const float *delta,
             float *dq, int T, int S, int H, int group, int d, long long gb, long long gh, long long gt,
             long long qb, long long qh, long long qt, long long kb, long long kh, long long kt,
             long long vb, long long vh, long long vt, long long db, long long dh, long long dt,
             float scale, int causal,
             const bool *seen, const real *added, long long mb, long long mh, long long mt, long long ms,
             const long long *documents, const long long *ranges, long long key, const long long *drawn,
             long long limit, float keep_scale)
{
    extern __shared__ float4 shared[];
    float *queries = reinterpret_cast<float *>(shared), *towards = queries + TILE * PITCH;
    float *keys = towards + TILE * PITCH, *values = keys + TILE * PITCH, *scores = values + TILE * PITCH;
    int ty = threadIdx.x / 16, tx = threadIdx.x % 16, b = blockIdx.y / H, h = blockIdx.y % H;
    int first = (gridDim.x - 1 - blockIdx.x) * TILE, end = causal ? min(S, first + TILE) : S;
    Sight sight(seen, added, mb, mh, mt, ms, documents, ranges, b, h, T, S, causal);
    Dropout dropout(drawn ? *drawn : key, limit, blockIdx.y, T, S);
    k += b * kb + h / group * kh;
    v += b * vb + h / group * vh;
    fetch(queries, q + b * qb + h * qh, qt, first, T, d);
    fetch(towards, g + b * gb + h * gh, gt, first, T, d);
    float o[4][W] = {}, l[4], dot[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
        int row = min(first + ty + 16 * i, T - 1);
        l[i] = lse[blockIdx.y * (long long)T + row] * LOG2E;
        dot[i] = delta[blockIdx.y * (long long)T + row];
    }
    for (int column = sight.next(first, TILE, 0, TILE, end); column < end;
         column = sight.next(first, TILE, column + TILE, TILE, end)) {
        __syncthreads();
        fetch(keys, k, kt, column, S, d);
        fetch(values, v, vt, column, S, d);
        __syncthreads();
        float s[4][4], dp[4][4];
        dots(queries, keys, ty, tx, s);
        dots(towards, values, ty, tx, dp);
        bool whole = sight.whole(first, TILE, column, TILE);
#pragma unroll
        for (int i = 0; i < 4; i++)
#pragma unroll
            for (int j = 0; j < 4; j++) {
                int row = first + ty + 16 * i, c = column + tx + 16 * j;
                if (!whole) s[i][j] = sight.score(s[i][j], scale * LOG2E, row, c);
                if (DROPOUT) dp[i][j] = dropout.keeps(row, c) ? dp[i][j] * keep_scale : 0.0f;
                scores[(ty + 16 * i) * SCORES + tx + 16 * j] = exp2f(s[i][j] * FACTOR - l[i]) * (dp[i][j] - dot[i]);
            }
        __syncthreads();
        add_product(scores, keys, ty, tx, o);
    }
    float factor[4] = {scale, scale, scale, scale};
    put(dq + b * db + h * dh, dt, first, T, d, ty, tx, o, factor);
}

// Rows are keys here and columns queries: the scores are s^T.
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)
attention_dkv(const float *g, const float *q, const float *k, const float *v, const float *lse, const float *delta,
              float *dk, float *dv, int T, int S, int H, int group, int d, long long gb, long long gh, long long gt,
              long long qb, long long qh, long long qt, long long kb, long long kh, long long kt,
              long long vb, long long vh, long long vt, long long db, long long dh, long long dt,
              long long eb, long long eh, long long et, float scale, int causal,
              const bool *seen, const real *added, long long mb, long long mh, long long mt, long long ms,
              const long long *documents, const long long *ranges, long long key, const long long *drawn,
              long long limit, float keep_scale)
{
    extern __shared__ float4 shared[];
    float *queries = reinterpret_cast<float *>(shared), *towards = queries + TILE * PITCH;
    float *keys = towards + TILE * PITCH, *values = keys + TILE * PITCH, *scores = values + TILE * PITCH;
    int shares = H / group, b = blockIdx.y / shares, h = blockIdx.y % shares;
    int ty = threadIdx.x / 16, tx = threadIdx.x % 16, first = blockIdx.x * TILE, begin = causal ? first : 0;
    fetch(keys, k + b * kb + h * kh, kt, first, S, d);
    fetch(values, v + b * vb + h * vh, vt, first, S, d);
    float o[4][W] = {}, u[4][W] = {};
    for (int head = h * group; head < (h + 1) * group; head++) {
        Sight sight(seen, added, mb, mh, mt, ms, documents, ranges, b, head, T, S, causal);
        Dropout dropout(drawn ? *drawn : key, limit, b * H + head, T, S);
        const float *l = lse + (b * H + head) * (long long)T, *dots_gy = delta + (b * H + head) * (long long)T;
        for (int query = sight.next(first, TILE, begin, TILE, T); query < T;
             query = sight.next(first, TILE, query + TILE, TILE, T)) {
            __syncthreads();
            fetch(queries, q + b * qb + head * qh, qt, query, T, d);
            fetch(towards, g + b * gb + head * gh, gt, query, T, d);
            __syncthreads();
            float s[4][4], dp[4][4];
            dots(keys, queries, ty, tx, s);
            bool whole = sight.whole(query, TILE, first, TILE);
            unsigned kept = 0;  // a bit for each of this thread's pairs
#pragma unroll
            for (int j = 0; j < 4; j++) {
                int column = query + tx + 16 * j;
                float shift = l[min(column, T - 1)] * LOG2E;
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    int row = first + ty + 16 * i;
                    if (!whole) s[i][j] = sight.score(s[i][j], scale * LOG2E, column, row);
                    s[i][j] = exp2f(s[i][j] * FACTOR - shift);
                    bool keep = !DROPOUT || dropout.keeps(column, row);
                    kept |= keep << (4 * i + j);
                    scores[(ty + 16 * i) * SCORES + tx + 16 * j] = keep ? s[i][j] : 0.0f;
                }
            }
            __syncthreads();
            add_product(scores, towards, ty, tx, u);
            dots(values, towards, ty, tx, dp);
            __syncthreads();
#pragma unroll
            for (int j = 0; j < 4; j++) {
                float dot = dots_gy[min(query + tx + 16 * j, T - 1)];
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    if (DROPOUT) dp[i][j] = kept >> (4 * i + j) & 1 ? dp[i][j] * keep_scale : 0.0f;
                    scores[(ty + 16 * i) * SCORES + tx + 16 * j] = s[i][j] * (dp[i][j] - dot);
                }
            }
            __syncthreads();
            add_product(scores, queries, ty, tx, o);
        }
    }
    float by_scale[4] = {scale, scale, scale, scale}, by_kept[4] = {keep_scale, keep_scale, keep_scale, keep_scale};
    put(dk + b * db + h * dh, dt, first, S, d, ty, tx, o, by_scale);
    put(dv + b * eb + h * eh, et, first, S, d, ty, tx, u, by_kept);
}
