// CUDA C++ as a CPU understands it: put before a .cu file by the compiler's -include. Where a GPU leaves a
// result undefined, this one gives 0xff bytes: NaN, or an index no one expects.
#pragma once
#define CUDA_CPU 1
#include "fibers.h"

#include <cmath>
#include <cstring>
#include <type_traits>
#include <utility>

#define __global__ static
#define __device__
#define __host__
#define __constant__ static
#define __forceinline__ inline
#define __noinline__
#define __align__(n) __attribute__((aligned(n)))
#define __launch_bounds__(...)
#define __grid_constant__
// All of them lie in this library's thread-local segment, which is poisoned before each block.
#define __shared__ static thread_local

#define threadIdx (::cuda_cpu::builtins.thread)
#define blockIdx (::cuda_cpu::builtins.block)
#define blockDim (::cuda_cpu::builtins.block_dim)
#define gridDim (::cuda_cpu::builtins.grid_dim)
#define warpSize 32
#define CUDA_CPU_SITE (::cuda_cpu::Site{__FILE__, __LINE__})

namespace cuda_cpu {

// A warp's values, lane by lane.
template <class T>
struct Lanes {
  T of[32];
  Lanes(Site site, unsigned mask, T value) { warp_gather(site, mask, &value, of, sizeof(T)); }
};

template <class T>
T read_lane(const Lanes<T>& lanes, int lane) {
  return lanes.of[lane & 31];
}
template <class T>
T shuffle(Site s, unsigned mask, T value, int from, int width = 32) {
  int lane = builtins.lane;
  return read_lane(Lanes<T>(s, mask, value), (lane & ~(width - 1)) | (from & (width - 1)));
}
template <class T>
T shuffle_xor(Site s, unsigned mask, T value, int bits, int width = 32) {
  int lane = builtins.lane, from = lane ^ bits;
  return read_lane(Lanes<T>(s, mask, value), from < (lane & ~(width - 1)) + width ? from : lane);
}
template <class T>
T shuffle_down(Site s, unsigned mask, T value, unsigned by, int width = 32) {
  int lane = builtins.lane, from = lane + (int)by;
  return read_lane(Lanes<T>(s, mask, value), from < (lane & ~(width - 1)) + width ? from : lane);
}
template <class T>
T shuffle_up(Site s, unsigned mask, T value, unsigned by, int width = 32) {
  int lane = builtins.lane, from = lane - (int)by;
  return read_lane(Lanes<T>(s, mask, value), from >= (lane & ~(width - 1)) ? from : lane);
}
inline unsigned ballot(Site s, unsigned mask, bool predicate) {
  Lanes<int> lanes(s, mask, predicate);
  unsigned bits = 0;
  for (int i = 0; i < 32; ++i)
    if ((mask >> i & 1) && lanes.of[i]) bits |= 1u << i;
  return bits;
}
template <class T, class F>
T reduce(Site s, unsigned mask, T value, F combine) {
  Lanes<T> lanes(s, mask, value);
  int first = __builtin_ctz(mask);
  T all = lanes.of[first];
  for (int i = first + 1; i < 32; ++i)
    if (mask >> i & 1) all = combine(all, lanes.of[i]);
  return all;
}
struct SyncWarp {
  Site site;
  void operator()(unsigned mask = 0xffffffffu) const { warp_gather(site, mask, nullptr, nullptr, 0); }
};

template <class... A, size_t... I>
void call(void (*kernel)(A...), void** at, std::index_sequence<I...>) {
  kernel(*reinterpret_cast<std::remove_reference_t<A>*>(at[I])...);
}
template <class... A>
struct Call {
  void (*kernel)(A...);
  void** at;
  static void body(void* self) {
    Call* c = static_cast<Call*>(self);
    call(c->kernel, c->at, std::index_sequence_for<A...>{});
  }
};
inline thread_local char segment_anchor;
template <class... A>
int launch(void (*kernel)(A...), const unsigned* g, size_t shared, unsigned order, void** at, unsigned count) {
  if (count != sizeof...(A)) return -int(sizeof...(A)) - 1;
  Call<A...> c{kernel, at};
  poison_segment_of(&segment_anchor);
  return run(Launch{dim3{g[0], g[1], g[2]}, dim3{g[3], g[4], g[5]}, shared, order, Call<A...>::body, &c});
}
}  // namespace cuda_cpu

