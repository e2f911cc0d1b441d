"""Which attributes raise a model's score, from its scores with many subsets of them.

What is said of an attribute is the same whether it is a model's expert or anything else that can be switched on and
off. Source: Psalta et al. 2025 (arXiv 2512.08697), who fit linear models and random forests to such trials; their
subsets depend on each other, ours are drawn apart, which the tests here assume.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from math import factorial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bdam_reid.config import ConfigError

LEVEL = 0.95
"""Of all intervals."""
TREES = 200
FOLDS = 5
"""A forest is asked what an attribute is worth to it on trials that it has not seen."""
REPEATS = 5
"""Of a permutation, in each fold."""
RESAMPLES = 2000
EXACT = 12
"""Attributes up to which Shapley values take every subset; beyond, as many orders are drawn as subsets were taken."""

Floats = NDArray[np.float64]


def trials_wanted(attributes: int) -> int:
    """The least that can tell so many attributes apart."""
    return 2 * attributes + 2


@dataclass(frozen=True)
class Trials:
    """Scores of a model with subsets of its attributes.

    Raises: ConfigError if shapes differ, a score is not finite, an attribute is never switched, two are always
        switched together, or there are too few trials to tell as many attributes apart.
    """

    names: tuple[str, ...]
    """Of A attributes."""
    switches: NDArray[np.bool_]
    """(N, A): what is on in each trial."""
    scores: Floats
    """(N,), percent."""

    def __post_init__(self) -> None:
        trials, attributes = len(self.scores), len(self.names)
        if self.switches.shape != (trials, attributes):
            raise ConfigError(f"switches must be {(trials, attributes)}, got {self.switches.shape}")
        if not np.isfinite(self.scores).all():
            raise ConfigError(f"scores must be finite, got {self.scores[~np.isfinite(self.scores)][0]}")
        if trials < (wanted := trials_wanted(attributes)):
            raise ConfigError(f"{attributes} attributes need {wanted} trials or more, got {trials}: try more subsets")
        for column, name in enumerate(self.names):
            if len(np.unique(self.switches[:, column])) < 2:
                raise ConfigError(f"every attribute must be on in some trials and off in others, got {name} in one")
        if np.linalg.matrix_rank(_design(self.switches)) <= attributes:
            raise ConfigError("attributes must be switched apart from each other: draw subsets at random")


class Estimate(NamedTuple):
    """A figure with its interval."""

    value: float
    low: float
    high: float


class Test(NamedTuple):
    """Welch's test of the scores with an attribute against those without it."""

    difference: Estimate
    """Of the means, in percentage points; the interval is of a bootstrap over trials."""
    p: float
    p_holm: float
    """Corrected for the number of attributes."""
    cohens_d: float
    """The difference in units of the deviation that both groups have."""


class Effect(NamedTuple):
    """What is said of one attribute."""

    linear: Estimate
    """Its coefficient in a Gaussian linear model of the score on all switches, in percentage points."""
    linear_p: float
    test: Test
    impurity: float
    """Its share of the decrease of variance in a random forest."""
    permutation: float
    """By how much less variance a forest explains of unseen trials in which its switches are shuffled."""
    shapley: float
    """Its part of the forest's score of all attributes less that of none, in percentage points."""


class Interactions(NamedTuple):
    """Of pairs of attributes, (A, A) each, symmetric."""

    values: Floats
    """By how many percentage points two attributes do more together than apart; 0 on the diagonal, NaN where no trial
    tells."""
    p: Floats
    """Of a t test, corrected by Holm for all pairs; 1 on the diagonal."""


@dataclass(frozen=True)
class Importance:
    """What trials say of all attributes."""

    effects: Mapping[str, Effect]
    interactions: Interactions
    explained: float
    """Share of the variance of unseen trials that the forests explain: of little, little can be said of by them."""

    @cached_property
    def ranked(self) -> list[str]:
        """Names from the greatest linear coefficient to the least."""
        return sorted(self.effects, key=lambda name: -self.effects[name].linear.value)


