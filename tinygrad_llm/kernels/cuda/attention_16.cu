// Attention in 16 bits (bfloat16 or float16) on the tensor cores, forward and backward; sums and softmax in float32.
//
// The formulas are those of attention.cu, what a query sees and what dropout keeps those of attention.cuh.
//
// Bytes moved: q, k, v in and y out, 8 B H T D forward; backward reads these and dy twice and writes dq, dk, dv. Against
// 4 B H T S D operations forward that is S / 2 operations a byte, far above what memory asks for (an H100: 300), and keys
// and values, which each block of 128 queries reads again, come from the level-2 cache with 128 operations a byte.
// So the tensor cores are the limit, and what feeds them:
//   - shared memory gives 128 bytes a cycle. A product of 16 x 8 x 16 takes 1.5 cycles of an H100 by mma.sync (2 of an
//     A100) and wants 256 bytes of its right factor. So a warp has M = 2 times 16 rows, which share what is read: 128
//     bytes a product and, with the left factor, 160 (forward) to 210 (backward).
//   - probabilities stay in registers: a thread holds of a product what it has to hold of the next one's left factor.
//     Backward computes the scores twice, once for dq (rows are queries) and once for dk and dv (rows are keys), so that
//     each gradient has one writer and no order changes a bit: 7 products where 5 are needed. Where heads are wider than
//     64, results of 32 rows for dk and dv do not fit the registers: they are made one after the other, 8 products.
//   - exponentials are of base 2, 16 a cycle; a score is scaled within the same multiplication and subtraction.
// Layout: a block for 128 rows, a warp for 32 of them (16 where masks or dropout want registers, too: LEAN). It goes
// through the other side in tiles of 64 or 32 rows: while one is worked on the next is on its way (cp.async), which costs
// one barrier a tile. Tiles without a pair to look at are passed over: after the diagonal, other documents. Rows of a
// tile lie side by side, their chunks of 16 bytes in an order that changes from row to row, so that ldmatrix finds its
// 8 rows in 32 different banks.
// Registers (ptxas, sm_90) 224 to 255 a thread, no spills; shared memory 768 D bytes. So two blocks of 4 warps, or one of
// 8, are at work on a multiprocessor at once: 8 warps, each of which has 16 to 64 independent products under way.
// Rows are whole chunks: the launcher pads heads whose width is no multiple of 8.
// Compiled with REAL (1 or 2), D (32, 64, 96 or 128: the width of a head, rounded up), MASK and DROPOUT.
//
// Source: Dao, FlashAttention-2 (2023), algorithms 1 and 2; NVIDIA, Parallel Thread Execution ISA: ldmatrix, mma.m16n8k16.

#include "attention.cuh"

#define ROWS 128     // of a block's tile
#define N (D / 8)    // results of 8 columns in a row of an output
#define LEAN (MASK || DROPOUT)  // what must be looked at needs registers, too

#if REAL == 1
#define multiply multiply_bf16
#define pack pack_bf16
#else
#define multiply multiply_f16
#define pack pack_f16
#endif

// Where 8 numbers of a tile lie: chunks change places so that 8 rows of one column are in different banks.
__device__ int place(int row, int chunk) { return row * D + 8 * (D % 64 ? chunk ^ row / 2 % 4 : chunk ^ row % 8); }

// Begin to copy rows first ... first + R - 1 of x, d numbers each, stride numbers apart; zeros where there are none.
// AT_ONCE are under way at once: more of them take more registers.
template <int R, int THREADS, int AT_ONCE>
__device__ void fetch(real *tile, const real *x, long long stride, int first, int rows, int d)
{
#pragma unroll AT_ONCE
    for (int i = threadIdx.x; i < R * (D / 8); i += THREADS) {
        int row = i / (D / 8), chunk = i % (D / 8);
        bool there = first + row < rows && 8 * chunk < d;
        copy_16(tile + place(row, chunk), there ? x + (first + row) * stride + 8 * chunk : x, there);
    }
}

