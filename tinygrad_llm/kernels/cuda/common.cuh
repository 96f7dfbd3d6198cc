// What the kernels share. Every file begins with it; the launchers put its text in place of the #include.
//
// VEC, where a file uses it: numbers that a thread loads at once, 16 bytes of them where all rows start at a multiple of
// 16 bytes, else 1. REAL, where a file uses it: the type `real` of the numbers in memory, 0 float, 1 bfloat16, 2 float16.
// PARAM: the type `param` of what goes with them, a layer's weight and bias, float or as `real`. TRUNK: the type `trunk` of
// the shortcut that blocks add their parts to, float or as `real`.
// What is computed is float; numbers of 16 bits are rounded when they are stored.

#include "ptx.cuh"

#define INF __int_as_float(0x7f800000)

// e^x, whose relative error is that of float's last places times 1 + |x|; two instructions, where expf is eight.
__device__ float exp_fast(float x) { return exp2_fast(1.4426950408889634f * x); }

struct bf16 { unsigned short bits; };
struct f16 { unsigned short bits; };

__device__ float number(float x) { return x; }
__device__ float number(bf16 x) { return __uint_as_float((unsigned)x.bits << 16); }
__device__ float number(f16 x) { return from_f16(x.bits); }

__device__ void put(float *to, float x) { *to = x; }
__device__ void put(bf16 *to, float x) { to->bits = to_bf16(x); }
__device__ void put(f16 *to, float x) { to->bits = to_f16(x); }

#if REAL == 1
typedef bf16 real;
#elif REAL == 2
typedef f16 real;
#else
typedef float real;
#endif

#if PARAM == 1
typedef bf16 param;
#elif PARAM == 2
typedef f16 param;
#else
typedef float param;
#endif

#if TRUNK == 1
typedef bf16 trunk;
#elif TRUNK == 2
typedef f16 trunk;
#else
typedef float trunk;
#endif

__device__ constexpr int at_most_16(int bytes) { return bytes < 16 ? bytes : 16; }

template <int n> struct alignas(at_most_16(4 * n)) Pack { float x[n]; };

template <int n, typename T> struct alignas(at_most_16(sizeof(T) * n)) Stored { T x[n]; };

template <int n, typename T> __device__ Stored<n, T> stored(const T *from)
{
    return *reinterpret_cast<const Stored<n, T> *>(from);
}

template <int n, typename T> __device__ Pack<n> widened(const Stored<n, T> &there)
{
    Pack<n> p;
#pragma unroll
    for (int i = 0; i < n; i++) p.x[i] = number(there.x[i]);
    return p;
}

// Two numbers of a register by an instruction each: what is above the upper one is nothing, what is below it is cut off.
template <int n> __device__ Pack<n> widened(const Stored<n, bf16> &there)
{
    if constexpr (n == 1) return {number(there.x[0])};
    Pack<n> p;
#pragma unroll
    for (int i = 0; i + 1 < n; i += 2) {
        unsigned both = reinterpret_cast<const unsigned *>(&there)[i / 2];
        p.x[i] = __uint_as_float(both << 16);
        p.x[i + 1] = __uint_as_float(both & 0xffff0000u);
    }
    return p;
}

template <int n, typename T> __device__ Pack<n> load(const T *from) { return widened(stored<n>(from)); }

template <int n, typename T> __device__ void store(T *to, const Pack<n> &p)
{
    Stored<n, T> there;
#pragma unroll
    for (int i = 0; i < n; i++) put(&there.x[i], p.x[i]);
    *reinterpret_cast<Stored<n, T> *>(to) = there;
}

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