def analyse(trials: Trials, seed: int = 0) -> Importance:
    """All that is said of trials; the same trials and seed give the same figures."""
    linear = linear_effects(trials)
    tests = welch_tests(trials, seed)
    forest = forest_importance(trials, seed)
    effects = {
        name: Effect(*linear[i], tests[i], forest.impurity[i], forest.permutation[i], forest.shapley[i])
        for i, name in enumerate(trials.names)
    }
    return Importance(effects, interactions(trials), forest.explained)


def linear_effects(trials: Trials) -> list[tuple[Estimate, float]]:
    """Coefficients of a Gaussian generalised linear model, their intervals and p values by Student's t, of each
    attribute."""
    from statsmodels.genmod.families import Gaussian
    from statsmodels.genmod.generalized_linear_model import GLM

    if np.ptp(trials.scores) == 0:  # Nothing to fit, which statsmodels refuses.
        return [(Estimate(0.0, 0.0, 0.0), 1.0)] * len(trials.names)
    fitted = GLM(trials.scores, _design(trials.switches), family=Gaussian()).fit(use_t=True)
    intervals = fitted.conf_int(1 - LEVEL)
    return [
        (Estimate(float(value), float(low), float(high)), float(p))
        for value, (low, high), p in zip(fitted.params[1:], intervals[1:], fitted.pvalues[1:], strict=True)
    ]


def welch_tests(trials: Trials, seed: int = 0) -> list[Test]:
    """A test for each attribute, corrected by Holm for all of them."""
    from scipy.stats import ttest_ind
    from statsmodels.stats.multitest import multipletests

    groups = [(trials.scores[on], trials.scores[~on]) for on in trials.switches.T]
    # Two trials of a group are the least that a variance takes.
    p = [float(ttest_ind(a, b, equal_var=False).pvalue) if min(len(a), len(b)) > 1 else 1.0 for a, b in groups]
    p = [1.0 if np.isnan(value) else value for value in p]  # Scores that are all the same.
    corrected = multipletests(p, method="holm")[1]
    generator = np.random.default_rng(seed)
    return [
        Test(_difference(*group, generator), one, float(holm), _cohens_d(*group))
        for group, one, holm in zip(groups, p, corrected, strict=True)
    ]


class Forest(NamedTuple):
    """What a random forest says of each attribute, (A,), and how well it explains unseen trials."""

    impurity: Floats
    permutation: Floats
    shapley: Floats
    explained: float


def forest_importance(trials: Trials, seed: int = 0) -> Forest:
    """Of a random forest fitted to all trials: impurity and Shapley values; of forests that have not seen a fold:
    permutation importance."""
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.inspection import permutation_importance
    from sklearn.model_selection import KFold

    def fitted(rows: NDArray[np.int_]) -> Any:
        forest = RandomForestRegressor(TREES, min_samples_leaf=2, max_features=1 / 3, random_state=seed)
        return forest.fit(inputs[rows], trials.scores[rows])

    inputs = trials.switches.astype(np.float64)
    permuted, explained = [], []
    for seen, unseen in KFold(FOLDS, shuffle=True, random_state=seed).split(inputs):
        forest = fitted(seen)
        x, y = inputs[unseen], trials.scores[unseen]
        permuted.append(permutation_importance(forest, x, y, n_repeats=REPEATS, random_state=seed).importances_mean)
        explained.append(forest.score(x, y))
    whole = fitted(np.arange(len(inputs)))
    return Forest(
        whole.feature_importances_, np.mean(permuted, axis=0), shapley_values(whole.predict, len(trials.names), seed),
        float(np.mean(explained)),
    )  # fmt: skip


