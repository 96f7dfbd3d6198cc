// kernels/cuda/wgmma.cuh on a processor: what each instruction computes, as its manual says. A product that was begun is
// computed at once or not before it is waited for: turns in one order have the first, in the other the second. Where
// copies arrive at once products are late, so that a tile that is written to while products read it is another one.

#if REAL == 1
#define number_of from_bf16
#else
#define number_of from_f16
#endif

namespace emulated {

// A product as a thread begins it: the sums it holds, 4 J of them, its part of the left factor or where that lies.
struct Product {
    float *c;
    int columns;
    const unsigned *registers;
    unsigned long long a, b;
    bool add;
    void run() const;
};

std::vector<std::vector<Product>> groups[MOST];  // that are under way; the last is not yet closed
bool ready[MOST];                                // whether a product may begin

// Number (row, column) of a factor in shared memory. Along one axis 8 atoms' rows are `next_rows` bytes from the next 8;
// along the other 64 numbers are `next_columns` from the next 64; the chunks of 16 bytes are in order but for bits 4 to 6
// of an address, to which bits 7 to 9 are added without carry.
inline float element(unsigned long long factor, int row, int column)
{
    check(factor >> 62 == 1 && (factor >> 49 & 7) == 0, "a factor whose chunks lie in another order");
    size_t place = (factor & 0x3fff) * 16, next_columns = (factor >> 16 & 0x3fff) * 16, next_rows = (factor >> 32 & 0x3fff) * 16;
    place += row / 8 * next_rows + row % 8 * 128 + column / 64 * next_columns + column % 64 * 2;
    place ^= (place >> 7 & 7) << 4;
    place -= SHARED;
    check(place < asked, "a factor that lies outside of the shared memory");
    return number_of(*reinterpret_cast<unsigned short *>(dynamic + min(place, ROOM)));
}

inline void Product::run() const
{
    int lane = current % 32, g = lane / 4, t = lane % 4, warp = current / 32 % 4;
    float left[2][16];  // rows g and g + 8 of this warp's
    if (registers) {
        struct Part { unsigned x[4]; };
        static Together<Part> parts;
        const Part *all = parts.all({{registers[0], registers[1], registers[2], registers[3]}});
        for (int i = 0; i < 2; i++)
            for (int k = 0; k < 16; k++) left[i][k] = number_of(all[4 * g + k % 8 / 2].x[i + k / 8 * 2] >> k % 2 * 16);
    } else
        for (int i = 0; i < 2; i++)
            for (int k = 0; k < 16; k++) left[i][k] = element(a, 16 * warp + g + 8 * i, k);
    for (int j = 0; j < columns / 8; j++)
        for (int e = 0; e < 4; e++) {
            float sum = add ? c[4 * j + e] : 0;
            int column = 8 * j + 2 * t + e % 2;
            for (int k = 0; k < 16; k++)
                sum += left[e / 2][k] * (registers ? element(b, k, column) : element(b, column, k));
            c[4 * j + e] = sum;
        }
}

// The four warps of a warpgroup begin a product together, of the same factors in shared memory.
inline void begin(const Product &product)
{
    static Product given[MOST];
    check(count % GROUP == 0 && group_barriers[current / GROUP].members == GROUP, "a warpgroup that is not whole");
    given[current] = product;
    wait(group_barriers[current / GROUP]);
    const Product &first = given[current / GROUP * GROUP];
    check(product.a == first.a && product.b == first.b && product.columns == first.columns && product.add == first.add,
          "a warpgroup whose warps begin different products");
    wait(group_barriers[current / GROUP]);
    check(ready[current], "a product that begins before the registers are in order");
    for (int i = 0; i < count; i++) check(!hidden[i], "a product that may not see what was copied");
    for (unsigned long long factor : {product.a, product.b})
        check((factor & 0x3fff) * 16 % 1024 < 128, "a factor that does not begin in an atom's first row");
    if (groups[current].empty()) groups[current].emplace_back();
    if (late) product.run();
    else groups[current].back().push_back(product);
}

}  // namespace emulated

inline void begin_products() { emulated::ready[emulated::current] = true; }
inline void end_products() { emulated::groups[emulated::current].emplace_back(); }
inline void show_to_products() { emulated::hidden[emulated::current] = false; }
template <int under_way> void wait_for_products()
{
    auto &mine = emulated::groups[emulated::current];
    while (mine.size() > under_way + 1) {
        std::vector<emulated::Product> first = std::move(mine.front());
        mine.erase(mine.begin());
        for (const emulated::Product &product : first) product.run();
    }
    emulated::ready[emulated::current] = false;
}
template <int J> void done(float c[J][4]) {}
template <int J> void multiply_rows(float c[J][4], unsigned long long a, unsigned long long b, bool add)
{
    emulated::begin({c[0], 8 * J, nullptr, a, b, add});
}
template <int J> void multiply_columns(float c[J][4], const unsigned a[4], unsigned long long b)
{
    emulated::begin({c[0], 8 * J, a, 0, b, true});
}
