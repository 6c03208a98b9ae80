// gemv for more rows, by tensor cores: D[16 outputs, 8 rows] += W[16, 16 inputs] X^T[16, 8]. As in decode_mma.cuh what
// is summed may come in any order, so a lane reads 16 bytes of a weight's row where they lie, and the same inputs of x:
// four lanes read 64 bytes. A warp makes 32 outputs of all rows, so that what it reads of x (out of the first cache,
// which other warps of the block have filled) serves two products; 16 for 64 rows and four bits, since each group has
// sums of its own, and registers do not hold more. Integers become numbers of 16 bits exactly; scales multiply sums of
// floats.
#pragma once
#include "common.cuh"

// How integers of BITS lie in the 16 bytes of a lane.
template <int BITS>
struct Packed {
  static constexpr int EACH = 128 / BITS;   // of a lane
  static constexpr int CHUNK = 4 * EACH;    // of the four lanes of a row
  static constexpr int UNITS = EACH / 8;    // of eight, which are 16 bytes of x
};

// How many outputs a warp makes, in tiles of 16, and how many blocks a multiprocessor is to hold.
__host__ __device__ constexpr int tiles_of(int bits, int rows) { return bits == 4 && rows > 32 ? 1 : 2; }
__host__ __device__ constexpr int blocks_of(int bits, int rows) {
  return rows * 8 > 32 * bits ? 2 : rows * 8 > 16 * bits ? 3 : rows > bits ? 4 : 5;
}

// Eight integers as four pairs, in their order. What the bits of an integer are put behind is a number of which they
// are the last places; it is subtracted again.
template <class T, int BITS>
__device__ __forceinline__ void unpack(const unsigned* words, unsigned* pairs) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    // The bytes of both integers, which of four bits are one.
    unsigned of = BITS == 8 ? words[i / 2] : *words, bytes = BITS == 8 ? (i % 2 ? 0x4342 : 0x4140) : 0x4040 + 0x101 * i;
    if constexpr (is_same<T, f16>::value && BITS == 8) {
      unsigned both = __byte_perm(of ^ 0x80808080u, 0x64646464u, bytes);  // 1024 + 0 to 255
      pairs[i] = f16x2_fma(both, 0x3c003c00u, 0xe480e480u);
    } else if constexpr (is_same<T, f16>::value) {
      unsigned both = __byte_perm(of, 0x64646464u, bytes);  // 1024 + 0 to 15, and 1024 + 16 times that
      pairs[i] = f16x2_fma(masked_xor(both, 0xfff0ff0fu, 0x00800008u), 0x2c003c00u, 0xd480e408u);
    } else {
      // 128 + all but the sign, which is a bit of what is subtracted; of the second of four bits 16 times that.
      constexpr unsigned SIZE = BITS == 8 ? 0x007f007fu : 0x00700007u, SIGN = BITS == 8 ? 0x00800080u : 0x00800008u;
      unsigned both = __byte_perm(of, 0, bytes), less = masked_xor(both, SIGN, BITS == 8 ? 0xc300c300u : 0xc100c300u);
      pairs[i] = bf16x2_fma(masked_xor(both, SIZE, 0x43004300u), BITS == 8 ? 0x3f803f80u : 0x3d803f80u, less);
    }
  }
}

