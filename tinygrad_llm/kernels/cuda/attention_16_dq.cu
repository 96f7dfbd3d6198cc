// Attention backward in 16 bits on the tensor cores, towards the queries: see attention_16.cuh.
//
//   p = exp(scale q k^T + mask - lse),  delta = sum dy y,  ds = p (dy v^T - delta),  dq = scale ds k
//
// With dropout dy v^T in ds is of what it keeps.

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
