// y = x W^T (+ bias) for bf16 x [m, k] and W [n, k] of int8 or int4, on AVX512-BF16; y is bf16.
//
// Up to three rows of x read every weight once, straight from its integers. For more, some weights
// are made bf16 first and multiplied by all of them: a block of W that the first-level cache holds.
// n is a multiple of 4; k and a group (int8: the group is k) of 64. A processor without these
// instructions gets a function that says so.

#include <cstdint>

#if defined(__AVX512BF16__) && defined(__AVX512VBMI__)
#include <immintrin.h>

#include <algorithm>
#include <memory>

namespace {

constexpr int kStep = 64;                // columns that are made bf16 at once, two registers
constexpr int kRows = 4;                 // rows of W of a micro kernel
constexpr int kDirect = 3;               // rows of x that are multiplied straight from integers
constexpr int kTall = 6;                 // rows of x of a micro kernel
constexpr int64_t kAhead = 2048;         // bytes of a row that are fetched in advance
constexpr int64_t kBlock = 16;           // rows of W that are made bf16 at once
constexpr int64_t kPiece = 512;          // and their columns

struct Weight {
  const uint8_t* data;
  const float* scales;
  int64_t n, k, group;
};

struct Pair {
  __m512i low, high;
};

inline __m512i load(const void* p) { return _mm512_loadu_si512(p); }
inline __m512 dot(__m512 sum, __m512i a, __m512i b) {
  return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b);
}

// The bytes of the bf16 of 0 to 127.
struct Bytes {
  alignas(64) uint8_t low[128], high[128];
  Bytes() {
    for (int i = 0; i < 128; ++i) {
      union {
        float number;
        uint32_t bits;
      } value{(float)i};
      low[i] = (uint8_t)(value.bits >> 16);
      high[i] = (uint8_t)(value.bits >> 24);
    }
  }
};
const Bytes bytes;

// `get` gives the 64 weights of a row from column c on as bf16. Int8 is scaled at the end.
struct Int8 {
  static constexpr int bits = 8;
  static constexpr bool scaled_late = true;
  static int64_t stride(const Weight& w) { return w.k; }
  struct Group {
    Group(const Weight&, int64_t, int64_t) {}
    Pair get(const uint8_t* row, int64_t c) const {
      // In this order the halves of each lane unpack into columns that follow each other.
      const __m512i order = _mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7);
      const __m512i q = _mm512_permutexvar_epi64(order, load(row + c));
      const __m512i at = _mm512_abs_epi8(q);
      const __m512i low = _mm512_permutex2var_epi8(load(bytes.low), at, load(bytes.low + 64));
      const __m512i size = _mm512_permutex2var_epi8(load(bytes.high), at, load(bytes.high + 64));
      // size | (q & sign)
      const __m512i high = _mm512_ternarylogic_epi64(size, q, _mm512_set1_epi8(-128), 0xF8);
      return {_mm512_unpacklo_epi8(low, high), _mm512_unpackhi_epi8(low, high)};
    }
  };
};

struct Int4 {
  static constexpr int bits = 4;
  static constexpr bool scaled_late = false;
  static int64_t stride(const Weight& w) { return w.k / 2; }
  struct Group {
    __m512i table;  // the sixteen numbers that half a byte can stand for in this group
    Group(const Weight& w, int64_t row, int64_t g) {
      const __m512 all = _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, -8, -7, -6, -5, -4, -3, -2, -1);
      const __m512 scale = _mm512_set1_ps(w.scales[row * (w.k / w.group) + g]);
      table = _mm512_castsi256_si512((__m256i)_mm512_cvtneps_pbh(_mm512_mul_ps(all, scale)));
    }
    __m512i half(const uint8_t* p) const {
      const __m512i b = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i*)p));
      const __m512i both = _mm512_or_si512(b, _mm512_slli_epi32(b, 12));
      return _mm512_permutexvar_epi16(_mm512_and_si512(both, _mm512_set1_epi32(0x000F000F)), table);
    }
    Pair get(const uint8_t* row, int64_t c) const {
      return {half(row + c / 2), half(row + c / 2 + 16)};
    }
  };
};

