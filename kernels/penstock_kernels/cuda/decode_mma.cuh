// decode_split by tensor cores, for heads of exactly DIM numbers: of 16 tokens at a time, scores are S = Q K^T with
// N = 8 tokens and M = heads (8, and 8 rows of zeros), and sums are O^T = V^T P^T with M = 16 dimensions, N = 8 heads
// and K = 16 tokens. So the weights that a lane has made of its scores are the very ones that it needs as a factor.
// (S^T = K Q^T would need no zeros, but neighbouring registers of two tokens: 32 moves instead of 8 products.)
//
// Keys and values go from global memory to registers and nowhere else: no banks to conflict, no barriers to wait at.
// The sum over dimensions may be taken in any order in which both factors are, so a lane reads 16 bytes where they lie
// and calls them the columns of its fragments; four lanes read 64 bytes of a key. Of a value eight lanes read 128, and
// pairs of tokens, which a fragment wants in one register, are put together by permuting bytes of what the lane itself
// has read. The registers are the double buffer: when the keys of a tile are multiplied, those of the next are under
// way, and so are values. There is no branch around a load, for behind one the compiler would move what was loaded, and
// so wait for it: behind the last token the last is read again, from a cache. A warp has 8 KiB on the road (16 bits,
// 128 dimensions), a multiprocessor with three blocks 96 KiB, where 4.3 TB/s at 800 ns need 26; cp.async into 48 KiB
// of shared memory would have no more, and would cost an ldmatrix for each fragment.
#pragma once
#include "fp8.cuh"

// What a cache of S is multiplied as, for queries of T.
template <class T, class S>
struct multiplied_as {
  typedef f16 type;
};
template <class T>
struct multiplied_as<T, T> {
  typedef T type;
};

template <class T>
struct stored_unit {
  static constexpr float value = 1;
};
// e4m3 whose bits are moved to their places in an f16 is 2^-8 of itself.
template <>
struct stored_unit<e4m3> {
  static constexpr float value = 256;
};

// How heads of DIM numbers lie in the registers of a warp that takes 16 tokens. Of a row of 512 bytes a half is read at
// a time, since registers do not hold two whole tiles.
template <class S, int DIM>
struct Tile {
  static constexpr int ROW = DIM * sizeof(S);
  static constexpr int HALVES = ROW > 256 ? 2 : 1;
  static constexpr int UNIT = ROW % 128 ? 8 : 16;            // bytes that a lane reads of a value at once
  static constexpr int CHUNKS = ROW / HALVES / 64;           // of a key, of 16 bytes in each of four lanes
  static constexpr int SPANS = ROW / HALVES / (8 * UNIT);    // of a value, of UNIT bytes in each of eight lanes
  static constexpr int PAIRS = UNIT / (2 * int(sizeof(S)));  // of dimensions in a lane's unit
  static constexpr int STEPS = DIM / 16 / HALVES;            // of 16 dimensions
  // Blocks of a multiprocessor: as many as registers allow. At three the compiler of sm_100 would spill some.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 1000
  static constexpr int MOST = 2;
#else
  static constexpr int MOST = 3;
#endif
  static constexpr int BLOCKS = DIM > 128 ? 2 : ROW > 128 ? MOST : ROW > 64 ? 4 : 5;
  typedef Vec<unsigned, UNIT / 4> Value;
};
typedef Vec<unsigned, 4> Four;

template <class M>
__device__ __forceinline__ unsigned pair(M low, M high) {
  return low.bits | unsigned(high.bits) << 16;
}

