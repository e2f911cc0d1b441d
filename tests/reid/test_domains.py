"""Several data sets at once: joined, sampled, trained on, validated and evaluated."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from baseline.config import PRESETS
from data_files import entries, write_set
from image_files import photo, rows, write_folders, write_market, write_table
from tiny_run import one_thread, tiny, train_alone

from bdam_reid.config import ConfigError, differences, from_dict, parse_config
from bdam_reid.data.datasets import load_dataset
from bdam_reid.data.records import Dataset, DatasetError, Protocol
from bdam_reid.data.samplers import DomainSampler, Draw, IdentitySampler
from bdam_reid.data.training import TrainingSet, nothing
from bdam_reid.engine.fingerprint import changes, fingerprint
from bdam_reid.engine.run import load_config, read_curves
from bdam_reid.evaluate import Options, _trained_on, evaluate_run
from bdam_reid.evaluation.tables import describe
from bdam_reid.methods.method import Method
from bdam_reid.processes import Share
from bdam_reid.train import main as train

RATES = ("r1", "r5", "r10", "map", "minp")


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two sets of image files."""
    folder = tmp_path_factory.mktemp("sets")
    return write_market(folder / "market"), write_market(folder / "duke_mtmc", frames=True)


@pytest.fixture(scope="module")
def both(roots: tuple[Path, Path]) -> Dataset:
    return load_dataset(*roots)


def shown(protocol: Protocol) -> list[tuple[int | None, bool]]:
    """For each query, who is right, and what is junk."""
    assert protocol.junk is not None
    junk = protocol.junk(protocol.queries, protocol.gallery).tolist()
    return [
        (query.identity == record.identity, left_out)
        for query, row in zip(protocol.queries, junk, strict=True)
        for record, left_out in zip(protocol.gallery, row, strict=True)
    ]


def test_nothing_of_two_sets_coincides(roots: tuple[Path, Path], both: Dataset) -> None:
    alone = [load_dataset(root) for root in roots]
    assert [domain.name for domain in both.domains] == ["market", "duke-mtmc"]
    assert both.name == "market-1501 + dukemtmc-reid"
    assert str(both) == f"market-1501 at {roots[0]}; dukemtmc-reid at {roots[1]}"
    assert list(both.protocols) == ["market_val", "market_test", "duke-mtmc_val", "duke-mtmc_test"]
    people: list[set[int]] = [set(), set()]
    for protocol in both.protocols.values():
        own = alone[protocol.domain].protocols[both.own_name(protocol)]
        assert shown(protocol) == shown(own) and protocol.split == own.split
        assert {record.domain for record in protocol.gallery} == {protocol.domain}
        people[protocol.domain] |= {r.identity for r in protocol.gallery} | {q.identity or 0 for q in protocol.queries}
    for record in both.train:
        people[record.domain].add(record.identity)
    assert not people[0] & people[1] and max(people[0]) < min(people[1])
    records = [*both.train, *(record for protocol in both.protocols.values() for record in protocol.gallery)]
    assert len({record.key for record in records}) == len(records)
    for number, one in enumerate(alone):
        own_train = [record for record in both.train if record.domain == number]
        assert [both.own_name(record) for record in own_train] == [record.key for record in one.train]
        # The same persons in the same order, under other numbers.
        assert len({(a.identity, b.identity) for a, b in zip(own_train, one.train, strict=True)}) == 5
    assert both.report.images == {split: 2 * n - (split == "test") for split, n in alone[0].report.images.items()}
    assert "market: train: " in str(both.report) and "duke-mtmc: 1 training identities held out" in str(both.report)


def test_images_in_two_sets_are_counted_or_refused(roots: tuple[Path, Path], tmp_path: Path) -> None:
    one, other = roots[0], Path(shutil.copytree(roots[1], tmp_path / "market"))
    trained, asked = sorted((other / "bounding_box_train").iterdir()), sorted((other / "query").iterdir())
    known = load_dataset(one).train[0]
    shutil.copy(known.path, trained[-1])
    joined = load_dataset(one, other)
    assert [domain.name for domain in joined.domains] == ["market", "market-2"]
    (finding,) = joined.report.findings
    assert str(finding) == f"1 train images of market that are train images of market-2: {known.key}"
    shutil.copy(known.path, asked[0])
    with pytest.raises(DatasetError, match=r"1 train images of market that are test images of market-2: .* wrong"):
        load_dataset(one, other)
    with pytest.raises(DatasetError, match="different sets as domains, got one twice"):
        load_dataset(one, other, one)


# Batches


