// The gradient of looking up rows of a table.
//
//   add_runs  table[ids[k]] += values[order[k]] for every k; ids are sorted, so that equal ones form a run
//
// Bytes moved, n rows of c numbers of s bytes: s n c in, and for each different id its row of the table in and out. The
// values are `real`, the table `param`: gradients of 16 bits are added up in float, and rounded once where the table is not.
// Layout: a thread per place k and column; the thread at the first place of a run adds the whole run, in order, so that
// no two threads write to one element and the sum is the same every time.

#include "common.cuh"

extern "C" __global__ void add_runs(param *table, const long long *ids, const long long *order, const real *values,
                                    long long n, int c)
{
    long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x, k = i / c;
    int column = i % c;
    if (k >= n) return;
    long long id = ids[k];
    if (k > 0 && ids[k - 1] == id) return;
    float sum = number(table[id * c + column]);
#pragma unroll 4
    for (; k < n && ids[k] == id; k++) sum += number(values[order[k] * c + column]);
    put(table + id * c + column, sum);
}
