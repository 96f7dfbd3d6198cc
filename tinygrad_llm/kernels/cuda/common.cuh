// What the kernels share. Every file begins with it; the launchers put its text in place of the #include.
//
// VEC, where a file uses it: floats that a thread loads at once, 4 (16 bytes) where all rows start at a multiple of 16
// bytes, else 1.

#define INF __int_as_float(0x7f800000)

template <int n> struct alignas(4 * n) Pack { float x[n]; };

template <int n> __device__ Pack<n> load(const float *from) { return *reinterpret_cast<const Pack<n> *>(from); }

template <int n> __device__ void store(float *to, const Pack<n> &p) { *reinterpret_cast<Pack<n> *>(to) = p; }

// The sum over the 32 threads of a warp, or over groups of so many, in each of them.
__device__ float warp_sum(float x, int threads = 32)
{
    for (int i = threads / 2; i > 0; i /= 2) x += __shfl_xor_sync(0xffffffff, x, i);
    return x;
}

__device__ float warp_max(float x, int threads = 32)
{
    for (int i = threads / 2; i > 0; i /= 2) x = fmaxf(x, __shfl_xor_sync(0xffffffff, x, i));
    return x;
}

// The sum over a block of whole warps, in each thread, always in the same order. `room` holds 32 floats.
__device__ float block_sum(float x, float *room)
{
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
    x = warp_sum(x);
    if (warps == 1) return x;
    __syncthreads();  // room may still be read for the sum before
    if (lane == 0) room[warp] = x;
    __syncthreads();
    return warp_sum(lane < warps ? room[lane] : 0.0f);
}

// Two sums at once, which wait for each other only once.
__device__ void block_sums(float &x, float &y, float room[2][32])
{
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
    x = warp_sum(x);
    y = warp_sum(y);
    if (warps == 1) return;
    __syncthreads();
    if (lane == 0) {
        room[0][warp] = x;
        room[1][warp] = y;
    }
    __syncthreads();
    x = warp_sum(lane < warps ? room[0][lane] : 0.0f);
    y = warp_sum(lane < warps ? room[1][lane] : 0.0f);
}

__device__ float block_max(float x, float *room)
{
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
    x = warp_max(x);
    if (warps == 1) return x;
    __syncthreads();
    if (lane == 0) room[warp] = x;
    __syncthreads();
    return warp_max(lane < warps ? room[lane] : -INF);
}
