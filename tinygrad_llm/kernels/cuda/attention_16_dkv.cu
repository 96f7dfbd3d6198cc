// Attention backward in 16 bits on the tensor cores, towards keys and values: see attention_16.cuh.
//
//   p and ds as in attention_16_dq.cu, numbers from there;  dv = p^T dy,  dk = scale ds^T q
//
// With dropout p in dv and dy v^T in ds are of what it keeps.

#include "attention_16.cuh"

#if !HOPPER
#define COLUMNS 32
#endif

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
