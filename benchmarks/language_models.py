"""Times language models in processes of their own, as `compat.install()` is for a whole one.

    python -m benchmarks.language_models BUILD [--full]

reads lines "FAMILY STEP" and answers each with a line of JSON: the seconds that the step took, and of a generation the
tokens, which are chosen greedily and must not depend on BUILD. So the rounds of several builds can take turns, as one
machine is not as fast in one minute as in the next.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Mapping
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


class Process:
    """The program, with one build."""

    def __init__(self, build: str, full: bool) -> None:
        self.build = build
        command = [sys.executable, "-m", "benchmarks.language_models", build, *["--full"] * full]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1]
        )

    def take(self, family: str, step: str) -> dict[str, Any]:
        """The answer to a line. Raises: RuntimeError if the program has ended, after its own words."""
        assert self.process.stdin and self.process.stdout
        print(family, step, file=self.process.stdin, flush=True)
        if not (answer := self.process.stdout.readline()):
            raise RuntimeError(f"{step} of {family} by {self.build} failed")
        return json.loads(answer)


@cache
def process_of(build: str, full: bool) -> Process:
    """Of which there is one for all families: to start it takes longer than most models. It ends with this process,
    whose end is that of its lines."""
    return Process(build, full)


@cache
def measure(family: str, builds: tuple[str, ...], full: bool) -> Mapping[str, dict[str, Any]]:
    """By build, the seconds of the rounds of each step, in turns, and the tokens."""
    steps = ("generation", "forward", "train") if family != OF_130M else ("generation",)
    rounds = (FULL if full else SMALL).rounds
    found: dict[str, dict[str, Any]] = {build: {step: [] for step in steps} for build in builds}
    for step in steps:
        for number in range(rounds + (rounds > 1)):
            for build, of in found.items():
                answer = process_of(build, full).take(family, step)
                of["tokens"] = answer.get("tokens", of.get("tokens"))
                if number or rounds == 1:  # the first of several is not counted
                    of[step].append(answer["seconds"])
    return found


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


def generate(build: str, model: Any, work: Work, ids: Tensor) -> Tensor:
    if build == "mambapy":
        return generate_by_mambapy(model, ids, work.tokens)
    if build == "mamba_ssm":
        return model.generate(ids, max_length=work.prompt + work.tokens)
    return model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=work.tokens, do_sample=False)


def logits_of(build: str, model: Any, ids: Tensor) -> Tensor:
    if build == "mambapy":
        return model["lm_head"](model["norm_f"](model["mamba"](model["embedding"](ids))))
    return model(ids).logits if build == "mamba_ssm" else model(ids, use_cache=False).logits


class Steps:
    """What is timed of a family."""

    def __init__(self, family: str, build: str, full: bool) -> None:
        self.build, self.work = build, FULL if full else SMALL
        self.model: Any = transformers_model(family, full)
        if build == "mamba_ssm":
            self.model = mamba_ssm_model(self.model)
        elif build == "mambapy":
            self.model = mambapy_model(self.model)
        shape, vocabulary = (self.work.batch, self.work.length), config_of(family, full)["vocab_size"]
        self.ids = torch.randint(3, vocabulary, shape, generator=torch.Generator().manual_seed(1))

    @torch.no_grad()
    def generation(self) -> Tensor:
        return generate(self.build, self.model.eval(), self.work, self.ids[:1, : self.work.prompt])

    @torch.no_grad()
    def forward(self) -> None:
        logits_of(self.build, self.model.eval(), self.ids)

    def train(self) -> None:
        self.model.zero_grad()
        logits = logits_of(self.build, self.model.train(), self.ids)
        nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), self.ids[:, 1:].flatten()).backward()

    def take(self, step: str) -> dict[str, Any]:
        """The seconds of a step, and the tokens of a generation."""
        function = getattr(self, step)
        began = time.perf_counter()
        result = function()
        answer: dict[str, Any] = {"seconds": time.perf_counter() - began}
        return answer if result is None else answer | {"tokens": result[0, self.work.prompt :].tolist()}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("build", choices=BUILDS)
    parser.add_argument("--full", action="store_true")
    asked = parser.parse_args()
    if asked.build in ("compat", "mamba_ssm"):
        from bdam_kernels import compat

        compat.install()
    steps_of = cache(lambda family: Steps(family, asked.build, asked.full))
    for line in sys.stdin:
        family, step = line.split()
        print(json.dumps(steps_of(family).take(step)), flush=True)


if __name__ == "__main__":
    main()