// Four numbers of eight bits as f16: those of the even bytes, and those of the odd. Exactly, but for stored_unit.
template <class S>
__device__ __forceinline__ void widen(unsigned four, unsigned* even, unsigned* odd) {
  if constexpr (is_same<S, e4m3>::value) {
    *even = (four << 8 & 0x80008000u) | (four << 7 & 0x3f803f80u);
    *odd = (four & 0x80008000u) | (four >> 1 & 0x3f803f80u);
  } else {
    four ^= 0x80808080u;  // 0 to 255, which is the last byte of 1024 to 1279; less 1152
    *even = f16x2_fma(__byte_perm(four, 0x64646464u, 0x4240), 0x3c003c00u, 0xe480e480u);
    *odd = f16x2_fma(__byte_perm(four, 0x64646464u, 0x4341), 0x3c003c00u, 0xe480e480u);
  }
}

// A part of the keys of 16 tokens, whose places in the cache the first 16 lanes know: lane 4 g + p has the p-th 16
// bytes of each chunk of tokens g and g + 8.
template <class S, int DIM>
__device__ __forceinline__ void load_keys(Four* key, const S* cache, int at, int part) {
  typedef Tile<S, DIM> Of;
  int lane = threadIdx.x % 32;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const S* head = cache + (long long)__shfl_sync(FULL_WARP, at, lane / 4 + 8 * r) * DIM;
    const unsigned char* from = reinterpret_cast<const unsigned char*>(head) + lane % 4 * 16;
#pragma unroll
    for (int c = 0; c < Of::CHUNKS; ++c)
      key[r * Of::CHUNKS + c] = load_vector<Four>(from + (part * Of::CHUNKS + c) * 64);
  }
}

// A part of their values: lane 4 g + p has the g-th unit of each span of tokens 2 p, 2 p + 1, 2 p + 8 and 2 p + 9.
template <class S, int DIM>
__device__ __forceinline__ void load_values(typename Tile<S, DIM>::Value* value, const S* cache, int at, int part) {
  typedef Tile<S, DIM> Of;
  int lane = threadIdx.x % 32;
#pragma unroll
  for (int t = 0; t < 4; ++t) {
    const S* head = cache + (long long)__shfl_sync(FULL_WARP, at, lane % 4 * 2 + t % 2 + t / 2 * 8) * DIM;
    const unsigned char* from = reinterpret_cast<const unsigned char*>(head) + lane / 4 * Of::UNIT;
#pragma unroll
    for (int j = 0; j < Of::SPANS; ++j)
      value[4 * j + t] = load_vector<typename Of::Value>(from + (part * Of::SPANS + j) * 8 * Of::UNIT);
  }
}

// Adds what a part of the dimensions gives to the products of the queries and tokens 0 to 7 and 8 to 15.
template <class M, class S, int DIM>
__device__ __forceinline__ void add_scores(float (*score)[4], const Four* key, const Four* query) {
  typedef Tile<S, DIM> Of;
  constexpr int EACH = Of::STEPS / Of::CHUNKS;
#pragma unroll
  for (int i = 0; i < Of::STEPS; ++i) {
    Four a = query[i * 32];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const unsigned* own = key[r * Of::CHUNKS + i / EACH].v;
      unsigned b[2];
      if constexpr (sizeof(S) == 1) widen<S>(own[i % EACH], b, b + 1);
      else b[0] = own[i % EACH * 2], b[1] = own[i % EACH * 2 + 1];
      mma_m16n8k16<M>(score[r], a.v, b);
    }
  }
}

// Adds 16 values by their weights: sum[j * PAIRS + i] is of dimensions 2 i and 2 i + 1 of the lane's unit of span j.
template <class M, class S, int DIM>
__device__ __forceinline__ void add_values(float (*sum)[4], const typename Tile<S, DIM>::Value* value,
                                           const unsigned* weights) {
  typedef Tile<S, DIM> Of;
#pragma unroll
  for (int i = 0; i < Of::STEPS; ++i) {
    const typename Of::Value* own = value + i / Of::PAIRS * 4;
    int of = i % Of::PAIRS;
    unsigned a[4];
#pragma unroll
    for (int t = 0; t < 4; t += 2) {
      if constexpr (sizeof(S) == 1) {
        unsigned both = __byte_perm(own[t].v[of / 2], own[t + 1].v[of / 2], of % 2 ? 0x7632 : 0x5410);
        widen<S>(both, a + t, a + t + 1);
      } else {
        a[t] = __byte_perm(own[t].v[of], own[t + 1].v[of], 0x5410);
        a[t + 1] = __byte_perm(own[t].v[of], own[t + 1].v[of], 0x7632);
      }
    }
    mma_m16n8k16<M>(sum[i], a, weights);
  }
}

