#include "common.cuh"
// residual += x, rounded to T; out = residual / sqrt(mean(residual^2) + epsilon) * weight. One block per row,
// which holds it in registers: width is a multiple of 16 / sizeof(T) and at most THREADS * VECTORS of those.
template <class T, int THREADS, int VECTORS>
__global__ void __launch_bounds__(THREADS)
    rmsnorm_residual(const T* __restrict__ x, T* __restrict__ residual, const T* __restrict__ weight,
                     T* __restrict__ out, int width, float epsilon) {
  constexpr int N = 16 / sizeof(T);
  typedef Vec<T, N> Pack;
  long long row = (long long)blockIdx.x * width;
  float held[VECTORS][N], squares = 0;
#pragma unroll
  for (int k = 0; k < VECTORS; ++k) {
    int c = (k * THREADS + threadIdx.x) * N;
    if (c >= width) continue;
    Pack a = load_vector<Pack>(x + row + c), b = load_vector<Pack>(residual + row + c), sum;
#pragma unroll
    for (int i = 0; i < N; ++i) {
      sum.v[i] = T(float(a.v[i]) + float(b.v[i]));
      held[k][i] = float(sum.v[i]);
      squares += held[k][i] * held[k][i];
    }
    store_vector(residual + row + c, sum);
  }
  float scale = rsqrtf(block_sum<THREADS>(squares) / width + epsilon);
#pragma unroll
  for (int k = 0; k < VECTORS; ++k) {
    int c = (k * THREADS + threadIdx.x) * N;
    if (c >= width) continue;
    Pack w = load_vector<Pack>(weight + c), normal;
#pragma unroll
    for (int i = 0; i < N; ++i) normal.v[i] = T(held[k][i] * scale * float(w.v[i]));
    store_vector(out + row + c, normal);
  }
}
