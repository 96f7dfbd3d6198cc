// Tiles of 16 bits in shared memory, and their products by mma.sync, which every GPU from sm_80 on has: a warp for 16 M
// rows, factors brought from shared memory by ldmatrix. tiles_90.cuh has the same functions for a Hopper.
//
// Here a product is there when its function returns: nobody waits for it.

#if REAL == 1
#define multiply multiply_bf16
#else
#define multiply multiply_f16
#endif

#define SIDE_BY_SIDE (16 * M)  // rows of a tile that are worked on together

// Where 8 numbers of a tile of R rows lie: chunks change places so that 8 rows of one column are in different banks.
template <int R> __device__ int place(int row, int chunk)
{
    return row * D + 8 * (D % 64 ? chunk ^ row / 2 % 4 : chunk ^ row % 8);
}

__device__ void show_to_products() {}
template <int under_way, int M, int J> __device__ void wait_for(float s[M][J][4]) {}

// s = 16 M rows of a, from `row` on, times 8 J rows of b, from `column` on.
template <int M, int J, int AT_ONCE, int ROWS_A, int ROWS_B>
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
        for (int m = 0; m < M; m++) load_matrices(x[m], a + place<ROWS_A>(row + 16 * m + lane % 16, 2 * k + lane / 16));
#pragma unroll
        for (int j = 0; j < J; j += 2) {
            unsigned y[4];
            load_matrices(y, b + place<ROWS_B>(column + 8 * j + lane % 8 + lane / 16 * 8, 2 * k + lane / 8 % 2));
#pragma unroll
            for (int m = 0; m < M; m++) {
                multiply(s[m][j], x[m], y[0], y[1]);
                multiply(s[m][j + 1], x[m], y[2], y[3]);
            }
        }
    }
}

// o += p (16 M x 8 J) times 8 J rows of b, from `row` on.
template <int M, int J, int ROWS_B> __device__ void add_product(const unsigned p[M][J / 2][4], const real *b, int row,
                                                    float o[M][N][4])
{
    int lane = threadIdx.x % 32;
#pragma unroll
    for (int j = 0; j < J / 2; j++)
#pragma unroll
        for (int n = 0; n < N; n += 2) {
            unsigned y[4];
            load_transposed(y, b + place<ROWS_B>(row + 16 * j + lane % 16, n + lane / 16));
#pragma unroll
            for (int m = 0; m < M; m++) {
                multiply(o[m][n], p[m][j], y[0], y[1]);
                multiply(o[m][n + 1], p[m][j], y[2], y[3]);
            }
        }
}
