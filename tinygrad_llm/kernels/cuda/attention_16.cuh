// Attention in 16 bits (bfloat16 or float16) on the tensor cores, sums and softmax in float32: how attention_16.cu,
// attention_16_dq.cu and attention_16_dkv.cu work, and the pieces that all are made of.
//
// The formulas are those of attention.cu, what a query sees and what dropout keeps those of attention.cuh.
//
// Bytes moved: q, k, v in and y out, 8 B H T D forward; backward reads these and dy twice and writes dq, dk, dv. Against
// 4 B H T S D operations forward that is S / 2 operations a byte, far above what memory asks for (an H100: 300), and keys
// and values, which each block of 128 queries reads again, come from the level-2 cache with 128 operations a byte.
// So the tensor cores are the limit, and what feeds them:
//   - By mma.sync (tiles_16.cuh), from sm_80 on: shared memory gives 128 bytes a cycle. A product of 16 x 8 x 16 takes 1.5
//     cycles of an H100 (2 of an A100) and wants 256 bytes of its right factor. So a warp has M = 2 times 16 rows, which
//     share what is read: 128 bytes a product and, with the left factor, 160 (forward) to 210 (backward).
//   - By wgmma (HOPPER, tiles_90.cuh): products of 64 x 64 x 16 or 64 x 128 x 16 take 32 or 64 cycles and read 4 or 6 KiB,
//     2 less where the left factor is in registers. They go on by themselves, so that a warpgroup takes exponentials while
//     another one's products, or in backward its own next ones, are computed.
//   - probabilities stay in registers: a thread holds of a product what it has to hold of the next one's left factor.
//     Backward computes the scores twice, once for dq (rows are queries) and once for dk and dv (rows are keys), so that
//     each gradient has one writer and no order changes a bit: 7 products where 5 are needed. Where results for dk and dv
//     do not both fit the registers they are made one after the other, 8 products.
//   - exponentials are of base 2, 16 a cycle; a score is scaled within the same multiplication and subtraction. Where
//     heads are 64 wide a Hopper takes as long for them as for the forward products. Sums are scaled down only where a
//     row has found a greater score, which is seldom after the first tiles.
//   - a thread gives 4 to 5 instructions a score beside the products; so it counts what else it does for a tile: to copy
//     16 bytes takes 5 instructions.
// Layout: a block for ROWS rows, a warp for 32 of them (16 where masks or dropout want registers, too: LEAN; a Hopper's
// warps 16). It goes through the other side in tiles of COLUMNS rows: while one is worked on the next is on its way
// (cp.async), which costs one barrier a tile. Tiles without a pair to look at are passed over: after the diagonal, other
// documents. Rows of a tile lie side by side, their chunks of 16 bytes in an order that changes from row to row, so that 8
// rows of a chunk are in 32 different banks.
// Registers (ptxas, sm_90) 168 to 255 a thread, no spills; shared memory 768 D bytes. So two blocks of 4 warps, or one of
// 8, are at work on a multiprocessor at once: 8 warps, each of which has 16 to 64 independent products under way. On a
// Hopper 8 to 16 warps with 117 to 255 registers: heads_16.py has the tiles.
// Rows are whole chunks: the launcher pads heads whose width is no multiple of 8.
// Compiled with REAL (1 or 2), D (32, 64, 96 or 128: the width of a head, rounded up), MASK and DROPOUT; HOPPER where its
// products are to be used, with ROWS, COLUMNS and BLOCKS.
//
// Source: Dao, FlashAttention-2 (2023), algorithms 1 and 2; Shah et al., FlashAttention-3 (2024), section 3; NVIDIA,
// Parallel Thread Execution ISA: ldmatrix, mma.m16n8k16, wgmma.

#include "attention.cuh"

#ifndef HOPPER
#define HOPPER 0
#endif
#define N (D / 8)    // results of 8 columns in a row of an output
#define LEAN (MASK || DROPOUT)  // what must be looked at needs registers, too
#if HOPPER                      // the launcher tells ROWS and COLUMNS of tiles, and BLOCKS at once on a multiprocessor
#define M_ROWS 1
#define M_KEYS 1
#define B_ROWS BLOCKS
#define B_KEYS BLOCKS
#define PASSES (D > 64 && LEAN ? 2 : 1)
#define APART 1
#else
#define ROWS 128                         // of a block's tile
#define M_ROWS (D > 64 && LEAN ? 1 : 2)  // times 16 queries for a warp
#define M_KEYS (LEAN ? 1 : 2)            // times 16 keys, where the rows are these
#define B_ROWS M_ROWS
#define B_KEYS M_KEYS
#define PASSES (D > 64 ? 2 : 1)
#define APART (D <= 64)
#endif
// PASSES over the queries: dv, then dk, where both do not fit the registers. APART: all weights first, then the gradients
// of all scores; else one by one. B_: blocks at once on a multiprocessor, at least. T_: threads.
#define T_ROWS (2 * ROWS / M_ROWS)
#define T_KEYS (2 * ROWS / M_KEYS)

#if REAL == 1
#define pack pack_bf16
#else
#define pack pack_f16
#endif

#if HOPPER
#include "tiles_90.cuh"
typedef Atom Piece;  // what shared memory is made of
#else
#include "tiles_16.cuh"
typedef uint4 Piece;
#endif

// Begin to copy rows first ... first + R - 1 of x, d numbers each, stride numbers apart; zeros where there are none.
// A thread keeps to one chunk of the rows, so that from one copy to the next only the row's place is counted on.
template <int R, int THREADS>
__device__ void fetch(real *tile, const real *x, long long stride, int first, int rows, int d)
{
    constexpr int CHUNKS = D > 64 ? 16 : D / 8, STEP = THREADS / CHUNKS;  // rows at once
    int chunk = threadIdx.x % CHUNKS, row = threadIdx.x / CHUNKS;
    if (D % 64 && chunk >= D / 8) return;
    const real *from = x + (long long)(first + row) * stride + 8 * chunk;
    int there = 8 * chunk < d ? rows - first - row : 0;  // so many rows from this thread's first on
#pragma unroll
    for (int r = 0; r < R; r += STEP) {
        if (R % STEP && row + r >= R) break;
        copy_16(tile + place<R>(row + r, chunk), from + r * stride, r < there);
    }
}

// f of each 16 x 8 scores that a warp has.
template <int M, int J, typename F> __device__ void each(F f)
{
#pragma unroll
    for (int j = 0; j < J; j++)
#pragma unroll
        for (int m = 0; m < M; m++) f(m, j);
}

// Scores as the left factor of the next product: a thread holds what it has to hold there. CUT: 0 for negative ones.
template <int M, int J, bool CUT = false> __device__ void as_factor(const float s[M][J][4], unsigned p[M][J / 2][4])
{
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int j = 0; j < J; j++)
#pragma unroll
            for (int i = 0; i < 2; i++) {
                float x = s[m][j][2 * i], y = s[m][j][2 * i + 1];
                p[m][j / 2][j % 2 * 2 + i] = CUT ? pack(x < 0 ? 0 : x, y < 0 ? 0 : y) : pack(x, y);
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
