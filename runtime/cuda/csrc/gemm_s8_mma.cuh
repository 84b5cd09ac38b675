// The integer product on tensor cores: mma.sync m16n8k32 fed by ldmatrix from a pipeline of kStages tiles that cp.async
// fills. Rows of A and B must begin at multiples of 16 bytes.
#pragma once
#include "requantize.cuh"

namespace hr::mma_tile {

constexpr int kDepth = 64, kChunks = kDepth / 16, kStages = 3;

// A tile of SIZE x SIZE; each of 2 x WARPS_N warps computes WARP_M x WARP_N of it.
template <int SIZE> struct Tile {
    static constexpr int kSize = SIZE, kWarpsM = 2, kWarpsN = SIZE / 32, kWarpM = SIZE / kWarpsM, kWarpN = 32;
    static constexpr int kThreads = 32 * kWarpsM * kWarpsN, kMatrix = SIZE * kDepth, kShared = kStages * 2 * kMatrix;
};

// Where 16-byte chunk `chunk` of row `row` lies in a tile. The xor spreads eight rows of one chunk over all banks, which is
// what one matrix of ldmatrix reads.
HR_DEVICE int place(int row, int chunk) { return row * kDepth + 16 * (chunk ^ (row / 2 % kChunks)); }

// As dp4a_tile::run, for one tile of kSize x kSize; block of kThreads, kShared bytes. `rows` gives row(m), what it wants to
// remember of a row, and chunk(row, k), the address of its bytes k..k+15, of which only those before `k` are read.
template <class T, bool SIGNED_A, class Rows>
HR_DEVICE void run(const Rows& rows, const uint8_t* b, long long ldb, void* y, long long m, int n, int k, int feature, const Epilogue& e) {
    HR_SHARED(uint8_t, shared);
    constexpr int kLoads = T::kSize * kChunks / T::kThreads, kStep = T::kThreads / kChunks;
    const long long m0 = static_cast<long long>(blockIdx.x) * T::kSize;
    const int n0 = int(blockIdx.y) * T::kSize, thread = int(threadIdx.x), lane = lane_id();
    const int warp_m = warp_id() / T::kWarpsN * T::kWarpM, warp_n = warp_id() % T::kWarpsN * T::kWarpN;

    // Each thread brings chunk `chunk` of kLoads rows of A and of B.
    const int chunk = thread % kChunks, first = thread / kChunks;
    typename Rows::Row a_rows[kLoads];
#pragma unroll
    for (int i = 0; i < kLoads; i++) {
        const long long row = m0 + first + i * kStep;
        a_rows[i] = rows.row(row < m ? row : 0);
    }
    const auto load = [&](int stage, int k0) {
        uint8_t* as = shared + stage * 2 * T::kMatrix;
        uint8_t* bs = as + T::kMatrix;
        const int at = k0 + 16 * chunk, left = k - at, bytes = left < 0 ? 0 : left < 16 ? left : 16;
#pragma unroll
        for (int i = 0; i < kLoads; i++) {
            const int row = first + i * kStep;
            const int a_bytes = m0 + row < m ? bytes : 0, b_bytes = n0 + row < n ? bytes : 0;
            cp_async16(as + place(row, chunk), a_bytes ? rows.chunk(a_rows[i], at) : b, a_bytes);
            cp_async16(bs + place(row, chunk), b_bytes ? b + (n0 + row) * ldb + at : b, b_bytes);
        }
    };

    constexpr int kTilesM = T::kWarpM / 16, kTilesN = T::kWarpN / 8;
    int sums[kTilesM][kTilesN][4] = {};
    const int steps = (k + kDepth - 1) / kDepth;
#pragma unroll
    for (int s = 0; s < kStages - 1; s++) {
        if (s < steps) load(s, s * kDepth);
        cp_async_commit();
    }
    for (int step = 0; step < steps; step++) {
        cp_async_wait<kStages - 2>();
        __syncthreads();    // this step's tile is here, and nobody reads the one that the next load overwrites
        if (step + kStages - 1 < steps) load((step + kStages - 1) % kStages, (step + kStages - 1) * kDepth);
        cp_async_commit();
        const uint8_t* as = shared + step % kStages * 2 * T::kMatrix;
        const uint8_t* bs = as + T::kMatrix;
#pragma unroll
        for (int half = 0; half < kDepth / 32; half++) {
            uint32_t a[kTilesM][4], bv[kTilesN][2];
#pragma unroll
            for (int i = 0; i < kTilesM; i++)
                ldmatrix_x4(a[i], as + place(warp_m + 16 * i + lane % 16, 2 * half + lane / 16));
#pragma unroll
            for (int j = 0; j < kTilesN; j += 2) {    // two tiles of columns at once: (0, low), (0, high), (1, low), (1, high)
                uint32_t r[4];
                ldmatrix_x4(r, bs + place(warp_n + 8 * j + lane % 8 + lane / 16 * 8, 2 * half + lane / 8 % 2));
                bv[j][0] = r[0], bv[j][1] = r[1], bv[j + 1][0] = r[2], bv[j + 1][1] = r[3];
            }
#pragma unroll
            for (int i = 0; i < kTilesM; i++)
#pragma unroll
                for (int j = 0; j < kTilesN; j++) mma_16832<SIGNED_A>(sums[i][j], a[i], bv[j]);
        }
    }

    const auto each = [&](int i, int j, int c, auto use) {
        const long long row = m0 + warp_m + 16 * i + lane / 4 + c / 2 * 8;
        const int column = n0 + warp_n + 8 * j + lane % 4 * 2 + c % 2;
        if (row < m && column < n) use(row, column, rows.at(row, column));
    };
#pragma unroll
    for (int i = 0; i < kTilesM; i++)
#pragma unroll
        for (int j = 0; j < kTilesN; j++)
#pragma unroll
            for (int c = 0; c < 4; c++)
                each(i, j, c, [&](long long row, int column, long long at) { finish(e, sums[i][j][c], row, feature + column, y, at, rows.r_at(row, column)); });
    if (activates(e))
#pragma unroll 1
        for (int i = 0; i < kTilesM * kTilesN * 4; i++)
            each(i / 4 / kTilesN, i / 4 % kTilesN, i % 4, [&](long long, int, long long at) { activate(e, y, at); });
}

}  // namespace hr::mma_tile