def shapley_values(score: Callable[[Floats], Floats], attributes: int, seed: int = 0) -> Floats:
    """The part of each of so many attributes in score(all) - score(none); the parts add up to it.

    Args:
        score: function of switches (N, A) in 0 and 1 -> scores (N,).
        attributes: A.
        seed: of the orders that are drawn where there are more than EXACT attributes.
    Source: Shapley 1953; by orders, Castro et al. 2009.
    """
    if attributes <= EXACT:
        return _exact_shapley(score, attributes)
    generator = np.random.default_rng(seed)
    orders = [generator.permutation(attributes) for _ in range(2**EXACT // attributes)]
    # The attributes of an order are switched on one after the other.
    ranks = np.argsort(orders, axis=1)
    steps = np.concatenate([ranks < on for on in range(attributes + 1)]).astype(np.float64)
    scores = score(steps).reshape(attributes + 1, len(orders))
    gains = np.diff(scores, axis=0)
    return np.take_along_axis(gains.T, ranks, axis=1).mean(axis=0)


def interactions(trials: Trials) -> Interactions:
    """Coefficients of products of two switches, each in a linear model of its own with all switches: trials that are
    drawn apart make other pairs mere noise to it, and a model of all pairs at once would need more trials than there
    are pairs."""
    from statsmodels.stats.multitest import multipletests

    attributes = len(trials.names)
    pairs = list(combinations(range(attributes), 2))
    values, p = np.zeros((attributes, attributes)), np.ones((attributes, attributes))
    found = [_together(trials, *pair) for pair in pairs]
    corrected = multipletests([one for _, one in found], method="holm")[1] if found else []
    for (i, j), (value, _), holm in zip(pairs, found, corrected, strict=True):
        values[i, j] = values[j, i] = value
        p[i, j] = p[j, i] = holm
    return Interactions(values, p)


def _together(trials: Trials, i: int, j: int) -> tuple[float, float]:
    """The coefficient of a pair, and its p value."""
    from statsmodels.regression.linear_model import OLS

    product = trials.switches[:, i] & trials.switches[:, j]
    design = _design(np.column_stack([trials.switches, product]))
    if np.linalg.matrix_rank(design) < design.shape[1]:
        return np.nan, 1.0
    if np.ptp(trials.scores) == 0:
        return 0.0, 1.0
    fitted = OLS(trials.scores, design).fit()
    return float(fitted.params[-1]), float(fitted.pvalues[-1])


def _design(switches: NDArray[np.bool_]) -> Floats:
    """Switches (N, A) with a constant before them."""
    return np.concatenate([np.ones((len(switches), 1)), switches], axis=1)


def _difference(on: Floats, off: Floats, generator: np.random.Generator) -> Estimate:
    """Of the means of two groups, with the interval of a bootstrap of percentiles."""
    means = [generator.choice(group, (RESAMPLES, len(group))).mean(axis=1) for group in (on, off)]
    low, high = np.quantile(means[0] - means[1], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(float(on.mean() - off.mean()), float(low), float(high))


def _cohens_d(on: Floats, off: Floats) -> float:
    """0 where neither group varies."""
    freedom = len(on) + len(off) - 2
    pooled = np.sqrt((((on - on.mean()) ** 2).sum() + ((off - off.mean()) ** 2).sum()) / freedom)
    return float((on.mean() - off.mean()) / pooled) if pooled > 0 else 0.0


def _exact_shapley(score: Callable[[Floats], Floats], attributes: int) -> Floats:
    subsets = np.arange(2**attributes)
    switches = (subsets[:, None] >> np.arange(attributes)) & 1
    scores = score(switches.astype(np.float64))
    size = switches.sum(axis=1)
    weights = np.array([factorial(n) * factorial(attributes - n - 1) for n in range(attributes)]) / factorial(
        attributes
    )
    values = np.empty(attributes)
    for attribute in range(attributes):
        without = subsets[switches[:, attribute] == 0]
        gains = scores[without | 1 << attribute] - scores[without]
        values[attribute] = (weights[size[without]] * gains).sum()
    return values
