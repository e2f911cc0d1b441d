"""Small random models of transformers: `test_compat` runs this, with `compat.install()` and without.

    python tests/compat_models.py with|without FILE

Writes of every family logits, tokens generated greedily with theirs, by beams and by chance, of padded rows too, the
loss in training and all gradients, with padding and every layer checkpointed too.
"""

from __future__ import annotations

import functools
import inspect
import sys
from typing import Any

import torch

ATTENTION = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 4}
HEADS = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_n_groups": 2, "mamba_d_state": 8, "mamba_chunk_size": 8}
HYBRID = {"num_hidden_layers": 4, "layers_block_type": ["mamba", "hybrid", "mamba", "hybrid"]}
MAMBA = {"hidden_size": 32, "state_size": 4}
FAMILIES: dict[str, dict[str, Any]] = {
    "Mamba": MAMBA,
    "FalconMamba": MAMBA | {"mixer_rms_eps": 0.01},
    "Mamba2": {"hidden_size": 32, "state_size": 8, "num_heads": 8, "head_dim": 8, "n_groups": 2, "chunk_size": 8},
    "Jamba": ATTENTION | {"attn_layer_period": 2, "attn_layer_offset": 1, "num_experts": 2, "mamba_d_state": 4},
    "Zamba": ATTENTION | HYBRID | {"mamba_d_state": 4},
    "Zamba2": ATTENTION | HYBRID | {"mamba_d_state": 8, "mamba_ngroups": 2, "chunk_size": 8, "adapter_rank": 4},
    "Bamba": ATTENTION | HEADS | {"attn_layer_indices": [1]},
    "FalconH1": ATTENTION | HEADS | {"mamba_d_ssm": 64},
    "Lfm2": ATTENTION | {"layer_types": ["conv", "full_attention"], "conv_bias": True},
    "NemotronH": ATTENTION
    | {"layers_block_type": ["mamba", "attention"], "ssm_state_size": 8, "mamba_num_heads": 8, "mamba_head_dim": 8}
    | {"n_groups": 2, "chunk_size": 8, "head_dim": 8},
    "GraniteMoeHybrid": ATTENTION
    | HEADS
    | {"layer_types": ["mamba", "attention"], "num_local_experts": 2, "num_experts_per_tok": 1}
    | {"shared_intermediate_size": 16},
}


def make(family: str) -> tuple[Any, torch.Tensor]:
    """A model, and tokens for it."""
    import transformers

    options = {"vocab_size": 60, "num_hidden_layers": 2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": None}
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**options | FAMILIES[family])
    model = getattr(transformers, f"{family}ForCausalLM")(config)
    with torch.no_grad():
        for parameter in model.parameters():
            # Norms, biases and steps that differ from one another show what is left out or swapped.
            parameter.add_(0.2 * torch.randn(parameter.shape))
    return model, torch.randint(3, 60, (2, 11))


def run(family: str) -> dict[str, torch.Tensor]:
    model, ids = make(family)
    found = {"logits": model.eval()(ids).logits.detach()}
    generated = generate(model, ids, 12, output_logits=True, return_dict_in_generate=True)
    found |= {"greedy tokens": generated.sequences, "logits of steps": torch.stack(generated.logits, 1)}
    found["tokens of beams"] = generate(model, ids, 5, num_beams=3)
    found["sampled tokens"] = generate(model, ids, 8, do_sample=True, top_k=20)
    padded = torch.ones_like(ids)
    padded[0, :4] = 0
    found["tokens after padding"] = generate(model, ids, 3, attention_mask=padded)
    found |= train(model, ids, "") | train(model, ids, " with padding", attention_mask=padded)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    return found | train(model, ids, " with checkpoints")


def packed(family: str) -> list[str]:
    """What a model's first layer of `Mixer`, as it is and compiled, says of rows that hold two sequences each; "" if it
    takes them."""
    model, _ = make(family)
    mixer = next(m for m in model.modules() if "Mixer" in type(m).__name__)
    hidden, seq_idx = torch.randn(2, 11, 32), (torch.arange(11) // 6).expand(2, -1)

    def said(layer: Any) -> str:
        try:
            layer(hidden, seq_idx=seq_idx)
        except ValueError as error:
            return str(error)
        return ""

    with torch.no_grad():
        return [said(mixer), said(torch.compile(mixer, backend="eager"))]


def generate(model: Any, ids: torch.Tensor, count: int, **options: Any) -> Any:
    torch.manual_seed(1)
    options = {"do_sample": False, "attention_mask": torch.ones_like(ids)} | options
    return model.eval().generate(ids, max_new_tokens=count, **options)


def train(model: Any, ids: torch.Tensor, how: str, **options: Any) -> dict[str, torch.Tensor]:
    """The loss and all gradients."""
    model.zero_grad()
    loss = model.train()(ids, labels=ids, use_cache=False, **options).loss
    loss.backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {f"loss{how}": loss.detach(), **{f"gradient of {name}{how}": grad for name, grad in gradients.items()}}


def count_calls(modules: dict[str, dict[str, Any]]) -> dict[str, int]:
    """How often each stand-in is called from here on, after `install()`."""
    calls: dict[str, int] = {}

    def counted(name: str, function: Any) -> Any:
        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            calls[name] = calls.get(name, 0) + 1
            return function(*args, **kwargs)

        return call

    for attributes in modules.values():
        for name, value in attributes.items():
            if inspect.isfunction(value):
                attributes[name] = counted(name, value)
    return calls


def main(mode: str, path: str) -> None:
    from bdam_kernels import compat
    from bdam_kernels.compat import installation

    calls: dict[str, int] = {}
    installed = mode == "with"
    if installed:
        calls = count_calls(installation._MODULES)
        compat.install()
    found = {family: run(family) for family in FAMILIES}
    refusal = ""
    try:
        compat.install()
    except RuntimeError as error:
        refusal = str(error)
    torch.save(
        {"found": found, "calls": calls, "refusal": refusal, "packed": packed("Zamba") if installed else []}, path
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(*sys.argv[1:])
