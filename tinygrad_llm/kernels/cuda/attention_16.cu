// Attention forward in 16 bits on the tensor cores: see attention_16.cuh.
//
//   y = softmax(scale q k^T + mask) v,  lse = ln sum exp of the scores, one number a query

#include "attention_16.cuh"

#if !HOPPER
#define COLUMNS 64
#endif

extern "C" __global__ void __launch_bounds__(T_ROWS, B_ROWS)
attention(const real *q, const real *k, const real *v, real *y, float *lse, int T, int S, int H, int group, int d,
          long long qb, long long qh, long long qt, long long kb, long long kh, long long kt,
          long long vb, long long vh, long long vt, long long yb, long long yh, long long yt, float scale, int causal,
          const bool *seen, const real *added, long long mb, long long mh, long long mt, long long ms,
          const long long *documents, const long long *ranges, long long key, const long long *drawn,
          long long limit, float keep_scale)
{
    constexpr int M = M_ROWS, THREADS = T_ROWS;
    constexpr int J = M == 1 || (D <= 64 && MASK != 2 && !DROPOUT) ? COLUMNS / 8 : 4;  // times 8 columns of scores at once
    extern __shared__ Piece shared[];
    real *queries = reinterpret_cast<real *>(shared), *keys = queries + ROWS * D, *values = keys + 2 * COLUMNS * D;
    int b = blockIdx.y / H, h = blockIdx.y % H, warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    int first = (gridDim.x - 1 - blockIdx.x) * ROWS, end = causal ? min(S, first + ROWS) : S, row = 16 * M * warp;
    Sight sight(seen, added, mb, mh, mt, ms, documents, ranges, b, h, T, S, causal);
    Dropout dropout(drawn ? *drawn : key, limit, blockIdx.y, T, S);
    k += b * kb + h / group * kh;
    v += b * vb + h / group * vh;
    int column = sight.next(first, ROWS, 0, COLUMNS, end);
    fetch<ROWS, THREADS>(queries, q + b * qb + h * qh, qt, first, T, d);
    if (column < end) {
        fetch<COLUMNS, THREADS>(keys, k, kt, column, S, d);
        fetch<COLUMNS, THREADS>(values, v, vt, column, S, d);
    }
    float o[M][N][4] = {}, top[M][2], sum[M][2] = {};
#pragma unroll
    for (int m = 0; m < M; m++) top[m][0] = top[m][1] = -INF;
    for (int half = 0, next; column < end; half ^= 1, column = next) {
        wait_for_copies();
        show_to_products();
        __syncthreads();  // the tile is there for all, and nobody reads the one before any more
        next = sight.next(first, ROWS, column + COLUMNS, COLUMNS, end);
        if (next < end) {
            fetch<COLUMNS, THREADS>(keys + (half ^ 1) * COLUMNS * D, k, kt, next, S, d);
            fetch<COLUMNS, THREADS>(values + (half ^ 1) * COLUMNS * D, v, vt, next, S, d);
        }
#pragma unroll 1
        for (int part = 0; part < COLUMNS; part += 8 * J) {
            if (sight.hides(first + row / SIDE_BY_SIDE * SIDE_BY_SIDE, SIDE_BY_SIDE, column + part)) break;
            float s[M][J][4];
            dots<M, J, 8, ROWS, COLUMNS>(queries, row, keys + half * COLUMNS * D, part, s);
            wait_for<0, M, J>(s);
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
                    float shift = higher == -INF ? 0.0f : higher * FACTOR;
                    float shrink = exp2_fast(top[m][i] * FACTOR - shift);
                    top[m][i] = higher;
                    sum[m][i] *= shrink;
                    if (__any_sync(~0u, shrink != 1))  // the greatest score of a row is mostly among its first
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
            add_product<M, J, COLUMNS>(p, values + half * COLUMNS * D, part, o);
            wait_for<0, M, N>(o);
        }
    }
    wait_for_copies();
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int i = 0; i < 2; i++) {
            float all = warp_sum(sum[m][i], 4);
            float factor = all == 0 ? 0.0f : keep_scale / all;  // who sees nothing takes nothing
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
