// The gradient of looking up rows of a table.
//
//   add_runs  table[ids[k]] += values[order[k]] for every k; ids are sorted, so that equal ones form a run
//
// Bytes moved, n rows of c floats: 4 n c in, and 8 c for each different id (its row in and out).
// Layout: a thread per place k and column; the thread at the first place of a run adds the whole run, in order, so that
// no two threads write to one element and the sum is the same every time.

#include "common.cuh"

extern "C" __global__ void add_runs(float *table, const long long *ids, const long long *order, const float *values,
                                    long long n, int c)
{
    long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x, k = i / c;
    int column = i % c;
    if (k >= n) return;
    long long id = ids[k];
    if (k > 0 && ids[k - 1] == id) return;
    float sum = table[id * c + column];
#pragma unroll 4
    for (; k < n && ids[k] == id; k++) sum += values[order[k] * c + column];
    table[id * c + column] = sum;
}
