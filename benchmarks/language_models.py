"""Times language models in a process of its own: `compat.install()` is for a whole one.

    python -m benchmarks.language_models BUILD FAMILY ... [--full]

Prints as JSON, by family, the seconds of each round of a forward pass, of a training step and of a generation, and the
tokens that were generated greedily, which must not depend on BUILD.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from tests.kernels.compat_models import FAMILIES

BUILDS = ("transformers", "compat", "mamba_ssm", "mambapy")
"""transformers' model without and with `compat.install()`; of Mamba also compat's MambaLMHeadModel and mambapy's."""
OF_130M = "Mamba-130M"
_MAMBA_130M = {"hidden_size": 768, "num_hidden_layers": 24, "state_size": 16, "vocab_size": 50280}
_WIDER = {
    8: ("hidden_size", "intermediate_size", "shared_intermediate_size", "head_dim", "mamba_d_head", "mamba_head_dim",
        "mamba_d_ssm", "chunk_size", "mamba_chunk_size"),
    4: ("state_size", "mamba_d_state", "ssm_state_size"),
}  # fmt: skip
"""How many times the families of the tests are wider at full size."""


class Work(NamedTuple):
    """Sizes of what is timed."""

    batch: int
    length: int
    prompt: int
    tokens: int
    rounds: int


SMALL, FULL = Work(2, 8, 4, 4, 1), Work(2, 256, 16, 128, 3)


def measure(family: str, build: str, full: bool) -> dict[str, Any]:
    """What the program prints of a family. Raises: RuntimeError with its last output if it fails."""
    if full:
        return _measured(build, (family,), "--full")[family]
    # To start a process takes longer than all small models.
    return _measured(build, (*FAMILIES, OF_130M) if build in BUILDS[:2] else (OF_130M,))[family]


@cache
def _measured(build: str, families: tuple[str, ...], *options: str) -> dict[str, dict[str, Any]]:
    command = [sys.executable, "-m", "benchmarks.language_models", build, *families, *options]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[1])
    if done.returncode:
        raise RuntimeError(f"{', '.join(families)} by {build}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def config_of(family: str, full: bool) -> dict[str, Any]:
    options = {"vocab_size": 512, "num_hidden_layers": 2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": None}
    if family == OF_130M:
        return options | (_MAMBA_130M if full else FAMILIES["Mamba"])
    factors = {name: factor for factor, names in _WIDER.items() for name in names} if full else {}
    return options | {name: _times(value, factors.get(name, 1)) for name, value in FAMILIES[family].items()}


def _times(value: Any, factor: int) -> Any:
    return value * factor if factor > 1 else value


def transformers_model(family: str, full: bool) -> nn.Module:
    import transformers

    name = "Mamba" if family == OF_130M else family
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**config_of(family, full))
    return getattr(transformers, f"{name}ForCausalLM")(config)


def mamba_ssm_model(theirs: Any) -> nn.Module:
    """compat's model with the weights of transformers'."""
    from bdam_kernels.compat import MambaLMHeadModel
    from bdam_kernels.compat.models import MambaConfig

    c = theirs.config
    model = MambaLMHeadModel(
        MambaConfig(
            d_model=c.hidden_size, n_layer=c.num_hidden_layers, vocab_size=c.vocab_size,
            ssm_cfg={"d_state": c.state_size}, residual_in_fp32=c.residual_in_fp32,
        )
    )  # fmt: skip
    model.load_state_dict({name.replace("embeddings.", "embedding."): t for name, t in theirs.state_dict().items()})
    return model


def mambapy_model(theirs: Any) -> nn.Module:
    """mambapy's layers and norm, around which it has the same embedding and head, with the weights of transformers'."""
    from mambapy.mamba import Mamba, MambaConfig, RMSNorm

    c = theirs.config
    config = MambaConfig(d_model=c.hidden_size, n_layers=c.num_hidden_layers, d_state=c.state_size)
    model = nn.ModuleDict({
        "embedding": nn.Embedding(c.vocab_size, c.hidden_size), "mamba": Mamba(config),
        "norm_f": RMSNorm(c.hidden_size), "lm_head": nn.Linear(c.hidden_size, c.vocab_size, bias=False),
    })  # fmt: skip
    renamed = {
        name.replace("backbone.embeddings.", "embedding.").replace("backbone.norm_f.", "norm_f.")
        .replace("backbone.", "mamba."): t
        for name, t in theirs.state_dict().items()
    }  # fmt: skip
    model.load_state_dict(renamed)
    return model


def generate_by_mambapy(model: Any, ids: Tensor, count: int) -> Tensor:
    """As its LM.generate, but greedily."""
    config = model["mamba"].config
    caches = [(None, torch.zeros(len(ids), config.d_inner, config.d_conv - 1)) for _ in range(config.n_layers)]
    length = ids.shape[1]
    for i in range(length + count - 1):
        hidden, caches = model["mamba"].step(model["embedding"](ids[:, i]), caches)
        logits = model["lm_head"](model["norm_f"](hidden))
        if i + 1 >= length:
            ids = torch.cat([ids, logits.argmax(-1, keepdim=True)], 1)
    return ids


def generator(build: str, model: Any, work: Work, ids: Tensor) -> Callable[[], Tensor]:
    if build == "mambapy":
        return lambda: generate_by_mambapy(model, ids, work.tokens)
    if build == "mamba_ssm":
        return lambda: model.generate(ids, max_length=work.prompt + work.tokens)
    mask = torch.ones_like(ids)
    return lambda: model.generate(ids, attention_mask=mask, max_new_tokens=work.tokens, do_sample=False)


def logits_of(build: str, model: Any, ids: Tensor) -> Tensor:
    if build == "mambapy":
        return model["lm_head"](model["norm_f"](model["mamba"](model["embedding"](ids))))
    return model(ids).logits if build == "mamba_ssm" else model(ids, use_cache=False).logits


def seconds(function: Callable[[], Any], rounds: int) -> list[float]:
    """Of each round, after one that is not counted where there are several."""
    taken = []
    for _ in range(rounds + (rounds > 1)):
        began = time.perf_counter()
        function()
        taken.append(time.perf_counter() - began)
    return taken[-rounds:]


def run(family: str, build: str, full: bool) -> dict[str, Any]:
    work = FULL if full else SMALL
    if build in ("compat", "mamba_ssm"):
        from bdam_kernels import compat

        compat.install()
    model: Any = transformers_model(family, full)
    if build == "mamba_ssm":
        model = mamba_ssm_model(model)
    elif build == "mambapy":
        model = mambapy_model(model)
    vocabulary = config_of(family, full)["vocab_size"]
    ids = torch.randint(3, vocabulary, (work.batch, work.length), generator=torch.Generator().manual_seed(1))

    def train() -> None:
        model.zero_grad()
        logits = logits_of(build, model.train(), ids)
        nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).backward()

    found: dict[str, Any] = {}
    generate = generator(build, model.eval(), work, ids[:1, : work.prompt])
    with torch.no_grad():
        found["tokens"] = generate()[0, work.prompt :].tolist()
        found["generation"] = seconds(generate, work.rounds)
        found["forward"] = seconds(lambda: logits_of(build, model, ids), work.rounds)
    if family != OF_130M:  # which is there to generate
        found["train"] = seconds(train, work.rounds)
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("build", choices=BUILDS)
    parser.add_argument("families", nargs="+", choices=[*FAMILIES, OF_130M])
    parser.add_argument("--full", action="store_true")
    asked = parser.parse_args()
    print(json.dumps({family: run(family, asked.build, asked.full) for family in asked.families}))
