"""MoSAIC-ReID: experts, router, tower, and a run that is trained, killed, resumed, evaluated and exported."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
import transformers
from attribute_files import market_parts, write_images, write_market
from published import VISION, write_clip, write_siglip
from torch import Tensor, nn
from torch.nn import functional as F

import bdam_reid
from bdam_reid.config import Config, ConfigError, DataConfig, check_config, parse_config
from bdam_reid.data.attributes import DUKE, MARKET, labels_of
from bdam_reid.data.datasets import load_dataset
from bdam_reid.data.images import load_image
from bdam_reid.data.records import DatasetError, Query, QueryError, without_attributes
from bdam_reid.encoders.config import ImageEncoderConfig
from bdam_reid.encoders.image import ImageEncoder
from bdam_reid.engine.checkpoint import load_weights
from bdam_reid.engine.run import open_best
from bdam_reid.evaluation.evaluator import evaluate
from bdam_reid.evaluation.ranking import Embedder
from bdam_reid.evaluation.tables import describe
from bdam_reid.methods import PRESETS
from bdam_reid.methods.mosaic.config import ExpertsConfig, MosaicConfig
from bdam_reid.methods.mosaic.experts import ExpertLinear, weighted
from bdam_reid.methods.mosaic.method import Mosaic
from bdam_reid.methods.mosaic.router import UNKNOWN, Router, shares
from bdam_reid.methods.mosaic.tower import ExpertTower
from bdam_reid.search.exporter import export_run
from bdam_reid.studies import attributes, importance
from bdam_reid.studies.__main__ import main as studies
from bdam_reid.studies.attribute_controls import CONTROLS, agreement, predicted, right
from bdam_reid.studies.switched import Switched
from bdam_reid.train import train

B, L, WIDE, NARROW, E, R = 4, 5, 7, 6, 3, 2


def experts_of(layer: ExpertLinear) -> list[tuple[Tensor, Tensor]]:
    """A_e and B_e of each expert."""
    rows = [slice(e * layer.rank, (e + 1) * layer.rank) for e in range(layer.down.shape[0] // layer.rank)]
    return [(layer.down[own], layer.up[:, own]) for own in rows]


def run_with(layer: ExpertLinear, x: Tensor, weights: Tensor) -> Tensor:
    with weighted(weights):
        return layer(x)


def some_layer() -> ExpertLinear:
    torch.manual_seed(0)
    layer = ExpertLinear(nn.Linear(WIDE, NARROW), E, R).double()
    nn.init.normal_(layer.up)
    return layer


def test_one_product_is_the_sum_over_experts_and_so_are_its_gradients() -> None:
    layer, x = some_layer(), torch.randn(B, L, WIDE, dtype=torch.float64, requires_grad=True)
    mask = torch.tensor([[1, 0, 1], [0, 0, 0], [0, 1, 0], [1, 1, 1]], dtype=torch.bool)
    scale = 0.75

    def loop() -> Tensor:
        """The equation, an image and an expert at a time."""
        rows = []
        for image, on in zip(x, mask, strict=True):
            y = F.linear(image, layer.linear.weight, layer.linear.bias)
            for m, (down, up) in zip(on.tolist(), experts_of(layer), strict=True):
                y = y + m * scale / max(1, int(on.sum())) * image @ down.T @ up.T
            rows.append(y)
        return torch.stack(rows)

    leaves = [x, *layer.parameters()]
    ours, theirs = run_with(layer, x, shares(mask, scale)), loop()
    # The weights are float32: 1 / 3 is rounded.
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)
    outer = torch.randn_like(ours)
    for got, expected in zip(
        torch.autograd.grad(ours, leaves, outer), torch.autograd.grad(theirs, leaves, outer), strict=True
    ):
        torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-6)


def test_only_experts_that_read_an_image_have_gradients() -> None:
    layer, x = some_layer(), torch.randn(B, L, WIDE, dtype=torch.float64)
    mask = torch.tensor([[1, 0, 0]] * B, dtype=torch.bool)
    run_with(layer, x, shares(mask, 1.0)).square().sum().backward()
    assert layer.down.grad is not None and layer.up.grad is not None
    used = [bool(layer.down.grad[e * R : (e + 1) * R].any()) for e in range(E)]
    assert used == [bool(layer.up.grad[:, e * R : (e + 1) * R].any()) for e in range(E)] == [True, False, False]


def test_one_expert_is_an_adapter_of_peft() -> None:
    from peft import LoraConfig, inject_adapter_in_model

    torch.manual_seed(1)
    plain, alpha = nn.Sequential(nn.Linear(WIDE, NARROW)), 6.0
    ours = ExpertLinear(nn.Linear(WIDE, NARROW), 1, R)
    ours.linear.load_state_dict(plain[0].state_dict())
    config = LoraConfig(r=R, lora_alpha=alpha, target_modules=["0"], init_lora_weights=False)
    theirs = inject_adapter_in_model(config, plain)
    down, up = (getattr(theirs[0], name)["default"].weight for name in ("lora_A", "lora_B"))
    with torch.no_grad():
        ours.down.copy_(down)
        ours.up.copy_(up)
    x = torch.randn(B, L, WIDE)
    weights = shares(torch.ones(B, 1, dtype=torch.bool), alpha / R)
    y, expected = run_with(ours, x, weights), theirs(x)
    torch.testing.assert_close(y, expected)
    for got, want in zip(
        torch.autograd.grad(y.sum(), [ours.down, ours.up]), torch.autograd.grad(expected.sum(), [down, up]), strict=True
    ):
        torch.testing.assert_close(got, want)


@pytest.fixture(scope="module")
def towers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("towers")
    write_clip(root / "clip")
    write_siglip(root / "siglip")
    torch.manual_seed(2)
    transformers.ViTModel(transformers.ViTConfig(**VISION)).save_pretrained(root / "vit")
    return root


@pytest.mark.parametrize(("name", "projected"), [("clip", False), ("clip", True), ("vit", False)])
@pytest.mark.parametrize("layers", [1, 2])
def test_without_experts_the_tower_is_as_it_was(towers: Path, name: str, projected: bool, layers: int) -> None:
    config = ImageEncoderConfig(pretrained=str(towers / name), projected=projected, frozen=True)
    images, size = torch.rand(3, 3, 32, 16) * 2 - 1, (32, 16)
    expected = ImageEncoder(config, size).encode(images).pooled
    tower = ExpertTower(config, size, layers, E, R)
    some, none = torch.rand(3, E), torch.zeros(3, E)
    assert torch.equal(tower(images), expected)
    # Experts begin without an effect, and those that are switched off never have one.
    assert torch.equal(tower(images, some), expected)
    for up in tower.new()[1::2]:
        nn.init.normal_(up)
    assert torch.equal(tower(images, none), expected)
    changed = tower(images, torch.cat([some[:1], none[1:]]))
    assert torch.equal(changed[1:], expected[1:]) and not torch.allclose(changed[0], expected[0])
    # What is below them does not know them.
    assert torch.equal(tower.above(tower.below(images), some), tower(images, some))
    # A frozen tower trains its experts alone, and stays in evaluation mode.
    trained = {id(p) for p in tower.parameters() if p.requires_grad}
    assert trained == set(map(id, tower.new())) and len(trained) == 2 * 4 * layers
    assert not any(part.training for part in tower.train().encoder.modules())


def test_a_tower_without_experts_reads_no_labels(towers: Path) -> None:
    config, images = ImageEncoderConfig(pretrained=str(towers / "clip"), frozen=True), torch.rand(2, 3, 32, 32)
    tower = ExpertTower(config, (32, 32), 0, E, R)
    assert torch.equal(tower(images, torch.rand(2, E)), ImageEncoder(config, (32, 32)).encode(images).pooled)
    method = MosaicConfig(image=config, experts=ExpertsConfig(layers=0))
    assert not Mosaic(method, DataConfig(image_height=32, image_width=32), 2).oracle


def test_other_towers_and_too_many_layers_are_errors(towers: Path) -> None:
    for name, layers, said in (("siglip", 1, "must be a CLIP or ViT"), ("vit", 3, "must be at most 2, .*got 3")):
        with pytest.raises(ValueError, match=said):
            ExpertTower(ImageEncoderConfig(pretrained=str(towers / name)), (32, 32), layers, E, R)


def test_the_router_follows_labels_and_switches() -> None:
    router = Router(MARKET)
    assert (router.experts, Router(DUKE).experts) == (35, 26)
    told = dict.fromkeys(MARKET.states, None) | {"age": "old", "hat": "yes", "bag": "no", "upcolour": "red"}
    states = router.read([told, {}, {"age": "unheard of", "downcolour": "pink"}])
    assert (states[1] == UNKNOWN).all()

    def on(row: int) -> set[tuple[str, str]]:
        """The experts that read an image, by attribute and state."""
        chosen = router(states)[row].nonzero().flatten().tolist()
        names = [router.names[router.attribute[e]] for e in chosen]
        return {(name, MARKET.states[name][router.state[e]]) for name, e in zip(names, chosen, strict=True)}

    assert on(0) == {("age", "old"), ("hat", "yes"), ("upcolour", "red")}
    assert on(1) == set() and on(2) == {("downcolour", "pink")}
    router.switch(["upcolour", "bag"])
    assert on(0) == {("upcolour", "red")} and on(2) == set()
    router.switch([])
    assert not router(states).any()
    router.switch(router.names)
    assert len(on(0)) == 3
    # The share of each of them, and no division by zero.
    weights = shares(router(states), 0.5)
    assert weights[0].max() == pytest.approx(0.5 / 3) and weights.sum(dim=1).tolist() == pytest.approx([0.5, 0, 0.5])
    with pytest.raises(ValueError, match="got hats"):
        router.switch(["hats"])


TINY = """
    mosaic-demo --method.experts.layers 1 --method.experts.rank 2 --method.experts.alpha 2 --method.optim.epochs 4
    --method.optim.warmup-steps 1 --method.optim.lr 0.01 --data.image-height 32 --data.image-width 16
    --data.identities-per-batch 3 --data.images-per-identity 2 --engine.save-every 1 --engine.validate-every 2
