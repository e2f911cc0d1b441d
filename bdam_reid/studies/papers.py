"""What the two drafts print: their tables' figures, for CUHK-PEDES unless a set is named. Nothing here was measured by
this project.

Source: icme Tables I to IV, long Tables 1 to 5. Where both drafts have a table, their figures are the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Published(NamedTuple):
    """Figures of a row in percent; None where the drafts have a dash."""

    map: float | None
    r1: float
    r5: float
    r10: float


SET = "CUHK-PEDES"
"""Of all tables but the comparison."""
BASELINE = Published(59.81, 70.54, 85.49, 91.26)
FULL = Published(72.61, 79.93, 92.95, 96.47)

BDAM: Mapping[str, Published] = {
    "baseline": BASELINE,
    "BDAM": Published(66.74, 76.27, 89.30, 94.02),
    "without cross-attention": Published(62.56, 71.39, 87.05, 92.98),
    "without gate": Published(65.11, 74.63, 88.77, 93.56),
    "shallow": Published(64.27, 73.74, 88.09, 93.32),
}
"""icme Table II, long Table 1."""

FUSION: Mapping[str, Published] = {
    "without fusion": BASELINE,
    "fusion": Published(69.58, 78.42, 90.74, 95.11),
    "without Mamba": Published(66.89, 75.73, 89.06, 93.92),
    "without fusion gate": Published(68.64, 77.58, 90.11, 94.87),
    "without alignment": Published(68.15, 77.09, 89.84, 94.53),
}
"""icme Table III, long Table 2."""

LOSSES: Mapping[str, Published] = {
    "all losses": FULL,
    "without InfoNCE": Published(28.14, 36.55, 55.21, 65.83),
    "without triplet": Published(67.22, 74.89, 88.15, 93.12),
    "without clothing loss": Published(69.15, 76.92, 89.53, 94.22),
    "without decoupling": Published(70.03, 77.81, 90.11, 94.98),
    "without gate regularisation": Published(71.98, 79.23, 91.35, 95.71),
    "adversarial": FULL,
}
"""icme Table IV and, with the adversarial clothing loss, long Table 3, whose figures are the same."""

CLUSTERING: Mapping[str, Published] = {
    "none": Published(71.22, 79.18, 91.51, 95.79),
    "random": Published(71.95, 79.54, 91.66, 95.82),
    "kmeans": Published(71.85, 79.20, 91.60, 95.90),
    "gmm": Published(71.70, 79.05, 91.50, 95.75),
    "agglomerative": Published(71.78, 79.10, 91.55, 95.80),
    "hdbscan": Published(72.20, 79.40, 91.95, 96.10),
    "dbscan": FULL,
}
"""long Table 4."""

SETS = ("CUHK-PEDES", "ICFG-PEDES", "RSTPReid")
COMPARISON: Mapping[str, tuple[str, tuple[Published, Published, Published]]] = {
    method: (backbone, (Published(*cuhk), Published(*icfg), Published(*rstp)))
    for method, backbone, cuhk, icfg, rstp in (
        ("IRRA", "CLIP-ViT", (66.10, 73.38, 89.93, 93.71), (38.06, 63.36, 80.82, 85.82), (47.17, 60.20, 81.30, 88.20)),
        ("IRLT", "CLIP-ViT", (65.94, 73.67, 89.71, 93.57), (38.34, 63.57, 80.57, 86.32), (47.64, 60.51, 82.85, 89.71)),
        ("CFAM", "CLIP-ViT", (None, 74.46, 90.19, 94.01), (None, 64.72, 81.35, 86.31), (None, 61.49, 82.26, 89.23)),
        ("Propot", "CLIP-ViT", (67.12, 74.89, 89.9, 94.17), (42.93, 65.12, 81.57, 86.97), (47.82, 61.87, 83.63, 89.7)),
        ("RDE", "CLIP-ViT", (67.56, 75.94, 90.14, 94.12), (40.06, 67.68, 82.47, 87.36), (50.88, 65.35, 83.95, 89.90)),
        ("HAM", "CLIP-ViT", (69.72, 77.99, 91.34, 95.03), (42.72, 69.95, 83.88, 88.39), (55.47, 72.50, 87.70, 91.95)),
        ("CPCL", "ViT", (63.19, 70.03, 87.28, 91.78), (36.16, 62.60, 79.07, 84.46), (45.81, 58.35, 81.05, 87.65)),
        ("PDReid", "ViT", (65.03, 71.59, 87.95, 92.45), (36.44, 60.93, 77.96, 84.11), (45.27, 56.65, 77.40, 84.70)),
        ("SSAN", "ViT", (None, 61.37, 80.15, 86.73), (None, 54.23, 72.63, 79.53), (None, 43.50, 67.80, 77.15)),
        ("CFine", "ViT", (None, 69.57, 85.93, 91.15), (None, 60.83, 76.55, 82.42), (None, 50.55, 72.50, 81.60)),
        ("IVT", "ViT", (None, 65.59, 83.11, 89.21), (None, 56.04, 73.60, 80.22), (None, 46.70, 70.00, 78.80)),
        ("Ours", "ViT", FULL, (41.78, 68.68, 84.29, 89.74), (57.68, 74.33, 88.85, 92.95)),
    )
}  # fmt: skip
"""icme Table I, long Table 5: a method's backbone, and its figures on each of SETS. "Ours" is the drafts' method."""
