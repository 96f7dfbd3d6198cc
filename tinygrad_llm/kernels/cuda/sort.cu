// The order in which whole numbers ascend, equal ones by their places: in two launches, of sizes known beforehand.
//
//   sort_tiles  keys[k] = ids[k] n + k, unlike any other's, in order within each tile of TILE places
//   merge       order[r] = the place whose key is the r-th of all, sorted[r] = its id;
//               r = its place in its tile + in every other tile the number of smaller keys
//
// Bytes moved, n places in m tiles: 16 n, and 24 n; the searches, m log2(TILE) steps a place, read what lies in the cache.
// Layout: a block sorts a tile in shared memory, by comparing pairs further and further apart and then nearer again (a
// bitonic sort: its log2(TILE) (log2(TILE) + 1) / 2 rounds are the same for all numbers); merge has a thread a place.
// Source: Batcher, Sorting networks and their applications (1968); rank by search: Satish, Harris and Garland, Designing
// efficient sorting algorithms for manycore GPUs (2009), section 5.

#include "common.cuh"

#define LAST 0x7fffffffffffffffLL  // behind all keys: fills the last tile

// ids below 0 count from the end of `rows`; what lies outside all the same, which a check has found, becomes the nearest.
extern "C" __global__ void sort_tiles(const long long *ids, long long *keys, long long n, long long rows)
{
    __shared__ long long tile[TILE];
    long long start = (long long)blockIdx.x * TILE;
    for (int i = threadIdx.x; i < TILE; i += blockDim.x) {
        long long k = start + i, id = k < n ? ids[k] : 0;
        if (id < 0) id += rows;
        id = id < 0 ? 0 : id < rows ? id : rows - 1;
        tile[i] = k < n ? id * n + k : LAST;
    }
    __syncthreads();
    for (int size = 2; size <= TILE; size *= 2) {
        for (int apart = size / 2; apart > 0; apart /= 2) {
            for (int pair = threadIdx.x; pair < TILE / 2; pair += blockDim.x) {
                int i = 2 * pair - (pair & (apart - 1)), j = i + apart;
                long long a = tile[i], b = tile[j];
                if ((a > b) == ((i & size) == 0)) tile[i] = b, tile[j] = a;
            }
            __syncthreads();
        }
    }
    for (int i = threadIdx.x; i < TILE; i += blockDim.x) keys[start + i] = tile[i];
}

extern "C" __global__ void merge(const long long *keys, long long *sorted, long long *order, long long n, int tiles)
{
    long long k = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    if (k >= (long long)tiles * TILE || keys[k] == LAST) return;
    long long key = keys[k], rank = k % TILE;
    for (int t = 0; t < tiles; t++) {
        if (t == k / TILE) continue;
        const long long *tile = keys + (long long)t * TILE;
        int below = 0;  // keys of the tile that are known to be smaller
        for (int step = TILE / 2; step > 0; step /= 2)
            if (tile[below + step - 1] < key) below += step;
        rank += below + (tile[below] < key);
    }
    sorted[rank] = key / n;
    order[rank] = key % n;
}