inline __m512 pairs(__m512 a, __m512 b) {
  return _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
}

// The sums of four registers.
inline __m128 sums(const __m512* a) {
  __m512d ab = _mm512_castps_pd(pairs(a[0], a[1])), cd = _mm512_castps_pd(pairs(a[2], a[3]));
  __m512 all = _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(ab, cd)),
                             _mm512_castpd_ps(_mm512_unpackhi_pd(ab, cd)));
  __m256 half = _mm256_add_ps(_mm512_castps512_ps256(all), _mm512_extractf32x8_ps(all, 1));
  return _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
}

// Four numbers of y, which belong to rows of W from `row` on.
template <class Bits>
inline void store(__m128 v, const Weight& w, const float* bias, int64_t row, uint16_t* y) {
  if (Bits::scaled_late) v = _mm_mul_ps(v, _mm_loadu_ps(w.scales + row));
  if (bias) v = _mm_add_ps(v, _mm_loadu_ps(bias + row));
  _mm_storel_epi64((__m128i*)(y + row), (__m128i)_mm_cvtneps_pbh(v));
}

template <class Bits, int M>
void direct(const uint16_t* x, const Weight& w, const float* bias, int64_t row, uint16_t* y) {
  __m512 sum[M][kRows] = {};
  const int64_t stride = Bits::stride(w);
  const uint8_t* data = w.data + row * stride;
  const int64_t ahead = stride <= kAhead ? kRows * stride : kAhead;
  for (int64_t g = 0, c = 0; c < w.k; ++g) {
    const typename Bits::Group groups[kRows] = {
        {w, row, g}, {w, row + 1, g}, {w, row + 2, g}, {w, row + 3, g}};
    for (const int64_t end = c + w.group; c < end; c += kStep)
      for (int r = 0; r < kRows; ++r) {
        _mm_prefetch((const char*)data + r * stride + c * Bits::bits / 8 + ahead, _MM_HINT_T0);
        const Pair one = groups[r].get(data + r * stride, c);
        for (int m = 0; m < M; ++m) {
          sum[m][r] = dot(sum[m][r], one.low, load(x + m * w.k + c));
          sum[m][r] = dot(sum[m][r], one.high, load(x + m * w.k + c + kStep / 2));
        }
      }
  }
  for (int m = 0; m < M; ++m) store<Bits>(sums(sum[m]), w, bias, row, y + m * w.n);
}

// Columns of a row as bf16. Pieces are too short for the hardware to see what comes next.
template <class Bits>
void unpack(const Weight& w, int64_t row, int64_t first, int64_t last, uint16_t* out) {
  const uint8_t* data = w.data + row * Bits::stride(w);
  const int64_t ahead = last < w.k ? kPiece : kBlock * w.k - first;
  const uint8_t* next = data + ahead * Bits::bits / 8;
  for (int64_t c = first; c < last;) {
    const int64_t g = c / w.group;
    const typename Bits::Group group(w, row, g);
    for (const int64_t end = std::min(last, (g + 1) * w.group); c < end; c += kStep) {
      _mm_prefetch((const char*)next + c * Bits::bits / 8, _MM_HINT_T0);
      const Pair both = group.get(data, c);
      _mm512_storeu_si512(out + c - first, both.low);
      _mm512_storeu_si512(out + c - first + kStep / 2, both.high);
    }
  }
}

// Adds to `to` the products of M rows of x and a block of W over the columns of one piece.
template <int M>
void multiply(const uint16_t* x, const uint16_t* wide, int64_t rows, int64_t columns, float* to) {
  for (int64_t row = 0; row < rows; row += kRows) {
    __m512 sum[M][kRows] = {};
    for (int64_t c = 0; c < columns; c += kStep / 2) {
      __m512i one[kRows];
      for (int r = 0; r < kRows; ++r) one[r] = load(wide + (row + r) * columns + c);
      for (int m = 0; m < M; ++m) {
        const __m512i v = load(x + m * columns + c);
        for (int r = 0; r < kRows; ++r) sum[m][r] = dot(sum[m][r], one[r], v);
      }
    }
    for (int m = 0; m < M; ++m) {
      float* at = to + m * kBlock + row;
      _mm_storeu_ps(at, _mm_add_ps(_mm_loadu_ps(at), sums(sum[m])));
    }
  }
}