// The queries of head lane / 4 as the other factor of scores, 0 where there is none, in the order in which add_scores
// takes a key's dimensions; rows 8 to 15 are 0. For a cache of eight bits they are f16, divided by a power of two that
// brings the head's greatest to between 1 and 2 (what is lost is below 2^-24 of that), which is given back. Only one of
// the warps that call this writes.
template <class T, class S, int DIM>
__device__ __forceinline__ float load_queries(Four* query, const T* head, bool holds, bool writes) {
  int place = threadIdx.x % 4;
  float unit = 1;
  if constexpr (sizeof(S) == 2) {
#pragma unroll
    for (int c = 0; c < DIM / 32; ++c) {
      Four own = {};
      if (holds) own = load_vector<Four>(head + c * 32 + place * 8);
      if (!writes) continue;
      query[2 * c * 32] = {{own.v[0], 0, own.v[1], 0}};
      query[(2 * c + 1) * 32] = {{own.v[2], 0, own.v[3], 0}};
    }
  } else {
    float most = 0;
    Vec<T, 8> own[DIM / 32] = {};
#pragma unroll
    for (int c = 0; c < DIM / 32; ++c) {
      if (holds) own[c] = load_vector<Vec<T, 8>>(head + c / 2 * 64 + place * 16 + c % 2 * 8);
#pragma unroll
      for (int i = 0; i < 8; ++i) most = fmaxf(most, fabsf(float(own[c].v[i])));
    }
#pragma unroll
    for (int d = 1; d < 4; d *= 2) most = fmaxf(most, __shfl_xor_sync(FULL_WARP, most, d));
    unit = __uint_as_float(min(max(__float_as_uint(most) & 0x7f800000u, 0x00800000u), 0x7e800000u));
#pragma unroll
    for (int i = 0; i < DIM / 16; ++i) {
      f16 x[4];
#pragma unroll
      for (int d = 0; d < 4; ++d) x[d] = f16(float(own[i / 2].v[i % 2 * 4 + d]) / unit);
      if (writes) query[i * 32] = {{pair(x[0], x[2]), 0, pair(x[1], x[3]), 0}};
    }
  }
  return unit;
}

// Raises a running maximum to that of these numbers over the four lanes of a head, and gives what is left of a sum that
// was relative to the old one.
__device__ __forceinline__ float raise(float* most, const float* x) {
  float now = fmaxf(fmaxf(fmaxf(x[0], x[1]), fmaxf(x[2], x[3])), *most);
#pragma unroll
  for (int d = 1; d < 4; d *= 2) now = fmaxf(now, __shfl_xor_sync(FULL_WARP, now, d));
  float keep = __expf(*most - now);
  *most = now;
  return keep;
}

// Where a unit of four numbers of a head lies in its row of shared memory. All rows begin at the first bank; of the
// eight lanes that store at a time two have units PAIRS / 2 apart, and four have heads 2 apart, whose numbers exchange
// units: all banks are filled, or (PAIRS 8) half of them twice.
template <int PAIRS>
__device__ __forceinline__ int stored_at(int unit, int head) {
  if constexpr (PAIRS == 2) return unit ^ head / 2 * 2;
  else if constexpr (PAIRS == 4) return unit ^ (head / 2 % 2 | head / 4 * 4);
  else return unit ^ head / 2;
}

