// Entry points of the CUDA kernels. Shapes and meaning: bdam_kernels/ops/<op>/plan.py. An absent tensor is null; stream
// is a cudaStream_t. They throw std::runtime_error if a kernel cannot start.
#pragma once

#include "../tensor.h"

namespace bdam {

// Of the tensors that the kernels take: tests/cuda_host compiles them for the host.
#ifdef BDAM_CUDA_HOST
constexpr const char* kDevice = "cpu";
#else
constexpr const char* kDevice = "cuda";
#endif

// Floats of workspace that hsic_linear_forward wants.
int64_t hsic_linear_workspace(int64_t rows, int64_t x_width, int64_t y_width);

// saved: what backward takes, of as many floats as bdam_kernels/ops/hsic/fused.py says. factor: 1 / r, and in backward
// 2 / r.
void hsic_linear_forward(const Tensor& x, const Tensor& y, const Tensor& value, const Tensor& saved,
                         const Tensor& workspace, double factor, double p, double q, bool unbiased, int64_t stream);

void hsic_linear_backward(const Tensor& grad, const Tensor& saved, const Tensor& grad_x, const Tensor& grad_y,
                          double factor, double p, double q, bool unbiased, int64_t stream);

// Channels of a block, for calls in which both B and C vary over time, or not, and with packed sequences, or not. rows:
// channels of all batches.
int selective_scan_block_channels(int64_t states, bool varies, bool packed, int64_t rows);

void selective_scan_states(const Tensor& u, const Tensor& delta, const Tensor& A, const Tensor& B,
                           const Tensor& delta_bias, const Tensor& states, const Tensor& step_sums, bool delta_softplus,
                           bool reverse, const Tensor& resets, int64_t stream);

void selective_scan_forward(const Tensor& u, const Tensor& delta, const Tensor& A, const Tensor& B, const Tensor& C,
                            const Tensor& D, const Tensor& z, const Tensor& delta_bias, const Tensor& initial_state,
                            const Tensor& states, const Tensor& step_sums, const Tensor& out, const Tensor& last_state,
                            const Tensor& checkpoints, bool delta_softplus, bool reverse, const Tensor& resets,
                            int64_t stream);

void selective_scan_adjoints(const Tensor& delta, const Tensor& A, const Tensor& C, const Tensor& z,
                             const Tensor& delta_bias, const Tensor& grad_out, const Tensor& adjoints,
                             const Tensor& step_sums, bool delta_softplus, bool reverse, const Tensor& resets,
                             int64_t stream);

void selective_scan_backward(const Tensor& u, const Tensor& delta, const Tensor& A, const Tensor& B, const Tensor& C,
                             const Tensor& D, const Tensor& z, const Tensor& delta_bias, const Tensor& initial_state,
                             const Tensor& checkpoints, const Tensor& grad_out, const Tensor& grad_last_state,
                             const Tensor& adjoints, const Tensor& step_sums, const Tensor& grad_u,
                             const Tensor& grad_delta, const Tensor& grad_z, const Tensor& grad_initial_state,
                             const Tensor& partial_A, const Tensor& partial_B, const Tensor& partial_C,
                             const Tensor& partial_D, const Tensor& partial_bias, int64_t first_block,
                             int64_t segments, bool delta_softplus, bool reverse, const Tensor& resets,
                             int64_t stream);

// Adds up what selective_scan_backward left of each gradient, all of which are dense; either may be absent.
void selective_scan_sums(const Tensor& partial_A, const Tensor& partial_B, const Tensor& partial_C,
                         const Tensor& partial_D, const Tensor& partial_bias, const Tensor& grad_A,
                         const Tensor& grad_B, const Tensor& grad_C, const Tensor& grad_D, const Tensor& grad_bias,
                         int64_t stream);

void cross_attention_forward(const Tensor& q_a, const Tensor& k_a, const Tensor& v_a, const Tensor& q_b,
                             const Tensor& k_b, const Tensor& v_b, const Tensor& mask_a, const Tensor& mask_b,
                             const Tensor& out_a, const Tensor& out_b, const Tensor& logs_a, const Tensor& logs_b,
                             double scale, int64_t threshold, int64_t seed, int64_t stream);

// deltas: workspace.
void cross_attention_backward(const Tensor& q_a, const Tensor& k_a, const Tensor& v_a, const Tensor& q_b,
                              const Tensor& k_b, const Tensor& v_b, const Tensor& mask_a, const Tensor& mask_b,
                              const Tensor& out_a, const Tensor& out_b, const Tensor& logs_a, const Tensor& logs_b,
                              const Tensor& grad_out_a, const Tensor& grad_out_b, const Tensor& deltas_a,
                              const Tensor& deltas_b, const Tensor& grad_q_a, const Tensor& grad_k_a,
                              const Tensor& grad_v_a, const Tensor& grad_q_b, const Tensor& grad_k_b,
                              const Tensor& grad_v_b, double scale, int64_t threshold, int64_t seed, int64_t stream);

}  // namespace bdam
