// Products with weights of 4 or 8 bits in blocks along k, each block of a column with a scale and a zero point.
//
// Weights are packed as they come, 32 bits at a time (8 or 4 neighbours in k, the lowest bits first), columns side by side:
// [panel][k / per][nr] dwords, scales [panel][block][nr], zero points (bytes) the same. All are zero beyond the last column.
//
// Each element of C is one chain over the blocks in rising order, whatever the number of rows, the tile or the cut over k:
//   real:     sum = fma(sum of x * (q - zero) by multiply-adds in rising k, scale, sum)
//   integers: sum = sum + float(exact sum of x_q * (q - zero)) * (x_scale * scale), one rounding at a time: the same bytes on
//             every tier and in the reference
#pragma once
#include <cstdint>

namespace hr {

struct NbitsBlock {
    int64_t m, n;                   // rows; columns, from the first one of a panel on
    int64_t blocks, block;          // of k
    const void* a;                  // rows of floats; or of signed bytes in the order of nbits_order()
    int64_t lda;                    // bytes
    const float* a_scale;           // integers: [row][block], and the sums of the levels of each block
    const int32_t* a_sum;
    int64_t ld_scale;
    const uint32_t* b;              // at this range of blocks, and so are scale and zero
    const float* scale;
    const uint8_t* zero;            // null: the middle, 8 or 128
    int64_t panel_b, panel_scale;   // from one panel to the next, in elements
    float* c;                       // sums, carried on unless `first`
    int64_t ldc;
    bool first;
    const float* bias;              // added where not null
};

struct NbitsTable {
    const char* tier;
    int mr, nr;
    void (*real)(int bits, const NbitsBlock&);
    void (*integer)(int bits, const NbitsBlock&);
};

// Integers meet four bytes of a row with the low halves of a dword of 4-bit weights, and the next four with its high
// halves: of each eight values the even ones come first, then the odd ones.
inline int64_t nbits_order(int bits, int64_t k) { return bits == 4 ? k / 8 * 8 + k % 8 / 2 + k % 2 * 4 : k; }

const NbitsTable& nbits_table();

}  // namespace hr
