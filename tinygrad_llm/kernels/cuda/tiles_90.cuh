// Tiles of 16 bits in shared memory, and their products by wgmma, which only a Hopper has: four warps for 64 rows, 16 of
// them each (M = 1), factors read where they lie. tiles_16.cuh has the same functions for every GPU.
//
// Here a product is begun when its function returns; wait_for<n>(s) waits for s, while n products begun after it go on.
//
// A tile in shared memory is made of atoms: 8 rows of 64 numbers, 1024 bytes that begin at a multiple of as many, whose
// chunks of 16 bytes lie in an order that changes from row to row (chunk c of row r at c ^ r), so that 8 rows of one
// chunk are in different banks. Rows follow each other atom by atom; columns from 64 on are a tile of their own behind it.
//
// Source: NVIDIA, Parallel Thread Execution ISA: wgmma's matrix descriptor, strides, canonical layouts.

#include "wgmma.cuh"

struct alignas(1024) Atom { unsigned short x[8][64]; };

// A factor as the instruction takes it: where it begins, how far its next 64 columns are (where rows are summed over and
// there are more than 64 columns), how far its next 8 rows are, and the order of chunks.
__device__ unsigned long long factor_at(const void *tile, int next_columns)
{
    // The same in every thread; told so, the compiler keeps it where the instruction wants it.
    unsigned place = __shfl_sync(~0u, (unsigned)__cvta_generic_to_shared(tile), 0);
    return (unsigned long long)(1u << 30 | sizeof(Atom) / 16) << 32 | next_columns / 16 << 16 | (place & 0x3ffff) / 16;
}

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
