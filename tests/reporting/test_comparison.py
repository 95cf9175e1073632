from dataclasses import replace

import numpy as np
import pytest

from polyalign.errors import UserError
from polyalign.reporting.comparison import LeftOut, compare_arms
from polyalign.reporting.scores import Scores

HALF, MOST, ALL, FEW = "1" * 10 + "0" * 10, "1" * 18 + "0" * 2, "1" * 20, "1" * 2 + "0" * 18


def compared(*folders, **options):
    return compare_arms([Scores.read(folder) for folder in folders], **({"resamples": 200} | options))


def headline(comparison, family, exposure, arm):
    rows = comparison.headlines(comparison.languages())
    return next(one for one in rows if (one.family, one.exposure, one.arm) == (family, exposure, arm))


def test_means_gain_and_languages_by_hand(scores, hits):
    """Topics: de 0.5 -> 0.9, fr 0.5 -> 0.5; Subjects: de 0.9 -> 0.1. Mean over tasks of the mean over subsets."""
    control = [hits("de", HALF), hits("fr", HALF), hits("de", MOST, task="Subjects")]
    arm = [hits("de", MOST), hits("fr", HALF), hits("de", FEW, task="Subjects")]
    (comparison,) = compared(scores("en-x", 0, control), scores("multi-way", 0, arm))
    before, after = (headline(comparison, "classification", "seen", name) for name in ("en-x", "multi-way"))
    assert before.mean == pytest.approx((0.5 + 0.9) / 2)
    assert after.mean == pytest.approx((0.7 + 0.1) / 2)
    assert before.difference is None
    assert before.relative_gain is None
    assert after.difference.value == pytest.approx(-0.3)
    assert after.relative_gain == pytest.approx(100 * (0.4 - 0.7) / 0.7)
    assert after.tasks == 2
    assert after.languages == ("de", "fr")
    assert (after.won, after.lost) == ((), ("de",))  # de: (0.9 + 0.1) / 2 against (0.5 + 0.9) / 2
    assert after.worst == ("de", pytest.approx(0.5))
    assert before.worst == ("fr", pytest.approx(0.5))


def test_languages_won_and_lost(scores, hits):
    control = [hits("de", HALF), hits("fr", HALF), hits("nl", HALF)]
    arm = [hits("de", ALL), hits("fr", FEW), hits("nl", HALF)]
    (comparison,) = compared(scores("en-x", 0, control), scores("multi-way", 0, arm))
    found = headline(comparison, "classification", "seen", "multi-way")
    assert (found.won, found.lost) == (("de",), ("fr",))
    assert found.worst == ("fr", pytest.approx(0.1))
    de = next(one for one in comparison.languages() if (one.language, one.arm) == ("de", "multi-way"))
    assert de.difference.value == pytest.approx(0.5)
    assert 0.2 < de.difference.low < 0.35
    assert 0.65 < de.difference.high < 0.8


def test_the_mean_is_over_seeds_too(scores, hits):
    folders = [scores("en-x", seed, [hits("de", HALF)]) for seed in (0, 1)]
    folders += [scores("multi-way", 0, [hits("de", MOST)]), scores("multi-way", 1, [hits("de", HALF)])]
    found = headline(compared(*folders)[0], "classification", "seen", "multi-way")
    assert found.mean == pytest.approx((0.9 + 0.5) / 2)
    assert found.difference.value == pytest.approx((0.4 + 0.0) / 2)
    assert found.difference.over_seeds


def test_families_and_exposures_stand_apart(scores, bitext):
    subsets = [
        bitext("de-en", ["en", "de"], 10),
        bitext("ja-en", ["en", "ja"], 10, "unseen"),
        bitext("de-fr", ["de", "fr"], 20),
    ]
    (comparison,) = compared(scores("en-x", 0, subsets), scores("multi-way", 0, subsets))
    assert [(family, exposure) for family, exposure, _ in comparison.cells()] == [
        ("bitext en-X", "seen"),
        ("bitext en-X", "unseen"),
        ("bitext X-X", "seen"),
    ]
    assert headline(comparison, "bitext en-X", "seen", "en-x").languages == ("de",)
    assert headline(comparison, "bitext X-X", "seen", "en-x").languages == ("de", "fr")
    assert headline(comparison, "bitext X-X", "seen", "en-x").mean == pytest.approx(1.0)


