#include "philox.cuh"
// The next token of each row in one launch: penalties, grammar mask, temperature, min-p, top-k, top-p, a seeded
// draw, and its log probability. One block per row, without a sort: thresholds are found digit by digit, and all
// sums that decide anything are of integers, so the order of threads changes nothing.

struct Row {
  float temperature, min_p, top_p, repetition, presence, frequency;
  int top_k;
};

// Greater for the greater number; 0 for what is never drawn.
__device__ __forceinline__ unsigned key_of(float x) {
  unsigned bits = __float_as_uint(x);
  if (x != x || bits == 0xff800000u) return 0;
  if (x == 0) return 0x80000000u;
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}
// A probability, up to a common factor, as an integer.
__device__ __forceinline__ unsigned long long weight_of(float x, float highest) {
  return (unsigned long long)(expf(x - highest) * 4294967296.0f);
}

// What the row's logits are before the draw, computed anew in each pass: cheaper than a place to keep them.
template <class T>
struct Logits {
  const T* logits;
  const int* counts;
  const unsigned* prompt;
  const unsigned* allowed;
  Row row;
  __device__ __forceinline__ float operator()(int token) const {
    if (allowed && !(allowed[token / 32] >> token % 32 & 1)) return -__int_as_float(0x7f800000);
    float x = float(logits[token]);
    int written = counts ? counts[token] : 0;
    bool seen = written > 0 || (prompt && prompt[token / 32] >> token % 32 & 1);
    if (seen) x = x > 0 ? x / row.repetition : x * row.repetition;
    if (written > 0) x -= row.frequency * written + row.presence;
    return row.temperature > 0 ? x / row.temperature : x;
  }
};

template <int THREADS>
__device__ __forceinline__ unsigned long long block_max64(unsigned long long x) {
  __shared__ unsigned long long part[THREADS / 32];
#pragma unroll
  for (int d = 16; d; d /= 2) {
    unsigned long long other = __shfl_xor_sync(FULL_WARP, x, d);
    x = other > x ? other : x;
  }
  if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = x;
  __syncthreads();
  x = part[0];
#pragma unroll
  for (int i = 1; i < THREADS / 32; ++i) x = part[i] > x ? part[i] : x;
  __syncthreads();
  return x;
}

// The sum over what is kept, of weights or of ones.
template <class T, int THREADS>
__device__ unsigned long long kept_sum(const Logits<T>& logit, int vocabulary, unsigned least, float highest) {
  __shared__ unsigned long long sum;
  if (threadIdx.x == 0) sum = 0;
  __syncthreads();
  unsigned long long own = 0;
#pragma unroll 1
  for (int token = threadIdx.x; token < vocabulary; token += THREADS) {
    float x = logit(token);
    if (key_of(x) >= least) own += weight_of(x, highest);
  }
  atomicAdd(&sum, own);
  __syncthreads();
  own = sum;
  __syncthreads();
  return own;
}

// The greatest key such that what is not below it, and not below `least`, sums to `wanted` at least: by count,
// the wanted-th greatest; by weight, the end of the nucleus. Eight bits of the key in each turn.
template <class T, int THREADS>
__device__ unsigned threshold(const Logits<T>& logit, int vocabulary, unsigned least, float highest, bool by_weight,
                              unsigned long long wanted) {
  __shared__ unsigned long long bins[256];
  __shared__ unsigned found;
  __shared__ unsigned long long rest;
  unsigned prefix = 0;
  // What a turn found is read before its bins are cleared, and written after the barriers behind that.
#pragma unroll 1
  for (int shift = 24; shift >= 0; shift -= 8) {
    for (int i = threadIdx.x; i < 256; i += THREADS) bins[i] = 0;
    __syncthreads();
#pragma unroll 1
    for (int token = threadIdx.x; token < vocabulary; token += THREADS) {
      float x = logit(token);
      unsigned key = key_of(x);
      if (key < least || (shift < 24 && key >> (shift + 8) != prefix)) continue;
      atomicAdd(&bins[key >> shift & 255], by_weight ? weight_of(x, highest) : 1ull);
    }
    __syncthreads();
    if (threadIdx.x < 32) {  // each lane adds up eight bins, the highest in lane 0
      int lane = threadIdx.x, top = 255 - 8 * lane;
      unsigned long long own = 0;
      for (int i = 0; i < 8; ++i) own += bins[top - i];
      unsigned long long until = own;
#pragma unroll
      for (int d = 1; d < 32; d *= 2) {
        unsigned long long before = __shfl_up_sync(FULL_WARP, until, d);
        if (lane >= d) until += before;
      }
      unsigned reached = __ballot_sync(FULL_WARP, until >= wanted);
      // Rounding may leave the sum a little short: then all that is left is wanted.
      int last = reached ? __ffs(reached) - 1 : 31;
      if (lane == last) {
        unsigned long long left = wanted - min(wanted, until - own);
        int bin = top;
        while (bin > top - 7 && bins[bin] < left) left -= bins[bin--];
        found = bin, rest = left;
      }
    }
    __syncthreads();
    prefix = prefix << 8 | found;
    wanted = rest;
  }
  return prefix > least ? prefix : least;
}

