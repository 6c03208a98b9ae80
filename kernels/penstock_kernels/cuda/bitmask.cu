#include "common.cuh"
// Tokens that a grammar does not allow get the logit of what is never drawn.

// logits: [logit rows, vocabulary]; allowed: [masks, ceil(vocabulary / 32)] bits; row: [masks], whose logits each mask
// is for. One thread per token: what is allowed is neither read nor written.
template <class T>
__global__ void token_bitmask(T* __restrict__ logits, const unsigned* __restrict__ allowed,
                              const long long* __restrict__ row, int vocabulary) {
  int token = blockIdx.x * blockDim.x + threadIdx.x;
  if (token >= vocabulary) return;
  unsigned word = allowed[(long long)blockIdx.y * ((vocabulary + 31) / 32) + token / 32];
  if (!(word >> token % 32 & 1)) logits[row[blockIdx.y] * vocabulary + token] = T(-__int_as_float(0x7f800000));
}
