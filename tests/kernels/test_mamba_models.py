"""mamba_ssm's layer as upstream builds and calls it, and its language model, against transformers' own Mamba."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import assert_matches
from torch import nn

from bdam_kernels import Mamba
from bdam_kernels.compat import Block, MambaLMHeadModel, vision
from bdam_kernels.compat.generation import GenerationMixin, InferenceParams, sample
from bdam_kernels.compat.models import GatedMLP, MambaConfig, MixerModel, _init_weights, create_block
from bdam_kernels.compat.norms import RMSNorm, layer_norm_fn, rms_norm_fn

CONFIG: dict[str, Any] = {"d_model": 24, "n_layer": 2, "vocab_size": 50, "ssm_cfg": {"d_state": 4}}


def test_layer_has_what_upstream_has() -> None:
    layer = Mamba(16, 4, 4, 2, "auto", 0.001, 0.1, "random", 1.0, 1e-4, True, False, False, 3, "cpu", torch.float32)
    assert (layer.layer_idx, layer.use_fast_path, layer.expand, layer.activation) == (3, False, 2, "silu")
    assert isinstance(layer.act, nn.SiLU)
    marked = {name for name, p in layer.named_parameters() if getattr(p, "_no_weight_decay", False)}
    assert marked == {"A_log", "D"} and layer.dt_proj.bias._no_reinit


@pytest.mark.parametrize("prompt", [1, 2, 7])
@torch.no_grad()
def test_layer_with_inference_params(prompt: int) -> None:
    layer, x = Mamba(12, layer_idx=5), torch.randn(3, 9, 12)
    params = InferenceParams(max_seqlen=9, max_batch_size=3)
    outs = [layer(x[:, :prompt], inference_params=params)]
    for t in range(prompt, 9):
        params.seqlen_offset = t
        outs.append(layer(x[:, t : t + 1], params))
    assert list(params.key_value_memory_dict) == [5]
    assert_matches(torch.cat(outs, 1), layer(x).double(), "out")
    with pytest.raises(ValueError, match="one token at a time"):
        layer(x, params)
    with pytest.raises(ValueError, match="must be of a batch of 2, got states of 3"):
        layer(x[:2, :1], params)
    with pytest.raises(ValueError, match="need a layer_idx"):
        Mamba(12)(x, params)
    with pytest.raises(ValueError, match="leave seq_idx out"):
        layer(x, params, seq_idx=torch.zeros(3, 9, dtype=torch.int32))


@pytest.mark.parametrize("divided", [False, True])
def test_layer_of_both_directions(divided: bool) -> None:
    """The sum, or the mean, of a layer and of another one that reads backwards, which share outer projections."""
    layer, x = (
        vision.Mamba(12, bimamba_type="v2", if_divide_out=divided, init_layer_scale=0.1, bias=True),
        torch.randn(3, 9, 12),
    )
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape))
    forth, back, state = Mamba(12, bias=True), Mamba(12, bias=True), layer.state_dict()
    gamma, bias = state.pop("gamma").double(), layer.out_proj.bias.double()
    backward = {
        n.replace("A_b_log", "A_log").replace("_b", "") if "_b" in n else n: t
        for n, t in state.items()
        if n not in forth.state_dict()
    }
    forth.load_state_dict({n: t for n, t in state.items() if n in forth.state_dict()})
    back.load_state_dict({n: t for n, t in forth.state_dict().items() if n not in backward} | backward)
    both = forth(x).double() + back(x.flip(1)).flip(1).double() - 2 * bias
    expected = ((both / 2 if divided else both) + bias) * gamma
    assert_matches(layer(x), expected, "out")
    layer(x).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in layer.parameters())
    assert layer.A_b_log._no_weight_decay and layer.D_b._no_weight_decay
    with pytest.raises(ValueError, match="takes neither inference_params nor seq_idx"):
        layer(x, InferenceParams(9, 3))


def test_layer_of_one_direction() -> None:
    layer, x = vision.Mamba(12, bimamba_type="none"), torch.randn(3, 9, 12)
    same = Mamba(12)
    same.load_state_dict(layer.state_dict())
    assert torch.equal(layer(x), same(x))
    with pytest.raises(ValueError, match="bimamba_type must be 'none' or 'v2', got 'v1'"):
        vision.Mamba(12, bimamba_type="v1")


def transformers_model(model: MambaLMHeadModel) -> Any:
    """With the same weights, which it names the same but for the embedding."""
    from transformers import MambaConfig as TheirConfig
    from transformers import MambaForCausalLM

    config = TheirConfig(
        vocab_size=56, hidden_size=24, num_hidden_layers=2, state_size=4, pad_token_id=0, eos_token_id=None
    )
    theirs = MambaForCausalLM(config)
    theirs.load_state_dict({k.replace("embedding.", "embeddings."): v for k, v in model.state_dict().items()})
    return theirs.double().eval()


def test_language_model_is_that_of_transformers() -> None:
    """Logits, gradients and 6 greedy tokens, by 6 steps of one token."""
    torch.manual_seed(0)
    model = MambaLMHeadModel(MambaConfig(**CONFIG))
    theirs, ids = transformers_model(model), torch.randint(50, (2, 7))
    assert model.lm_head.weight is model.backbone.embedding.weight and model.lm_head.weight.shape == (56, 24)
    logits, expected = model(ids).logits, theirs(ids).logits
    assert_matches(logits, expected, "logits")
    weight = torch.randn(logits.shape)
    logits.backward(weight)
    expected.backward(weight.double())
    gradients = {n.replace("embeddings.", "embedding."): p.grad for n, p in theirs.named_parameters()}
    for name, p in model.named_parameters():
        assert_matches(p.grad, gradients[name], f"gradient of {name}")
    tokens = model.generate(ids, max_length=13, cg=True)
    assert torch.equal(
        tokens, theirs.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=6, do_sample=False)
    )
    assert torch.equal(model(ids, num_last_tokens=2).logits, model(ids).logits[:, -2:])


@torch.no_grad()
def test_sampling() -> None:
    model, ids = MambaLMHeadModel(MambaConfig(**CONFIG)), torch.randint(50, (400, 3))
    torch.manual_seed(0)
    drawn = model.generate(
        ids[:1].expand(400, 3), 4, top_k=3, top_p=0.7, temperature=0.05, return_dict_in_generate=True
    )
    logits = model(ids[:1], num_last_tokens=1).logits[0, 0]
    probabilities, allowed = (logits / 0.05).topk(3)[0].softmax(0), logits.topk(3)[1]
    kept = allowed[probabilities.cumsum(0) - probabilities < 0.7]
    assert set(drawn.sequences[:, 3].tolist()) == set(kept.tolist())
    free = model.generate(ids[:1].expand(400, 3), 4, top_k=0)[:, 3]
    assert len(free.unique()) > 20
    greedy = model.generate(ids[:2], 20)
    stopped = model.generate(ids[:1], 20, eos_token_id=int(greedy[0, 5]))
    assert stopped.shape[1] <= 6 and torch.equal(stopped[0], greedy[0, : stopped.shape[1]])


def test_generation_with_scores_and_a_teacher() -> None:
    """Scores are the logits of a forward over all tokens, of which only the first 40 may be drawn."""
    model, ids = MambaLMHeadModel(MambaConfig(**CONFIG)), torch.randint(40, (3, 9))
    expected = model(ids).logits[:, 3:-1, :40].double()
    seen: list[torch.Tensor] = []

    class Streamer:
        put = seen.append

        def end(self) -> None:
            seen.append(torch.empty(3, 0, dtype=torch.long))

    options: dict[str, Any] = {"return_dict_in_generate": True, "vocab_size": 40, "enable_timing": True}
    out = model.generate(
        ids[:, :4], 9, teacher_outputs=ids, output_scores=True, streamer=Streamer(), **options, repetition_penalty=3.0
    )
    assert_matches(torch.stack(out.scores, 1), expected, "scores")
    assert torch.equal(out.sequences, ids) and torch.equal(torch.cat(seen, 1), ids) and len(seen) == 7
    free = model.generate(ids[:, :4], 5, repetition_penalty=1e9, **options)
    assert free.scores is None
    # Tokens that are there lose any positive logit, and their negative ones become the worst.
    new = expected[:, 0].scatter(1, ids[:, :4], -torch.inf)
    assert torch.equal(free.sequences[:, 4], new.argmax(1))


@torch.no_grad()
def test_sampling_of_what_is_probable_enough() -> None:
    logits = torch.tensor([1.0, 0.5, 0.2, 0.1, 0.01]).log().expand(1000, -1)
    assert sample(logits, 0, min_p=0.15).unique().tolist() == [0, 1, 2]
    assert sample(logits, 2, temperature=100.0).unique().tolist() == [0, 1]


def test_generation_of_other_models() -> None:
    """Of any that gives its logits, here of the token after the last one."""

    class Counting(nn.Module, GenerationMixin):
        def forward(self, ids: torch.Tensor, position_ids: Any, inference_params: Any, num_last_tokens: int) -> Any:
            assert position_ids is None or position_ids.unique().tolist() == [inference_params.seqlen_offset]
            self.logits = nn.functional.one_hot(ids[:, -num_last_tokens:] + 1, 9).float()
            return self

    assert Counting().generate(torch.tensor([[7, 1, 2], [0, 0, 3]]), 6).tolist() == [
        [7, 1, 2, 3, 4, 5],
        [0, 0, 3, 4, 5, 6],
    ]


@torch.no_grad()
def test_language_model_with_mlps() -> None:
    config = MambaConfig(**CONFIG, d_intermediate=100)
    model, ids = MambaLMHeadModel(config), torch.randint(50, (2, 5))
    mlp = model.backbone.layers[1].mlp
    assert mlp.fc1.weight.shape == (256, 24) and mlp.fc2.weight.shape == (24, 128)
    x = torch.randn(3, 24)
    y, gate = (mlp.fc1.weight.double() @ x.T.double()).chunk(2)
    assert_matches(mlp(x), (mlp.fc2.weight.double() @ (y * nn.functional.silu(gate))).T, "MLP")
    # Each of the 2 x 2 layers that add to the residual begins so small that all have the variance of one.
    assert mlp.fc2.weight.abs().max() <= (1 / 128 / 4) ** 0.5 < 1.1 * mlp.fc2.weight.abs().max()
    tokens = model.generate(ids, 8)
    assert torch.equal(tokens[:, 5:], model(tokens).logits[:, 4:-1].argmax(-1))
    assert GatedMLP(48).fc2.weight.shape == (48, 128)
    assert not hasattr(create_block(24, d_intermediate=0, layer_idx=0, attn_layer_idx=[], attn_cfg={}), "norm2")
    assert len(MixerModel(d_model=24, n_layer=2, d_intermediate=0, vocab_size=50).layers) == 2


def test_initialisation_of_other_layers() -> None:
    """Of any with an out_proj, such as those that third parties derive from Mamba's code."""
    layer = nn.ModuleDict({"in_proj": nn.Linear(8, 16), "out_proj": nn.Linear(16, 8)})
    with torch.no_grad():
        layer["out_proj"].weight.fill_(9)
    before = layer["in_proj"].weight.clone()
    layer.apply(lambda module: _init_weights(module, n_layer=100))
    assert 0 < layer["out_proj"].weight.abs().max() <= 0.1 * (1 / 16) ** 0.5
    assert torch.equal(layer["in_proj"].weight, before) and not layer["in_proj"].bias.any()


