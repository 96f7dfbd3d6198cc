// Whether numbers that pick places lie in range, told to main memory where nobody has to wait for it.
//
//   check_index  the first of ids outside [low, high), and not `allowed`, is written to report: which check, id, low, high
//
// Bytes moved, n numbers: 8 n.
// Layout: a thread a number. Who finds report[0] 0 puts its check there, and alone writes the rest. report is the address
// of pinned main memory, which the GPU writes to through the bus, and only where something is wrong.

#include "common.cuh"

extern "C" __global__ void check_index(const long long *ids, long long n, long long low, long long high,
                                       long long allowed, long long check, long long report)
{
    long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    if (i >= n || (ids[i] >= low && ids[i] < high) || ids[i] == allowed) return;
    unsigned long long *found = reinterpret_cast<unsigned long long *>(report);
    if (atomicCAS(found, 0ull, (unsigned long long)check)) return;
    found[1] = ids[i];
    found[2] = low;
    found[3] = high;
}
