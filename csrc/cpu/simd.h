// Vectors of floats through the compiler's vector extensions: one source for SSE2, AVX2, AVX-512 and NEON.
#pragma once

#include <cstdint>
#include <cstring>
#include <utility>

#ifdef __x86_64__
#include <immintrin.h>
#endif

#include "../arithmetic.h"
#include "../tensor.h"

namespace bdam {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif
constexpr int kLanes = kVectorBytes / 4;

typedef float vf __attribute__((vector_size(kVectorBytes)));
typedef int32_t vi __attribute__((vector_size(kVectorBytes)));
typedef uint32_t vu __attribute__((vector_size(kVectorBytes)));
typedef uint16_t vh __attribute__((vector_size(kVectorBytes / 2)));

struct bf16 {
  uint16_t bits;
};
struct f16 {
  uint16_t bits;
};

template <class To, class From>
inline To bitcast(const From& from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof(To));
  return to;
}

inline vf splat(float x) { return x - vf{}; }
inline vf abs(vf x) { return bitcast<vf>(bitcast<vu>(x) & 0x7fffffffu); }
inline vf max(vf a, vf b) { return a > b ? a : b; }

// Conversions round to nearest even; NaN stays NaN.
inline vf widen(vh bits, bf16) { return bitcast<vf>(__builtin_convertvector(bits, vu) << 16); }

#if defined(__AVX512BF16__)
inline vh narrow(vf x, bf16) { return (vh)_mm512_cvtneps_pbh((__m512)x); }
#else
inline vh narrow(vf x, bf16) {
  const vu u = bitcast<vu>(x);
  const vu rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
  const vu quiet = (u >> 16) | 0x40u;
  return __builtin_convertvector(x != x ? quiet : rounded, vh);
}
#endif

#if defined(__AVX512F__)
inline vf widen(vh bits, f16) { return (vf)_mm512_cvtph_ps((__m256i)bits); }
inline vh narrow(vf x, f16) { return (vh)_mm512_cvtps_ph((__m512)x, _MM_FROUND_TO_NEAREST_INT); }
#elif defined(__F16C__)
inline vf widen(vh bits, f16) { return (vf)_mm256_cvtph_ps((__m128i)bits); }
inline vh narrow(vf x, f16) { return (vh)_mm256_cvtps_ph((__m256)x, _MM_FROUND_TO_NEAREST_INT); }
#else
inline vf widen(vh bits, f16) {
  const vu h = __builtin_convertvector(bits, vu);
  const vu magnitude = (h & 0x7fffu) << 13;
  // 2^112 moves the exponent bias from 15 to 127, subnormals included; infinity and NaN need the largest exponent.
  const vf scaled = bitcast<vf>(magnitude) * 0x1p112f;
  const vu special = bitcast<vu>(scaled) | 0x7f800000u;
  const vu finite = bitcast<vu>(scaled);
  return bitcast<vf>((magnitude >= 0x0f800000u ? special : finite) | ((h & 0x8000u) << 16));
}

inline vh narrow(vf x, f16) {
  const vu sign = (bitcast<vu>(x) >> 16) & 0x8000u;
  const vf a = abs(x);
  // Adding a power of two rounds a subnormal result at bit 0; normal results are rounded at bit 13 by integers.
  const vu subnormal = bitcast<vu>(a + 0.5f) - bitcast<vu>(splat(0.5f));
  const vu u = bitcast<vu>(a);
  const vu normal = (u + 0xfffu + ((u >> 13) & 1u) - 0x38000000u) >> 13;
  vu h = a < 0x1p-14f ? subnormal : normal;
  h = a >= 65520.0f ? (vu{} + 0x7c00u) : h;
  h = x != x ? (vu{} + 0x7e00u) : h;
  return __builtin_convertvector(h | sign, vh);
}
#endif

// Loads and stores of kLanes elements at any alignment, or of the first n of them (the rest reads as zero).
inline vf load(const float* p) {
  vf x;
  std::memcpy(&x, p, sizeof(x));
  return x;
}
inline void store(float* p, vf x) { std::memcpy(p, &x, sizeof(x)); }

template <class Half>
inline vf load(const Half* p) {
  vh bits;
  std::memcpy(&bits, p, sizeof(bits));
  return widen(bits, Half{});
}
template <class Half>
inline void store(Half* p, vf x) {
  const vh bits = narrow(x, Half{});
  std::memcpy(p, &bits, sizeof(bits));
}

