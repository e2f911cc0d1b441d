"""GradNorm: task weights, learned so that the tasks' gradients at the last shared layer are in proportion."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from bdam_reid.methods.bdam.config import LossConfig
from bdam_reid.processes import average

MIN_WEIGHT, MAX_WEIGHT = 1e-4, 10.0
MAX_RATIO = 10.0


class GradNorm(nn.Module):
    """Task weights w_k = exp(s_k) of the total loss sum_k w_k L_k.

    Source: both drafts, Eq. 5-6; Chen et al. 2018. The weights descend on
    alpha sum_k |G_k - target_k| + lambda sum_k (log w_k)^2, where G_k = |grad(w_k L_k)| is the norm over the
    last shared layer, r~_k = (L_k / L_k^0) / mean_j(L_j / L_j^0), L_k^0 is the loss at the first update, and

    - target "reference" (the drafts): target_k = r~_k G_1. Targets are constants to the descent, otherwise
      all w -> 0. G_1 is the yardstick, so its own term is in the value but does not move w_1:
      |G_1 - r~_1 G_1| has no root in w_1 unless r~_1 = 1, and would drive w_1 or all others to the limit.
    - target "mean" (Chen et al. 2018): target_k = mean_j(G_j) r~_k^alpha, and the deviation has weight 1.

    After each step the weights are scaled to sum to the number of tasks, then clipped to [1e-4, 10].
    L_k / L_k^0 is limited to 10: a loss that starts at almost nothing, as HSIC does on features that are
    still all alike, says nothing of its rate of training. The descent is plain, so the buffers are the whole
    state.

    Args:
        tasks: names of the losses; the first is the reference.
        config: target, alpha, lambda and learning rate.
    """

    log_weights: Tensor
    initial: Tensor
    updates: Tensor

    def __init__(self, tasks: Sequence[str], config: LossConfig) -> None:
        super().__init__()
        if not tasks:
            raise ValueError("GradNorm needs at least one task, got none")
        self.tasks = tuple(tasks)
        self.config = config
        self.register_buffer("log_weights", torch.zeros(len(tasks)))
        self.register_buffer("initial", torch.zeros(len(tasks)))
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))
        self.register_load_state_dict_pre_hook(_keep_what_is_absent)

    def weights(self) -> Tensor:
        """w, (K,), in the order of `tasks`."""
        return self.log_weights.exp()

    def forward(self, losses: Mapping[str, Tensor]) -> Tensor:
        """sum_k w_k L_k over the tasks, with w constant; other entries of `losses` are left out."""
        return (self.weights() * self._stack(losses)).sum()

    def update(self, losses: Mapping[str, Tensor], shared: Iterable[nn.Parameter]) -> None:
        """One step of the weights; call it before the backward pass of the same losses, whose graph it keeps.

        Args:
            losses: scalars by task.
            shared: parameters of the last shared layer.
        """
        parameters = [parameter for parameter in shared if parameter.requires_grad]
        norms = torch.stack([_gradient_norm(losses[task], parameters) for task in self.tasks])
        values = self._stack(losses).detach().to(self.initial)
        self.initial.copy_(torch.where(self.updates == 0, values, self.initial))
        self.updates += 1
        log_weights = self.log_weights.clone().requires_grad_()
        (slope,) = torch.autograd.grad(self.objective(log_weights, values, norms.to(values)), log_weights)
        weights = len(self.tasks) * (self.log_weights - self.config.gradnorm_lr * slope).softmax(dim=0)
        self.log_weights.copy_(weights.clamp(MIN_WEIGHT, MAX_WEIGHT).log())

    def objective(self, log_weights: Tensor, values: Tensor, norms: Tensor) -> Tensor:
        """What the weights minimise: the two last terms of Eq. 6.

        Args:
            log_weights: s, (K,).
            values: L_k, (K,).
            norms: |grad L_k| of the unweighted losses, (K,).
        Returns: scalar.
        """
        tiny = torch.finfo(values.dtype).tiny
        ratio = (values / self.initial.clamp(min=tiny)).clamp(max=MAX_RATIO)
        rate = ratio / ratio.mean().clamp(min=tiny)
        weighted = log_weights.exp() * norms
        if self.config.gradnorm_target == "mean":
            deviation = (weighted - weighted.mean().detach() * rate**self.config.gradnorm_alpha).abs().sum()
        else:
            reference = weighted[:1].detach()
            weighted = torch.cat((reference, weighted[1:]))
            deviation = self.config.gradnorm_alpha * (weighted - rate * reference).abs().sum()
        return deviation + self.config.gradnorm_lambda * log_weights.square().sum()

    def _stack(self, losses: Mapping[str, Tensor]) -> Tensor:
        missing = [task for task in self.tasks if task not in losses]
        if missing:
            raise ValueError(f"GradNorm weighs the losses {self.tasks}, got none for {missing}")
        return torch.stack([losses[task] for task in self.tasks])


def gradient_shares(losses: Mapping[str, Tensor], shared: Iterable[nn.Parameter]) -> dict[str, Tensor]:
    """The norm of each loss's gradient at the shared parameters, as a share of the sum of these norms.

    Args:
        losses: weighted scalars by name; their graph is kept.
        shared: parameters of the last shared layer.
    Returns: scalars by name.
    """
    parameters = [parameter for parameter in shared if parameter.requires_grad]
    norms = {name: _gradient_norm(loss, parameters) for name, loss in losses.items()}
    total = torch.stack(list(norms.values())).sum().clamp(min=torch.finfo(torch.float32).tiny)
    return {name: norm / total for name, norm in norms.items()}


def _gradient_norm(loss: Tensor, parameters: Sequence[nn.Parameter]) -> Tensor:
    """Of the gradient that a step would take, the mean over processes."""
    gradients = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
    reached = [gradient.detach().flatten() for gradient in gradients if gradient is not None]
    if not reached:
        return loss.detach().new_zeros(())
    whole = torch.cat(reached)
    average([whole])
    return whole.norm()


def _keep_what_is_absent(module: nn.Module, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """Old runs kept their task weights in another file; to evaluate them these are not needed."""
    for name, buffer in module.named_buffers():
        state.setdefault(prefix + name, buffer)