void multiply(int64_t m, const uint16_t* x, const uint16_t* wide, int64_t rows, int64_t columns,
              float* to) {
  switch (m) {
    case 1: return multiply<1>(x, wide, rows, columns, to);
    case 2: return multiply<2>(x, wide, rows, columns, to);
    case 3: return multiply<3>(x, wide, rows, columns, to);
    case 4: return multiply<4>(x, wide, rows, columns, to);
    case 5: return multiply<5>(x, wide, rows, columns, to);
    default: return multiply<kTall>(x, wide, rows, columns, to);
  }
}

template <class Bits>
void few(const uint16_t* x, int64_t m, const Weight& w, const float* bias, int64_t row,
         uint16_t* y) {
  switch (m) {
    case 1: return direct<Bits, 1>(x, w, bias, row, y);
    case 2: return direct<Bits, 2>(x, w, bias, row, y);
    default: return direct<Bits, kDirect>(x, w, bias, row, y);
  }
}

// Pieces of x one after the other: rows a power of two apart would share the sets of a cache.
void pack(const uint16_t* x, int64_t m, int64_t k, uint16_t* out) {
  for (int64_t c = 0; c < k; c += kPiece) {
    const int64_t columns = std::min(kPiece, k - c);
    for (int64_t i = 0; i < m; ++i, out += columns)
      std::copy_n(x + i * k + c, columns, out);
  }
}

// `x` is packed; `to` holds kBlock numbers for each of its rows.
template <class Bits>
void many(const uint16_t* x, int64_t m, const Weight& w, const float* bias, int64_t first,
          int64_t rows, float* to, uint16_t* y) {
  alignas(64) uint16_t wide[kBlock * kPiece];
  std::fill_n(to, m * kBlock, 0.0f);
  for (int64_t c = 0; c < w.k; c += kPiece) {
    const int64_t columns = std::min(kPiece, w.k - c);
    for (int64_t r = 0; r < rows; ++r)
      unpack<Bits>(w, first + r, c, c + columns, wide + r * columns);
    for (int64_t at = 0; at < m; at += kTall)
      multiply(std::min<int64_t>(kTall, m - at), x + m * c + at * columns, wide, rows, columns,
               to + at * kBlock);
  }
  for (int64_t i = 0; i < m; ++i)
    for (int64_t r = 0; r < rows; r += kRows)
      store<Bits>(_mm_loadu_ps(to + i * kBlock + r), w, bias, first + r, y + i * w.n);
}

template <class Bits>
void gemm(const uint16_t* x, int64_t m, const Weight& w, const float* bias, uint16_t* y,
          int threads) {
  const bool direct = m <= kDirect;
  std::unique_ptr<uint16_t[]> packed(direct ? nullptr : new uint16_t[m * w.k]);
  if (!direct) pack(x, m, w.k, packed.get());
#pragma omp parallel num_threads(threads) if (threads > 1)
  {
    std::unique_ptr<float[]> to(direct ? nullptr : new float[m * kBlock]);
#pragma omp for
    for (int64_t row = 0; row < w.n; row += kBlock) {
      const int64_t rows = std::min(kBlock, w.n - row);
      if (direct)
        for (int64_t r = row; r < row + rows; r += kRows) few<Bits>(x, m, w, bias, r, y);
      else
        many<Bits>(packed.get(), m, w, bias, row, rows, to.get(), y);
    }
  }
}

}  // namespace

extern "C" void penstock_gemm(int bits, const uint16_t* x, int64_t m, const uint8_t* data,
                              const float* scales, int64_t n, int64_t k, int64_t group,
                              const float* bias, uint16_t* y, int threads) {
  if (m < 1) return;
  const Weight w{data, scales, n, k, group};
  if (bits == 8)
    gemm<Int8>(x, m, w, bias, y, threads);
  else
    gemm<Int4>(x, m, w, bias, y, threads);
}

extern "C" int penstock_gemm_offered() { return 1; }

#else

extern "C" int penstock_gemm_offered() { return 0; }

#endif
