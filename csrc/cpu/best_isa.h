#pragma once

namespace bdam {

// The largest instruction set of CMakeLists.txt that this processor runs.
inline const char* best_isa() {
#ifdef __x86_64__
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  if (avx2 && avx512) return __builtin_cpu_supports("avx512bf16") ? "avx512_bf16" : "avx512";
  if (avx2) return "avx2";
#endif
  return "baseline";
}

}  // namespace bdam
