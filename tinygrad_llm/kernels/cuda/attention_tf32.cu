// Attention as in attention.cu, its products on the tensor cores, whose factors are rounded to TF32 (10 bits).
//
// Bytes moved and number of operations as there. Layout: a block of 4 warps for a tile of 64 rows, a warp for 16 of
// them. Thread 4 g + t of a warp holds, of each 16 x 8 result of a product, the columns 2 t and 2 t + 1 of the rows g
// and g + 8: element e < 4 is row g + 8 (e / 2) and column 2 t + e % 2. As the left factor of the next product it would
// have to hold columns t and t + 4; since a sum over columns may be taken in any order, the columns are named anew
// instead, in both factors, and probabilities never leave the registers. All of a warp's reads from shared memory find
// 32 different banks, since 4 floats stand behind each row.
// Compiled with D (32, 64 or 128), VEC, and what attention.cuh asks for.
//
// Source: Dao, FlashAttention-2 (2023), section 3; NVIDIA, Parallel Thread Execution ISA, mma.m16n8k8.

#include "attention.cuh"

#define TILE 64
#define THREADS 128
#define PITCH (D + 4)
#define N (D / 8)  // results of 8 columns in a row of the output

// Rows first ... first + 63 of x, d floats each, stride floats apart; zeros where there is no row or column. A thread
// keeps to four columns, so that from one row to its next only the place is counted on.
__device__ void fetch(float *tile, const float *x, long long stride, int first, int rows, int d)
{
    constexpr int STEP = THREADS / (D / 4);  // rows at once
    int row = threadIdx.x / (D / 4), column = threadIdx.x % (D / 4) * 4;
    const float *from = x + (long long)(first + row) * stride + column;
#pragma unroll 4
    for (int r = 0; r < TILE; r += STEP) {
        Pack<4> p = {};
        if (first + row + r < rows) {
#pragma unroll
            for (int j = 0; j < 4; j += VEC) {
                if (column + j >= d) break;
                Pack<VEC> part = load<VEC>(from + r * stride + j);
#pragma unroll
                for (int e = 0; e < VEC; e++) p.x[j + e] = tf32(part.x[e]);
            }
        }
        store<4>(tile + (row + r) * PITCH + column, p);
    }
}

// s = 16 rows of a times 8 J rows of b.
template <int J> __device__ void dots(const float *a, const float *b, int g, int t, float s[J][4])
{
#pragma unroll
    for (int j = 0; j < J; j++)
#pragma unroll
        for (int e = 0; e < 4; e++) s[j][e] = 0;
#pragma unroll 4
    for (int k = 0; k < D; k += 8) {
        const float *row = a + g * PITCH + k + t;
        float x[4] = {row[0], row[8 * PITCH], row[4], row[8 * PITCH + 4]};
#pragma unroll
        for (int j = 0; j < J; j++) {
            const float *column = b + (8 * j + g) * PITCH + k + t;
            multiply_tf32(s[j], x, column[0], column[4]);
        }
    }
}

// o += p (16 x 8 J) times the first 8 J rows of b: column 2 t of p and row 2 t of b are called t, 2 t + 1 t + 4.
template <int J> __device__ void add_product(const float p[J][4], const float *b, int g, int t, float o[N][4])
{
#pragma unroll
    for (int j = 0; j < J; j++) {
        float x[4] = {tf32(p[j][0]), tf32(p[j][2]), tf32(p[j][1]), tf32(p[j][3])};
#pragma unroll
        for (int n = 0; n < N; n++) {
            const float *row = b + (8 * j + 2 * t) * PITCH + 8 * n + g;
            multiply_tf32(o[n], x, row[0], row[PITCH]);
        }
    }
}

// This thread's elements of the rows `row` and row + 8 of a result, each times its factor.
__device__ void put(float *x, long long stride, int row, int rows, int d, int t, const float o[N][4], float low,
                    float high)
{
#pragma unroll
    for (int n = 0; n < N; n++)
#pragma unroll
        for (int e = 0; e < 4; e++) {
            int r = row + e / 2 * 8, column = 8 * n + 2 * t + e % 2;
            if (r < rows && column < d) x[r * stride + column] = o[n][e] * (e < 2 ? low : high);
        }
}

