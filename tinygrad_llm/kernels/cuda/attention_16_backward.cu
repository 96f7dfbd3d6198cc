// Attention backward in 16 bits on the tensor cores: see attention_16.cuh.
//
//   p = exp(scale q k^T + mask - lse),  delta = sum dy y,  ds = p (dy v^T - delta)
//   dv = p^T dy,  dk = scale ds^T q,  dq = scale ds k;  with dropout p in dv and dy v^T in ds are of what it keeps

#include "attention_16.cuh"

#if !HOPPER
#define COLUMNS 32
#endif

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

extern "C" __global__ void __launch_bounds__(T_ROWS, B_ROWS)
attention_dq(const real *dy, const real *q, const real *k, const real *v, const float *numbers, real *dq, int T, int S,
             int H, int group, int d, long long gb, long long gh, long long gt,
             long long qb, long long qh, long long qt, long long kb, long long kh, long long kt,
             long long vb, long long vh, long long vt, long long db, long long dh, long long dt, float scale, int causal,
             const bool *seen, const real *added, long long mb, long long mh, long long mt, long long ms,
             const long long *documents, const long long *ranges, long long key, const long long *drawn,
             long long limit, float keep_scale)
{
    constexpr int M = M_ROWS, THREADS = T_ROWS, J = COLUMNS / 8;
    extern __shared__ Piece shared[];
    real *queries = reinterpret_cast<real *>(shared), *towards = queries + ROWS * D, *keys = towards + ROWS * D;
    real *values = keys + 2 * COLUMNS * D;
    int b = blockIdx.y / H, h = blockIdx.y % H, warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    int first = (gridDim.x - 1 - blockIdx.x) * ROWS, end = causal ? min(S, first + ROWS) : S, row = 16 * M * warp;
    Sight sight(seen, added, mb, mh, mt, ms, documents, ranges, b, h, T, S, causal);
    Dropout dropout(drawn ? *drawn : key, limit, blockIdx.y, T, S);
    k += b * kb + h / group * kh;
    v += b * vb + h / group * vh;
    int column = sight.next(first, ROWS, 0, COLUMNS, end);
    fetch<ROWS, THREADS>(queries, q + b * qb + h * qh, qt, first, T, d);
    fetch<ROWS, THREADS>(towards, dy + b * gb + h * gh, gt, first, T, d);
    if (column < end) {
        fetch<COLUMNS, THREADS>(keys, k, kt, column, S, d);
        fetch<COLUMNS, THREADS>(values, v, vt, column, S, d);
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
    for (int half = 0, next; column < end; half ^= 1, column = next) {
        wait_for_copies();
        show_to_products();
        __syncthreads();
        next = sight.next(first, ROWS, column + COLUMNS, COLUMNS, end);
        if (next < end) {
            fetch<COLUMNS, THREADS>(keys + (half ^ 1) * COLUMNS * D, k, kt, next, S, d);
            fetch<COLUMNS, THREADS>(values + (half ^ 1) * COLUMNS * D, v, vt, next, S, d);
        }
        if (sight.hides(first + row / SIDE_BY_SIDE * SIDE_BY_SIDE, SIDE_BY_SIDE, column)) continue;
        float s[M][J][4], dp[M][J][4];
        dots<M, J, 4, ROWS, COLUMNS>(queries, row, keys + half * COLUMNS * D, 0, s);
        dots<M, J, 4, ROWS, COLUMNS>(towards, row, values + half * COLUMNS * D, 0, dp);
        bool whole = sight.whole(first + row, 16 * M, column, COLUMNS);
        auto weigh = [&](int m, int j) {
#pragma unroll
            for (int e = 0; e < 4; e++) {
                if (!whole)
                    s[m][j][e] = sight.score(s[m][j][e], scale * LOG2E, first + row + 16 * m + g + e / 2 * 8,
                                             column + 8 * j + 2 * t + e % 2);
                s[m][j][e] = exp2_fast(s[m][j][e] * FACTOR - number[m][e / 2].x[0]);
            }
        };
        auto slope = [&](int m, int j) {
            bool kept[4];
            if (DROPOUT) dropout.keep(first + row + 16 * m, column + 8 * j, kept);
#pragma unroll
            for (int e = 0; e < 4; e++) {
                float towards_p = DROPOUT ? (kept[e] ? dp[m][j][e] * keep_scale : 0.0f) : dp[m][j][e];
                s[m][j][e] *= towards_p - number[m][e / 2].x[1];
            }
        };
        wait_for<1, M, J>(s);
        each<M, J>([&](int m, int j) {
            weigh(m, j);
            if (!APART) slope(m, j);
        });
        wait_for<0, M, J>(dp);
        if (APART) each<M, J>(slope);
        unsigned ds[M][J / 2][4];
        as_factor<M, J>(s, ds);
        add_product<M, J, COLUMNS>(ds, keys + half * COLUMNS * D, 0, o);
        wait_for<0, M, N>(o);
    }
    wait_for_copies();
    put<M>(dq + b * db + h * dh, dt, first + row, T, d, o, scale);
}

// Rows are keys here and columns queries: the scores are s^T. The queries of all heads that share a head of keys pass by.
extern "C" __global__ void __launch_bounds__(T_KEYS, B_KEYS)
attention_dkv(const real *dy, const real *q, const real *k, const real *v, const float *numbers, real *dk, real *dv,
              int T, int S, int H, int group, int d, long long gb, long long gh, long long gt,
              long long qb, long long qh, long long qt, long long kb, long long kh, long long kt,
              long long vb, long long vh, long long vt, long long db, long long dh, long long dt,
              long long eb, long long eh, long long et, float scale, int causal,
              const bool *seen, const real *added, long long mb, long long mh, long long mt, long long ms,
              const long long *documents, const long long *ranges, long long key, const long long *drawn,
              long long limit, float keep_scale)
{
    constexpr int M = M_KEYS, THREADS = T_KEYS, J = COLUMNS / 8;
    extern __shared__ Piece shared[];
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
        fetch<COLUMNS, THREADS>(queries + half * COLUMNS * D, q + b * qb + head * qh, qt, query, T, d);
        fetch<COLUMNS, THREADS>(towards + half * COLUMNS * D, dy + b * gb + head * gh, gt, query, T, d);
        if (threadIdx.x < COLUMNS) {
            bool there = query + threadIdx.x < T;
            const float *from = numbers + 2 * ((b * H + head) * (long long)T + query + threadIdx.x);
            copy_8(pairs + 2 * (half * COLUMNS + threadIdx.x), there ? from : numbers, there);
        }
    };
    fetch<ROWS, THREADS>(keys, k + b * kb + h * kh, kt, first, S, d);
    fetch<ROWS, THREADS>(values, v + b * vb + h * vh, vt, first, S, d);
#pragma unroll
    for (int pass = 0; pass < PASSES; pass++) {
        bool with_values = PASSES == 1 || pass == 0, with_keys = PASSES == 1 || pass == 1;
        int head = h * group, query = begin;
        settle(head, query);
        __syncthreads();  // nobody reads the pass before's tiles any more
        if (head < last) fetch_queries(0, head, query);
        float o[M][N][4] = {}, u[M][N][4] = {};
        for (int half = 0, next_head, next; head < last; half ^= 1, head = next_head, query = next) {
            wait_for_copies();
            show_to_products();
            __syncthreads();
            next_head = head;
            next = query + COLUMNS;
            settle(next_head, next);
            if (next_head < last) fetch_queries(half ^ 1, next_head, next);
            Sight sight = sight_of(head);
            if (PASSES == 1 && sight.hides(query, COLUMNS, first + row / SIDE_BY_SIDE * SIDE_BY_SIDE)) continue;
            Dropout dropout(drawn ? *drawn : key, limit, b * H + head, T, S);
            const real *queries_here = queries + half * COLUMNS * D, *towards_here = towards + half * COLUMNS * D;
            const float *pairs_here = pairs + 2 * half * COLUMNS + 4 * t;
            bool whole = sight.whole(query, COLUMNS, first + row, 16 * M);
            float s[M][J][4], dp[M][J][4];
            unsigned p[M][J / 2][4], ds[M][J / 2][4];
            dots<M, J, 4, ROWS, COLUMNS>(keys, row, queries_here, 0, s);
            if (with_keys) dots<M, J, 4, ROWS, COLUMNS>(values, row, towards_here, 0, dp);
            auto weigh = [&](int m, int j) {
                Pack<4> pair = load<4>(pairs_here + 16 * j);
                bool kept[4];
                if (DROPOUT) dropout.keep_turned(first + row + 16 * m, query + 8 * j, kept);
#pragma unroll
                for (int e = 0; e < 4; e++) {
                    float x = s[m][j][e];
                    if (!whole)
                        x = sight.score(x, scale * LOG2E, query + 8 * j + 2 * t + e % 2,
                                        first + row + 16 * m + g + e / 2 * 8);
                    x = exp2_fast(x * FACTOR - pair.x[e % 2 * 2]);
                    s[m][j][e] = !DROPOUT || kept[e] ? x : -x;  // a sign says what is dropped
                }
            };
            auto slope = [&](int m, int j) {
                Pack<4> pair = load<4>(pairs_here + 16 * j);
#pragma unroll
                for (int e = 0; e < 4; e++) {
                    float x = dp[m][j][e];
                    if (DROPOUT) x = s[m][j][e] > 0 ? x * keep_scale : 0.0f;
                    dp[m][j][e] = fabsf(s[m][j][e]) * (x - pair.x[e % 2 * 2 + 1]);
                }
            };
            wait_for<PASSES == 1, M, J>(s);
            each<M, J>([&](int m, int j) {
                weigh(m, j);
                if (!APART && with_keys) slope(m, j);
            });
            if (with_values) {
                as_factor<M, J, DROPOUT>(s, p);
                add_product<M, J, COLUMNS>(p, towards_here, 0, u);
            }
            if (with_keys) {
                wait_for<PASSES == 1, M, J>(dp);
                if (APART) each<M, J>(slope);
                as_factor<M, J>(dp, ds);
                add_product<M, J, COLUMNS>(ds, queries_here, 0, o);
            }
            wait_for<0, M, N>(u);
            wait_for<0, M, N>(o);
        }
        wait_for_copies();
        if (with_keys) put<M>(dk + b * db + h * dh, dt, first + row, S, d, o, scale);
        if (with_values) put<M>(dv + b * eb + h * eh, et, first + row, S, d, u, keep_scale);
    }
}
