#include "common.cuh"
// An embedding of each sequence: the mean of its tokens' states where mask is not 0, of length one (L2).

// states: [rows, length, width]; mask: [rows, length]; out: [rows, width]. A row without a token is 0. One block
// of THREADS per row: SLICES groups of threads walk over every SLICES-th token, side by side over the columns.
template <class T, class M, class D, int THREADS, int SLICES>
__global__ void __launch_bounds__(THREADS)
    mean_pool(const T* __restrict__ states, const M* __restrict__ mask, D* __restrict__ out, int length, int width,
              int normalise) {
  constexpr int N = 16 / sizeof(T);
  constexpr int LANES = THREADS / SLICES;
  typedef Vec<T, N> Load;
  SHARED_DYNAMIC(raw);
  float* sums = reinterpret_cast<float*>(raw);  // [SLICES, width]
  int slice = threadIdx.x / LANES, lane = threadIdx.x % LANES;
  const T* own = states + (long long)blockIdx.x * length * width;
  const M* marks = mask + (long long)blockIdx.x * length;
  bool vectors = width % N == 0 && reinterpret_cast<uintptr_t>(own) % sizeof(Load) == 0;

#pragma unroll 1
  for (int first = lane * N; first < width; first += LANES * N) {
    float sum[N] = {};
#pragma unroll 1
    for (int token = slice; token < length; token += SLICES) {
      if (marks[token] == M(0)) continue;
      const T* from = own + (long long)token * width + first;
      if (vectors) {
        Load loaded = load_vector<Load>(from);
#pragma unroll
        for (int i = 0; i < N; ++i) sum[i] += float(loaded.v[i]);
      } else {
#pragma unroll
        for (int i = 0; i < N; ++i)
          if (first + i < width) sum[i] += float(from[i]);
      }
    }
#pragma unroll
    for (int i = 0; i < N; ++i)
      if (first + i < width) sums[slice * width + first + i] = sum[i];
  }
  float tokens = 0;
#pragma unroll 1
  for (int token = threadIdx.x; token < length; token += THREADS) tokens += marks[token] == M(0) ? 0 : 1;
  tokens = block_sum<THREADS>(tokens);  // its barrier also completes the sums

  float squares = 0;
#pragma unroll 1
  for (int c = threadIdx.x; c < width; c += THREADS) {
    float mean = sums[c];
    for (int s = 1; s < SLICES; ++s) mean += sums[s * width + c];
    mean = tokens > 0 ? mean / tokens : 0;
    sums[c] = mean;
    squares += mean * mean;
  }
  squares = block_sum<THREADS>(squares);
  float scale = normalise ? 1 / fmaxf(sqrtf(squares), 1e-12f) : 1;
#pragma unroll 1
  for (int c = threadIdx.x; c < width; c += THREADS) out[(long long)blockIdx.x * width + c] = D(sums[c] * scale);
}