extern "C" __global__ void __launch_bounds__(THREADS, D > 32 || MASK == 2 ? 2 : 3)
attention(const float *q, const float *k, const float *v, float *y, float *lse, int T, int S, int H, int group, int d,
          long long qb, long long qh, long long qt, long long kb, long long kh, long long kt,
          long long vb, long long vh, long long vt, long long yb, long long yh, long long yt, float scale, int causal,
          const bool *seen, const real *added, long long mb, long long mh, long long mt, long long ms,
          const long long *documents, const long long *ranges, long long key, const long long *drawn,
          long long limit, float keep_scale)
{
    extern __shared__ float4 shared[];
    float *queries = reinterpret_cast<float *>(shared), *keys = queries + TILE * PITCH, *values = keys + TILE * PITCH;
    int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4, b = blockIdx.y / H, h = blockIdx.y % H;
    int first = (gridDim.x - 1 - blockIdx.x) * TILE, end = causal ? min(S, first + TILE) : S;
    int row = first + 16 * warp + g;
    Sight sight(seen, added, mb, mh, mt, ms, documents, ranges, b, h, T, S, causal);
    Dropout dropout(drawn ? *drawn : key, limit, blockIdx.y, T, S);
    k += b * kb + h / group * kh;
    v += b * vb + h / group * vh;
    fetch(queries, q + b * qb + h * qh, qt, first, T, d);
    float o[N][4] = {}, top[2] = {-INF, -INF}, sum[2] = {};
    for (int column = sight.next(first, TILE, 0, TILE, end); column < end;
         column = sight.next(first, TILE, column + TILE, TILE, end)) {
        __syncthreads();
        fetch(keys, k, kt, column, S, d);
        fetch(values, v, vt, column, S, d);
        __syncthreads();
        float s[8][4], higher[2] = {top[0], top[1]}, part[2] = {}, shift[2];
        dots<8>(queries + 16 * warp * PITCH, keys, g, t, s);
        bool whole = sight.whole(first + 16 * warp, 16, column, TILE);
#pragma unroll
        for (int j = 0; j < 8; j++)
#pragma unroll
            for (int e = 0; e < 4; e++) {
                if (!whole)
                    s[j][e] = sight.score(s[j][e], scale * LOG2E, row + e / 2 * 8, column + 8 * j + 2 * t + e % 2);
                s[j][e] *= FACTOR;
                higher[e / 2] = fmaxf(higher[e / 2], s[j][e]);
            }
#pragma unroll
        for (int i = 0; i < 2; i++) {
            higher[i] = warp_max(higher[i], 4);
            shift[i] = higher[i] == -INF ? 0.0f : higher[i];
        }
#pragma unroll
        for (int j = 0; j < 8; j++)
#pragma unroll
            for (int e = 0; e < 4; e++) {
                s[j][e] = exp2f(s[j][e] - shift[e / 2]);
                part[e / 2] += s[j][e];
            }
        if (DROPOUT)
#pragma unroll
            for (int j = 0; j < 8; j++) {
                bool kept[4];
                dropout.keep(first + 16 * warp, column + 8 * j, kept);
#pragma unroll
                for (int e = 0; e < 4; e++) s[j][e] = kept[e] ? s[j][e] : 0.0f;
            }
#pragma unroll
        for (int i = 0; i < 2; i++) {
            float shrink = exp2f(top[i] - shift[i]);
            sum[i] = sum[i] * shrink + warp_sum(part[i], 4);
            top[i] = higher[i];
#pragma unroll
            for (int n = 0; n < N; n++) {
                o[n][2 * i] *= shrink;
                o[n][2 * i + 1] *= shrink;
            }
        }
        add_product<8>(s, values, g, t, o);
    }
#pragma unroll
    for (int i = 0; i < 2; i++)
        if (t == 0 && row + 8 * i < T)
            lse[blockIdx.y * (long long)T + row + 8 * i] = sum[i] == 0 ? INF : (top[i] + log2f(sum[i])) / LOG2E;
    float low = sum[0] == 0 ? 0.0f : keep_scale / sum[0], high = sum[1] == 0 ? 0.0f : keep_scale / sum[1];
    put(y + b * yb + h * yh, yt, row, T, d, t, o, low, high);  // who sees nothing takes nothing
}

