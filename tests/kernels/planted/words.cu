#include "common.cuh"
// One kernel for each word of CUDA that the executor knows.

__global__ void warp_words(int* out) {
  int lane = threadIdx.x % 32;
  int* row = out + threadIdx.x * 12;
  row[0] = __shfl_sync(FULL_WARP, lane, 5);
  row[1] = __shfl_sync(FULL_WARP, lane, 1, 8);
  row[2] = __shfl_up_sync(FULL_WARP, lane, 3);
  row[3] = __shfl_down_sync(FULL_WARP, lane, 3);
  row[4] = __shfl_xor_sync(FULL_WARP, lane, 7, 16);
  row[5] = __ballot_sync(FULL_WARP, lane % 3 == 0);
  row[6] = __any_sync(FULL_WARP, lane == 31);
  row[7] = __all_sync(FULL_WARP, lane < 31);
  row[8] = __reduce_add_sync(FULL_WARP, lane);
  row[9] = __reduce_max_sync(FULL_WARP, lane ^ 9);
  row[10] = __reduce_min_sync(FULL_WARP, lane + 2);
  row[11] = warpSize;
}
__global__ void atomics(int* out) {
  atomicAdd(out + 0, 2);
  atomicMax(out + 1, int(threadIdx.x));
  atomicMin(out + 2, int(threadIdx.x));
  int seen = out[3], claimed;
  do {
    claimed = seen;
    seen = atomicCAS(out + 3, claimed, claimed + 3);
  } while (seen != claimed);
}
__global__ void places(int* out) {
  int block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
  int thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
  out[block * blockDim.x * blockDim.y * blockDim.z + thread] = block * 1000 + thread;
}
template <class T>
__global__ void round_trip(const float* x, T* half, float* back, int size) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= size) return;
  half[i] = T(x[i]);
  back[i] = float(half[i]);
}
// Two groups in flight: the older may be waited for alone.
__global__ void two_groups(const float* x, float* y) {
  __shared__ __align__(16) float s[256];
  int t = threadIdx.x;
  for (int i = 0; i < 2; ++i) {
    cp_async16(s + i * 128 + 4 * t, x + i * 128 + 4 * t);
    cp_async_commit();
  }
  cp_async_wait(1);
  __syncwarp();
  y[t] = s[127 - t];
  cp_async_wait(0);
  __syncwarp();
  y[32 + t] = s[255 - t];
}
// C[16,8] = A[16,16] B[16,8], by one warp.
template <class T>
__global__ void tile(const T* a, const T* b, float* c) {
  int group = threadIdx.x / 4, place = threadIdx.x % 4;
  unsigned fa[4], fb[2];
  float d[4] = {0, 0, 0, 0};
  for (int i = 0; i < 4; ++i)
    fa[i] = load_vector<unsigned>(a + (group + i % 2 * 8) * 16 + i / 2 * 8 + 2 * place);
  for (int i = 0; i < 2; ++i) {
    int k = i * 8 + 2 * place;
    fb[i] = b[k * 8 + group].bits | unsigned(b[(k + 1) * 8 + group].bits) << 16;
  }
  mma_m16n8k16<T>(d, fa, fb);
  for (int i = 0; i < 4; ++i) c[(group + i / 2 * 8) * 8 + 2 * place + i % 2] = d[i];
}
__global__ void bytes_chosen(const unsigned* x, const unsigned* y, const unsigned* which, unsigned* out) {
  int i = threadIdx.x;
  out[i] = __byte_perm(x[i], y[i], which[i]);
}
// x * y + z of the two numbers in each word.
template <class T>
__global__ void fused(const unsigned* x, const unsigned* y, const unsigned* z, unsigned* out, int size) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= size) return;
  if constexpr (is_same<T, f16>::value) out[i] = f16x2_fma(x[i], y[i], z[i]);
  else out[i] = bf16x2_fma(x[i], y[i], z[i]);
}
__global__ void fast_functions(const float* x, float* out) {
  int i = threadIdx.x;
  out[i * 3] = __expf(x[i]), out[i * 3 + 1] = __logf(x[i]), out[i * 3 + 2] = __fdividef(1, x[i]);
}