#if defined(__AVX512BW__)
// The mask of the first n lanes, without a branch.
inline uint32_t first_lanes(int64_t n) {
  const int64_t beyond = n - kLanes;
  return 0xffffu >> -(beyond & beyond >> 63);
}
inline vf load(const float* p, int64_t n) { return (vf)_mm512_maskz_loadu_ps(first_lanes(n), p); }
inline void store(float* p, vf x, int64_t n) { _mm512_mask_storeu_ps(p, first_lanes(n), (__m512)x); }
template <class Half>
inline vf load(const Half* p, int64_t n) {
  return widen((vh)_mm256_maskz_loadu_epi16(first_lanes(n), p), Half{});
}
template <class Half>
inline void store(Half* p, vf x, int64_t n) {
  _mm256_mask_storeu_epi16(p, first_lanes(n), (__m256i)narrow(x, Half{}));
}
#else
template <class T>
inline vf load(const T* p, int64_t n) {
  if (n >= kLanes) return load(p);
  T buffer[kLanes] = {};
  std::memcpy(buffer, p, n * sizeof(T));
  return load(buffer);
}
template <class T>
inline void store(T* p, vf x, int64_t n) {
  if (n >= kLanes) return store(p, x);
  T buffer[kLanes];
  store(buffer, x);
  std::memcpy(p, buffer, n * sizeof(T));
}
#endif

// Like store, past the caches where the processor can write a whole aligned vector there: no line is read first. Memory
// that is written so is seen by other threads after finish_streams.
#if defined(__AVX512F__)
inline void stream_aligned(float* p, vf x) { _mm512_stream_ps(p, (__m512)x); }
inline void stream_aligned(void* p, vh bits) { _mm256_stream_si256(static_cast<__m256i*>(p), (__m256i)bits); }
#elif defined(__AVX__)
inline void stream_aligned(float* p, vf x) { _mm256_stream_ps(p, (__m256)x); }
inline void stream_aligned(void* p, vh bits) { _mm_stream_si128(static_cast<__m128i*>(p), (__m128i)bits); }
#endif
#if defined(__AVX__)
inline void stream(float* p, vf x, int64_t n) {
  const bool whole = n >= kLanes && reinterpret_cast<uintptr_t>(p) % sizeof(vf) == 0;
  whole ? stream_aligned(p, x) : store(p, x, n);
}
template <class Half>
inline void stream(Half* p, vf x, int64_t n) {
  const bool whole = n >= kLanes && reinterpret_cast<uintptr_t>(p) % sizeof(vh) == 0;
  whole ? stream_aligned(p, narrow(x, Half{})) : store(p, x, n);
}
inline void finish_streams() { _mm_sfence(); }
#else
template <class T>
inline void stream(T* p, vf x, int64_t n) {
  store(p, x, n);
}
inline void finish_streams() {}
#endif

// Calls body(typed pointer) for the tensor's floating dtype.
template <class Body>
inline void with_type(DType dtype, void* data, const Body& body) {
  if (dtype == DType::f32) return body(static_cast<float*>(data));
  if (dtype == DType::bf16) return body(static_cast<bf16*>(data));
  return body(static_cast<f16*>(data));
}

// 2^f for |f| <= 1/2, exactly 1 at 0, relative error below 1e-8. The K vectors go in step: one vector's chain of
// dependent operations is longer than what a processor looks ahead.
template <int K>
inline void exp2_fractions(const vf* f, vf* p) {
  constexpr float kCoefficients[] = {0.0013390863314270973f, 0.009618083015084267f, 0.055503569543361664f,
                                     0.24022650718688965f,   0.6931471824645996f,   1.0f};
#pragma GCC unroll 8
  for (int k = 0; k < K; ++k) p[k] = splat(0.00015453163359779865f);
#pragma GCC unroll 8
  for (const float c : kCoefficients) {
#pragma GCC unroll 8
    for (int k = 0; k < K; ++k) p[k] = p[k] * f[k] + c;
  }
}

inline vf exp2_fraction(vf f) {
  vf p;
  exp2_fractions<1>(&f, &p);
  return p;
}

// The bounds keep infinities out of the arithmetic; NaN passes through.
inline vf clamp(vf x, float low, float high) {
  x = x < low ? splat(low) : x;
  return x > high ? splat(high) : x;
}

