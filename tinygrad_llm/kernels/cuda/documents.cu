// The lowest and the highest number of every 64 positions' documents, by which attention passes tiles over that have
// none in common: documents (B, T) -> ranges (B, ceil(T / 64), 2).
//
// Bytes moved: 8 B T. Layout: a warp for 64 positions.

#include "common.cuh"

extern "C" __global__ void document_ranges(const long long *documents, long long *ranges, int T, int count)
{
    int piece = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (piece >= count) return;
    documents += blockIdx.y * (long long)T;
    long long low = documents[min(64 * piece + lane, T - 1)], high = low;
    long long other = documents[min(64 * piece + 32 + lane, T - 1)];
    low = min(low, other);
    high = max(high, other);
    for (int i = 16; i > 0; i /= 2) {
        low = min(low, __shfl_xor_sync(0xffffffff, low, i));
        high = max(high, __shfl_xor_sync(0xffffffff, high, i));
    }
    if (lane) return;
    ranges += 2 * (blockIdx.y * (long long)count + piece);
    ranges[0] = low;
    ranges[1] = high;
}
