// What the files of attention share: which keys a query sees, and which weights dropout keeps.
//
// Compiled with MASK: 0 nothing but the order (where causal), 1 a bool array, 2 an array that is added to the scores,
// 3 the document that each position belongs to, a query seeing keys of its own alone; and with DROPOUT, 0 or 1.
//
// A mask is never larger than it is in memory: its steps are 0 where it is broadcast. Of documents the lowest and the
// highest number of every 64 positions are known (document_ranges): tiles without a common one are passed over.
// Weight (b, h, t, s) is kept by word s of row (b H + h) T + t of a stream (philox.cuh) whose rows begin at multiples of
// four words, so that four neighbours come from one counter.

#include "common.cuh"
#include "philox.cuh"

#define LOG2E 1.4426950408889634f
#define FACTOR (MASK == 2 ? 1.0f : scale * LOG2E)  // of a score that Sight::score has seen, to be one in base 2
#define POSITIONS 64  // in a range of documents

// What the queries of one head of one sequence see.
struct Sight {
    const bool *seen;
    const real *added;
    long long row_step, column_step;
    const long long *documents, *ranges;
    int T, S, causal;

    // m*: the mask's steps between sequences, heads, queries and keys.
    __device__ Sight(const bool *seen, const real *added, long long mb, long long mh, long long mt, long long ms,
                     const long long *documents, const long long *ranges, int b, int h, int T, int S, int causal)
        : seen(seen + (MASK == 1 ? b * mb + h * mh : 0)), added(added + (MASK == 2 ? b * mb + h * mh : 0)),
          row_step(mt), column_step(ms), documents(documents + (MASK == 3 ? (long long)b * T : 0)),
          ranges(ranges + (MASK == 3 ? 2LL * b * ((T + POSITIONS - 1) / POSITIONS) : 0)), T(T), S(S), causal(causal)
    {
    }

    // Whether no query of these rows sees a key from `column` on, since all of these come later.
    __device__ bool hides(int row, int rows, int column) const { return causal && column >= row + rows; }

    // Whether no pair of these rows and columns must be looked at, since each query sees each key.
    __device__ bool whole(int row, int rows, int column, int columns) const
    {
        if (column + columns > S || row + rows > T || (causal && column + columns - 1 > row)) return false;
        if (MASK == 3) {
            long long low = lowest(column, columns);
            return low == highest(column, columns) && low == lowest(row, rows) && low == highest(row, rows);
        }
        return MASK == 0;
    }

    // The score s of a pair; -INF where the query does not see the key. With something added to it, it is then that of
    // base 2, s factor + ...; else it is left to the caller to multiply it.
    __device__ float score(float s, float factor, int row, int column) const
    {
        if (row >= T || column >= S || (causal && column > row)) return -INF;
        if (MASK == 1) return seen[row * row_step + column * column_step] ? s : -INF;
        if (MASK == 2) return s * factor + number(added[row * row_step + column * column_step]) * LOG2E;
        if (MASK == 3) return documents[row] == documents[column] ? s : -INF;
        return s;
    }

    __device__ long long lowest(int first, int count) const
    {
        long long low = ranges[first / POSITIONS * 2];
        for (int i = first / POSITIONS + 1; i * POSITIONS < min(first + count, T); i++) low = min(low, ranges[2 * i]);
        return low;
    }

    __device__ long long highest(int first, int count) const
    {
        long long high = ranges[first / POSITIONS * 2 + 1];
        for (int i = first / POSITIONS + 1; i * POSITIONS < min(first + count, T); i++)
            high = max(high, ranges[2 * i + 1]);
        return high;
    }

    // Whether some of `count` positions may share a document with one of `others`.
    __device__ bool meet(int first, int count, int other, int others) const
    {
        return MASK != 3 || (lowest(first, count) <= highest(other, others) &&
                             lowest(other, others) <= highest(first, count));
    }

    // The next tile of columns from `column` on that some of the rows may see, or where they end.
    __device__ int next(int row, int rows, int column, int tile, int end) const
    {
        while (column < end && !meet(row, rows, column, tile)) column += tile;
        return column;
    }
};

// Which of the weights of one head of one sequence dropout keeps.
struct Dropout {
    unsigned long long key, first;  // the counter of row 0
    unsigned limit, counters;       // of a row

    __device__ Dropout(long long key, long long limit, int head, int T, int S)
        : key(key), limit(limit), counters((S + 3) / 4), first((unsigned long long)head * T * ((S + 3) / 4))
    {
    }

    // The words of the four columns from 4 quad on.
    __device__ uint4 words(int row, int quad) const
    {
        return philox(first + (unsigned long long)row * counters + quad, key);
    }

    __device__ bool keeps(int row, int column) const { return word(words(row, column / 4), column % 4) >= limit; }

    // Whether it keeps the four elements that a thread has of a 16 x 8 result of the tensor cores, which begins at
    // (row, column): thread 4 g + t has columns 2 t and 2 t + 1 of rows g and g + 8. Two threads share two counters;
    // each asks for one.
    __device__ void keep(int row, int column, bool kept[4]) const
    {
        int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
        bool odd = t % 2;
        uint4 w = words(row + g + 8 * odd, column / 4 + t / 2);
        unsigned a = __shfl_xor_sync(0xffffffff, odd ? w.x : w.z, 1);
        unsigned b = __shfl_xor_sync(0xffffffff, odd ? w.y : w.w, 1);
        kept[0] = (odd ? a : w.x) >= limit;
        kept[1] = (odd ? b : w.y) >= limit;
        kept[2] = (odd ? w.z : a) >= limit;
        kept[3] = (odd ? w.w : b) >= limit;
    }

    // The same where the result's rows are keys and its columns queries. Four threads, whose g differ in the last two
    // bits, share four counters: of two queries, for keys about g and g + 8.
    __device__ void keep_turned(int key_row, int query, bool kept[4]) const
    {
        int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4, i = g % 4;
        uint4 w = words(query + 2 * t + i % 2, key_row / 4 + g / 4 + i / 2 * 2);
        bool odd = i % 2, high = i / 2;  // a 4 x 4 array turned round, two threads at a time
        unsigned a = __shfl_xor_sync(0xffffffff, odd ? w.x : w.y, 4);
        unsigned b = __shfl_xor_sync(0xffffffff, odd ? w.z : w.w, 4);
        unsigned x = odd ? a : w.x, y = odd ? w.y : a, z = odd ? b : w.z, v = odd ? w.w : b;
        unsigned c = __shfl_xor_sync(0xffffffff, high ? x : z, 8);
        unsigned d = __shfl_xor_sync(0xffffffff, high ? y : v, 8);
        kept[0] = (high ? c : x) >= limit;
        kept[1] = (high ? d : y) >= limit;
        kept[2] = (high ? z : c) >= limit;
        kept[3] = (high ? v : d) >= limit;
    }
};