// As decode_split, of which it takes the arguments and leaves the same partial results; dim is DIM, and a block serves
// 8 query heads at most. Scales are not negative: a weight is multiplied by its value's before it becomes 16 bits, as
// exp(score + log(scale)) relative to the greatest such sum, so that none is lost, whatever the scales are.
template <class T, class S, int DIM, int WARPS>
__global__ void __launch_bounds__(WARPS * 32, Tile<S, DIM>::BLOCKS)
    decode_mma(const T* __restrict__ q, const S* __restrict__ k_cache, const S* __restrict__ v_cache,
               const float* __restrict__ k_scale, const float* __restrict__ v_scale, const int* __restrict__ table,
               const int* __restrict__ length, float* __restrict__ partial, float scale, float softcap, int window,
               int page_size, int pages, int kv_heads, int group, int dim, int parts, int splits) {
  typedef Tile<S, DIM> Of;
  typedef typename multiplied_as<T, S>::type M;
  constexpr bool SCALED = sizeof(S) == 1;
  constexpr int HEADS = 8, STEP = WARPS * 16;
  const float none = -__int_as_float(0x7f800000);
  __shared__ __align__(16) float sums[WARPS][HEADS][DIM];
  __shared__ Four queries[DIM / 16 * 32];
  __shared__ float highest[WARPS][HEADS], weights[WARPS][HEADS], peaks[WARPS][HEADS];
  int head = blockIdx.x / parts, split = blockIdx.y, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  int own = lane / 4, place = lane % 4;
  long long row = blockIdx.z, heads = (long long)kv_heads * group;
  int from = blockIdx.x % parts * HEADS, count = min(HEADS, group - from);  // this block's heads of the group
  table += row * pages;
  int end = length[row], begin = window > 0 ? max(0, end - window) : 0;
  int span = (end - begin + splits - 1) / splits;
  int first = begin + split * span, last = min(first + span, end), token = first + warp * 16;

  const T* asked = q + (row * heads + head * group + from + own) * DIM;
  float unit = load_queries<T, S, DIM>(queries + lane, asked, own < count, warp == 0);
  __syncthreads();
  float factor = scale * unit * stored_unit<S>::value;
  float sum[DIM / 16][4] = {}, most = none, weight = 0, peak = none;
  if (token < last) {
    // Each lane finds one token's place (the upper 16 do it again); what is behind the last is read, and not counted.
    auto find = [&](int one) {
      unsigned other = min(one + lane % 16, last - 1), page = other / unsigned(page_size);
      return (table[page] * page_size + int(other % unsigned(page_size))) * kv_heads + head;
    };
    Four key[2 * Of::CHUNKS];
    typename Of::Value value[4 * Of::SPANS];
    float k_step = 0, v_step = 0;
    int at = find(token), next = find(token + STEP);
    load_keys<S, DIM>(key, k_cache, at, 0);
    if constexpr (Of::HALVES > 1) load_keys<S, DIM>(value, k_cache, at, 1);
    else load_values<S, DIM>(value, v_cache, at, 0);
    if constexpr (SCALED) k_step = k_scale[at], v_step = v_scale[at];
#pragma unroll 1
    for (; token < last; token += STEP) {
      __syncwarp();  // queries are read anew, and not held in registers
      float score[2][4] = {}, x[4], steps[4], logs[4];
      if constexpr (SCALED) {
        // A scale of 0 is of numbers that are all 0, whatever they weigh; NaN stays what it is.
        float log_step = __logf(v_step < 1e-37f ? 1e-37f : v_step);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          steps[i] = __shfl_sync(FULL_WARP, k_step, place * 2 + i % 2 + i / 2 * 8);
          logs[i] = __shfl_sync(FULL_WARP, log_step, place * 2 + i % 2 + i / 2 * 8);
        }
        k_step = k_scale[next], v_step = v_scale[next];
      }
      add_scores<M, S, DIM>(score, key, queries + lane);
      if constexpr (Of::HALVES > 1) {
        load_values<S, DIM>(key, v_cache, at, 0);
        add_scores<M, S, DIM>(score, value, queries + Of::STEPS * 32 + lane);
        load_values<S, DIM>(value, v_cache, at, 1);
      } else {
        load_keys<S, DIM>(key, k_cache, next, 0);
      }

#pragma unroll
      for (int i = 0; i < 4; ++i) {
        x[i] = score[i / 2][i % 2] * factor;
        if constexpr (SCALED) x[i] *= steps[i];
        if (softcap > 0) x[i] = softcap * tanhf(__fdividef(x[i], softcap));
        if (token + place * 2 + i % 2 + i / 2 * 8 >= last) x[i] = none;
      }
      float keep = raise(&most, x);
      weight *= keep;
      if constexpr (SCALED) {
#pragma unroll
        for (int i = 0; i < 4; ++i) weight += __expf(x[i] - most), x[i] += logs[i];
        keep = raise(&peak, x);
      }
      M chance[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        chance[i] = M(__expf(x[i] - (SCALED ? peak : most)));
        // What was rounded is counted as it was: values that are alike come out as they are.
        if constexpr (!SCALED) weight += float(chance[i]);
      }
      unsigned columns[2] = {pair(chance[0], chance[1]), pair(chance[2], chance[3])};
      float kept[2] = {__shfl_sync(FULL_WARP, keep, place * 8), __shfl_sync(FULL_WARP, keep, place * 8 + 4)};
#pragma unroll
      for (int i = 0; i < DIM / 4; ++i) sum[i / 4][i % 4] *= kept[i % 2];

      if constexpr (Of::HALVES > 1) {
        add_values<M, S, DIM>(sum, key, columns);
        load_keys<S, DIM>(key, k_cache, next, 0);
        add_values<M, S, DIM>(sum + Of::STEPS, value, columns);
        load_keys<S, DIM>(value, k_cache, next, 1);
      } else {
        add_values<M, S, DIM>(sum, value, columns);
        load_values<S, DIM>(value, v_cache, next, 0);
      }
      at = next, next = find(token + 2 * STEP);
    }
  }