def test_save_pretrained(tmp_path: Path) -> None:
    model = MambaLMHeadModel(MambaConfig(**CONFIG))
    model.save_pretrained(tmp_path / "model")
    loaded = MambaLMHeadModel.from_pretrained(str(tmp_path / "model"), device="cpu")
    assert loaded.config == model.config
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name


@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
def test_from_pretrained(tmp_path: Path, file: str) -> None:
    from safetensors.torch import save_file

    model = MambaLMHeadModel(MambaConfig(**CONFIG))
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    weights = {n: p.detach() for n, p in model.named_parameters()}
    save_file(weights, tmp_path / file) if file.endswith("safetensors") else torch.save(weights, tmp_path / file)
    loaded = MambaLMHeadModel.from_pretrained(str(tmp_path), dtype=torch.float32)
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name


def test_other_layers_are_refused() -> None:
    with pytest.raises(ValueError, match="layer 'Mamba1', got 'Mamba2'"):
        MambaLMHeadModel(MambaConfig(**{**CONFIG, "ssm_cfg": {"layer": "Mamba2"}}))
    with pytest.raises(TypeError, match=r"must be a dict or None; name d_intermediate .*, got 0"):
        create_block(24, 0, {"d_state": 4})
    with pytest.raises(ValueError, match=r"attention has no stand-in, got \[1\]"):
        MambaLMHeadModel(MambaConfig(**CONFIG, attn_layer_idx=[1]))


