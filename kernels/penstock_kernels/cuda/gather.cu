#include "common.cuh"
// Requests' rows, packed one behind the other in a slab of bytes, to a batch with padding, and back. Row r
// begins at byte start[r] and has count[r] elements of S.

// out: [rows, width]; behind count[r] (cut to width) stands pad. mask, if not null: [rows, width], 1 where a
// row's own elements are. One thread makes eight elements.
template <class S, class D>
__global__ void gather_pad(const unsigned char* __restrict__ slab, const long long* __restrict__ start,
                           const int* __restrict__ count, D* __restrict__ out, unsigned char* __restrict__ mask,
                           long long width, float pad) {
  constexpr int N = 8;
  constexpr int IN = 16 / sizeof(S) < N ? 16 / sizeof(S) : N;   // elements of one load
  constexpr int OUT = 16 / sizeof(D) < N ? 16 / sizeof(D) : N;  // and of one store
  typedef Vec<S, IN> Load;
  typedef Vec<D, OUT> Store;
  typedef Vec<unsigned char, N> Marks;
  long long row = blockIdx.y, column = ((long long)blockIdx.x * blockDim.x + threadIdx.x) * N;
  if (column >= width) return;
  const S* from = reinterpret_cast<const S*>(slab + start[row]) + column;
  D* to = out + row * width + column;
  long long left = (count[row] < width ? count[row] : width) - column;

  D value[N];
  if (left >= N && reinterpret_cast<uintptr_t>(from) % sizeof(Load) == 0) {
#pragma unroll
    for (int j = 0; j < N; j += IN) {
      Load loaded = load_vector<Load>(from + j);
#pragma unroll
      for (int i = 0; i < IN; ++i) value[j + i] = cast<D>(loaded.v[i]);
    }
  } else {
    D fill = cast<D>(pad);
#pragma unroll
    for (int i = 0; i < N; ++i) value[i] = i < left ? cast<D>(from[i]) : fill;
  }

  if (column + N <= width && reinterpret_cast<uintptr_t>(to) % sizeof(Store) == 0) {
#pragma unroll
    for (int j = 0; j < N; j += OUT) {
      Store stored;
#pragma unroll
      for (int i = 0; i < OUT; ++i) stored.v[i] = value[j + i];
      store_vector(to + j, stored);
    }
  } else {
#pragma unroll
    for (int i = 0; i < N; ++i)
      if (column + i < width) to[i] = value[i];
  }

  if (!mask) return;
  unsigned char* mark = mask + row * width + column;
  if (column + N <= width && reinterpret_cast<uintptr_t>(mark) % N == 0) {
    Marks marks;
#pragma unroll
    for (int i = 0; i < N; ++i) marks.v[i] = i < left;
    store_vector(mark, marks);
  } else {
#pragma unroll
    for (int i = 0; i < N; ++i)
      if (column + i < width) mark[i] = i < left;
  }
}

// The way back: the first count[r] elements of batch[r, :] go to the slab. Bytes between rows stay as they are.
template <class S, class D>
__global__ void scatter_rows(const S* __restrict__ batch, const long long* __restrict__ start,
                             const int* __restrict__ count, unsigned char* __restrict__ slab, long long width) {
  constexpr int N = 16 / (sizeof(S) > sizeof(D) ? sizeof(S) : sizeof(D));
  typedef Vec<S, N> Load;
  typedef Vec<D, N> Store;
  long long row = blockIdx.y, column = ((long long)blockIdx.x * blockDim.x + threadIdx.x) * N;
  long long left = (count[row] < width ? count[row] : width) - column;
  if (left <= 0) return;
  const S* from = batch + row * width + column;
  D* to = reinterpret_cast<D*>(slab + start[row]) + column;
  bool aligned = reinterpret_cast<uintptr_t>(from) % sizeof(Load) == 0;
  if (left >= N && aligned && reinterpret_cast<uintptr_t>(to) % sizeof(Store) == 0) {
    Load loaded = load_vector<Load>(from);
    Store stored;
#pragma unroll
    for (int i = 0; i < N; ++i) stored.v[i] = cast<D>(loaded.v[i]);
    store_vector(to, stored);
  } else {
    for (int i = 0; i < N && i < left; ++i) to[i] = cast<D>(from[i]);
  }
}
