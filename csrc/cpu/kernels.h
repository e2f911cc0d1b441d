// Entry points of the CPU kernels. Shapes, meaning and validation: bdam_kernels/ops/<op>/op.py. An absent tensor is null.
#pragma once

#include "../tensor.h"

namespace bdam {

int lanes();  // floats in a vector

void selective_scan_forward(const Tensor& u, const Tensor& delta, const Tensor& A, const Tensor& B, const Tensor& C,
                            const Tensor& D, const Tensor& z, const Tensor& delta_bias, const Tensor& initial_state,
                            const Tensor& resets, const Tensor& out, const Tensor& last_state, bool delta_softplus,
                            bool reverse, int threads);

void selective_scan_backward(const Tensor& u, const Tensor& delta, const Tensor& A, const Tensor& B, const Tensor& C,
                             const Tensor& D, const Tensor& z, const Tensor& delta_bias, const Tensor& initial_state,
                             const Tensor& resets, const Tensor& grad_out, const Tensor& grad_last_state,
                             const Tensor& grad_u, const Tensor& grad_delta, const Tensor& grad_A, const Tensor& grad_B,
                             const Tensor& grad_C, const Tensor& grad_D, const Tensor& grad_z,
                             const Tensor& grad_delta_bias, const Tensor& grad_initial_state, bool delta_softplus,
                             bool reverse, int threads);

void causal_conv1d_forward(const Tensor& x, const Tensor& weight, const Tensor& bias, const Tensor& initial_state,
                           const Tensor& resets, const Tensor& out, const Tensor& final_state, bool silu, int threads);

void causal_conv1d_backward(const Tensor& x, const Tensor& weight, const Tensor& bias, const Tensor& initial_state,
                            const Tensor& resets, const Tensor& grad_out, const Tensor& grad_final_state,
                            const Tensor& grad_x, const Tensor& grad_weight, const Tensor& grad_bias,
                            const Tensor& grad_initial_state, bool silu, int threads);

void hsic_forward(const Tensor& x, const Tensor& y, const Tensor& product, const Tensor& x_centred,
                  const Tensor& y_centred, const Tensor& x_gram, const Tensor& y_gram, int threads);

void hsic_backward(const Tensor& grad, const Tensor& x_weights, const Tensor& y_weights, const Tensor& x_centred,
                   const Tensor& y_centred, const Tensor& grad_x, const Tensor& grad_y, double factor, int threads);

void hsic_gaussian_forward(const Tensor& x, const Tensor& y, const Tensor& kernels, const Tensor& products,
                           const Tensor& sums, int threads);

void hsic_gaussian_backward(const Tensor& x, const Tensor& y, const Tensor& kernels, const Tensor& factors,
                            const Tensor& terms, const Tensor& x_grad, const Tensor& y_grad, int threads);

// K (N, N), panels (N / lanes, N, lanes) of L's columns, N whole vectors; permutations (B, N) of int32 and their inverses,
// as bytes; sums (N / lanes, B), of the products that have columns of a panel.
void hsic_permuted(const Tensor& K, const Tensor& panels, const Tensor& permutations, const Tensor& inverses,
                   const Tensor& sums, int threads);

// Streams a and b. What forward saves for backward: attach_saved in cross_attention.h.
bool pairs_bfloat16();  // whether weights for bfloat16 inputs are saved as bfloat16

void cross_attention_forward(const Tensor& q_a, const Tensor& k_a, const Tensor& v_a, const Tensor& q_b,
                             const Tensor& k_b, const Tensor& v_b, const Tensor& mask_a, const Tensor& mask_b,
                             const Tensor& out_a, const Tensor& out_b, const Tensor& saved, int64_t most_saved_keys, float scale,
                             int dropout_threshold, int64_t seed, int threads);

void cross_attention_backward(const Tensor& q_a, const Tensor& k_a, const Tensor& v_a, const Tensor& q_b,
                              const Tensor& k_b, const Tensor& v_b, const Tensor& mask_a, const Tensor& mask_b,
                              const Tensor& saved, int64_t most_saved_keys, const Tensor& grad_out_a, const Tensor& grad_out_b,
                              const Tensor& grad_q_a, const Tensor& grad_k_a, const Tensor& grad_v_a,
                              const Tensor& grad_q_b, const Tensor& grad_k_b, const Tensor& grad_v_b, float scale,
                              int dropout_threshold, int64_t seed, int threads);

// The means of both outputs, (B, H, d), from the mean weights of the other stream's keys.
void pooled_cross_attention_forward(const Tensor& q_a, const Tensor& k_a, const Tensor& v_a, const Tensor& q_b,
                                    const Tensor& k_b, const Tensor& v_b, const Tensor& mask_a, const Tensor& mask_b,
                                    const Tensor& out_a, const Tensor& out_b, const Tensor& saved, int64_t most_saved_keys, bool backward,
                                    float scale, int dropout_threshold, int64_t seed, int threads);

void pooled_cross_attention_backward(const Tensor& q_a, const Tensor& k_a, const Tensor& v_a, const Tensor& q_b,
                                     const Tensor& k_b, const Tensor& v_b, const Tensor& mask_a, const Tensor& mask_b,
                                     const Tensor& saved, int64_t most_saved_keys, const Tensor& grad_out_a, const Tensor& grad_out_b,
                                     const Tensor& grad_q_a, const Tensor& grad_k_a, const Tensor& grad_v_a,
                                     const Tensor& grad_q_b, const Tensor& grad_k_b, const Tensor& grad_v_b,
                                     float scale, int dropout_threshold, int64_t seed, int threads);

}  // namespace bdam
