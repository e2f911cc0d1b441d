"""Presets, checks and the command line of the configuration."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import pytest

from bdam_reid.config import (
    PRESETS,
    Config,
    ConfigError,
    OptimConfig,
    check_config,
    differences,
    from_dict,
    parse_config,
)


@pytest.mark.parametrize("name", PRESETS)
def test_preset_is_valid_and_survives_json(name: str) -> None:
    config = PRESETS[name]
    check_config(config)
    assert config.preset == name
    assert from_dict(json.loads(json.dumps(asdict(config))), Config()) == config


@pytest.mark.parametrize("name", ["paper-icme", "paper-long"])
def test_paper_presets_hold_the_papers_hyper_parameters(name: str) -> None:
    """icme section IV-A, long section 4.2."""
    config = PRESETS[name]
    assert config.text.pretrained == "bert-base-uncased"
    assert config.image.pretrained == "google/vit-base-patch16-224"
    assert (config.data.image_height, config.data.image_width) == (224, 224)
    assert (config.optim.lr, config.optim.weight_decay, config.optim.warmup_steps) == (1e-4, 1e-3, 0)
    assert config.bdam.dropout == config.fusion.dropout == 0.1
    fusion = config.fusion
    assert (fusion.kind, fusion.layers, fusion.width, fusion.d_state, fusion.d_conv) == (
        "mamba",
        2,
        256,
        16,
        4,
    )
    loss = config.loss
    assert (loss.gradnorm_alpha, loss.gradnorm_lr, loss.gradnorm_lambda) == (1.5, 0.025, 1e-3)
    expected = {"paper-icme": ("both", "alignment"), "paper-long": ("identity", "adversarial")}
    assert (loss.query, loss.clothing) == expected[name]
    assert loss.decouple and loss.gate_weight > 0


def test_command_line_overrides_nested_fields() -> None:
    config = parse_config(["demo", "--optim.epochs", "3", "--data.augment", "False", "--output", "elsewhere"])
    assert (config.optim.epochs, config.data.augment, config.output) == (3, False, "elsewhere")
    assert config.image == PRESETS["demo"].image


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["demo", "--optim.epoch", "3"], "--optim.epoch"),
        (["demo", "--optim.epochs", "three"], "three"),
        (["demo", "--loss.query", "clothing"], "clothing"),
        (["domo"], "domo"),
        ([], "demo"),
    ],
    ids=["unknown key", "wrong type", "wrong choice", "unknown preset", "no preset"],
)
def test_command_line_mistakes_exit_with_2(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        parse_config(arguments)
    captured = capsys.readouterr()
    assert stop.value.code == 2
    assert said in captured.out + captured.err
    assert "Traceback" not in captured.out + captured.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("--optim.epochs 0", "--optim.epochs must be at least 1, got 0"),
        ("--optim.lr -1", "--optim.lr must be at least 0, got -1.0"),
        ("--optim.lr nan", "--optim.lr must be a finite number, got nan"),
        ("--optim.lr inf", "--optim.lr must be a finite number, got inf"),
        ("--data.sidecar-probability 1.5", "--data.sidecar-probability must be at most 1, got 1.5"),
        ("--data.images-per-identity 1", "--data.images-per-identity must be at least 2, got 1"),
        ("--data.image-height 97", "--data.image-height must be a multiple of --image.patch-height"),
        ("--text.heads 7", "--text.width must be a multiple of --text.heads"),
        ("--bdam.heads 7", "--image.width must be a multiple of --bdam.heads"),
        ("--bdam.dropout 1", "--bdam.dropout must be at most 0.99"),
        ("--bdam.pooled-last True --bdam.cross-layers 0", "--bdam.pooled-last needs a cross-attention layer"),
        (
            "--bdam.pooled-last True --fusion.tokens sequence",
            "--bdam.pooled-last leaves no image tokens for --fusion.tokens sequence",
        ),
        ("--fusion.kind transformer --fusion.heads 7", "--fusion.width must be a multiple of --fusion.heads"),
    ],
)
def test_impossible_values_are_named(arguments: str, said: str) -> None:
    config = parse_config(["demo", *arguments.split()])
    with pytest.raises(ConfigError, match=said.replace(".", r"\.")):
        check_config(config)


def test_from_dict_names_unknown_missing_and_mistyped_fields() -> None:
    values = asdict(Config())
    values["optim"]["learning_rate"] = 1.0
    with pytest.raises(ConfigError, match=r"unknown config field: optim\.learning_rate"):
        from_dict(values, Config())
    values = asdict(Config())
    del values["data"]["root"]
    with pytest.raises(ConfigError, match=r"missing config field: data\.root"):
        from_dict(values, Config())
    values = asdict(Config())
    values["optim"]["epochs"] = "3"
    with pytest.raises(ConfigError, match=r"optim\.epochs must be int, got '3'"):
        from_dict(values, Config())
    with pytest.raises(ConfigError, match="must be a JSON object"):
        from_dict([], Config())  # type: ignore[arg-type]


def test_differences_name_the_fields_but_not_the_free_ones() -> None:
    then = Config()
    now = replace(then, output="elsewhere", save_every=3, optim=OptimConfig(epochs=5))
    assert differences(then, then) == []
    assert differences(then, now) == ["--optim.epochs: 60 in the run, 5 now"]