// s = 16 M rows of a, from `row` on, times 8 J rows of b, from `column` on.
template <int M, int J, int AT_ONCE>
__device__ void dots(const real *a, int row, const real *b, int column, float s[M][J][4])
{
    int lane = threadIdx.x % 32;
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int j = 0; j < J; j++)
#pragma unroll
            for (int e = 0; e < 4; e++) s[m][j][e] = 0;
#pragma unroll AT_ONCE
    for (int k = 0; k < D / 16; k++) {
        unsigned x[M][4];
#pragma unroll
        for (int m = 0; m < M; m++) load_matrices(x[m], a + place(row + 16 * m + lane % 16, 2 * k + lane / 16));
#pragma unroll
        for (int j = 0; j < J; j += 2) {
            unsigned y[4];
            load_matrices(y, b + place(column + 8 * j + lane % 8 + lane / 16 * 8, 2 * k + lane / 8 % 2));
#pragma unroll
            for (int m = 0; m < M; m++) {
                multiply(s[m][j], x[m], y[0], y[1]);
                multiply(s[m][j + 1], x[m], y[2], y[3]);
            }
        }
    }
}

// Scores as the left factor of the next product: a thread holds what it has to hold there.
template <int M, int J> __device__ void as_factor(const float s[M][J][4], unsigned p[M][J / 2][4])
{
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int j = 0; j < J; j++) {
            p[m][j / 2][j % 2 * 2] = pack(s[m][j][0], s[m][j][1]);
            p[m][j / 2][j % 2 * 2 + 1] = pack(s[m][j][2], s[m][j][3]);
        }
}

// o += p (16 M x 8 J) times 8 J rows of b, from `row` on.
template <int M, int J> __device__ void add_product(const unsigned p[M][J / 2][4], const real *b, int row,
                                                    float o[M][N][4])
{
    int lane = threadIdx.x % 32;
#pragma unroll
    for (int j = 0; j < J / 2; j++)
#pragma unroll
        for (int n = 0; n < N; n += 2) {
            unsigned y[4];
            load_transposed(y, b + place(row + 16 * j + lane % 16, n + lane / 16));
#pragma unroll
            for (int m = 0; m < M; m++) {
                multiply(o[m][n], p[m][j], y[0], y[1]);
                multiply(o[m][n + 1], p[m][j], y[2], y[3]);
            }
        }
}

// This thread's numbers of a result times a factor.
template <int M> __device__ void put(real *x, long long stride, int row, int rows, int d, const float o[M][N][4],
                                     float factor)
{
    int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int i = 0; i < 2; i++) {
            int r = row + 16 * m + 8 * i + g;
            if (r >= rows) continue;
#pragma unroll
            for (int n = 0; n < N; n++) {
                unsigned both = pack(o[m][n][2 * i] * factor, o[m][n][2 * i + 1] * factor);
                if (8 * n < d) *reinterpret_cast<unsigned *>(x + r * stride + 8 * n + 2 * t) = both;
            }
        }
}

#define M_FORWARD (D > 64 && LEAN ? 1 : 2)  // times 16 rows for a warp, here and in attention_dq
#define M_KEYS (LEAN ? 1 : 2)
#define T_FORWARD (2 * ROWS / M_FORWARD)  // threads
#define T_KEYS (2 * ROWS / M_KEYS)

