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

inline float flushed(float x) { return fabsf(x) < 1.17549435e-38f ? 0.0f * x : x; }
inline float exp2_fast(float x) { return flushed(exp2f(x)); }
inline float reciprocal_fast(float x) { return flushed(1 / x); }
inline unsigned pack_f16(float low, float high) { return to_f16(low) | unsigned(to_f16(high)) << 16; }
inline unsigned pack_bf16(float low, float high) { return to_bf16(low) | unsigned(to_bf16(high)) << 16; }

namespace emulated {

// What the 32 threads of a warp hand to an instruction that they run together. Two places in turns: nobody can write to
// one again before all have read it, since they meet in between.
template <typename T> struct Together {
    T given[2][MOST];
    unsigned turn[MOST];

    // What each thread of this one's warp has given.
    const T *all(const T &mine)
    {
        unsigned which = turn[current]++ % 2;
        given[which][current] = mine;
        meet();
        return given[which] + current / WARP * WARP;
    }
};

struct Copy {
    void *to;
    const void *from;
    int bytes, real;
    void run() const { memset(to, 0, bytes); memcpy(to, from, real); }
};

std::vector<Copy> copies[MOST];
bool copying[MOST];  // whether this thread waits for a copy
bool hidden[MOST];  // whether what this thread has copied is not yet shown to a Hopper's products

inline void copy(const Copy &c)
{
    check_aligned(c.to, c.bytes);
    check_aligned(c.from, c.bytes);
    copying[current] = true;
    if (late) copies[current].push_back(c);
    else c.run();
}

}  // namespace emulated

// cp.async: the bytes may arrive at once or not before they are waited for. Turns in one order have the first, in the
// other the second.
inline void copy_16(void *to, const void *from, bool there) { emulated::copy({to, from, 16, there ? 16 : 0}); }
inline void copy_8(void *to, const void *from, bool there) { emulated::copy({to, from, 8, there ? 8 : 0}); }
inline void wait_for_copies()
{
    std::vector<emulated::Copy> &mine = emulated::copies[emulated::current];
    for (const emulated::Copy &c : mine) c.run();
    mine.clear();
    emulated::hidden[emulated::current] |= emulated::copying[emulated::current];
    emulated::copying[emulated::current] = false;
}

inline void expect(const void *there) { (void)*(const volatile char *)there; }

// ldmatrix.x4: threads 8 i ... 8 i + 7 give the addresses of the rows of matrix i, 8 x 8 numbers of 16 bits. Thread
// 4 g + t gets of each the numbers 2 t and 2 t + 1 of row g; transposed, those of column g.
inline void load_matrices(unsigned r[4], const void *row)
{
    emulated::check_aligned(row, 16);
    static emulated::Together<const unsigned short *> rows;
    const unsigned short *const *all = rows.all((const unsigned short *)row);
    int lane = emulated::current % 32, g = lane / 4, t = lane % 4;
    for (int i = 0; i < 4; i++) r[i] = all[8 * i + g][2 * t] | unsigned(all[8 * i + g][2 * t + 1]) << 16;
}
inline void load_transposed(unsigned r[4], const void *row)
{
    emulated::check_aligned(row, 16);
    static emulated::Together<const unsigned short *> rows;
    const unsigned short *const *all = rows.all((const unsigned short *)row);
    int lane = emulated::current % 32, g = lane / 4, t = lane % 4;
    for (int i = 0; i < 4; i++) r[i] = all[8 * i + 2 * t][g] | unsigned(all[8 * i + 2 * t + 1][g]) << 16;
}

// The tensor cores see the 32 threads' factors at once. Thread 4 g + t holds of a 16 x 8 result the columns 2 t and
// 2 t + 1 of the rows g and g + 8.
inline void multiply_tf32(float c[4], const float a[4], float b0, float b1)
{
    struct Factors { float a[4], b[2]; };
    static emulated::Together<Factors> factors;
    const Factors *all = factors.all({{a[0], a[1], a[2], a[3]}, {b0, b1}});
    int lane = emulated::current % 32, g = lane / 4, t = lane % 4;
    for (int e = 0; e < 4; e++)
        for (int k = 0; k < 8; k++)
            c[e] += all[4 * g + k % 4].a[e / 2 + k / 4 * 2] * all[4 * (2 * t + e % 2) + k % 4].b[k / 4];
}

// Of the left factor, 16 x 16, it holds in a[i] the columns 2 t + i / 2 * 8 and the next of row g + i % 2 * 8; of the
// right, 16 x 8, in b[i] the rows 2 t + i * 8 and the next of column g.
template <float (*number)(unsigned short)>
inline void multiply_16(float c[4], const unsigned a[4], unsigned b0, unsigned b1)
{
    struct Factors { float a[4][2], b[2][2]; };
    static emulated::Together<Factors> factors;
    Factors mine;
    for (int i = 0; i < 4; i++)
        for (int e = 0; e < 2; e++) mine.a[i][e] = number(a[i] >> 16 * e);
    for (int e = 0; e < 2; e++) mine.b[0][e] = number(b0 >> 16 * e), mine.b[1][e] = number(b1 >> 16 * e);
    const Factors *all = factors.all(mine);
    int lane = emulated::current % 32, g = lane / 4, t = lane % 4;
    for (int e = 0; e < 4; e++)
        for (int k = 0; k < 16; k++)
            c[e] += all[4 * g + k % 8 / 2].a[e / 2 + k / 8 * 2][k % 2] *
                    all[4 * (2 * t + e % 2) + k % 8 / 2].b[k / 8][k % 2];
}

inline float from_bf16(unsigned short bits) { return __uint_as_float(unsigned(bits) << 16); }
inline void multiply_bf16(float c[4], const unsigned a[4], unsigned b0, unsigned b1) { multiply_16<from_bf16>(c, a, b0, b1); }
inline void multiply_f16(float c[4], const unsigned a[4], unsigned b0, unsigned b1) { multiply_16<from_f16>(c, a, b0, b1); }
