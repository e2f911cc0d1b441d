"""`python -m benchmarks.report`: tables and figures of the committed results, for the README and `docs/benchmarks.md`.

Nothing is measured here, and no figure is written anywhere else by hand.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.efficiency import figures as drawings
from benchmarks.efficiency.study import (
    KINDS,
    PAPER,
    QUANTITIES,
    SHORTEST_FITTED,
    accuracy,
    claims,
    describe_crossing,
    growth,
    radar,
    scores,
    spread,
)
from benchmarks.results import (
    FOLDER,
    MODES,
    SEARCH,
    TIMES,
    Entry,
    best_of_ours,
    best_peer,
    devices,
    figures,
    find,
    load,
    ratio,
    target,
    title,
)

ROOT = Path(__file__).parents[1]
README, DETAILS = ROOT / "README.md", ROOT / "docs" / "benchmarks.md"
RADAR, GROWTH = ROOT / "docs" / "fusion_radar.svg", ROOT / "docs" / "fusion_growth.svg"
SEARCHED = ROOT / "docs" / "search_growth.svg"
COSTS: Mapping[str, Callable[[Mapping[str, Any]], float]] = {
    "queries a second, in batches": lambda row: row["forward"]["queries_s"],
    "ms a query alone, 99th percentile": lambda row: row["p99_ms"],
    "resident MiB": lambda row: row["forward"]["resident_mib"],
    "seconds to build": lambda row: row["build_s"],
}
"""Of a search."""
RECALL = 0.99
"""Of a search whose costs are drawn, at least."""
BEGIN, END = "<!-- {} of python -m benchmarks.report -->", "<!-- end -->"

Rows = Sequence[Sequence[str]]


def table(head: Sequence[str], rows: Rows) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def number(value: float | None, unit: str = "") -> str:
    """Three digits, or all of an integer's."""
    if value is None:
        return ""
    text = f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
    return f"{text} {unit}".strip()


