import numpy as np
import pytest
from scipy.stats import spearmanr, t

from polyalign.metrics import prepare
from polyalign.reporting.significance import Difference, Estimates, difference, resample_scores


def scorer(one):
    return prepare(one.family, one.rows())


def estimates(points, resampled=None, *, seeds=None, trained=True) -> Estimates:
    points = np.asarray(points, dtype=float)
    resampled = np.repeat(points[:, None], 100, axis=1) if resampled is None else np.asarray(resampled, dtype=float)
    return Estimates(tuple(seeds or range(len(points))), points, resampled, trained)


def test_resampled_scores_equal_those_of_literally_repeated_items(sts):
    """Two subsets share groups 1 and 2; each resample draws 4 of the 4 groups, for both subsets and both models."""
    rng = np.random.default_rng(3)
    golds, groups = ([1.0, 4.0, 2.5], [0.5, 3.0, 3.5]), (["0", "1", "2"], ["1", "2", "3"])
    similarities = rng.random((2, 2, 3))  # subset, model, item
    scorers = [
        [scorer(sts("de", gold, similarity.tolist(), group)) for similarity in of_subset]
        for gold, group, of_subset in zip(golds, groups, similarities, strict=True)
    ]
    fast = resample_scores(scorers, 50, np.random.default_rng(11))

    rng = np.random.default_rng(11)
    for resample in range(50):
        drawn = [str(group) for group in rng.integers(4, size=4)]
        for subset in (0, 1):
            items = [groups[subset].index(group) for group in drawn if group in groups[subset]]
            for model in (0, 1):
                left, right = np.array(golds[subset])[items], similarities[subset, model][items]
                slow = spearmanr(left, right).statistic if len(set(items)) > 1 else np.nan
                np.testing.assert_allclose(fast[model, subset, resample], slow, atol=1e-12)


def test_the_same_items_in_two_languages_are_drawn_together(hits):
    """Were each language resampled alone, the two columns would differ, and their mean would vary less."""
    both = [[scorer(hits("de", "1100110010"))], [scorer(hits("fr", "1100110010"))]]
    scores = resample_scores(both, 200, np.random.default_rng(0))
    assert (scores[0, 0] == scores[0, 1]).all()
    assert scores[0].std() == pytest.approx((0.5 * 0.5 / 10) ** 0.5, rel=0.1)


def test_one_seed_gives_the_percentiles_of_the_resamples_around_the_difference():
    """Resamples at 0.10, 0.11, ..., 0.30 around their mean 0.20; the difference itself is 0.25."""
    found = difference(estimates([0.65], [np.linspace(0.10, 0.30, 201)]), estimates([0.4], np.zeros((1, 201))))
    assert found.value == pytest.approx(0.25)
    assert (found.low, found.high) == pytest.approx((0.25 - 0.095, 0.25 + 0.095))
    assert not found.over_seeds


def test_the_same_seeds_are_compared_seed_by_seed():
    """Differences 0.1, 0.2, 0.3: mean 0.2, standard deviation 0.1, t(2) at 97.5% = 4.3027; no spread over items."""
    found = difference(estimates([0.6, 0.9, 0.8]), estimates([0.5, 0.7, 0.5]))
    half = 4.3027 * 0.1 / 3**0.5
    assert (found.value, found.low, found.high) == pytest.approx((0.2, 0.2 - half, 0.2 + half), abs=1e-5)
    assert found.over_seeds


def test_items_and_seeds_add_in_quadrature():
    spread = np.tile(np.linspace(-0.2, 0.2, 401), (3, 1))  # 97.5% of it lies below 0.19
    points = np.array([0.1, 0.2, 0.3])
    found = difference(estimates(points, points[:, None] + spread), estimates(np.zeros(3), np.zeros((3, 401))))
    assert found.high - 0.2 == pytest.approx(np.hypot(0.19, 4.3027 * 0.1 / 3**0.5), abs=1e-5)


