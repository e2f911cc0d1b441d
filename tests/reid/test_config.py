"""Presets, checks and the command line of the configuration."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, replace
from typing import Any

import pytest

from bdam_reid.config import ConfigError, EngineConfig, check_config, differences, from_dict, parse_config
from bdam_reid.methods import PRESETS
from bdam_reid.methods.bdam.config import BDAMConfig, FusionConfig, OptimConfig


@pytest.mark.parametrize("name", PRESETS)
def test_preset_is_valid_and_survives_json(name: str) -> None:
    config = PRESETS[name]()
    check_config(config)
    assert config.preset == name
    assert from_dict(json.loads(json.dumps(asdict(config))), PRESETS) == config


@pytest.mark.parametrize("name", ["paper-icme", "paper-long"])
def test_paper_presets_hold_the_papers_hyper_parameters(name: str) -> None:
    """icme section IV-A, long section 4.2."""
    config = PRESETS[name]()
    method = config.method
    assert isinstance(method, BDAMConfig)
    assert method.text.pretrained == "bert-base-uncased"
    assert method.image.pretrained == "google/vit-base-patch16-224"
    assert config.data.image_size == (224, 224)
    assert (method.optim.lr, method.optim.weight_decay, method.optim.warmup_steps) == (1e-4, 1e-3, 0)
    fusion, loss = method.fusion, method.loss
    assert method.decoupling.dropout == fusion.dropout == 0.1
    assert (fusion.kind, fusion.layers, fusion.width, fusion.d_state, fusion.d_conv) == ("mamba", 2, 256, 16, 4)
    assert (loss.gradnorm_alpha, loss.gradnorm_lr, loss.gradnorm_lambda) == (1.5, 0.025, 1e-3)
    expected = {"paper-icme": ("both", "alignment"), "paper-long": ("identity", "adversarial")}
    assert (loss.query, loss.clothing) == expected[name]
    assert loss.decouple_weight == loss.triplet_weight == loss.clothing_weight == 1 and loss.gate_weight > 0


def test_command_line_overrides_nested_fields() -> None:
    line = "demo-icme --method.optim.epochs 3 --data.augment False --output elsewhere"
    config = parse_config(PRESETS, line.split())
    assert isinstance(config.method, BDAMConfig)
    assert (config.method.optim.epochs, config.data.augment, config.output) == (3, False, "elsewhere")
    assert config.method.image == PRESETS["demo-icme"]().method.image  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["demo", "--method.optim.epoch", "3"], "--method.optim.epoch"),
        (["demo", "--method.optim.epochs", "three"], "three"),
        (["demo", "--method.loss.query", "clothing"], "clothing"),
        (["domo"], "domo"),
        ([], "demo"),
    ],
    ids=["unknown key", "wrong type", "wrong choice", "unknown preset", "no preset"],
)
def test_command_line_mistakes_exit_with_2(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        parse_config(PRESETS, arguments)
    captured = capsys.readouterr()
    assert stop.value.code == 2
    assert said in captured.out + captured.err
    assert "Traceback" not in captured.out + captured.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("--method.optim.epochs 0", "--method.optim.epochs must be at least 1, got 0"),
        ("--method.optim.lr -1", "--method.optim.lr must be at least 0, got -1.0"),
        ("--method.optim.lr nan", "--method.optim.lr must be a finite number, got nan"),
        ("--method.optim.lr inf", "--method.optim.lr must be a finite number, got inf"),
        ("--data.texts-probability 1.5", "--data.texts-probability must be at most 1, got 1.5"),
        ("--data.images-per-identity 1", "--data.images-per-identity must be at least 2, got 1"),
        ("--data.image-height 97", "--data.image-height must be a multiple of --method.image.patch-height"),
        ("--data.max-tokens 2", "--data.max-tokens must be at least 3, got 2"),
        ("--seed -1", "--seed must be at least 0, got -1"),
        ("--engine.validate-every 0", "--engine.validate-every must be at least 1, got 0"),
        ("--engine.save-every -1", "--engine.save-every must be at least 0, got -1"),
        ("--method.text.heads 7", "--method.text.width must be a multiple of --method.text.heads"),
        ("--method.decoupling.heads 7", "--method.image.width must be a multiple of --method.decoupling.heads"),
        ("--method.decoupling.dropout 1", "--method.decoupling.dropout must be at most 0.99"),
        (
            "--method.decoupling.pooled-last True --method.decoupling.cross-layers 0",
            "--method.decoupling.pooled-last needs a cross-attention layer",
        ),
        (
            "--method.decoupling.pooled-last True --method.fusion.tokens sequence",
            "--method.decoupling.pooled-last leaves no image tokens for --method.fusion.tokens sequence",
        ),
        (
            "--method.fusion.kind transformer --method.fusion.heads 7",
            "--method.fusion.width must be a multiple of --method.fusion.heads",
        ),
    ],
)
def test_impossible_values_are_named(arguments: str, said: str) -> None:
    config = parse_config(PRESETS, ["demo-icme", *arguments.split()])
    with pytest.raises(ConfigError, match=re.escape(said)):
        check_config(config)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("--method.image.width 130", "--method.image.width must be a multiple of 4 for 3 layers, each twice as wide"),
        ("--method.image.layers 9", "--method.image.width must be a multiple of 256 for 9 layers"),
        ("--method.image.pretrained vit", "--method.image.kind convolutions"),
        ("--method.image.frozen True", "--method.image.kind convolutions"),
        ("--method.image.kind transformer", "--method.image.head-crop needs --method.image.kind convolutions"),
        ("--method.text.heads 7", "--method.text.width must be a multiple of --method.text.heads"),
        ("--method.text.noise -1", "--method.text.noise must be at least 0, got -1.0"),
        ("--method.text.noise 0.5", "--method.text.noise needs --method.text.words"),
        ("--method.text.words x --method.text.pretrained y", "--method.text.words and --method.text.pretrained"),
        ("--method.decoupling.heads 7", "--method.decoupling.width must be a multiple of --method.decoupling.heads"),
        (
            "--method.decoupling.width 0 --method.decoupling.heads 7",
            "--method.image.width must be a multiple of --method.decoupling.heads",
        ),
        ("--method.decoupling.width -1", "--method.decoupling.width must be at least 0, got -1"),
        ("--method.decoupling.merge 0", "--method.decoupling.merge must be at least 1, got 0"),
        ("--method.decoupling.slots 0", "--method.decoupling.slots must be at least 1, got 0"),
        (
            "--method.decoupling.pooling mean",
            "--method.decoupling.merge and --method.decoupling.width need --method.decoupling.pooling position, "
            "got 2 and 64 with mean",
        ),
        ("--method.decoupling.pooling mean --method.decoupling.merge 1", "got 1 and 64 with mean"),
        ("--method.decoupling.pooling mean --method.decoupling.width 0", "got 2 and 0 with mean"),
        (
            "--method.decoupling.pooled-last True",
            "--method.decoupling.pooled-last takes the mean: use --method.decoupling.pooling mean",
        ),
        (
            "--method.fusion.kind mamba --method.fusion.tokens sequence",
            "--method.decoupling.pooling position leaves no image tokens for --method.fusion.tokens sequence",
        ),
        ("--method.loss.query both", "--method.fusion.kind none leaves --method.loss.query identity only, got both"),
        ("--method.loss.query fused", "--method.fusion.kind none leaves --method.loss.query identity only, got fused"),
        ("--method.loss.temperature 0", "--method.loss.temperature must be at least 0.001, got 0.0"),
        ("--method.loss.contrast-weight -1", "--method.loss.contrast-weight must be at least 0, got -1.0"),
        ("--data.erase 1.5", "--data.erase must be at most 1, got 1.5"),
    ],
)
def test_impossible_values_of_the_best_recipe_are_named(arguments: str, said: str) -> None:
    config = parse_config(PRESETS, ["demo", *arguments.split()])
    with pytest.raises(ConfigError, match=re.escape(said)):
        check_config(config)


@pytest.mark.parametrize(
    "arguments",
    [
        "--method.image.heads 7 --method.image.patch-height 7",
        "--method.decoupling.width 0",
        "--method.decoupling.pooling mean --method.decoupling.width 0 --method.decoupling.merge 1",
        "--method.fusion.kind mamba --method.loss.query both",
        "--method.fusion.kind mamba --method.fusion.tokens pair",
        "--method.image.kind transformer --method.image.head-crop False --method.image.heads 4",
        "--method.text.words bert --method.text.noise 0.5",
        "--method.text.pretrained bert --method.text.heads 7",
        "--method.decoupling.self-layers 0 --method.decoupling.cross-layers 0",
    ],
)
def test_what_else_the_parts_of_the_best_recipe_go_with(arguments: str) -> None:
    check_config(parse_config(PRESETS, ["demo", *arguments.split()]))


def test_the_best_recipe_and_its_demonstration() -> None:
    """One recipe, on encoders from scratch or on published ones."""
    for name, kind in (("demo", "convolutions"), ("bdam-small", "convolutions"), ("bdam", "transformer")):
        config = PRESETS[name]()
        method = config.method
        assert isinstance(method, BDAMConfig)
        assert config.output == f"runs/{name}" and method.image.kind == kind
        assert (method.decoupling.pooling, method.text.pooling) == ("position", "attention")
        assert method.fusion.kind == "none" and method.loss.contrast_weight > 0 and method.optim.decoupled_decay


def values() -> dict[str, Any]:
    return asdict(PRESETS["demo-icme"]())


def test_from_dict_names_unknown_missing_and_mistyped_fields() -> None:
    changed = values()
    changed["method"]["optim"]["learning_rate"] = 1.0
    with pytest.raises(ConfigError, match=r"unknown config field: method\.optim\.learning_rate"):
        from_dict(changed, PRESETS)
    changed = values()
    del changed["output"]
    with pytest.raises(ConfigError, match="missing config field: output"):
        from_dict(changed, PRESETS)
    changed = values()
    changed["method"]["optim"]["epochs"] = "3"
    with pytest.raises(ConfigError, match=r"method\.optim\.epochs must be int, got '3'"):
        from_dict(changed, PRESETS)
    changed = values()
    changed["method"]["loss"]["query"] = "clothing"
    with pytest.raises(ConfigError, match=r"method\.loss\.query must be one of identity, fused, both, got 'clothing'"):
        from_dict(changed, PRESETS)
    with pytest.raises(ConfigError, match=r"preset must be one of demo, .*, got 'domo'"):
        from_dict({**values(), "preset": "domo"}, PRESETS)
    with pytest.raises(ConfigError, match="must be a JSON object"):
        from_dict([], PRESETS)


def test_a_field_that_came_after_the_run_has_its_default() -> None:
    changed = values()
    del changed["data"]["augment"], changed["method"]["fusion"], changed["engine"]
    config = from_dict(changed, PRESETS)
    assert config.data.augment is True
    assert config.engine == EngineConfig()
    assert config.method == replace(PRESETS["demo-icme"]().method, fusion=FusionConfig())  # type: ignore[type-var]


FIRST_OF_ENGINE = ("mixed_precision", "validate_every", "save_every")
"""Fields; the others came later."""


def test_a_config_of_before_there_were_several_methods_is_read() -> None:
    new = PRESETS["demo-icme"]()
    changed = values()
    method, engine = changed.pop("method"), changed.pop("engine")
    engine = {name: engine[name] for name in FIRST_OF_ENGINE}
    del method["rerank"], method["mirror"], method["optim"]["new_factor"]
    old = {**changed, **method, "bdam": method["decoupling"]}
    del old["decoupling"]
    old["optim"]["mixed_precision"] = engine.pop("mixed_precision")
    old |= engine
    old["data"]["sidecar_probability"] = old["data"].pop("texts_probability")
    assert from_dict(json.loads(json.dumps(old)), PRESETS) == new


@pytest.mark.parametrize("decoupled", [True, False])
@pytest.mark.parametrize("several_methods", [True, False])
def test_a_config_of_before_decoupling_was_a_weight_is_read(decoupled: bool, several_methods: bool) -> None:
    """Text encoders had patch sizes; every field that came since has its default."""
    changed = values()
    method = changed["method"]
    for part, fields in (
        ("image", ("kind", "head_crop")),
        ("text", ("words", "noise", "pooling", "function_words")),
        ("decoupling", ("pooling", "width", "merge", "slots", "features", "erase")),
        ("loss", ("symmetric", "learnt_temperature", "triplet_weight", "clothing_weight", "decouple_weight")),
        ("loss", ("contrast_weight", "normalized_hsic")),
        ("optim", ("decoupled_decay", "new_factor")),
    ):
        for name in fields:
            del method[part][name]
    del changed["data"]["erase"], method["rerank"], method["mirror"]
    changed["engine"] = {name: changed["engine"][name] for name in FIRST_OF_ENGINE}
    method["text"] |= {"patch_height": 8, "patch_width": 4}
    method["loss"]["decouple"] = decoupled
    if not several_methods:
        del changed["method"]
        changed |= {**method, "bdam": method["decoupling"], **changed.pop("engine")}
        del changed["decoupling"]
        changed["optim"]["mixed_precision"] = changed.pop("mixed_precision")
    changed = json.loads(json.dumps(changed))
    before = json.dumps(changed)
    config, new = from_dict(changed, PRESETS), PRESETS["demo-icme"]()
    assert isinstance(new.method, BDAMConfig)
    loss = replace(new.method.loss, decouple_weight=float(decoupled))
    assert config == replace(new, method=replace(new.method, loss=loss))
    assert json.dumps(changed) == before


def test_differences_name_the_fields_but_not_the_free_ones() -> None:
    then = PRESETS["demo-icme"]()
    method = replace(then.method, optim=OptimConfig(lr=8e-4, weight_decay=0.0, epochs=5, warmup_steps=50))  # type: ignore[type-var]
    data = replace(then.data, root="elsewhere")
    now = replace(then, output="elsewhere", engine=replace(then.engine, save_every=3), method=method, data=data)
    assert differences(then, then) == []
    assert differences(then, now) == ["--method.optim.epochs: 18 in the run, 5 now"]