"""


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Persons in Market-1501's layout with its labels: three to train on, one for validation, two of three for a test
    are labelled."""
    root = write_images(tmp_path_factory.mktemp("people"))
    write_market(root / "attribute" / "market_attribute.mat", *market_parts())
    return root


def tiny(people: Path, towers: Path, output: Path, *more: str) -> Config:
    paths = ["--data.root", str(people), "--output", str(output), "--method.image.pretrained", str(towers / "clip")]
    return parse_config(PRESETS, [*TINY.split(), *paths, *more])


@pytest.fixture(scope="module")
def run(people: Path, towers: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tiny(people, towers, tmp_path_factory.mktemp("runs") / "run"))


def opened(run: Path) -> Mosaic:
    method = open_best(run, PRESETS, "cpu").method
    assert isinstance(method, Mosaic)
    return method.eval()


def test_a_run_that_stopped_ends_with_the_same_bits(
    people: Path, towers: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, losses = tiny(people, towers, tmp_path / "stopped"), Mosaic.losses

    def stop(self: Mosaic, batch: Any, step: int) -> Any:
        if step == 2:
            raise RuntimeError("stop")
        return losses(self, batch, step)

    monkeypatch.setattr(Mosaic, "losses", stop)
    with pytest.raises(RuntimeError, match="stop"):
        train(config)
    monkeypatch.undo()
    train(config)
    expected, got = (load_weights(folder / "last") for folder in (run, tmp_path / "stopped"))
    assert expected.keys() == got.keys()
    assert [name for name in expected if not torch.equal(expected[name], got[name])] == []
    # The experts have learnt, and the tower is the published one.
    assert expected["tower.layers.0.layer.mlp.fc1.up"].any()
    published = transformers.CLIPModel.from_pretrained(towers / "clip").vision_model.state_dict()
    for ours, theirs in (
        ("tower.layers.0.layer.mlp.fc1.linear.weight", "encoder.layers.1.mlp.fc1.weight"),
        ("tower.encoder.model.encoder.layers.0.mlp.fc1.weight", "encoder.layers.0.mlp.fc1.weight"),
        ("tower.norm.bias", "post_layernorm.bias"),
    ):
        assert torch.equal(expected[ours], published[theirs])
    assert not expected["neck.bias"].any()


def test_evaluation_reports_results_of_an_oracle_as_such_and_those_without(
    run: Path, people: Path, tmp_path: Path
) -> None:
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["protocols"]["test"]["attributes"] == "oracle"
    results = metrics["protocols"]["test"]["results"]
    assert results.keys() == {"same", "other", "person", "without_attributes"}
    text = describe(metrics)
    assert "images with their true attributes (oracle)" in text
    assert "for same clothes, without attributes" in text
    embedder, test = Embedder(opened(run), torch.device("cpu")), load_dataset(people).protocols["test"]
    bare = embedder.rank(without_attributes(test)).metrics({"person": 1.0})
    assert results["without_attributes"]["map"] == bare.map
    # On a set without labels there is no oracle.
    weights = opened(run).default_weights()
    other = evaluate(embedder, load_dataset(write_images(tmp_path / "bare")), weights, tmp_path / "out").metrics
    unlabelled = other["protocols"]["test"]
    assert "attributes" not in unlabelled and unlabelled["results"]["same"] == results["without_attributes"]
    assert "oracle" not in describe(other) and "without_attributes" not in unlabelled["results"]
    said = [line for line in (run / "log.txt").read_text().splitlines() if "validation  the same clothes" in line]
    assert said and all("(oracle)" in line for line in said)


def test_labels_change_what_is_embedded(run: Path, people: Path) -> None:
    method, test = opened(run), load_dataset(people).protocols["test"]
    images = torch.stack([load_image(record.path, method.image_size) for record in test.gallery])
    with torch.no_grad():
        plain, told = method.embed_images(images), method.embed_records(images, test.gallery)
        known = torch.tensor([bool(labels_of(record)) for record in test.gallery])
        assert known.tolist() == [False, True, False, True]
        assert torch.equal(told[~known], plain[~known]) and not torch.isclose(told, plain).all(dim=1)[known].any()
        # A query is its image with the labels of its person.
        asked = method.embed_queries([Query(image=r.path, attributes=r.attributes) for r in test.gallery])
        torch.testing.assert_close(asked, told)
        method.router.switch([])
        assert torch.equal(method.embed_records(images, test.gallery), plain)
    with pytest.raises(QueryError, match="searches by an image alone"):
        method.embed_queries([Query(text="a man")])


def test_it_is_exported_and_opened_without_labels(run: Path, people: Path, tmp_path: Path) -> None:
    said = export_run(run, tmp_path / "export", onnx=False, presets=PRESETS)
    assert "open it with" in said
    moved = shutil.move(tmp_path / "export", tmp_path / "moved")
    paths = sorted((people / "query").iterdir())
    expected = bdam_reid.load(run).embed_images(paths)
    assert torch.equal(bdam_reid.load(moved).embed_images(paths), expected)
    assert (Path(moved) / "README.md").read_text().count("(oracle)") == 2  # of validation, and of the test


def without_labels(people: Path, towers: Path, folder: Path) -> Config:
    return tiny(write_images(folder / "bare"), towers, folder / "run")


def too_deep(people: Path, towers: Path, folder: Path) -> Config:
    return tiny(people, towers, folder / "run", "--method.experts.layers", "3")


def of_duke(people: Path, towers: Path, folder: Path) -> Config:
    """The labels are Market's, some of the same names."""
    config = tiny(people, towers, folder / "run")
    assert isinstance(config.method, MosaicConfig)
    return replace(config, method=replace(config.method, experts=ExpertsConfig(attributes="duke")))


@pytest.mark.parametrize(
    ("make", "kind", "said"),
    [
        (without_labels, DatasetError, "none of 6 training images .* put market_attribute.mat into that folder"),
        (of_duke, DatasetError, "put duke_attribute.mat into that folder"),
        (too_deep, ConfigError, "--method.experts.layers must be at most 2"),
    ],
)
def test_what_cannot_be_trained_is_said_at_once(
    people: Path, towers: Path, tmp_path: Path, make: Callable[..., Config], kind: type[Exception], said: str
) -> None:
    with pytest.raises(kind, match=said):
        train(make(people, towers, tmp_path))


@pytest.mark.parametrize(
    "arguments",
    ["--method.image.pretrained efficientnet-lite0", "--method.image.kind convolutions --method.image.pretrained ''"],
)
def test_convolutions_have_no_experts(arguments: str) -> None:
    options = [option.strip("'") for option in arguments.split()]
    with pytest.raises(ConfigError, match=r"--method\.image"):
        check_config(parse_config(PRESETS, ["mosaic-demo", *options]))


def study(run: Path, output: Path, **options: Any) -> attributes.Options:
    return attributes.Options(run, output=output, **{"subsets": 26, "device": "cpu", **options})


@pytest.fixture(scope="module", autouse=True)
def _small_forests() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(importance, "TREES", 5)
        patch.setattr(importance, "REPEATS", 1)
        yield


@pytest.fixture(scope="module")
def studied(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("study")
    attributes.run_study(study(run, output))
    return output


def test_the_study_ranks_what_an_evaluation_ranks(run: Path, studied: Path) -> None:
    found = json.loads((studied / "attributes.json").read_text())
    results = json.loads((run / "metrics.json").read_text())["protocols"]["test"]["results"]
    assert found["configurations"][attributes.ALL]["metrics"] == results["same"]
    assert found["configurations"][attributes.NONE]["metrics"] == results["without_attributes"]
    trials = found["trials"]
    assert trials["names"] == list(MARKET.states)
    assert len(trials["scores"]) == len(trials["switches"]) == len(trials["configurations"]) == 2 + 2 * 12 + 26
    rows = dict(zip(trials["configurations"], trials["switches"], strict=True))
    assert all(rows[attributes.ALL]) and not any(rows[attributes.NONE])
    at = trials["names"].index("hat")
    assert [not on for on in rows["without hat"]] == rows["hat alone"] == [place == at for place in range(12)]
    assert found["persons"]["gender"] == {"male": 1, "female": 1, "unknown": 0}
    assert found["persons"]["upcolour"]["unknown"] == 2
    lines = (studied / "attributes.csv").read_text().splitlines()
    assert len(lines) == 1 + len(rows) and lines[1].startswith("all attributes,1,1,") and lines[1].endswith(",0.0")
    page = (studied / "attributes.md").read_text()
    assert all(f"| {name} | " in page for name in (*MARKET.states, *CONTROLS, attributes.ALL))
    statistics = (studied / "importance.md").read_text()
    assert "| gender | 50% | " in statistics and all(f"| {name} | " in statistics for name in MARKET.states)
    assert (studied / "importance.png").exists() and (studied / "importance.csv").exists()


def test_the_study_goes_on_where_it_stopped(
    run: Path, studied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(studied / "attributes.json", tmp_path)
    kept = json.loads((tmp_path / "attributes.json").read_text())
    for name in ("without age", "random 1"):
        del kept["configurations"][name]
    del kept["controls"]["labels alone"], kept["trials"]
    (tmp_path / "attributes.json").write_text(json.dumps(kept))
    embed, below, done = Switched.embed, ExpertTower.below, []

    def counted(self: Switched, states: Tensor) -> Tensor:
        done.append("embed")
        return embed(self, states)

    def counted_below(self: ExpertTower, images: Tensor) -> Tensor:
        done.append("below")
        return below(self, images)

    monkeypatch.setattr(Switched, "embed", counted)
    monkeypatch.setattr(ExpertTower, "below", counted_below)
    found = attributes.run_study(study(run, tmp_path, subsets=27))
    # What was there is not done again, and tokens below the experts are computed once.
    assert sorted(done) == ["below", *3 * ["embed"]]
    whole = json.loads((studied / "attributes.json").read_text())
    for part in ("configurations", "controls"):
        assert {**whole[part], **found[part]} == found[part]
        assert {name: found[part][name] for name in whole[part]} == whole[part]
    assert found["configurations"].keys() - whole["configurations"].keys() == {"random 26"}
    for options, said in (
        ({"seed": 1}, "a study of another seed"),
        ({"protocol": "val"}, "a study of another data, protocol"),
        ({"protocol": "tests"}, "--protocol must be of val, test, got tests"),
        ({"subsets": -1}, "--subsets must be at least 0"),
        ({"subsets": 25}, "--subsets must be 26 or more for 12 attributes, or 0, got 25"),
    ):
        with pytest.raises(ConfigError, match=said):
            attributes.run_study(study(run, tmp_path, **options))


def test_random_subsets_are_independent_and_stay() -> None:
    names = ("a", "b", "c")
    few, many = (attributes.configurations(names, number, 0) for number in (10, 400))
    assert few.items() <= many.items()
    drawn = [many[f"random {number}"] for number in range(400)]
    for some in ({"a"}, {"b", "c"}, {"a", "b", "c"}):
        share = sum(some <= set(on) for on in drawn) / len(drawn)
        assert share == pytest.approx(0.5 ** len(some), abs=0.07)


def test_labels_alone_rank_by_how_many_are_the_same() -> None:
    states = torch.tensor([[0, 1, 2], [0, 1, 2], [0, 0, 2], [UNKNOWN, UNKNOWN, 2], [3, UNKNOWN, UNKNOWN]])
    vectors = agreement(states)
    alike = [[sum(int(a == b != UNKNOWN) for a, b in zip(x, y, strict=True)) for y in states] for x in states]
    assert (vectors @ vectors.T).int().tolist() == alike


def test_predicted_labels_are_read_from_images(run: Path, people: Path) -> None:
    """Persons of the validation split are those of training, of whom the heads know all."""
    dataset = load_dataset(people)
    train = replace(dataset.protocols["val"], queries=(), gallery=dataset.train)
    found, embedder = open_best(run, PRESETS, "cpu"), Embedder(opened(run), torch.device("cpu"))
    switched = Switched(found, train, 4)
    said = predicted(switched, embedder, dataset.train, Random(0))
    rates = right(switched.labels, said)
    assert rates.keys() == MARKET.states.keys() - {"downcolour"}  # nobody is labelled with that
    # Of one state there is nothing to tell.
    assert rates["gender"] == rates["backpack"] == 100
    # The images are flat and of another shade for each person.
    assert rates["age"] > 60


def test_the_command_says_what_it_needs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        studies(["attributes", str(tmp_path)])
    assert stop.value.code == 1 and "is no run" in capsys.readouterr().err