def test_different_seeds_add_their_variances():
    """Variances 0.01 / 2 and 0.04 / 2 with 1 degree of freedom each; Welch: 0.025^2 / (0.005^2 + 0.02^2) = 25 / 17."""
    deviation = 0.1 / 2**0.5
    arm, control = [0.5 - deviation, 0.5 + deviation], [0.3 - 2 * deviation, 0.3 + 2 * deviation]
    found = difference(estimates(arm, seeds=(0, 1)), estimates(control, seeds=(2, 3)))
    assert found.high - found.value == pytest.approx(t.ppf(0.975, 25 / 17) * 0.025**0.5)


def test_an_untouched_base_adds_no_variation_over_seeds():
    base = estimates([0.5], trained=False)
    assert difference(estimates([0.6, 0.7, 0.8]), base).high == pytest.approx(0.2 + 4.3027 * 0.1 / 3**0.5, abs=1e-5)


@pytest.mark.parametrize(
    ("arm", "control"),
    [
        (estimates([0.6]), estimates([0.5])),
        (estimates([0.6]), estimates([0.5, 0.7, 0.9])),
        (estimates([0.6]), estimates([0.5], trained=False)),
        (estimates([0.6], trained=False), estimates([0.5], trained=False)),
    ],
)
def test_without_several_seeds_the_interval_is_over_items_only(arm, control):
    assert not difference(arm, control).over_seeds


def test_sign():
    assert [Difference(0, low, high, True).sign for low, high in ((1, 2), (-2, -1), (-1, 1), (0, 0))] == [1, -1, 0, 0]


def coverage(seeds: int, item_sd: float, seed_sd: float, noise_sd: float, studies: int = 2000) -> float:
    """Return how often the interval holds the true effect of 0.3, over synthetic studies of 150 items.

    An item's score is its difficulty, which both arms share, the arm's effect on it (sd ``item_sd`` between items),
    the training seed's effect on all items and a noise of its own. Its mean over items is the metric, so that a
    resample's score is a weighted mean. With one seed the truth is what this very seed makes of other items.
    """
    rng, items, covered = np.random.default_rng(seeds), 150, 0
    counts = rng.multinomial(items, np.full(items, 1 / items), size=500).T
    for _ in range(studies):
        difficulty = 3 * rng.normal(size=items)
        of_seeds = seed_sd * rng.normal(size=(seeds, 1))
        control = difficulty + noise_sd * rng.normal(size=(seeds, items))
        arm = difficulty + 0.3 + item_sd * rng.normal(size=items) + of_seeds
        arm += noise_sd * rng.normal(size=(seeds, items))
        found = difference(*(estimates(of.mean(axis=1), of @ counts / items) for of in (arm, control)))
        covered += found.low <= 0.3 + (of_seeds[0, 0] if seeds == 1 else 0) <= found.high
    return covered / studies


@pytest.mark.parametrize("seeds", [1, 3, 5])
@pytest.mark.parametrize(
    ("item_sd", "seed_sd", "noise_sd"),
    [pytest.param(1.0, 0.01, 0.3, id="items dominate"), pytest.param(0.3, 0.3, 0.3, id="seeds dominate")],
)
def test_coverage_where_one_source_dominates(seeds, item_sd, seed_sd, noise_sd):
    assert 0.92 <= coverage(seeds, item_sd, seed_sd, noise_sd) <= 0.98


@pytest.mark.parametrize("seeds", [3, 5])
@pytest.mark.parametrize(
    ("item_sd", "seed_sd", "noise_sd"),
    [pytest.param(1.0, 0.08, 0.3, id="items and seeds alike"), pytest.param(0.3, 0.02, 1.0, id="noise dominates")],
)
def test_mixed_sources_may_widen_the_interval_but_never_narrow_it(seeds, item_sd, seed_sd, noise_sd):
    assert coverage(seeds, item_sd, seed_sd, noise_sd) >= 0.95