def test_across_languages_is_another_family(scores, hits, sts):
    alike = sts("de", range(20), range(20))
    subsets = [
        hits("de", HALF),
        replace(hits("en-de", HALF, task="Zero-shot"), languages=["en", "de"]),
        alike,
        replace(alike, task="Across", subset="de-fr", languages=["de", "fr"]),
        replace(hits("de", HALF, task="Pool"), family="retrieval"),
    ]
    (comparison,) = compared(scores("en-x", 0, subsets), scores("multi-way", 0, subsets))
    assert {one.task: one.family for one in comparison.subsets} == {
        "Topics": "classification",
        "Zero-shot": "classification zero-shot",
        "Sts": "STS",
        "Across": "STS cross-lingual",
        "Pool": "retrieval, mixed pool",
    }
    assert {family for family, _, _ in comparison.cells()} == {one.family for one in comparison.subsets}


def test_english_is_compared_with_the_untouched_base(scores, hits):
    def of(right):
        return [hits("en", right, "english"), hits("de", HALF)]

    (comparison,) = compared(scores("en-x", 0, of(HALF)), scores("base", 0, of(MOST)), scores("multi-way", 0, of(ALL)))
    assert [arm.name for arm in comparison.arms] == ["base", "en-x", "multi-way"]
    english = {one.arm: one for one in comparison.english()}
    assert english["base"].difference is None
    assert english["en-x"].difference.value == pytest.approx(0.5 - 0.9)
    assert english["multi-way"].difference.value == pytest.approx(1.0 - 0.9)
    assert headline(comparison, "classification", "seen", "multi-way").languages == ("de",)


def test_the_base_is_put_with_the_arms_and_disagreeing_arms_are_named_mixed(scores, hits):
    def of(fr):
        return [hits("de", HALF, "seen"), hits("fr", HALF, fr)]

    base = [hits("de", HALF, "unseen"), hits("fr", HALF, "unseen")]
    (comparison,) = compared(
        scores("en-x", 0, of("seen")), scores("multi-way", 0, of("unseen")), scores("base", 0, base)
    )
    assert {one.subset: one.exposure for one in comparison.subsets} == {"de": "seen", "fr": "mixed"}


def test_only_what_all_arms_have_is_compared_and_the_rest_is_named(scores, hits):
    full = [hits("de", HALF), hits("fr", HALF), hits("nl", HALF), hits("es", HALF), hits("it", HALF)]
    other = [hits("de", HALF), hits("nl", HALF[:-1]), hits("es", HALF), hits("it", HALF)]
    other[2].value, other[3].value = float("nan"), 0.7
    (comparison,) = compared(scores("en-x", 0, full), scores("multi-way", 3, other))
    assert [one.subset for one in comparison.subsets] == ["de"]
    assert comparison.left_out == (
        LeftOut("Topics", "fr", "not in the scores of multi-way (seed 3)"),
        LeftOut("Topics", "nl", "other test items for multi-way (seed 3) than for en-x (seed 0)"),
        LeftOut("Topics", "es", "its score is not a number for multi-way (seed 3)"),
        LeftOut("Topics", "it", "its recorded score does not follow from the predictions of multi-way (seed 3)"),
    )


def test_a_subset_too_small_to_resample_is_left_out(scores, hits, sts):
    tiny = sts("de", [1.0, 2.0], [0.1, 0.2])
    (comparison,) = compared(*(scores(arm, 0, [tiny, hits("de", HALF)]) for arm in ("en-x", "multi-way")))
    assert comparison.left_out == (LeftOut("Sts", "de", "its score is undefined on some resamples of its 2 items"),)