extern "C" __global__ void __launch_bounds__(T_FORWARD, M_FORWARD)
attention(const real *q, const real *k, const real *v, real *y, float *lse, int T, int S, int H, int group, int d,
          long long qb, long long qh, long long qt, long long kb, long long kh, long long kt,
          long long vb, long long vh, long long vt, long long yb, long long yh, long long yt, float scale, int causal,
          const bool *seen, const real *added, long long mb, long long mh, long long mt, long long ms,
          const long long *documents, const long long *ranges, long long key, long long limit, float keep_scale)
{
    constexpr int M = M_FORWARD, THREADS = T_FORWARD, COLUMNS = 64, AT_ONCE = D > 64 ? 4 : 2;
    constexpr int J = M == 1 || (D <= 64 && MASK != 2 && !DROPOUT) ? 8 : 4;  // times 8 columns of scores at once
    extern __shared__ uint4 shared[];
    real *queries = reinterpret_cast<real *>(shared), *keys = queries + ROWS * D, *values = keys + 2 * COLUMNS * D;
    int b = blockIdx.y / H, h = blockIdx.y % H, warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    int first = (gridDim.x - 1 - blockIdx.x) * ROWS, end = causal ? min(S, first + ROWS) : S, row = 16 * M * warp;
    Sight sight(seen, added, mb, mh, mt, ms, documents, ranges, b, h, T, S, causal);
    Dropout dropout(key, limit, blockIdx.y, T, S);
    k += b * kb + h / group * kh;
    v += b * vb + h / group * vh;
    int column = sight.next(first, ROWS, 0, COLUMNS, end);
    fetch<ROWS, THREADS, AT_ONCE>(queries, q + b * qb + h * qh, qt, first, T, d);
    if (column < end) {
        fetch<COLUMNS, THREADS, AT_ONCE>(keys, k, kt, column, S, d);
        fetch<COLUMNS, THREADS, AT_ONCE>(values, v, vt, column, S, d);
    }
    float o[M][N][4] = {}, top[M][2], sum[M][2] = {};
#pragma unroll
    for (int m = 0; m < M; m++) top[m][0] = top[m][1] = -INF;
    for (int half = 0; column < end; half ^= 1) {
        wait_for_copies();
        __syncthreads();  // the tile is there for all, and nobody reads the one before any more
        int next = sight.next(first, ROWS, column + COLUMNS, COLUMNS, end);
        if (next < end) {
            fetch<COLUMNS, THREADS, AT_ONCE>(keys + (half ^ 1) * COLUMNS * D, k, kt, next, S, d);
            fetch<COLUMNS, THREADS, AT_ONCE>(values + (half ^ 1) * COLUMNS * D, v, vt, next, S, d);
        }
#pragma unroll 1
        for (int part = 0; part < COLUMNS; part += 8 * J) {
            float s[M][J][4];
            dots<M, J, 8>(queries, row, keys + half * COLUMNS * D, part, s);
            if (!sight.whole(first + row, 16 * M, column + part, 8 * J)) {
#pragma unroll
                for (int m = 0; m < M; m++)
#pragma unroll
                    for (int j = 0; j < J; j++)
#pragma unroll
                        for (int e = 0; e < 4; e++)
                            s[m][j][e] = sight.score(s[m][j][e], scale * LOG2E, first + row + 16 * m + g + e / 2 * 8,
                                                     column + part + 8 * j + 2 * t + e % 2);
            }
#pragma unroll
            for (int m = 0; m < M; m++)
#pragma unroll
                for (int i = 0; i < 2; i++) {
                    float higher = top[m][i];
#pragma unroll
                    for (int j = 0; j < J; j++) higher = fmaxf(higher, fmaxf(s[m][j][2 * i], s[m][j][2 * i + 1]));
                    higher = warp_max(higher, 4);
                    float shift = higher == -INF ? 0.0f : higher * FACTOR, shrink = exp2_fast(top[m][i] * FACTOR - shift);
                    top[m][i] = higher;
                    sum[m][i] *= shrink;
#pragma unroll
                    for (int n = 0; n < N; n++) {
                        o[m][n][2 * i] *= shrink;
                        o[m][n][2 * i + 1] *= shrink;
                    }
#pragma unroll
                    for (int j = 0; j < J; j++)
#pragma unroll
                        for (int e = 2 * i; e < 2 * i + 2; e++) {
                            s[m][j][e] = exp2_fast(s[m][j][e] * FACTOR - shift);
                            sum[m][i] += s[m][j][e];
                        }
                }
            if (DROPOUT)
#pragma unroll
                for (int m = 0; m < M; m++)
#pragma unroll
                    for (int j = 0; j < J; j++) {
                        bool kept[4];
                        dropout.keep(first + row + 16 * m, column + part + 8 * j, kept);
#pragma unroll
                        for (int e = 0; e < 4; e++) s[m][j][e] = kept[e] ? s[m][j][e] : 0.0f;
                    }
            unsigned p[M][J / 2][4];
            as_factor<M, J>(s, p);
            add_product<M, J>(p, values + half * COLUMNS * D, part, o);
        }
        column = next;
    }
    wait_for_copies();
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int i = 0; i < 2; i++) {
            float all = warp_sum(sum[m][i], 4), factor = all == 0 ? 0.0f : keep_scale / all;  // who sees nothing takes nothing
            int r = first + row + 16 * m + 8 * i + g;
#pragma unroll
            for (int n = 0; n < N; n++) {
                o[m][n][2 * i] *= factor;
                o[m][n][2 * i + 1] *= factor;
            }
            if (t == 0 && r < T)
                lse[blockIdx.y * (long long)T + r] = all == 0 ? INF : (top[m][i] * FACTOR + log2f(all)) / LOG2E;
        }
    put<M>(y + b * yb + h * yh, yt, first + row, T, d, o, 1);
}