def test_block_with_an_mlp() -> None:
    """Of two blocks, the second adds what the first one left."""
    dim = 8

    class Mixer(nn.Linear):
        def forward(self, x: torch.Tensor, inference_params: Any = None, extra: float = 0.0) -> torch.Tensor:
            return super().forward(x) + extra

    blocks = [
        Block(dim, lambda d: Mixer(d, d), lambda d: nn.Linear(d, d), RMSNorm, residual_in_fp32=True) for _ in "12"
    ]
    x = torch.randn(2, 3, dim)
    hidden, residual, total = x, None, x
    for block in blocks:
        hidden, residual = block(hidden, residual, extra=0.5)
        total = total + block.mixer(block.norm(total), extra=0.5)
        total = total + block.mlp(block.norm2(total))
    assert torch.allclose(hidden + residual, total, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_norms(dtype: torch.dtype) -> None:
    x, residual, weight, bias = (torch.randn(s, dtype=dtype) for s in ((2, 3, 8), (2, 3, 8), (8,), (8,)))
    total = x.double() + residual.double()
    out, kept = layer_norm_fn(x, weight, bias, residual, prenorm=True, eps=0.1)
    centred = total - total.mean(-1, keepdim=True)
    expected = centred / (centred.square().mean(-1, keepdim=True) + 0.1).sqrt() * weight.double() + bias.double()
    assert_matches(out, expected, "layer norm")
    assert_matches(kept, total, "residual")
    scaled = total / (total.square().mean(-1, keepdim=True) + 0.1).sqrt() * weight.double()
    out, kept = rms_norm_fn(x, weight, bias, residual, True, True, 0.1)
    assert_matches(out, scaled + bias.double(), "rms norm")
    assert_matches(kept, total, "residual of rms norm")
    norm = RMSNorm(8, eps=0.1, dtype=dtype)
    norm.load_state_dict({"weight": weight})
    assert_matches(norm(x, residual), scaled, "layer")
    assert layer_norm_fn(x, weight, bias, prenorm=True, residual_in_fp32=True)[1].dtype == torch.float32