def test_a_batch_is_of_one_domain_and_all_come_in_an_epoch(both: Dataset) -> None:
    sampler = DomainSampler(both.train, 2, 2, seed=3)
    alone = [IdentitySampler([r for r in both.train if r.domain == domain], 2, 2, seed=3) for domain in (0, 1)]
    orders = set()
    for epoch in range(6):
        batches = list(sampler.batches(epoch))
        domains = [{both.train[draw.index].domain for draw in batch} for batch in batches]
        assert all(len(of) == 1 for of in domains)
        assert [sum(of == {domain} for of in domains) for domain in (0, 1)] == list(map(len, alone))
        assert len(batches) == len(sampler) and {len(batch) for batch in batches} == {sampler.size}
        for batch in batches:
            assert list(Counter(both.train[draw.index].identity for draw in batch).values()) == [2, 2]
        orders.add(tuple(map(min, domains)))
        for start in range(len(batches) + 1):
            assert list(DomainSampler(both.train, 2, 2, seed=3).batches(epoch, start)) == batches[start:]
        shares = [[Share(number, 2).of(batch) for batch in batches] for number in (0, 1)]
        assert [[*a, *b] for a, b in zip(*shares, strict=True)] == batches
    assert len(orders) > 3 and all(list(order) != sorted(order) for order in orders)


def test_of_one_domain_batches_are_those_without_domains(both: Dataset) -> None:
    records = [record for record in both.train if record.domain == 0]
    for epoch in range(3):
        assert list(DomainSampler(records, 2, 2, seed=3).batches(epoch)) == list(
            IdentitySampler(records, 2, 2, seed=3).batches(epoch)
        )


def test_a_domain_of_too_few_persons_is_named(both: Dataset) -> None:
    records = [r for r in both.train if r.domain == 0 or r.identity == both.train[-1].identity]
    with pytest.raises(DatasetError, match=r"of domain 1, with images such as duke-mtmc/bounding.*which has 1: set"):
        DomainSampler(records, 2, 2, seed=0)


def test_what_stands_in_for_a_damaged_image_is_of_its_domain(both: Dataset, tmp_path: Path) -> None:
    last = [place for place, record in enumerate(both.train) if record.domain == 0][-1]
    lonely, broken = replace(both.train[last], identity=10_000), tmp_path / "broken.jpg"
    broken.write_bytes(b"no image")
    records = [*both.train[:last], replace(lonely, path=broken), *both.train[last + 1 :]]
    items = TrainingSet(records, (16, 8), False, 0.0, 0, nothing)
    stand_in = items[Draw(last, 0)]
    assert stand_in.skipped == (lonely.key,) and stand_in.identity == items.classes[both.train[0].identity]


# Runs