def machine_line(results: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    commits = ", ".join(sorted({entry["commit"] for entry in results["results"]}))
    where = results["device"]
    if "cuda" not in results:
        where = f"{results['threads']} threads of {where} ({results['instruction_set']})"
    return f"{where}; {versions}; commit {commits}"


def peers_table(results: Mapping[str, Any]) -> str:
    """The best of ours beside the best peer that a user would take, of every benchmark that has one."""
    # On a GPU, also what is left where the host does not count.
    keys = [key for key in TIMES if any(key in row for e in results["results"] for row in figures(e, "train").values())]
    rows = [list(_peer_row(entry, keys)) for entry in results["results"] if entry.get("peer")]
    heads = [head for words in MODES.values() for key in keys for head in (f"{words}{TIMES[key]}", "")]
    return table(["what", "against", *heads, "peak MiB, with backward"], rows)


def _peer_row(entry: Entry, keys: Sequence[str]) -> Iterator[str]:
    yield title(entry)
    yield entry["peer"]
    for mode in MODES:
        for key in keys:
            yield _against(entry, mode, key, " ms")
            times = ratio(entry, mode, key)
            wanted = target(entry, key)
            missed = times and mode == "train" and wanted and times < wanted
            yield f"{times:.3g}x" + (f" (target {wanted}x)" if missed else "") if times else ""
    yield _against(entry, "train", "peak_mib", "")


def _against(entry: Entry, mode: str, key: str, unit: str) -> str:
    """A figure, where there is one, of the best of ours and of the best peer: by this key if it is a time, else the
    fastest one's."""
    by = key if key in TIMES else "ms"
    rows, ours, peer = figures(entry, mode), best_of_ours(entry, mode, by), best_peer(entry, mode, by)
    if not ours or not peer or key not in rows[ours]:
        return ""
    return f"{number(rows[ours][key])} / {number(rows[peer][key])}{unit}"


def contenders_table(results: Mapping[str, Any]) -> str:
    """Every contender of every benchmark."""
    rows = []
    for entry in results["results"]:
        for name, contender in entry["contenders"].items():
            cells = [title(entry), name]
            for mode in MODES:
                row = contender.get(mode, {})
                median, low, high = (number(row.get(key)) for key in ("ms", "low", "high"))
                peak = number(row.get("peak_mib", row.get("resident_mib")))
                cells += [f"{median} ({low} to {high})" if median else "", peak]
                cells += [f"{row['error']:.1e}" if "error" in row else ""]
            rows.append(cells)
    head = ["what", "contender"]
    for words in MODES.values():
        head += [f"{words}, ms (quartiles)", "peak MiB", "error"]
    return table(head, rows)


def study_table(results: Mapping[str, Any], runs: Sequence[Mapping[str, Any]]) -> str:
    """The raw numbers of the radar."""
    rows = []
    for kind, row in radar(results, runs).items():
        cells = (
            spread(runs, kind), spread(runs, kind, "r1"), str(accuracy(runs, kind)[2]), f"{row['Params']:.2f} M",
            f"{row['FLOPs']:.2f} M", number(row["Memory"], "MiB"), f"{row['Speed']:,.0f}",
        )  # fmt: skip
        rows.append([drawings.LABELS[kind], *cells])
    costs = ("parameters", "FLOPs a pair", "peak training memory", "pairs/s, forward")
    return table(["fusion", "mAP, %", "R-1, %", "seeds", *costs], rows)


def tokens_table(results: Mapping[str, Any]) -> str:
    """Latency and throughput of the fusions by the tokens that they read."""
    entries = {(e["tokens"], e["batch"]): e for e in results["results"] if "tokens" in e}
    rows = []
    for tokens in ("pooled", "pair", "sequence"):
        one, many = entries[tokens, 1], entries[tokens, 16]
        for kind in KINDS if tokens == "pooled" else KINDS[:2]:
            single, batch = one["contenders"][kind], many["contenders"][kind]
            cells = [number(single["forward_flops"] / 1e6), number(batch["train"]["peak_mib"])]
            for mode in MODES:
                cells += [number(single[mode]["ms"]), f"{1e3 * many['batch'] / batch[mode]['ms']:,.0f}"]
            rows.append([tokens, drawings.LABELS[kind], *cells])
    head = ["tokens", "fusion", "MFLOPs a pair", "peak training MiB, B = 16"]
    for words in MODES.values():
        head += [f"{words}, ms, B = 1", "pairs/s, B = 16"]
    return table(head, rows)


def growth_table(results: Mapping[str, Any]) -> str:
    """Fitted exponents and crossing points."""
    rows = []
    for quantity in QUANTITIES:
        curves = growth(results, quantity)
        mamba, transformer = curves["mamba"], curves["transformer"]
        at_end = f"{number(mamba.values[-1])} / {number(transformer.values[-1])}"
        where = describe_crossing(mamba, transformer)
        rows.append([quantity, f"{mamba.exponent:.2f}", f"{transformer.exponent:.2f}", at_end, where])
    longest = growth(results, next(iter(QUANTITIES)))["mamba"].lengths[-1]
    at_end = f"at {longest:,} tokens, Mamba / Transformer"
    return table(["", "exponent, Mamba", "exponent, Transformer", at_end, "Mamba's curve"], rows)


def parts_table(results: Mapping[str, Any]) -> str:
    """The whole model, or the ablated fusion, by part."""
    rows = []
    for entry in results["results"]:
        if entry["op"] in ("whole model", "fusion variants"):
            for name, part in entry["contenders"].items():
                forward, train = part["forward"], part["train"]
                millions, billions = f"{part['parameters'] / 1e6:.2f}", number(part["forward_flops"] / 1e9)
                measured = (number(forward["ms"]), number(train["ms"]), number(train["peak_mib"]))
                rows.append([title(entry), name, millions, billions, *measured])
    costs = ("M parameters", "forward GFLOPs", "forward, ms", "forward + backward, ms", "peak training MiB")
    return table(["what", "part", *costs], rows)


def memory_check(results: Mapping[str, Any]) -> str:
    """The peak of torch's allocator beside the growth of a fresh process, for the same benchmark."""
    check = find(results, "test_resident_memory")
    same = next(entry for entry in results["results"] if entry is not check and title(entry) == title(check))
    rows = [
        [name, number(same["contenders"][name]["train"]["peak_mib"]), number(row["resident_mib"])]
        for name, row in figures(check, "train").items()
    ]
    head = [f"{title(check)}, forward + backward", "peak of torch's allocator, MiB", "growth of the resident set, MiB"]
    return table(head, rows)


def search_costs() -> dict[str, dict[str, list[tuple[int, float]]]]:
    """By cost and contender, images of a gallery and the cost of a search in it that finds enough; of the machine that
    measured most sizes. Nothing unless it measured two."""
    sizes = max(([e for e in r["results"] if e["op"] == SEARCH] for r in devices().values()), key=len)
    if len(sizes) < 2:
        return {}
    sizes.sort(key=lambda entry: entry["images"])
    costs: dict[str, dict[str, list[tuple[int, float]]]] = {cost: defaultdict(list) for cost in COSTS}
    for entry in sizes:
        for name, row in entry["contenders"].items():
            if row.get("recall", 0) >= RECALL:
                for cost, of in COSTS.items():
                    costs[cost][name].append((entry["images"], of(row)))
    return costs


def search_section() -> list[str]:
    """Costs of a search by the size of the gallery."""
    if not search_costs():
        return []
    return [
        "## Search by the size of the gallery",
        f"Two cores, the ten nearest, each contender set so that it finds {RECALL:.0%} of them; what finds fewer at "
        "its most thorough setting is left out. Embeddings are drawn (`benchmarks/gallery.py`).",
        f"![Costs of a search by the size of the gallery]({SEARCHED.name})",
    ]


def claims_table(results: Mapping[str, Any], runs: Sequence[Mapping[str, Any]]) -> str:
    verdicts = {True: "yes", False: "**no**", None: "cannot be told"}
    rows = [[claim.text, claim.measured, verdicts[claim.holds]] for claim in claims(results, runs)]
    return table(["the drafts claim", "measured here", "holds"], rows)


def accuracy_runs() -> list[dict[str, Any]]:
    return load(FOLDER / "fusion-accuracy.json")["runs"]


def studied() -> Mapping[str, Any]:
    """The results that the efficiency study is read from: the fullest that has one."""
    return next(r for r in devices().values() if any(entry["name"] == PAPER for entry in r["results"]))


HEADLINES = (
    ("intel", "selective_scan, (B, D, L) = (16, 512, 197), N = 16"),
    ("intel", "bidirectional_cross_attention, (B, H, L, d) = (8, 12, 196, 64), f32"),
    ("intel", "hsic, N = 64, D = 768"),
    ("nvidia", "selective_scan, (B, D, L) = (64, 512, 197), N = 16, bf16"),
    ("nvidia", "bidirectional_cross_attention, (B, H, L, d) = (64, 12, 577, 64), bf16"),
    ("nvidia", "hsic, N = 4096, D = 768"),
)
"""What the README's first screen shows, by the beginning of a results file's name: strong and weak figures of both."""


def headlines_section() -> str:
    """Six figures: of ours and of the best peer, forward + backward as called."""
    rows = []
    for machine, what in HEADLINES:
        name, results = next((n, r) for n, r in devices().items() if n.startswith(machine))
        entry = next(e for e in results["results"] if title(e) == what)
        times = ratio(entry, "train")
        assert times is not None, what
        link = f"[{results['device']}](benchmarks/results/{name})"
        cells = (best_peer(entry, "train") or "", _against(entry, "train", "ms", " ms"), f"{times:.3g}x")
        rows.append([what, link, *cells])
    return table(["forward + backward", "on", "against", "ours / theirs", "speed-up"], rows)


def peers_section() -> list[str]:
    """Ours beside the best peer, by machine, and the papers' comparison."""
    blocks = [
        "Ours is the best of our backends and comes first; a target is the project's own, and named where it is missed."
    ]
    for name, measured in devices().items():
        blocks += [f"### {name}", f"{machine_line(measured)}.", peers_table(measured)]
    results, runs = studied(), accuracy_runs()
    return [
        *blocks,
        "## The papers' efficiency comparison",
        "The three fusions at the papers' sizes, which means one token. Accuracy is that of the preset demo-icme "
        "on a synthetic set of an earlier version, all trained alike (`python -m bdam_reid.studies efficiency`); "
        "ranking does not read the fused feature, which only has a part in training the others. "
        "The picture is Fig. 5 of the longer draft: best / value of a cost, value / best of the others, times 100.",
        f"![Scores of the three fusions]({RADAR.name})",
        study_table(results, runs),
        claims_table(results, runs),
        "Training mode has the drafts' dropout of 0.1, growth with length is measured without. FLOPs are those of "
        "torch's counter, a multiply-add counting 2; the scan's own arithmetic is included.",
        tokens_table(results),
        "Over more tokens, without dropout, in a batch of 1 (Simple reads pooled features only, and does not grow). "
        f"Exponents are fitted from {SHORTEST_FITTED:,} tokens on, dotted lines mark where the curves cross:",
        f"![Growth with the number of tokens]({GROWTH.name})",
        growth_table(results),
        parts_table(results),
        memory_check(results),
    ]


def demo_section() -> str:
    """What the README says of the demo's accuracy."""
    metrics = load(FOLDER / "demo.json")
    rows = []
    for protocol, words in (("test", "test"), ("clothing_change", "other clothes than described")):
        found = metrics["protocols"][protocol]
        how = {f"beta {weights['clothing']:g}": clothes for clothes, weights in metrics["weights"].items()}
        for setting, result in {**how, "identity features alone (beta 0)": "identity"}.items():
            if setting != "beta 0":
                rates = [f"{found['results'][result][rate]:.1f}" for rate in ("r1", "r5", "r10", "map", "minp")]
                rows.append([f"{words}, {setting}", *rates])
    chance = f"{metrics['protocols']['test']['chance_r1']:.1f}"
    return table(["%", "R-1", "R-5", "R-10", "mAP", "mINP"], [*rows, ["by chance", chance, "", "", "", ""]])


SECTIONS = {"headlines": headlines_section, "demo": demo_section}


def details() -> str:
    """All that was measured."""
    blocks = [
        "# Measurements",
        "Written by `python -m benchmarks.report` from `benchmarks/results/`, which `make bench` fills: 15 minutes on "
        "two cores. `python -m benchmarks.compare OLD NEW` says what a change made faster or slower. Times are medians "
        "of rounds in turns in one process, with quartiles; memory is the peak of torch's allocator above what lived "
        "before; errors are the greatest of outputs and gradients against float64, relative to the greatest element.",
        "## Beside the best peer",
        *peers_section(),
        *search_section(),
        "## Every contender",
    ]
    for name, measured in devices().items():
        blocks += [f"### {name}", machine_line(measured) + ".", contenders_table(measured)]
    return "\n\n".join(blocks) + "\n"


def with_sections(text: str) -> str:
    """A document with every section written anew between its markers."""
    for name, section in SECTIONS.items():
        before, rest = text.split(f"{BEGIN.format(name)}\n")
        _, after = rest.split(END, 1)
        text = f"{before}{BEGIN.format(name)}\n\n{section()}\n\n{END}{after}"
    return text


def radar_numbers() -> dict[str, dict[str, float]]:
    return scores(radar(studied(), accuracy_runs()))


def main() -> None:
    """Print the tables, write them, and draw the figures."""
    argparse.ArgumentParser(prog="python -m benchmarks.report", description=__doc__).parse_args()
    README.write_text(with_sections(README.read_text(encoding="utf-8")), encoding="utf-8")
    DETAILS.write_text(details(), encoding="utf-8")
    drawings.draw_radar(radar_numbers(), RADAR)
    drawings.draw_growth({quantity: growth(studied(), quantity) for quantity in QUANTITIES}, GROWTH)
    if costs := search_costs():
        drawings.draw_search(costs, SEARCHED)
    print(details())


if __name__ == "__main__":
    main()