// x, data, scale, bias, y as of gemv; inputs and group (of four bits; of eight it is all inputs) are multiples of
// CHUNK, rows is ROWS at most. `parts` warps of a block of four share outputs, and take chunks of the inputs in turn.
template <class T, int BITS, int ROWS>
__global__ void __launch_bounds__(128, blocks_of(BITS, ROWS))
    gemv_mma(const T* __restrict__ x, const unsigned char* __restrict__ data, const float* __restrict__ scale,
             const float* __restrict__ bias, T* __restrict__ y, int rows, int inputs, int outputs, int group,
             int parts) {
  typedef Packed<BITS> Of;
  typedef Vec<unsigned, 4> Four;
  constexpr int TILES = ROWS / 8, TALL = tiles_of(BITS, ROWS), OUTPUTS = 16 * TALL, WARPS = 4;
  constexpr int STRIDE = OUTPUTS + 4;  // two rows' lanes store to banks that are 8 apart
  __shared__ float sums[WARPS][ROWS][STRIDE];
  int warp = threadIdx.x / 32, lane = threadIdx.x % 32, own = lane / 4, place = lane % 4;
  int here = WARPS / parts, first = (blockIdx.x * here + warp / parts) * OUTPUTS;
  int chunks = inputs / Of::CHUNK, groups = inputs / group, last = chunks - 1;

  // The i-th is of output own + 8 i; behind the last is the last, and not stored.
  const unsigned char* from[2 * TALL];
  const float* of[2 * TALL];
#pragma unroll
  for (int i = 0; i < 2 * TALL; ++i) {
    long long output = min(first + own + 8 * i, outputs - 1);
    from[i] = data + output * inputs * BITS / 8 + place * 16;
    of[i] = scale + output * groups;
  }
  auto load = [&](Four* weights, float* steps, int chunk) {
    int in = BITS == 4 ? chunk * Of::CHUNK / group : 0;
#pragma unroll
    for (int i = 0; i < 2 * TALL; ++i) {
      weights[i] = load_vector<Four>(from[i] + chunk * 64);
      if constexpr (BITS == 4) steps[i] = of[i][in];
    }
  };
  float sum[TALL][TILES][4] = {};
  auto add = [&](const Four* weights, const float* steps, int chunk) {
    float part[TALL][TILES][4] = {};
    auto& goal = BITS == 4 ? part : sum;
#pragma unroll
    for (int u = 0; u < Of::UNITS; ++u) {
      unsigned pairs[2 * TALL][4];
#pragma unroll
      for (int i = 0; i < 2 * TALL; ++i) unpack<T, BITS>(weights[i].v + u * BITS / 4, pairs[i]);
#pragma unroll
      for (int t = 0; t < TILES; ++t) {
        int row = min(t * 8 + own, rows - 1);
        Four b = load_vector<Four>(x + (long long)row * inputs + chunk * Of::CHUNK + place * Of::EACH + u * 8);
#pragma unroll
        for (int i = 0; i < 2 * TALL; ++i) {
          const unsigned *low = pairs[i / 2 * 2] + i % 2 * 2, *high = pairs[i / 2 * 2 + 1] + i % 2 * 2;
          unsigned a[4] = {low[0], high[0], low[1], high[1]};
          mma_m16n8k16<T>(goal[i / 2][t], a, b.v + i % 2 * 2);
        }
      }
    }
    if constexpr (BITS == 4) {
#pragma unroll
      for (int i = 0; i < TALL * TILES * 4; ++i) {
        int m = i / (TILES * 4), t = i / 4 % TILES, c = i % 4;
        sum[m][t][c] += part[m][t][c] * steps[2 * m + c / 2];
      }
    }
  };

  // Two chunks of weights, of which one is under way while the other is multiplied.
  Four weights[2][2 * TALL];
  float steps[2][2 * TALL];
  int chunk = warp % parts;
  load(weights[0], steps[0], min(chunk, last));
#pragma unroll 1
  for (; chunk < chunks; chunk += 2 * parts) {
    load(weights[1], steps[1], min(chunk + parts, last));
    add(weights[0], steps[0], chunk);
    load(weights[0], steps[0], min(chunk + 2 * parts, last));
    if (chunk + parts < chunks) add(weights[1], steps[1], chunk + parts);
  }
#pragma unroll
  for (int i = 0; i < TALL * TILES * 4; ++i) {
    int m = i / (TILES * 4), t = i / 4 % TILES, c = i % 4;
    sums[warp][t * 8 + 2 * place + c % 2][m * 16 + own + c / 2 * 8] = sum[m][t][c];
  }
  __syncthreads();

#pragma unroll 1
  for (int i = threadIdx.x; i < here * rows * OUTPUTS; i += WARPS * 32) {
    int o = i % OUTPUTS, r = i / OUTPUTS % rows, of = i / OUTPUTS / rows, to = (blockIdx.x * here + of) * OUTPUTS + o;
    if (to >= outputs) continue;
    float all = 0;
    for (int p = 0; p < parts; ++p) all += sums[of * parts + p][r][o];
    if (BITS == 8) all *= scale[to];
    y[(long long)r * outputs + to] = T(bias ? all + bias[to] : all);
  }
}
