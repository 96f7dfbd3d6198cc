// Tiles of 16 bits in shared memory, and their products by wgmma, which only a Hopper has: four warps for 64 rows, 16 of
// them each (M = 1), factors read where they lie. tiles_16.cuh has the same functions for every GPU.
//
// Here a product is begun when its function returns; wait_for<n>(s) waits for s, while n products begun after it go on.

#include "wgmma.cuh"

#define SIDE_BY_SIDE 64  // rows of a tile that are worked on together

// Where 8 numbers of a tile of R rows lie: atom by atom, columns from 64 on behind all rows of those before.
template <int R> __device__ int place(int row, int chunk)
{
    return chunk / 8 * R * 64 + row * 64 + 8 * (chunk % 8 ^ row % 8);
}

template <int under_way, int M, int J> __device__ void wait_for(float s[M][J][4])
{
    wait_for_products<under_way>();
    done<J>(s[0]);
}

// s = 64 rows of a, those about `row`, times 8 J rows of b, from `column` on.
template <int M, int J, int AT_ONCE, int ROWS_A, int ROWS_B>
__device__ void dots(const real *a, int row, const real *b, int column, float s[M][J][4])
{
    unsigned long long x = factor_at(a + row / 64 * 64 * 64, 0), y = factor_at(b + column * 64, 0);
    begin_products();
#pragma unroll
    for (int k = 0; k < D / 16; k++)  // in sixteenths of an atom's bytes
        multiply_rows<J>(s[0], x + (k / 4 * ROWS_A * 128 + k % 4 * 32) / 16, y + (k / 4 * ROWS_B * 128 + k % 4 * 32) / 16, k);
    end_products();
}

// o += p (64 x 8 J) times 8 J rows of b, from `row` on.
template <int M, int J, int ROWS_B> __device__ void add_product(const unsigned p[M][J / 2][4], const real *b, int row,
                                                                float o[M][N][4])
{
    unsigned long long y = factor_at(b + row * 64, ROWS_B * 128);
    done<N>(o[0]);
    begin_products();
#pragma unroll
    for (int j = 0; j < J / 2; j++) multiply_columns<N>(o[0], p[0][j], y + 2 * (int)sizeof(Atom) / 16 * j);
    end_products();
}
