// gemm_f32(a, b, bias, r, y, Product): y = function(alpha * (a . b) + bias[n] + beta * r), float32, matrices in any layout,
// batches of up to three dimensions that broadcast. Grid (ceil(m / 64), ceil(n / 64), batch), block 256, 8704 bytes.
#include "gemm_f32.cuh"

namespace hr {

// Strides in elements, 0 where an operand is broadcast; Python packs it as kernels.gemm.PRODUCT. bias and r may be null.
struct Product {
    long long m, batch[3], a_batch[3], b_batch[3], r_batch[3], a_m, a_k, b_k, b_n, y_m, y_batch, r_m, r_n, bias_n;
    int n, k, function;
    float alpha, beta, f_a, f_b;
    int unused;
};

}  // namespace hr

using namespace hr;

extern "C" __global__ void __launch_bounds__(256) gemm_f32(const float* a, const float* b, const float* bias, const float* r, float* y, Product p) {
    long long z = blockIdx.z;
    y += z * p.y_batch;
    for (int d = 2; d >= 0; d--) {
        const long long at = z % p.batch[d];
        z /= p.batch[d];
        a += at * p.a_batch[d], b += at * p.b_batch[d];
        if (r) r += at * p.r_batch[d];
    }
    float sums[4][4] = {};
    f32_tile::sum(sums, [&](long long m, int k) { return a[m * p.a_m + k * p.a_k]; }, [&](int k, int n) { return b[k * p.b_k + n * p.b_n]; }, p.m, p.n, p.k);
    f32_tile::finish(
        sums, p.m, p.n, y, p.function, p.f_a, p.f_b, [&](long long m, int n) { return m * p.y_m + n; },
        [&](long long m, int n, float sum) {
            float v = p.alpha * sum;
            if (bias) v += bias[n * p.bias_n];
            if (r) v += p.beta * r[m * p.r_m + n * p.r_n];
            return v;
        });
}
HR_EXPORT(gemm_f32)