// logits: [rows, vocabulary]; counts: [rows, vocabulary], how often each token was generated, or null; prompt: bits
// as of `allowed`, of the tokens that stand before what was generated, or null: repetition counts those too, presence
// and frequency do not. allowed: [rows, ceil(vocabulary / 32)] bits, or null; the parameters: [rows] each. A temperature of 0 takes the
// highest; top_k of 0 and top_p of 1 keep all. token is -1 where nothing is allowed. logprob is of the
// distribution before anything is cut off.
template <class T, int THREADS>
__global__ void __launch_bounds__(THREADS, 2)
    sample(const T* __restrict__ logits, const int* __restrict__ counts, const unsigned* __restrict__ prompt,
           const unsigned* __restrict__ allowed,
           const float* __restrict__ temperature, const int* __restrict__ top_k, const float* __restrict__ top_p,
           const float* __restrict__ min_p, const float* __restrict__ repetition, const float* __restrict__ presence,
           const float* __restrict__ frequency, const long long* __restrict__ seed, const long long* __restrict__ step,
           int* __restrict__ token, float* __restrict__ logprob, int vocabulary) {
  long long r = blockIdx.x;
  Logits<T> logit{logits + r * vocabulary, counts ? counts + r * vocabulary : nullptr,
                  prompt ? prompt + r * ((vocabulary + 31) / 32) : nullptr,
                  allowed ? allowed + r * ((vocabulary + 31) / 32) : nullptr,
                  Row{temperature[r], min_p[r], top_p[r], repetition[r], presence[r], frequency[r], top_k[r]}};
  const Row& row = logit.row;

  unsigned long long best = 0;
#pragma unroll 1
  for (int i = threadIdx.x; i < vocabulary; i += THREADS) {
    unsigned long long key = (unsigned long long)key_of(logit(i)) << 32 | ~(unsigned)i;
    best = key > best ? key : best;
  }
  best = block_max64<THREADS>(best);
  if (best >> 32 == 0) {
    if (threadIdx.x == 0) token[r] = -1, logprob[r] = -__int_as_float(0x7f800000);
    return;
  }
  float highest = logit(~(unsigned)best), sum = 0;
#pragma unroll 1
  for (int i = threadIdx.x; i < vocabulary; i += THREADS) {
    float x = logit(i);
    sum += key_of(x) ? expf(x - highest) : 0;
  }
  sum = block_sum<THREADS>(sum);

  if (row.temperature > 0) {
    unsigned least = 1;
    if (row.min_p > 0) least = max(least, key_of(highest + logf(row.min_p)));
    if (row.top_k > 0 && row.top_k < vocabulary)
      least = threshold<T, THREADS>(logit, vocabulary, least, highest, false, row.top_k);
    if (row.top_p < 1) {
      unsigned long long mass = kept_sum<T, THREADS>(logit, vocabulary, least, highest);
      unsigned long long wanted = (unsigned long long)(double(row.top_p) * mass);
      least = threshold<T, THREADS>(logit, vocabulary, least, highest, true, max(wanted, 1ull));
    }
    // The highest after adding Gumbel noise is a draw from the softmax. Noise is a function of seed, step and
    // token, so it does not matter what else is in the batch.
    unsigned long long own_seed = seed[r], own_step = step[r];
    best = 0;
#pragma unroll 1
    for (int i = threadIdx.x; i < vocabulary; i += THREADS) {
      float x = logit(i);
      if (key_of(x) < least) continue;
      unsigned bits = philox4(i, own_step, own_step >> 32, 0, own_seed, own_seed >> 32).w[0];
      float uniform = ((bits >> 9) + 0.5f) * 1.1920928955078125e-7f;
      unsigned long long key = (unsigned long long)key_of(x - highest - logf(-logf(uniform))) << 32 | ~(unsigned)i;
      best = key > best ? key : best;
    }
    best = block_max64<THREADS>(best);
  }
  if (threadIdx.x == 0) {
    int drawn = ~(unsigned)best;
    token[r] = drawn;
    logprob[r] = logit(drawn) - highest - logf(sum);
  }
}