#define __syncthreads() ::cuda_cpu::block_barrier(CUDA_CPU_SITE)
#define __syncwarp(...) (::cuda_cpu::SyncWarp{CUDA_CPU_SITE}(__VA_ARGS__))
#define __shfl_sync(...) ::cuda_cpu::shuffle(CUDA_CPU_SITE, __VA_ARGS__)
#define __shfl_xor_sync(...) ::cuda_cpu::shuffle_xor(CUDA_CPU_SITE, __VA_ARGS__)
#define __shfl_down_sync(...) ::cuda_cpu::shuffle_down(CUDA_CPU_SITE, __VA_ARGS__)
#define __shfl_up_sync(...) ::cuda_cpu::shuffle_up(CUDA_CPU_SITE, __VA_ARGS__)
#define __ballot_sync(m, p) ::cuda_cpu::ballot(CUDA_CPU_SITE, m, p)
#define __any_sync(m, p) (::cuda_cpu::ballot(CUDA_CPU_SITE, m, p) != 0)
#define __all_sync(m, p) (::cuda_cpu::ballot(CUDA_CPU_SITE, m, p) == (m))
#define __reduce_add_sync(m, v) ::cuda_cpu::reduce(CUDA_CPU_SITE, m, v, [](auto a, auto b) { return a + b; })
#define __reduce_max_sync(m, v) ::cuda_cpu::reduce(CUDA_CPU_SITE, m, v, [](auto a, auto b) { return a > b ? a : b; })
#define __reduce_min_sync(m, v) ::cuda_cpu::reduce(CUDA_CPU_SITE, m, v, [](auto a, auto b) { return a < b ? a : b; })
#define __threadfence() ((void)0)
#define __threadfence_block() ((void)0)

// -- what common.cuh does in PTX on a GPU ------------------------------------------------------------------------

#define SHARED_DYNAMIC(name) unsigned char* name = ::cuda_cpu::dynamic_shared()
#define cp_async16(to, from) ::cuda_cpu::cp_async(to, from, CUDA_CPU_SITE)
#define cp_async_commit() ::cuda_cpu::commit_copies()
#define cp_async_wait(groups) ::cuda_cpu::wait_copies(groups, CUDA_CPU_SITE)

namespace cuda_cpu {
inline void cp_async(void* to, const void* from, Site s) {
  if ((reinterpret_cast<uintptr_t>(to) | reinterpret_cast<uintptr_t>(from)) % 16)
    fail("misaligned asynchronous copy", s);
  copy_later(to, from, 16);
}
}  // namespace cuda_cpu

// A GPU refuses a vector at an address that is no multiple of its size; this CPU would not.
template <class V>
inline V load_vector(const void* from, ::cuda_cpu::Site s = {__builtin_FILE(), __builtin_LINE()}) {
  if (reinterpret_cast<uintptr_t>(from) % sizeof(V)) ::cuda_cpu::fail("misaligned vector load", s);
  return *static_cast<const V*>(from);
}
template <class V>
inline void store_vector(void* to, V value, ::cuda_cpu::Site s = {__builtin_FILE(), __builtin_LINE()}) {
  if (reinterpret_cast<uintptr_t>(to) % sizeof(V)) ::cuda_cpu::fail("misaligned vector store", s);
  *static_cast<V*>(to) = value;
}

inline unsigned __float_as_uint(float x) {
  unsigned bits;
  memcpy(&bits, &x, 4);
  return bits;
}
inline float __uint_as_float(unsigned bits) {
  float x;
  memcpy(&x, &bits, 4);
  return x;
}
inline int __float_as_int(float x) { return int(__float_as_uint(x)); }
inline float __int_as_float(int bits) { return __uint_as_float(unsigned(bits)); }

// Round to nearest, ties to even; all NaN become the one that the GPU gives.
inline unsigned short f16_from_float(float x) {
  unsigned bits = __float_as_uint(x), sign = bits >> 16 & 0x8000;
  bits &= 0x7fffffff;
  if (bits > 0x7f800000) return 0x7fff;
  if (bits >= 0x477ff000) return sign | 0x7c00;
  if (bits < 0x38800000) return sign | (__float_as_uint(__uint_as_float(bits) + 0.5f) - 0x3f000000);
  return sign | ((bits + 0xfff + (bits >> 13 & 1) - 0x38000000) >> 13);
}
inline float f16_to_float(unsigned short half) {
  unsigned sign = (half & 0x8000u) << 16, rest = half & 0x7fff;
  if (rest >= 0x7c00) return __uint_as_float(sign | 0x7f800000 | (rest & 0x3ff) << 13);
  if (rest < 0x400) return __uint_as_float(sign | __float_as_uint(float(rest) * 0x1p-24f));
  return __uint_as_float(sign | ((rest << 13) + 0x38000000));
}
inline unsigned short bf16_from_float(float x) {
  unsigned bits = __float_as_uint(x);
  if ((bits & 0x7fffffff) > 0x7f800000) return 0x7fff;
  return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}

inline unsigned masked_xor(unsigned x, unsigned mask, unsigned with) { return (x & mask) ^ with; }