// numbers[row] = lse of the row in base 2 and delta = sum dy y over the d numbers of the row; 8 threads a row.
extern "C" __global__ void attention_delta(const real *dy, const real *y, const float *lse, float *numbers, int T, int H,
                                           int d, long long gb, long long gh, long long gt,
                                           long long yb, long long yh, long long yt)
{
    int row = blockIdx.x * (blockDim.x / 8) + threadIdx.x / 8, b = blockIdx.y / H, h = blockIdx.y % H;
    bool there = row < T;
    dy += b * gb + h * gh + row * gt;
    y += b * yb + h * yh + row * yt;
    float dot = 0;
    for (int i = threadIdx.x % 8 * 8; there && i < d; i += 64) {
        Pack<8> p = load<8>(dy + i), o = load<8>(y + i);
#pragma unroll
        for (int e = 0; e < 8; e++) dot += p.x[e] * o.x[e];
    }
    dot = warp_sum(dot, 8);
    if (!there || threadIdx.x % 8) return;
    long long place = blockIdx.y * (long long)T + row;
    numbers[2 * place] = lse[place] * LOG2E;
    numbers[2 * place + 1] = dot;
}

extern "C" __global__ void __launch_bounds__(T_FORWARD, M_FORWARD)
attention_dq(const real *dy, const real *q, const real *k, const real *v, const float *numbers, real *dq, int T, int S,
             int H, int group, int d, long long gb, long long gh, long long gt,
             long long qb, long long qh, long long qt, long long kb, long long kh, long long kt,
             long long vb, long long vh, long long vt, long long db, long long dh, long long dt, float scale, int causal,
             const bool *seen, const real *added, long long mb, long long mh, long long mt, long long ms,
             const long long *documents, const long long *ranges, long long key, long long limit, float keep_scale)
{
    constexpr int M = M_FORWARD, THREADS = T_FORWARD, J = 4, COLUMNS = 8 * J;
    extern __shared__ uint4 shared[];
    real *queries = reinterpret_cast<real *>(shared), *towards = queries + ROWS * D, *keys = towards + ROWS * D;
    real *values = keys + 2 * COLUMNS * D;
    int b = blockIdx.y / H, h = blockIdx.y % H, warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    int first = (gridDim.x - 1 - blockIdx.x) * ROWS, end = causal ? min(S, first + ROWS) : S, row = 16 * M * warp;
    Sight sight(seen, added, mb, mh, mt, ms, documents, ranges, b, h, T, S, causal);
    Dropout dropout(key, limit, blockIdx.y, T, S);
    k += b * kb + h / group * kh;
    v += b * vb + h / group * vh;
    int column = sight.next(first, ROWS, 0, COLUMNS, end);
    fetch<ROWS, THREADS, 2>(queries, q + b * qb + h * qh, qt, first, T, d);
    fetch<ROWS, THREADS, 2>(towards, dy + b * gb + h * gh, gt, first, T, d);
    if (column < end) {
        fetch<COLUMNS, THREADS, 2>(keys, k, kt, column, S, d);
        fetch<COLUMNS, THREADS, 2>(values, v, vt, column, S, d);
    }
    float o[M][N][4] = {};
    Pack<2> number[M][2];  // of a row: its lse and its delta
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int i = 0; i < 2; i++) {
            int r = min(first + row + 16 * m + 8 * i + g, T - 1);
            number[m][i] = load<2>(numbers + 2 * (blockIdx.y * (long long)T + r));
        }
    for (int half = 0; column < end; half ^= 1) {
        wait_for_copies();
        __syncthreads();
        int next = sight.next(first, ROWS, column + COLUMNS, COLUMNS, end);
        if (next < end) {
            fetch<COLUMNS, THREADS, 2>(keys + (half ^ 1) * COLUMNS * D, k, kt, next, S, d);
            fetch<COLUMNS, THREADS, 2>(values + (half ^ 1) * COLUMNS * D, v, vt, next, S, d);
        }
        float s[M][J][4], dp[M][J][4];
        dots<M, J, 4>(queries, row, keys + half * COLUMNS * D, 0, s);
        dots<M, J, 4>(towards, row, values + half * COLUMNS * D, 0, dp);
        bool whole = sight.whole(first + row, 16 * M, column, COLUMNS);
#pragma unroll
        for (int m = 0; m < M; m++)
#pragma unroll
            for (int j = 0; j < J; j++) {
                bool kept[4];
                if (DROPOUT) dropout.keep(first + row + 16 * m, column + 8 * j, kept);
#pragma unroll
                for (int e = 0; e < 4; e++) {
                    float x = s[m][j][e];
                    if (!whole)
                        x = sight.score(x, scale * LOG2E, first + row + 16 * m + g + e / 2 * 8,
                                        column + 8 * j + 2 * t + e % 2);
                    float p = exp2_fast(x * FACTOR - number[m][e / 2].x[0]);
                    float towards_p = DROPOUT ? (kept[e] ? dp[m][j][e] * keep_scale : 0.0f) : dp[m][j][e];
                    s[m][j][e] = p * (towards_p - number[m][e / 2].x[1]);
                }
            }
        unsigned ds[M][J / 2][4];
        as_factor<M, J>(s, ds);
        add_product<M, J>(ds, keys + half * COLUMNS * D, 0, o);
        column = next;
    }
    wait_for_copies();
    put<M>(dq + b * db + h * dh, dt, first + row, T, d, o, scale);
}

