#include "common.cuh"
#include "philox.cuh"
// Which of the proposed tokens stand, and what follows them. Rules and random numbers are those of the engine's
// `verify`; all sums are in double precision and in one fixed order, so the order of threads changes nothing.

// Matching. drawn: [rows, depth + 1], the model's own token at each place; draft: [rows, depth]; places: [rows], how
// many of them count; tokens: [rows, depth + 1], -1 behind the last; count: [rows]. One thread per row.
__global__ void verify_match(const int* __restrict__ drawn, const int* __restrict__ draft,
                             const int* __restrict__ places, int* __restrict__ tokens, int* __restrict__ count,
                             int rows, int depth) {
  int row = blockIdx.x * blockDim.x + threadIdx.x;
  if (row >= rows) return;
  const int* own = drawn + (long long)row * (depth + 1);
  const int* proposed = draft + (long long)row * depth;
  int* to = tokens + (long long)row * (depth + 1);
  int stood = 0;
  while (stood < places[row] - 1 && own[stood] == proposed[stood]) ++stood;
  int used = places[row] > 0 ? stood + 1 : 0;
  for (int i = 0; i <= depth; ++i) to[i] = i < used ? own[i] : -1;
  count[row] = used;
}

__device__ __forceinline__ double warp_sum64(double x) {
#pragma unroll
  for (int d = 16; d; d /= 2) x += __shfl_xor_sync(FULL_WARP, x, d);
  return x;
}
// What of a token's probability the drafts did not have, or all of it.
__device__ __forceinline__ double left_of(const float* p, const float* q, int token, bool all) {
  double rest = double(p[token]) - (all ? 0.0 : double(q[token]));
  return rest > 0 ? rest : 0;
}

// Rejection. p: [rows, depth + 1, vocabulary], q: [rows, depth, vocabulary], probabilities; draft: [rows, depth];
// places: [rows], how many of p count; drafts: [rows], how many of the drafts; bonus: [rows], drawn from the last p;
// seed, position: [rows], of the first draft. tokens and count as above. One block per row.
template <int THREADS>
__global__ void __launch_bounds__(THREADS)
    verify_reject(const float* __restrict__ p, const float* __restrict__ q, const int* __restrict__ draft,
                  const int* __restrict__ places, const int* __restrict__ drafts, const int* __restrict__ bonus,
                  const long long* __restrict__ seed, const long long* __restrict__ position,
                  int* __restrict__ tokens, int* __restrict__ count, int depth, int vocabulary) {
  constexpr int WARPS = THREADS / 32;
  __shared__ double part[WARPS];
  __shared__ int last[WARPS];  // the last token with any weight in a warp's part
  long long row = blockIdx.x;
  unsigned long long own_seed = seed[row], first = position[row];
  const int* proposed = draft + row * depth;
  int* to = tokens + row * (depth + 1);
  int warp = threadIdx.x / 32, lane = threadIdx.x % 32, known = min(drafts[row], places[row]), stood = 0;
  while (stood < known) {  // each thread for itself: a few numbers
    long long at = row * (depth + 1) + stood, of = row * depth + stood;
    double accept = uniform64(first + stood, own_seed, 2);
    if (!(accept * double(q[of * vocabulary + proposed[stood]]) < double(p[at * vocabulary + proposed[stood]]))) break;
    ++stood;
  }
  bool rejected = stood < known;
  if (threadIdx.x == 0) {
    int used = stood + (rejected || stood < places[row]);
    for (int i = 0; i <= depth; ++i) to[i] = i < stood ? proposed[i] : -1;
    if (!rejected && stood < places[row]) to[stood] = bonus[row];
    count[row] = used;
  }
  if (!rejected) return;

  const float* own_p = p + (row * (depth + 1) + stood) * vocabulary;
  const float* own_q = q + (row * depth + stood) * vocabulary;
  int each = (vocabulary + WARPS - 1) / WARPS, begin = warp * each, end = min(begin + each, vocabulary);
  bool all = false;
#pragma unroll 1
  for (int turn = 0; turn < 2; ++turn) {  // once more with all of p where nothing is left
    double sum = 0;
    int held = -1;
    for (int i = begin + lane; i < end; i += 32) {
      double x = left_of(own_p, own_q, i, all);
      sum += x;
      if (x > 0) held = i;
    }
    sum = warp_sum64(sum);
#pragma unroll
    for (int d = 16; d; d /= 2) held = max(held, __shfl_xor_sync(FULL_WARP, held, d));
    if (lane == 0) part[warp] = sum, last[warp] = held;
    __syncthreads();
    double total = 0;
    for (int w = 0; w < WARPS; ++w) total += part[w];
    if (total > 0 || turn) break;
    all = true;
    __syncthreads();
  }
  if (warp > 0) return;
  double wanted = 0, before = 0;
  for (int w = 0; w < WARPS; ++w) wanted += part[w];
  wanted *= uniform64(first + stood, own_seed, 3);
  int in = 0;
  while (in < WARPS - 1 && before + part[in] <= wanted) before += part[in++];
  while (in > 0 && last[in] < 0) --in;  // rounding took it past all that has weight
  begin = in * each, end = min(begin + each, vocabulary);
  int found = -1;
#pragma unroll 1
  for (int i = begin; i < end && found < 0; i += 32) {
    double until = i + lane < end ? left_of(own_p, own_q, i + lane, all) : 0;
    bool some = until > 0;
#pragma unroll
    for (int d = 1; d < 32; d *= 2) {
      double other = __shfl_up_sync(FULL_WARP, until, d);
      if (lane >= d) until += other;
    }
    unsigned reached = __ballot_sync(FULL_WARP, some && before + until > wanted);
    if (reached) found = i + __ffs(reached) - 1;
    before += __shfl_sync(FULL_WARP, until, 31);
  }
  if (lane == 0) to[stood] = found < 0 ? max(last[in], 0) : found;
}