@pytest.fixture(scope="module")
def run(roots: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the baseline on both."""
    output = tmp_path_factory.mktemp("runs") / "both"
    with one_thread():
        train(arguments(roots, output), PRESETS)
    return output


def arguments(roots: tuple[Path, ...], output: Path) -> list[str]:
    root, *domains = map(str, roots)
    return ["baseline", "--data.root", root, "--data.domains", *domains, "--output", str(output)]


def rates(found: dict[str, Any], how: str = "same") -> list[float]:
    return [found["results"][how][rate] for rate in RATES]


def test_a_run_reports_each_domain_and_their_mean(roots: tuple[Path, Path], both: Dataset, run: Path) -> None:
    metrics = json.loads((run / "metrics.json").read_text())
    assert list(metrics["protocols"]) == ["market_test", "duke-mtmc_test"]
    assert (run / "pictures" / "index.html").is_file()
    assert metrics["domains"] == {"market": f"market-1501 at {roots[0]}", "duke-mtmc": f"dukemtmc-reid at {roots[1]}"}
    mean, each = metrics["means"]["test"], metrics["protocols"].values()
    assert rates(mean) == pytest.approx([sum(pair) / 2 for pair in zip(*map(rates, each), strict=True)])
    text = describe(metrics)
    for line in ("market test: the same clothes", "duke-mtmc test: the same", "test, mean of 2 sets: the same clothes"):
        assert line in text
    # What chose the checkpoint is the mean of the validation persons of both.
    curves = read_curves(run)
    for of_mean, market, duke in zip(
        *(curves[f"val/{name}"][1] for name in ("map", "market/map", "duke-mtmc/map")), strict=True
    ):
        assert of_mean == pytest.approx((market + duke) / 2)
    log = (run / "log.txt").read_text()
    assert ", the mean of market R-1 " in log
    assert f"\nmarket: train: {sum(record.domain == 0 for record in both.train)} images of 5 persons\n" in log


def test_each_domain_evaluates_alone_as_with_others(roots: tuple[Path, Path], run: Path, tmp_path: Path) -> None:
    metrics = json.loads((run / "metrics.json").read_text())
    alone = evaluate_run(Options(run, root=roots[1], output=tmp_path), PRESETS).metrics
    assert alone["protocols"]["test"] == metrics["protocols"]["duke-mtmc_test"] and "means" not in alone
    assert alone["trained_on"] == f"market-1501 + dukemtmc-reid at {roots[0]}, {roots[1]}"
    with pytest.raises(ConfigError, match="--domains needs --root"):
        evaluate_run(Options(run, domains=roots), PRESETS)


def test_it_is_evaluated_on_sets_that_it_has_not_seen(
    roots: tuple[Path, Path], run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forgotten: list[Method] = []
    monkeypatch.setattr(Method, "forget_cameras", lambda method: forgotten.append(method))
    evaluate_run(Options(run, root=roots[0], domains=roots[1:], output=tmp_path / "seen"), PRESETS)
    assert not forgotten
    unseen = write_folders(tmp_path / "folders", ("query", "gallery")), write_table(tmp_path / "table", rows())
    options = Options(run, root=unseen[0], domains=(unseen[1],), output=tmp_path / "out", k_reciprocal=True)
    metrics = evaluate_run(options, PRESETS).metrics
    assert len(forgotten) == 1
    assert metrics["evaluated_on"] == f"folders at {unseen[0]}; csv at {unseen[1]}"
    assert list(metrics["protocols"]) == ["folders_test", "table_test"]
    for found in metrics["protocols"].values():
        assert found["k_reciprocal"] and found["results"]["k_reciprocal"] != found["results"]["same"]
    mean = rates(metrics["means"]["test"], "k_reciprocal")
    each = [rates(found, "k_reciprocal") for found in metrics["protocols"].values()]
    assert mean == pytest.approx([sum(pair) / 2 for pair in zip(*each, strict=True)])
    assert describe(metrics).count("for same clothes, k-reciprocal") == 3


def test_moved_and_renamed_sets_are_the_same_but_not_in_another_order(
    roots: tuple[Path, Path], run: Path, both: Dataset, tmp_path: Path
) -> None:
    moved = [Path(shutil.copytree(root, tmp_path / name)) for root, name in zip(roots, ("a", "b"), strict=True)]
    config = load_config(run, PRESETS)
    assert config.data.domains == (str(roots[1]),)
    assert _trained_on(run, config, load_dataset(*moved)) == ""
    swapped = changes(fingerprint(both), fingerprint(load_dataset(*reversed(moved))))
    assert swapped and any(line.startswith("test of domain 0: ") for line in swapped)


def test_a_set_without_training_images_is_no_domain_to_train_on(
    roots: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = write_folders(tmp_path / "unseen", ("query", "gallery"))
    with pytest.raises(SystemExit):
        train(arguments((roots[0], other), tmp_path / "run"), PRESETS)
    assert f"expected training images, got folders at {other}, which is for" in capsys.readouterr().err


def test_a_method_of_texts_is_trained_on_two_sets(people: Path, tmp_path: Path) -> None:
    other = write_set(tmp_path / "other", entries())
    for path in other.rglob("*.jpg"):
        photo(path)
    options = ["--method.optim.epochs", "1", "--engine.save-every", "0"]
    run = train_alone(tiny(people, tmp_path / "run", "--data.domains", str(other), *options))
    metrics = json.loads((run / "metrics.json").read_text())
    assert list(metrics["protocols"]) == ["people_test", "people_clothing_change", "other_test"]
    assert list(metrics["means"]) == ["test"]
    held = json.loads((run / "environment.json").read_text())["data"]
    assert held["identities"]["train"] == 8 + 4 and held["domains"]["other"]["images"]["train"] == 10


def test_the_config_survives_json_and_says_what_is_wrong() -> None:
    config = parse_config(PRESETS, ["baseline", "--data.domains", "a", "b"])
    assert config.data.roots == ("data/synthetic", "a", "b")
    values = json.loads(json.dumps(asdict(config)))
    assert from_dict(values, PRESETS) == config
    assert differences(config, replace(config, data=replace(config.data, domains=("c",)))) == []
    for wrong in ("a", ["a", 1]):
        values["data"]["domains"] = wrong
        with pytest.raises(ConfigError, match=r"data\.domains must be (tuple|str), got"):
            from_dict(values, PRESETS)
