#include "common.cuh"
// Kernels with one fault each, and their corrected twins. Whoever mends a fault here breaks a test.

__global__ void barrier_missing(const float* x, float* y) {
  __shared__ float s[64];
  int t = threadIdx.x;
  s[t] = x[t];
  y[t] = s[(t + 1) % 64];
}
__global__ void barrier_present(const float* x, float* y) {
  __shared__ float s[64];
  int t = threadIdx.x;
  s[t] = x[t];
  __syncthreads();
  y[t] = s[(t + 1) % 64];
}
// A warp that is ahead writes what another has not read: warps in step would never show it.
__global__ void warp_runs_ahead(const float* x, float* y, int turns) {
  __shared__ float s[2];
  float sum = 0;
  for (int i = 0; i < turns; ++i) {
    float own = x[i * 64 + threadIdx.x];
    for (int d = 16; d; d /= 2) own += __shfl_xor_sync(0xffffffffu, own, d);
    if (threadIdx.x % 32 == 0) s[threadIdx.x / 32] = own;
    __syncthreads();
    sum += s[0] + s[1];
  }
  y[threadIdx.x] = sum;
}
// What the next turn writes, a slower thread has not read yet.
__global__ void loop_without_second_barrier(const float* x, float* y, int turns) {
  __shared__ float s[64];
  int t = threadIdx.x;
  float sum = 0;
  for (int i = 0; i < turns; ++i) {
    s[t] = x[i * 64 + t];
    __syncthreads();
    sum += s[63 - t];
  }
  y[t] = sum;
}
__global__ void loop_with_second_barrier(const float* x, float* y, int turns) {
  __shared__ float s[64];
  int t = threadIdx.x;
  float sum = 0;
  for (int i = 0; i < turns; ++i) {
    s[t] = x[i * 64 + t];
    __syncthreads();
    sum += s[63 - t];
    __syncthreads();
  }
  y[t] = sum;
}
__global__ void reads_past_the_end(const float* x, float* y) { y[threadIdx.x] = x[threadIdx.x + 64]; }
__global__ void reads_before_the_start(const float* x, float* y) { y[threadIdx.x] = x[(int)threadIdx.x - 1100]; }
__global__ void writes_just_past_the_end(float* y, int size) { y[size] = 1; }
__global__ void writes_just_before_the_start(float* y) { y[-1] = 1; }
__global__ void writes_an_input(const float* x, float* y) {
  const_cast<float*>(x)[threadIdx.x] = 0;
  y[threadIdx.x] = 1;
}
__global__ void null_argument(const float* x, float* y) { y[threadIdx.x] = x[threadIdx.x]; }
__global__ void past_dynamic_shared(float* y) {
  SHARED_DYNAMIC(raw);
  float* s = reinterpret_cast<float*>(raw);
  s[threadIdx.x + 1] = 1;
  __syncthreads();
  y[threadIdx.x] = s[threadIdx.x];
}
__global__ void past_static_shared(float* y, int by) {
  __shared__ float s[32];
  s[threadIdx.x + by] = 1;
  __syncthreads();
  y[threadIdx.x] = s[threadIdx.x];
}
__global__ void barrier_in_a_branch(float* y) {
  if (threadIdx.x < 16) {
    __syncthreads();
    y[threadIdx.x] = 1;
  }
}
__global__ void two_barriers(float* y) {
  if (threadIdx.x < 16) {
    __syncthreads();
  } else {
    __syncthreads();
  }
  y[threadIdx.x] = 1;
}
__global__ void shuffle_in_a_branch(float* y) {
  float v = threadIdx.x;
  if (threadIdx.x % 2) v = __shfl_xor_sync(0xffffffffu, v, 1);
  y[threadIdx.x] = v;
}
__global__ void shuffle_outside_its_mask(float* y) { y[threadIdx.x] = __shfl_xor_sync(0x0000ffffu, 1.0f, 1); }
__global__ void shuffle_of_its_mask(float* y) {
  float v = threadIdx.x;
  if (threadIdx.x % 2) v = __shfl_xor_sync(0xaaaaaaaau, v, 2);
  y[threadIdx.x] = v;
}
__global__ void reads_an_unnamed_lane(float* y) {
  if (threadIdx.x < 16) y[threadIdx.x] = __shfl_sync(0x0000ffffu, 1.0f, 20);
}
__global__ void shared_never_written(float* y) {
  __shared__ float s[32];
  if (threadIdx.x < 31) s[threadIdx.x] = 1;
  __syncthreads();
  y[threadIdx.x] = s[threadIdx.x];
}
__global__ void shared_of_the_block_before(float* y) {
  __shared__ float s[32];
  if (blockIdx.x == 0) s[threadIdx.x] = 1;
  __syncthreads();
  y[blockIdx.x * 32 + threadIdx.x] = s[threadIdx.x];
}
__global__ void misaligned_load(const float* x, float* y) {
  typedef Vec<float, 4> F4;
  store_vector(y + 4 * threadIdx.x, load_vector<F4>(x + 1 + 4 * threadIdx.x));
}
__global__ void copy_read_before_its_wait(const float* x, float* y) {
  __shared__ __align__(16) float s[128];
  cp_async16(s + 4 * threadIdx.x, x + 4 * threadIdx.x);
  cp_async_commit();
  __syncthreads();
  y[threadIdx.x] = s[threadIdx.x];
  cp_async_wait(0);
}
__global__ void copy_never_waited_for(const float* x, float* y) {
  __shared__ __align__(16) float s[128];
  cp_async16(s + 4 * threadIdx.x, x + 4 * threadIdx.x);
  cp_async_commit();
  y[threadIdx.x] = 1;
}
__global__ void copy_waited_for(const float* x, float* y) {
  __shared__ __align__(16) float s[128];
  cp_async16(s + 4 * threadIdx.x, x + 4 * threadIdx.x);
  cp_async_commit();
  cp_async_wait(0);
  __syncthreads();
  y[threadIdx.x] = s[threadIdx.x];
}
// A product is of a whole warp: lanes that stay away have fragments too.
__global__ void multiply_in_a_branch(float* y) {
  float d[4] = {};
  unsigned a[4] = {}, b[2] = {};
  if (threadIdx.x < 16) mma_m16n8k16_f16(d, a, b);
  y[threadIdx.x] = d[0];
}
// Numbers of 16 bits are no integers of 32: what the lower owes the upper pays.
__global__ void halves_subtracted_as_one(const unsigned* x, float* y) {
  y[threadIdx.x] = f16_to_float((x[threadIdx.x] - 0x64806480u) >> 16);
}
__global__ void halves_subtracted_apart(const unsigned* x, float* y) {
  y[threadIdx.x] = f16_to_float(f16x2_fma(x[threadIdx.x], 0x3c003c00u, 0xe480e480u) >> 16);
}
// Every thread adds to what it read, and all but one addition are lost.
__global__ void sum_without_atomics(float* y) {
  __shared__ float s;
  if (threadIdx.x == 0) s = 0;
  __syncthreads();
  float old = s;
  __syncwarp();
  s = old + 1;
  __syncthreads();
  if (threadIdx.x == 0) y[0] = s;
}
__global__ void sum_with_atomics(float* y) {
  __shared__ float s;
  if (threadIdx.x == 0) s = 0;
  __syncthreads();
  atomicAdd(&s, 1.0f);
  __syncthreads();
  if (threadIdx.x == 0) y[0] = s;
}
// Who comes last wins: another answer in another order.
__global__ void last_writer_wins(float* y) { y[0] = threadIdx.x; }
__global__ void divides_by_zero(float* y, int zero) { y[threadIdx.x] = int(threadIdx.x + 7) / zero; }
