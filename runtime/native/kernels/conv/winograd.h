// Winograd's minimal filtering for 3x3 convolutions of stride 1: tiles of M x M results from (M + 2) x (M + 2) pixels, by as
// many products as a tile has pixels instead of 9 M².
//
// Y = A' [ (G g G') * (B' d B) ] A, the product elementwise over the pixels of a tile ("points") and a matrix product over
// channels. The rows of B' evaluate at 0, ±1, infinity for M = 2, and at 0, ±√½, ±√2, infinity for M = 4: with such points the
// rounding error of M = 4 is a quarter of that of 0, ±1, ±2. Source: Lavin and Gray, "Fast Algorithms for Convolutional Neural
// Networks"; points after Toom and Cook. An infinite or NaN pixel makes NaN of the whole tiles that it lies in.
#pragma once
#include "kernels/conv/conv.h"

namespace hr {

// One tile of an image: B' d B of every channel.
struct WinogradInput {
    const void* const* pixels;      // (M + 2)²; what lies outside points to zeros
    bool low;                       // they are bf16
    int64_t c;
    float* out;                     // point p of channel c at out[p * step + c]; written up to a whole vector
    int64_t step;
};

// One tile of the result: A' m A, then the epilogue.
struct WinogradOutput {
    const float* sums;              // point p of feature f at sums[p * step + f]
    int64_t step, f;
    Output y;                       // result i at y[at[i] + f]; at[i] < 0: outside
    const int64_t* at;              // M²
    Epilogue epilogue;              // the residual lies as y does
};

// Weights of some features: G g G', in double.
struct WinogradWeights {
    const float* w;                 // [features, c, 3, 3]
    int64_t features, c;
    float* out;                     // point p of channel i and feature f at out[(p * c + i) * step + f]
    int64_t step;
};

// The same in float32 of a panel of features whose weights are kept as they are: [c, 9, nr] to point p of channel i at
// out[p * step + i * nr].
struct WinogradPanel {
    const float* w;
    int64_t c, nr;
    float* out;
    int64_t step;
};

struct WinogradTable {
    void (*input[2])(const WinogradInput&);     // of M = 2, 4
    void (*output[2])(const WinogradOutput&);
    void (*weights[2])(const WinogradWeights&);
    void (*panel[2])(const WinogradPanel&);
};

}  // namespace hr