def test_no_common_subset_is_an_error(scores, hits):
    with pytest.raises(UserError, match=r"nothing to compare: no subset .*not in the scores of multi-way \(seed 0\)"):
        compared(scores("en-x", 0, [hits("de", HALF)]), scores("multi-way", 0, [hits("fr", HALF)]))


def test_the_control(scores, hits):
    folders = {arm: scores(arm, 0, [hits("de", HALF)]) for arm in ("multi-way", "base", "en-x", "paper")}
    assert compared(*folders.values())[0].control == "en-x"
    assert compared(folders["multi-way"], folders["base"])[0].control == "base"
    assert compared(folders["paper"], folders["multi-way"])[0].control == "paper"
    assert compared(*folders.values(), control="paper")[0].control == "paper"
    with pytest.raises(UserError, match=r"no arm 'papr'.*did you mean 'paper'.*multi-way, base, en-x, paper"):
        compared(*folders.values(), control="papr")


def test_each_budget_is_a_comparison_and_the_base_is_in_all(scores, hits):
    subsets = [hits("de", HALF)]
    folders = [
        scores("en-x", 0, subsets, budgets=["equal rows", "equal texts"]),
        scores("multi-way", 0, subsets, budgets=["equal rows"]),
        scores("multi-way", 0, subsets, budgets=["equal texts"]),
        scores("base", 0, subsets),
    ]
    found = compared(*folders)
    assert [(one.budget, [arm.name for arm in one.arms]) for one in found] == [
        ("equal rows", ["base", "en-x", "multi-way"]),
        ("equal texts", ["base", "en-x", "multi-way"]),
    ]
    assert found[0].arm("multi-way").runs[0].path == folders[1]
    assert found[1].arm("multi-way").runs[0].path == folders[2]


def test_two_folders_of_one_run_are_an_error(scores, hits):
    folders = [scores(arm, 0, [hits("de", HALF)], budgets=["equal rows"]) for arm in ("en-x", "multi-way", "multi-way")]
    with pytest.raises(UserError, match=r"scores and .*scores are both arm 'multi-way', seed 0 under budget 'equal"):
        compared(*folders)


def test_one_arm_is_an_error(scores, hits):
    with pytest.raises(UserError, match=r"got scores of 1 arm\(s\): en-x; compare takes a control and at least one"):
        compared(scores("en-x", 0, [hits("de", HALF)]))
    with pytest.raises(UserError, match=r"got scores of 0 arm\(s\): none"):
        compare_arms([])


def test_a_folder_that_is_not_scores_is_an_error(tmp_path, scores, hits):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty is not a complete scores folder; make it with: polyalign evaluate"):
        Scores.read(tmp_path / "empty")
    torn = scores("en-x", 0, [hits("de", HALF)])
    (torn / "predictions.parquet").unlink()
    with pytest.raises(UserError, match="not a complete scores folder"):
        Scores.read(torn)
    with pytest.raises(UserError, match="has scores of format 2, this version reads 1; evaluate again"):
        Scores.read(scores("en-x", 0, [hits("de", HALF)], format=2))


def test_a_tasks_draws_do_not_depend_on_the_other_tasks(scores, hits, bitext):
    topics, pairs = hits("de", HALF), bitext("de-en", ["en", "de"], 10)
    (alone,) = compared(scores("en-x", 0, [topics]), scores("multi-way", 0, [topics]))
    (beside,) = compared(scores("en-x", 0, [pairs, topics]), scores("multi-way", 0, [pairs, topics]))
    np.testing.assert_array_equal(alone.resampled[:, 0], beside.resampled[:, 1])
    (other_seed,) = compared(scores("en-x", 0, [topics]), scores("multi-way", 0, [topics]), seed=1)
    assert (alone.resampled != other_seed.resampled).any()