// Rows are keys here and columns queries: the scores are s^T. The queries of all heads that share a head of keys pass by.
extern "C" __global__ void __launch_bounds__(T_KEYS, M_KEYS)
attention_dkv(const real *dy, const real *q, const real *k, const real *v, const float *numbers, real *dk, real *dv,
              int T, int S, int H, int group, int d, long long gb, long long gh, long long gt,
              long long qb, long long qh, long long qt, long long kb, long long kh, long long kt,
              long long vb, long long vh, long long vt, long long db, long long dh, long long dt,
              long long eb, long long eh, long long et, float scale, int causal,
              const bool *seen, const real *added, long long mb, long long mh, long long mt, long long ms,
              const long long *documents, const long long *ranges, long long key, long long limit, float keep_scale)
{
    constexpr int M = M_KEYS, THREADS = T_KEYS, J = 4, COLUMNS = 8 * J, PASSES = D > 64 ? 2 : 1;
    extern __shared__ uint4 shared[];
    real *keys = reinterpret_cast<real *>(shared), *values = keys + ROWS * D, *queries = values + ROWS * D;
    real *towards = queries + 2 * COLUMNS * D;
    float *pairs = reinterpret_cast<float *>(towards + 2 * COLUMNS * D);  // lse and delta of the queries
    int shares = H / group, b = blockIdx.y / shares, h = blockIdx.y % shares;
    int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    int first = blockIdx.x * ROWS, begin = causal ? first / COLUMNS * COLUMNS : 0, row = 16 * M * warp;
    auto sight_of = [&](int head) {
        return Sight(seen, added, mb, mh, mt, ms, documents, ranges, b, head, T, S, causal);
    };
    // From this query of this head on the next tile of which some may see one of the keys; none where head == last.
    int last = (h + 1) * group;
    auto settle = [&](int &head, int &query) {
        for (; head < last; head++, query = begin) {
            query = sight_of(head).next(first, ROWS, query, COLUMNS, T);
            if (query < T) return;
        }
    };
    auto fetch_queries = [&](int half, int head, int query) {
        fetch<COLUMNS, THREADS, 2>(queries + half * COLUMNS * D, q + b * qb + head * qh, qt, query, T, d);
        fetch<COLUMNS, THREADS, 2>(towards + half * COLUMNS * D, dy + b * gb + head * gh, gt, query, T, d);
        if (threadIdx.x < COLUMNS) {
            bool there = query + threadIdx.x < T;
            const float *from = numbers + 2 * ((b * H + head) * (long long)T + query + threadIdx.x);
            copy_8(pairs + 2 * (half * COLUMNS + threadIdx.x), there ? from : numbers, there);
        }
    };
    fetch<ROWS, THREADS, 2>(keys, k + b * kb + h * kh, kt, first, S, d);
    fetch<ROWS, THREADS, 2>(values, v + b * vb + h * vh, vt, first, S, d);
#pragma unroll
    for (int pass = 0; pass < PASSES; pass++) {
        bool with_values = PASSES == 1 || pass == 0, with_keys = PASSES == 1 || pass == 1;
        int head = h * group, query = begin;
        settle(head, query);
        __syncthreads();  // nobody reads the pass before's tiles any more
        if (head < last) fetch_queries(0, head, query);
        float o[M][N][4] = {}, u[M][N][4] = {};
        for (int half = 0; head < last; half ^= 1) {
            wait_for_copies();
            __syncthreads();
            int next_head = head, next = query + COLUMNS;
            settle(next_head, next);
            if (next_head < last) fetch_queries(half ^ 1, next_head, next);
            Sight sight = sight_of(head);
            Dropout dropout(key, limit, b * H + head, T, S);
            const real *queries_here = queries + half * COLUMNS * D, *towards_here = towards + half * COLUMNS * D;
            float s[M][J][4], dp[M][J][4];
            dots<M, J, 4>(keys, row, queries_here, 0, s);
            if (with_keys) dots<M, J, 4>(values, row, towards_here, 0, dp);
            bool whole = sight.whole(query, COLUMNS, first + row, 16 * M);
#pragma unroll
            for (int j = 0; j < J; j++) {
                Pack<4> pair = load<4>(pairs + 2 * (half * COLUMNS + 8 * j + 2 * t));
#pragma unroll
                for (int m = 0; m < M; m++) {
                    bool kept[4];
                    if (DROPOUT) dropout.keep_turned(first + row + 16 * m, query + 8 * j, kept);
#pragma unroll
                    for (int e = 0; e < 4; e++) {
                        float x = s[m][j][e];
                        if (!whole)
                            x = sight.score(x, scale * LOG2E, query + 8 * j + 2 * t + e % 2,
                                            first + row + 16 * m + g + e / 2 * 8);
                        float p = exp2_fast(x * FACTOR - pair.x[e % 2 * 2]);
                        s[m][j][e] = !DROPOUT || kept[e] ? p : 0.0f;
                        if (!with_keys) continue;
                        float towards_p = DROPOUT ? (kept[e] ? dp[m][j][e] * keep_scale : 0.0f) : dp[m][j][e];
                        dp[m][j][e] = p * (towards_p - pair.x[e % 2 * 2 + 1]);
                    }
                }
            }
            unsigned factors[M][J / 2][4];
            if (with_values) {
                as_factor<M, J>(s, factors);
                add_product<M, J>(factors, towards_here, 0, u);
            }
            if (with_keys) {
                as_factor<M, J>(dp, factors);
                add_product<M, J>(factors, queries_here, 0, o);
            }
            head = next_head;
            query = next;
        }
        wait_for_copies();
        if (with_keys) put<M>(dk + b * db + h * dh, dt, first + row, S, d, o, scale);
        if (with_values) put<M>(dv + b * eb + h * eh, et, first + row, S, d, u, keep_scale);
    }
}