#if defined(__AVX512F__)
inline vf round(vf x) { return (vf)_mm512_roundscale_ps((__m512)x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
inline vf scale(vf x, vf n) { return (vf)_mm512_scalef_ps((__m512)x, (__m512)n); }
#else
inline vf round(vf x) { return (x + 0x1.8p23f) - 0x1.8p23f; }
// x * 2^n for integral |n| <= 252, in two steps so that neither factor overflows.
inline vf scale(vf x, vf n) {
  const vi exponent = bitcast<vi>(n + 0x1.8p23f) - bitcast<vi>(splat(0x1.8p23f));
  const vi half = exponent >> 1;
  return x * bitcast<vf>((half + 127) << 23) * bitcast<vf>((exponent - half + 127) << 23);
}
#endif

// x[k] = 2^x[k], at most 1.5 ulp.
template <int K>
inline void exp2(vf* x) {
  vf f[K], p[K];
#pragma GCC unroll 8
  for (int k = 0; k < K; ++k) {
#if defined(__AVX512F__)
    f[k] = (vf)_mm512_reduce_ps((__m512)x[k], _MM_FROUND_TO_NEAREST_INT);  // x - round(x); 0 for infinities
    x[k] -= f[k];
#else
    const vf bounded = clamp(x[k], -200.0f, 200.0f);
    x[k] = round(bounded);
    f[k] = bounded - x[k];
#endif
  }
  exp2_fractions<K>(f, p);
#pragma GCC unroll 8
  for (int k = 0; k < K; ++k) x[k] = scale(p[k], x[k]);
}

inline vf exp2(vf x) {
  exp2<1>(&x);
  return x;
}

// e^x, at most 1.5 ulp: n ln(2) is subtracted in two parts, so that the error does not grow with |x|.
inline vf exp(vf x) {
  x = clamp(x, -130.0f, 130.0f);
  const vf n = round(x * kLog2e);
  const vf r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  return scale(exp2_fraction(r * kLog2e), n);
}

// e^x - 1, relative error below 1e-6: 2^n (2^f - 1) + (2^n - 1), with 2^f - 1 as a multiple of f.
inline vf expm1(vf x) {
  constexpr float kCoefficients[] = {0.0013390863314270973f, 0.009618083015084267f, 0.055503569543361664f,
                                     0.24022650718688965f, 0.6931471824645996f};
  x = clamp(x, -130.0f, 88.0f) * kLog2e;
  const vf n = round(x), f = x - n;
  vf p = splat(0.00015453163359779865f);
#pragma GCC unroll 8
  for (const float c : kCoefficients) p = p * f + c;
  return scale(p * f, n) + (scale(splat(1.0f), n) - 1.0f);
}

inline vf sigmoid(vf x) { return 1.0f / (1.0f + exp(-x)); }

// log(1 + e^x), relative error below 1e-6: max(x, 0) + log1p(e^-|x|), log1p(t) = 2 atanh(t / (2 + t)); and its slope, which
// is sigmoid(x).
inline vf softplus(vf x, vf& slope) {
  const vf t = exp(-abs(x));
  slope = (x > 0.0f ? splat(1.0f) : t) / (1.0f + t);
  const vf s = t / (2.0f + t);
  const vf q = s * s;
  vf p = splat(0.28157779574394226f);
  p = p * q + 0.27965158224105835f;
  p = p * q + 0.4002459645271301f;
  p = p * q + 0.6666632294654846f;
  p = p * q + 2.0f;
  return (x > 0.0f ? x : vf{}) + s * p;
}

template <int... I>
inline vf shuffle(vf a, vf b, std::integer_sequence<int, I...>) {
#if defined(__clang__)
  return __builtin_shufflevector(a, b, I...);
#else
  return __builtin_shuffle(a, b, vi{I...});
#endif
}

// In blocks of 2 * Half lanes: (first halves of a, first halves of b), and the same of the second halves.
template <int Half, int... J>
inline vf first_halves(vf a, vf b, std::integer_sequence<int, J...>) {
  return shuffle(a, b, std::integer_sequence<int, (J % (2 * Half) < Half ? J : kLanes + J - Half)...>{});
}
template <int Half, int... J>
inline vf second_halves(vf a, vf b, std::integer_sequence<int, J...>) {
  return shuffle(a, b, std::integer_sequence<int, (J % (2 * Half) < Half ? J + Half : kLanes + J)...>{});
}
using LaneIndices = std::make_integer_sequence<int, kLanes>;

// Transposes the kLanes x kLanes matrix whose rows are r[0], r[1], ...
template <int Half = kLanes / 2>
inline void transpose(vf* r) {
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; ++i) {
    if (i & Half) continue;
    const vf a = r[i], b = r[i + Half];
    r[i] = first_halves<Half>(a, b, LaneIndices{});
    r[i + Half] = second_halves<Half>(a, b, LaneIndices{});
  }
  if constexpr (Half > 1) transpose<Half / 2>(r);
}

// A vector whose lane i is the sum over the lanes of r[i]; r is overwritten.
template <int Half = kLanes / 2>
inline vf row_sums(vf* r) {
#pragma GCC unroll 16
  for (int i = 0; i < Half; ++i) {
    r[i] = first_halves<Half>(r[i], r[i + Half], LaneIndices{}) + second_halves<Half>(r[i], r[i + Half], LaneIndices{});
  }
  if constexpr (Half > 1) return row_sums<Half / 2>(r);
  return r[0];
}

inline float sum(vf x) {
  float total = 0.0f;
  for (int i = 0; i < kLanes; ++i) total += x[i];
  return total;
}

}  // namespace bdam
