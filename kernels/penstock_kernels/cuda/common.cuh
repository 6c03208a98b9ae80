// What every kernel shares. It needs no header of NVIDIA's, so that NVRTC alone compiles it, and so does a
// C++ compiler with emulate/cuda_cpu.h before it. PTX stands only here, in functions which that file has too.
#pragma once
#ifndef CUDA_CPU

typedef unsigned long long uintptr_t;

#define SHARED_DYNAMIC(name) extern __shared__ __align__(16) unsigned char name[]

__device__ __forceinline__ unsigned short f16_from_float(float x) {
  unsigned short h;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(h) : "f"(x));
  return h;
}
__device__ __forceinline__ float f16_to_float(unsigned short h) {
  float x;
  asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(h));
  return x;
}
__device__ __forceinline__ unsigned short bf16_from_float(float x) {
  unsigned short h;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(h) : "f"(x));
  return h;
}
// V is a type whose size is a power of two up to 16, at an address that is a multiple of it.
template <class V>
__device__ __forceinline__ V load_vector(const void* from) {
  return *static_cast<const V*>(from);
}
template <class V>
__device__ __forceinline__ void store_vector(void* to, V value) {
  *static_cast<V*>(to) = value;
}
// 16 bytes from global to shared memory; they are there after the wait for their group.
__device__ __forceinline__ void cp_async16(void* to, const void* from) {
  unsigned at = static_cast<unsigned>(__cvta_generic_to_shared(to));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(at), "l"(from) : "memory");
}
__device__ __forceinline__ void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// A macro, since the number of groups that may stay open is part of the instruction.
#define cp_async_wait(groups) asm volatile("cp.async.wait_group %0;" ::"n"(groups) : "memory")

// D[16,8] += A[16,16] B[16,8] by a warp.
#define MMA_M16N8K16(type, d, a, b)                                                                        \
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32." type "." type                                      \
               ".f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"                                   \
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])                                            \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]))
__device__ __forceinline__ void mma_m16n8k16_bf16(float* d, const unsigned* a, const unsigned* b) {
  MMA_M16N8K16("bf16", d, a, b);
}
__device__ __forceinline__ void mma_m16n8k16_f16(float* d, const unsigned* a, const unsigned* b) {
  MMA_M16N8K16("f16", d, a, b);
}
// x & mask ^ with, in one instruction: of two constants the compiler would make two.
__device__ __forceinline__ unsigned masked_xor(unsigned x, unsigned mask, unsigned with) {
  unsigned found;
  asm("lop3.b32 %0, %1, %2, %3, 0x6a;" : "=r"(found) : "r"(x), "r"(mask), "r"(with));
  return found;
}
// x * y + z of two numbers in a word.
#define FMA_OF_TWO(type, x, y, z)                                                     \
  unsigned both;                                                                      \
  asm("fma.rn." type "x2 %0, %1, %2, %3;" : "=r"(both) : "r"(x), "r"(y), "r"(z)); \
  return both
__device__ __forceinline__ unsigned f16x2_fma(unsigned x, unsigned y, unsigned z) { FMA_OF_TWO("f16", x, y, z); }
__device__ __forceinline__ unsigned bf16x2_fma(unsigned x, unsigned y, unsigned z) { FMA_OF_TWO("bf16", x, y, z); }
#endif

#define FULL_WARP 0xffffffffu

// Numbers of 16 bits: stored so, computed with as floats.
struct f16 {
  unsigned short bits;
  f16() = default;
  __device__ __forceinline__ explicit f16(float x) : bits(f16_from_float(x)) {}
  __device__ __forceinline__ explicit operator float() const { return f16_to_float(bits); }
};
struct bf16 {
  unsigned short bits;
  bf16() = default;
  __device__ __forceinline__ explicit bf16(float x) : bits(bf16_from_float(x)) {}
  __device__ __forceinline__ explicit operator float() const { return __uint_as_float(unsigned(bits) << 16); }
};

template <class T>
struct is_float16 {
  static constexpr bool value = false;
};
template <>
struct is_float16<f16> {
  static constexpr bool value = true;
};
template <>
struct is_float16<bf16> {
  static constexpr bool value = true;
};

template <class A, class B>
struct is_same {
  static constexpr bool value = false;
};
template <class A>
struct is_same<A, A> {
  static constexpr bool value = true;
};

// D[16,8] += A[16,16] B[16,8] of one of them, by a warp.
template <class M>
__device__ __forceinline__ void mma_m16n8k16(float* d, const unsigned* a, const unsigned* b) {
  if constexpr (is_same<M, bf16>::value) mma_m16n8k16_bf16(d, a, b);
  else mma_m16n8k16_f16(d, a, b);
}

// Any number as another; to and from 16-bit floats by way of a float. As itself it keeps every bit, of NaN too.
template <class D, class S>
__device__ __forceinline__ D cast(S x) {
  if constexpr (is_same<D, S>::value) return x;
  else if constexpr (is_float16<D>::value || is_float16<S>::value) return D(float(x));
  else return D(x);
}

template <class T, int N>
struct alignas(sizeof(T) * N) Vec {
  T v[N];
};

__device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
  for (int d = 16; d; d /= 2) x += __shfl_xor_sync(FULL_WARP, x, d);
  return x;
}
__device__ __forceinline__ float warp_max(float x) {
#pragma unroll
  for (int d = 16; d; d /= 2) x = fmaxf(x, __shfl_xor_sync(FULL_WARP, x, d));
  return x;
}
// The sum over a block of THREADS, known to all of them. May be called again at once.
template <int THREADS>
__device__ __forceinline__ float block_sum(float x) {
  __shared__ float part[THREADS / 32];
  x = warp_sum(x);
  if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = x;
  __syncthreads();
  x = 0;
#pragma unroll
  for (int i = 0; i < THREADS / 32; ++i) x += part[i];
  __syncthreads();
  return x;
}
template <int THREADS>
__device__ __forceinline__ float block_max(float x) {
  __shared__ float part[THREADS / 32];
  x = warp_max(x);
  if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = x;
  __syncthreads();
  x = part[0];
#pragma unroll
  for (int i = 1; i < THREADS / 32; ++i) x = fmaxf(x, part[i]);
  __syncthreads();
  return x;
}