// x * y + z of two numbers in a word, rounded once.
namespace cuda_cpu {
inline float bf16_to_float(unsigned short x) { return __uint_as_float(unsigned(x) << 16); }
// Of what is cut off the last bit is kept, by which a second rounding knows on which side of a tie it is.
inline float rounded_to_odd(double x) {
  float near = float(x);
  unsigned bits = __float_as_uint(near);
  if (double(near) == x || x != x || std::isinf(near)) return near;
  if (std::fabs(double(near)) > std::fabs(x)) --bits;
  return __uint_as_float(bits | 1);
}
inline unsigned fma_of_two(unsigned x, unsigned y, unsigned z, float (*f)(unsigned short), unsigned short (*h)(float)) {
  auto half = [=](int at) {
    double product = double(f(x >> at & 0xffff)) * f(y >> at & 0xffff);
    return unsigned(h(rounded_to_odd(product + f(z >> at & 0xffff)))) << at;
  };
  return half(0) | half(16);
}
}  // namespace cuda_cpu
inline unsigned f16x2_fma(unsigned x, unsigned y, unsigned z) {
  return ::cuda_cpu::fma_of_two(x, y, z, f16_to_float, f16_from_float);
}
inline unsigned bf16x2_fma(unsigned x, unsigned y, unsigned z) {
  return ::cuda_cpu::fma_of_two(x, y, z, ::cuda_cpu::bf16_to_float, bf16_from_float);
}

// D[16,8] += A[16,16] B[16,8] by a warp, fragments as in the PTX manual; F gives a float for 16 bits.
namespace cuda_cpu {
inline void mma_m16n8k16(float* d, const unsigned* a, const unsigned* b, float (*f)(unsigned short), Site s) {
  struct Fragment {
    unsigned a[4], b[2];
  } mine;
  memcpy(mine.a, a, sizeof mine.a);
  memcpy(mine.b, b, sizeof mine.b);
  Lanes<Fragment> warp(s, 0xffffffffu, mine);
  int group = builtins.lane / 4, place = builtins.lane % 4;
  for (int i = 0; i < 4; ++i) {
    int row = group + i / 2 * 8, column = place * 2 + i % 2;
    for (int k = 0; k < 16; ++k) {
      unsigned x = warp.of[row % 8 * 4 + k % 8 / 2].a[row / 8 + k / 8 * 2];
      unsigned y = warp.of[column * 4 + k % 8 / 2].b[k / 8];
      d[i] += f(x >> k % 2 * 16 & 0xffff) * f(y >> k % 2 * 16 & 0xffff);
    }
  }
}
}  // namespace cuda_cpu
#define mma_m16n8k16_bf16(d, a, b) ::cuda_cpu::mma_m16n8k16(d, a, b, ::cuda_cpu::bf16_to_float, CUDA_CPU_SITE)
#define mma_m16n8k16_f16(d, a, b) ::cuda_cpu::mma_m16n8k16(d, a, b, f16_to_float, CUDA_CPU_SITE)

// -- small functions of CUDA -------------------------------------------------------------------------------------

template <class T>
inline T __ldg(const T* p) {
  return *p;
}
template <class T>
inline T __ldcs(const T* p) {
  return *p;
}
template <class T>
inline void __stcs(T* p, T value) {
  *p = value;
}
inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
inline float __expf(float x) { return expf(x); }
inline float __logf(float x) { return logf(x); }
inline float __fdividef(float x, float y) { return x / y; }
inline int __float2int_rn(float x) { return int(nearbyintf(x)); }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __clz(int x) { return x ? __builtin_clz(x) : 32; }
inline unsigned __byte_perm(unsigned x, unsigned y, unsigned which) {
  unsigned long long bytes = (unsigned long long)y << 32 | x;
  unsigned found = 0;
  for (int i = 0; i < 4; ++i) found |= unsigned(bytes >> (which >> 4 * i & 7) * 8 & 0xff) << 8 * i;
  return found;
}
inline unsigned __umulhi(unsigned x, unsigned y) { return unsigned((unsigned long long)x * y >> 32); }
template <class T>
inline T min(T a, T b) {
  return b < a ? b : a;
}
template <class T>
inline T max(T a, T b) {
  return a < b ? b : a;
}
// One CPU runs all threads, so nothing comes between the read and the write.
template <class T, class F>
inline T cuda_cpu_atomic(T* at, F next) {
  T before = *at;
  *at = next(before);
  return before;
}
template <class T>
inline T atomicAdd(T* at, std::common_type_t<T> x) {
  return cuda_cpu_atomic(at, [=](T old) { return T(old + x); });
}
template <class T>
inline T atomicMax(T* at, std::common_type_t<T> x) {
  return cuda_cpu_atomic(at, [=](T old) { return old < x ? x : old; });
}
template <class T>
inline T atomicMin(T* at, std::common_type_t<T> x) {
  return cuda_cpu_atomic(at, [=](T old) { return x < old ? x : old; });
}
template <class T>
inline T atomicExch(T* at, std::common_type_t<T> x) {
  return cuda_cpu_atomic(at, [=](T) { return x; });
}
template <class T>
inline T atomicCAS(T* at, std::common_type_t<T> expected, std::common_type_t<T> x) {
  return cuda_cpu_atomic(at, [=](T old) { return old == expected ? x : old; });
}

#define CUDA_CPU_EXPORT(index, ...)                                                                           \
  extern "C" __attribute__((visibility("default"))) int cuda_cpu_launch_##index(                              \
      const unsigned* geometry, size_t shared, unsigned order, void** arguments, unsigned count) {            \
    return ::cuda_cpu::launch(__VA_ARGS__, geometry, shared, order, arguments, count);                        \
  }