#pragma unroll
  for (int d = 1; d < 4; d *= 2) weight += __shfl_xor_sync(FULL_WARP, weight, d);
  if (place == 0) highest[warp][own] = most, weights[warp][own] = weight, peaks[warp][own] = SCALED ? peak : most;
#pragma unroll
  for (int i = 0; i < DIM / 16; i += 2) {
    int four = ((i / Of::PAIRS * 8 + own) * Of::PAIRS + i % Of::PAIRS) / 2;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      Vec<float, 4> numbers = {{sum[i][h], sum[i][h + 2], sum[i + 1][h], sum[i + 1][h + 2]}};
      store_vector(sums[warp][2 * place + h] + stored_at<Of::PAIRS>(four, 2 * place) * 4, numbers);
    }
  }
  __syncthreads();

#pragma unroll 1
  for (int i = threadIdx.x; i < count * DIM; i += WARPS * 32) {
    int h = i / DIM, d = i % DIM;
    float all = none, total = 0, found = 0;
    for (int w = 0; w < WARPS; ++w) all = fmaxf(all, highest[w][h]);
    for (int w = 0; w < WARPS; ++w) {
      if (weights[w][h] == 0) continue;  // this warp had no token
      total += weights[w][h] * expf(highest[w][h] - all);
      found += sums[w][h][stored_at<Of::PAIRS>(d / 4, h) * 4 + d % 4] * expf(peaks[w][h] - all);
    }
    float* to = partial + ((row * heads + head * group + from + h) * splits + split) * (DIM + 2);
    to[d] = found * stored_unit<S>::value;
    if (d == 0) to[DIM] = all, to[DIM + 1] = total;
  }
}
