// What a layer does to each token by itself between its matrices: norms and gated activations.

#include <ATen/Parallel.h>

#include "norm.h"

namespace penstock {

enum Activation : int64_t { SILU, GELU_TANH };

inline V activated(V x, int64_t activation) {
  if (activation == GELU_TANH) {  // x (1 + tanh(u)) / 2 = x / (1 + exp(-2 u))
    const V cube = mul(mul(x, x), x);
    const V u = mul(fma(splat(0.044715f), cube, x), splat(0.7978845608f));
    return div(x, add(splat(1.0f), exponential(mul(u, splat(-2.0f)))));
  }
  return div(x, add(splat(1.0f), exponential(sub(zero(), x))));
}

template <class T>
void norm_rows(int64_t rows, int64_t dim, int64_t style, float epsilon, const T* x, const T* weight,
               T* out) {
  at::parallel_for(0, rows, 1 + 16384 / dim, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r)
      normalise(x + r * dim, weight, dim, epsilon, style, out + r * dim);
  });
}

template <class T>
void gate_rows(int64_t rows, int64_t dim, int64_t activation, const T* both, T* out) {
  at::parallel_for(0, rows, 1 + 16384 / dim, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const T *gate = both + 2 * r * dim, *up = gate + dim;
      T* to = out + r * dim;
      by_sixteen(dim, [&](int64_t at, int64_t n) {
        const V a = as_kept(activated(load_some(gate + at, n), activation), to);
        store_some(to + at, mul(a, load_some(up + at, n)), n);
      });
    }
  });
}

// x, out: [rows, dim]; weight: [dim].
extern "C" void penstock_norm(int64_t kind, int64_t rows, int64_t dim, int64_t style, double epsilon,
                              const void* x, const void* weight, void* out) {
  const float e = float(epsilon);
  if (kind == BF16)
    return norm_rows(rows, dim, style, e, (const bf16*)x, (const bf16*)weight, (bf16*)out);
  if (kind == F16)
    return norm_rows(rows, dim, style, e, (const f16*)x, (const f16*)weight, (f16*)out);
  norm_rows(rows, dim, style, e, (const float*)x, (const float*)weight, (float*)out);
}

// both: [rows, 2 dim], the gates before what they let through; out: [rows, dim].
extern "C" void penstock_gate(int64_t kind, int64_t rows, int64_t dim, int64_t activation,
                              const void* both, void* out) {
  if (kind == BF16) return gate_rows(rows, dim, activation, (const bf16*)both, (bf16*)out);
  if (kind == F16) return gate_rows(rows, dim, activation, (const f16*)both, (f16*)out);
  gate_rows(rows, dim, activation, (const float*)both, (float*)out);
}

}  // namespace penstock