extern "C" __global__ void __launch_bounds__(THREADS, D > 32 || MASK == 2 ? 2 : 3)
attention_dq(const float *dy, const float *q, const float *k, const float *v, const float *lse, const float *delta,
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
    float *keys = towards + TILE * PITCH, *values = keys + TILE * PITCH;
    int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4, b = blockIdx.y / H, h = blockIdx.y % H;
    int first = (gridDim.x - 1 - blockIdx.x) * TILE, end = causal ? min(S, first + TILE) : S;
    int row = first + 16 * warp + g, mine = 16 * warp * PITCH;
    Sight sight(seen, added, mb, mh, mt, ms, documents, ranges, b, h, T, S, causal);
    Dropout dropout(drawn ? *drawn : key, limit, blockIdx.y, T, S);
    k += b * kb + h / group * kh;
    v += b * vb + h / group * vh;
    fetch(queries, q + b * qb + h * qh, qt, first, T, d);
    fetch(towards, dy + b * gb + h * gh, gt, first, T, d);
    float o[N][4] = {}, l[2], dot[2];
#pragma unroll
    for (int i = 0; i < 2; i++) {
        long long place = blockIdx.y * (long long)T + min(row + 8 * i, T - 1);
        l[i] = lse[place] * LOG2E;
        dot[i] = delta[place];
    }
    for (int column = sight.next(first, TILE, 0, TILE, end); column < end;
         column = sight.next(first, TILE, column + TILE, TILE, end)) {
        __syncthreads();
        fetch(keys, k, kt, column, S, d);
        fetch(values, v, vt, column, S, d);
        __syncthreads();
        for (int part = 0; part < TILE; part += 32) {
            float s[4][4], dp[4][4];
            dots<4>(queries + mine, keys + part * PITCH, g, t, s);
            dots<4>(towards + mine, values + part * PITCH, g, t, dp);
            bool whole = sight.whole(first + 16 * warp, 16, column + part, 32);
#pragma unroll
            for (int j = 0; j < 4; j++) {
                bool kept[4];
                if (DROPOUT) dropout.keep(first + 16 * warp, column + part + 8 * j, kept);
#pragma unroll
                for (int e = 0; e < 4; e++) {
                    int c = column + part + 8 * j + 2 * t + e % 2;
                    if (!whole) s[j][e] = sight.score(s[j][e], scale * LOG2E, row + e / 2 * 8, c);
                    if (DROPOUT) dp[j][e] = kept[e] ? dp[j][e] * keep_scale : 0.0f;
                    s[j][e] = exp2f(s[j][e] * FACTOR - l[e / 2]) * (dp[j][e] - dot[e / 2]);
                }
            }
            add_product<4>(s, keys + part * PITCH, g, t, o);
        }
    }
    put(dq + b * db + h * dh, dt, row, T, d, t, o, scale, scale);
}

// Rows are keys here and columns queries: the scores are s^T.
extern "C" __global__ void __launch_bounds__(THREADS, D > 32 || MASK == 2 ? 2 : 3)
attention_dkv(const float *dy, const float *q, const float *k, const float *v, const float *lse, const float *delta,
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
    float *keys = towards + TILE * PITCH, *values = keys + TILE * PITCH;
    int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    int shares = H / group, b = blockIdx.y / shares, h = blockIdx.y % shares, mine = 16 * warp * PITCH;
    int first = blockIdx.x * TILE, begin = causal ? first : 0, row = first + 16 * warp + g;
    fetch(keys, k + b * kb + h * kh, kt, first, S, d);
    fetch(values, v + b * vb + h * vh, vt, first, S, d);
    float o[N][4] = {}, u[N][4] = {};
    for (int head = h * group; head < (h + 1) * group; head++) {
        Sight sight(seen, added, mb, mh, mt, ms, documents, ranges, b, head, T, S, causal);
        Dropout dropout(drawn ? *drawn : key, limit, b * H + head, T, S);
        const float *l = lse + (b * H + head) * (long long)T, *dot = delta + (b * H + head) * (long long)T;
        for (int query = sight.next(first, TILE, begin, TILE, T); query < T;
             query = sight.next(first, TILE, query + TILE, TILE, T)) {
            __syncthreads();
            fetch(queries, q + b * qb + head * qh, qt, query, T, d);
            fetch(towards, dy + b * gb + head * gh, gt, query, T, d);
            __syncthreads();
            for (int part = 0; part < TILE; part += 32) {
                float s[4][4], dp[4][4];
                dots<4>(keys + mine, queries + part * PITCH, g, t, s);
                dots<4>(values + mine, towards + part * PITCH, g, t, dp);
                bool whole = sight.whole(query + part, 32, first + 16 * warp, 16);
#pragma unroll
                for (int j = 0; j < 4; j++) {
                    bool kept[4];
                    if (DROPOUT) dropout.keep_turned(first + 16 * warp, query + part + 8 * j, kept);
#pragma unroll
                    for (int e = 0; e < 4; e++) {
                        int column = query + part + 8 * j + 2 * t + e % 2, place = min(column, T - 1);
                        if (!whole) s[j][e] = sight.score(s[j][e], scale * LOG2E, column, row + e / 2 * 8);
                        float p = exp2f(s[j][e] * FACTOR - l[place] * LOG2E);
                        s[j][e] = !DROPOUT || kept[e] ? p : 0.0f;
                        if (DROPOUT) dp[j][e] = kept[e] ? dp[j][e] * keep_scale : 0.0f;
                        dp[j][e] = p * (dp[j][e] - dot[place]);
                    }
                }
                add_product<4>(s, towards + part * PITCH, g, t, u);
                add_product<4>(dp, queries + part * PITCH, g, t, o);
            }
        }
    }
    put(dk + b * db + h * dh, dt, row, S, d, t, o, scale, scale);
    put(dv + b * eb + h * eh, et, row, S, d, t, u, keep_scale, keep_scale);
}
