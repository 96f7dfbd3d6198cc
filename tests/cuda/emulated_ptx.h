// kernels/cuda/ptx.cuh on a processor: what each instruction computes, as its manual says.

inline float from_f16(unsigned short bits) { _Float16 x; memcpy(&x, &bits, 2); return float(x); }
inline unsigned short to_f16(float x) { _Float16 y = _Float16(x); unsigned short bits; memcpy(&bits, &y, 2); return bits; }
inline unsigned short to_bf16(float x)
{
    unsigned bits = __float_as_uint(x);
    return isnan(x) ? 0x7fff : (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}
inline float tf32(float x)  // to the nearest of 10 bits, ties away from 0
{
    unsigned bits = __float_as_uint(x);
    return isnan(x) || isinf(x) ? x : __uint_as_float(bits + 0x1000 & ~0x1fffu);
}

// The tensor cores see the 32 threads' factors at once. Thread 4 g + t holds of a 16 x 8 result the columns 2 t and
// 2 t + 1 of the rows g and g + 8.
namespace emulated {

float left[MOST][4], right[MOST][2];

}  // namespace emulated

inline void multiply_tf32(float c[4], const float a[4], float b0, float b1)
{
    using namespace emulated;
    int lane = current % WARP, first = current - lane, g = lane / 4, t = lane % 4;
    memcpy(left[current], a, sizeof left[current]);
    right[current][0] = b0;
    right[current][1] = b1;
    wait(warp_barriers[current / WARP]);
    for (int e = 0; e < 4; e++)
        for (int k = 0; k < 8; k++) {
            int row = first + 4 * g + k % 4, column = first + 4 * (2 * t + e % 2) + k % 4;
            c[e] += left[row][e / 2 + k / 4 * 2] * right[column][k / 4];
        }
    wait(warp_barriers[current / WARP]);
}
