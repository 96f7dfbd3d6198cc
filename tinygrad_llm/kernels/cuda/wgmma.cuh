// Hopper's own products (wgmma, sm_90a): a warpgroup, four warps, multiplies 64 rows at once, and reads factors of 16 bits
// where they lie in shared memory. On a processor other definitions of the same functions take their place:
// tests/cuda/emulated_wgmma.h.
//
// A product is begun, and goes on while the warps do something else, until they wait for it. So:
//   begin_products()          before the first, whenever registers that it reads or adds to were written
//   multiply_...              as many as are wanted
//   end_products()            what was begun since the last call is one group
//   wait_for_products<n>()    until at most n groups are under way
//   done(c)                   behind it, for each sum: now it may be looked at
// Copies to shared memory (cp.async) go another way than the products' reads: who has waited for them calls
// show_to_products() before the barrier that lets others read.
//
// Source: NVIDIA, Parallel Thread Execution ISA: wgmma.mma_async, wgmma.fence, fence.proxy.async.

__device__ void begin_products() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ void end_products() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
__device__ void show_to_products() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
template <int under_way> __device__ void wait_for_products()
{
    asm volatile("wgmma.wait_group.sync.aligned %0;" :: "n"(under_way) : "memory");
}

template <int J> __device__ void done(float c[J][4])
{
#pragma unroll
    for (int j = 0; j < J; j++)
        asm volatile("" : "+f"(c[j][0]), "+f"(c[j][1]), "+f"(c[j][2]), "+f"(c[j][3]) :: "memory");
}

#if REAL == 1
#define TYPES "f32.bf16.bf16 "
#else
#define TYPES "f32.f16.f16 "
#endif
#define SUM(j) "+f"(c[j][0]), "+f"(c[j][1]), "+f"(c[j][2]), "+f"(c[j][3])
#define SUMS(j) SUM(j), SUM(j + 1), SUM(j + 2), SUM(j + 3), SUM(j + 4), SUM(j + 5), SUM(j + 6), SUM(j + 7)
#define TO_31 "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
    "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define TO_63 TO_31 ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
    "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"

// c = a b^T, or c += where `add`: a 64 x 16 and b 8 J x 16 in shared memory, both with the axis that is summed over along
// their rows. Thread 4 g + t of warp w holds in c[j][i] column 8 j + 2 t + i % 2 of row 16 w + g + i / 2 * 8.
template <int J> __device__ void multiply_rows(float c[J][4], unsigned long long a, unsigned long long b, bool add)
{
    static_assert(J == 8 || J == 16, "64 or 128 columns");
    if constexpr (J == 8)
        asm volatile("{.reg .pred p; setp.ne.b32 p, %34, 0; wgmma.mma_async.sync.aligned.m64n64k16." TYPES
                     TO_31 "}, %32, %33, p, 1, 1, 0, 0;}" : SUMS(0) : "l"(a), "l"(b), "r"((int)add) : "memory");
    else
        asm volatile("{.reg .pred p; setp.ne.b32 p, %66, 0; wgmma.mma_async.sync.aligned.m64n128k16." TYPES
                     TO_63 "}, %64, %65, p, 1, 1, 0, 0;}" : SUMS(0), SUMS(8) : "l"(a), "l"(b), "r"((int)add) : "memory");
}

// c += a b: a 64 x 16 in registers, as for mma.m16n8k16 (multiply_bf16) in each warp; b 16 x 8 J in shared memory, whose
// rows are summed over.
template <int J> __device__ void multiply_columns(float c[J][4], const unsigned a[4], unsigned long long b)
{
    static_assert(J == 8 || J == 16, "64 or 128 columns");
    if constexpr (J == 8)
        asm volatile("wgmma.mma_async.sync.aligned.m64n64k16." TYPES TO_31 "}, {%32, %33, %34, %35}, %36, 1, 1, 1, 1;"
                     : SUMS(0) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b) : "memory");
    else
        asm volatile("wgmma.mma_async.sync.aligned.m64n128k16." TYPES TO_63 "}, {%64, %65, %66, %67}, %68, 1, 1, 1, 1;"
                     : SUMS(0), SUMS(8) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b) : "memory");
}
