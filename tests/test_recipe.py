"""Recipes: the packaged ones are sound, and every problem of a wrong one is told in one line."""

from pathlib import Path

import pytest
import yaml

from polyalign.errors import UserError
from polyalign.recipe import TuningSettings, load_recipe, packaged_recipes
from polyalign.training.objective import PRESETS
from polyalign.translation.settings import BuildSettings, load_build

SMALL = {"corpus": "sample", "base": "static", "arms": ["multi-way"], "evaluation": {"own_rows": "sample"}}

BUILD = {"english": "sample", "to": ["de", "fr"], "engines": ["memory:sample"]}


def written(tmp_path, values):
    path = tmp_path / "recipe.yaml"
    path.write_text(values if isinstance(values, str) else yaml.safe_dump(values))
    return path


@pytest.mark.parametrize("name", packaged_recipes())
def test_packaged_recipes_are_sound(name):
    recipe = load_recipe(name, ["corpus=rows.parquet"])
    assert recipe.trained_arms[0].name == {"ablation": "whole", "lexical": "x-y-distill"}.get(name, "multi-way")
    controls = {"translate": None, "minilm": "en-x-extended", "lexical": "x-y-distill", "ablation": "whole"}
    assert recipe.report.control == controls.get(name, "en-x")
    budgets = {"study": ["rows", "texts", "pairs"]}
    budgets |= {short: ["texts"] for short in ("curves", "minilm", "lexical", "ablation")}
    assert recipe.equal == budgets.get(name, ["rows", "texts"])


def test_the_packaged_bases():
    bases = {name: load_recipe(name, ["corpus=x"]).base for name in packaged_recipes()}
    assert bases == {
        "quickstart": "static",
        "minilm": "sentence-transformers/all-MiniLM-L6-v2",
        "lexical": "sentence-transformers/all-MiniLM-L6-v2",
        "xlmr": "FacebookAI/xlm-roberta-base",
        "mbert": "google-bert/bert-base-multilingual-cased",
        "me5": "intfloat/multilingual-e5-base",
        "translate": "static",
        "study": None,
        "curves": None,
        "ablation": None,
        "gpu": None,
    }
    study = load_recipe("study", ["corpus=x"])
    assert {name: study.with_base(name).base for name in study.bases} == {
        "static": "static",
        "mini": "mini",
        "minilm": "sentence-transformers/all-MiniLM-L6-v2",
    }
    assert load_recipe("me5", ["corpus=x"]).training.prompt == "query: "


def test_arms_take_the_training_settings_with_their_own_on_top(tmp_path):
    arm = {"name": "warm", "change": {"temperature": 0.1}, "settings": {"learning_rate": 0.01}}
    recipe = load_recipe(written(tmp_path, SMALL | {"arms": [arm, "en-x"], "training": {"steps": 7, "warmup": 0.5}}))
    warm, en_x = recipe.trained_arms
    assert warm.full_objective.temperature == 0.1
    assert (recipe.settings_of(warm).learning_rate, recipe.settings_of(warm).warmup) == (0.01, 0.5)
    assert recipe.settings_of(en_x).learning_rate is None


def test_set_changes_nested_keys(tmp_path):
    changes = ["training.steps=7", "arms=[multi-way, en-x]", "evaluation.tasks.Tatoeba=[de]", "base=some/model"]
    recipe = load_recipe(written(tmp_path, SMALL), changes)
    assert (recipe.training.steps, len(recipe.arms), recipe.base) == (7, 2, "some/model")
    assert recipe.evaluation.tasks == {"Tatoeba": ["de"]}
    changes = ["arms=[multi-way, {name: a, objective: en-x}]", "arms.1.settings.learning_rate=0.5"]
    assert load_recipe(written(tmp_path, SMALL), changes).trained_arms[1].settings == {"learning_rate": 0.5}
    with pytest.raises(UserError, match=r"--set 'arms\.9\.name=b': 9 is no item of a list of \d; count from 0"):
        load_recipe(written(tmp_path, SMALL), ["arms.9.name=b"])
    with pytest.raises(UserError, match=r"--set 'steps' must be KEY=VALUE, such as training\.steps=100"):
        load_recipe(written(tmp_path, SMALL), ["steps"])
    with pytest.raises(UserError, match=r"--set 'base\.x=1': base is neither a mapping nor a list"):
        load_recipe(written(tmp_path, SMALL), ["base.x=1"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sedes": [1]}, r"unknown key 'sedes' \(did you mean 'seeds'\?\), allowed are corpus, base"),
        ({"training": {"stepz": 1}}, r"unknown key 'training\.stepz' \(did you mean 'steps'\?\), allowed are epochs"),
        ({"languages": ["de", False]}, r"languages\.1 is False, .* \(YAML reads a bare no, yes, on or off"),
        ({"arms": ["multiway"]}, r"arm 'multiway': unknown objective 'multiway' \(did you mean 'multi-way'\?\)"),
        ({"arms": ["multi-way", "multi-way"]}, "two arms are called 'multi-way'"),
        ({"arms": ["base"]}, "no arm trains; add one, such as multi-way; a static base knows nothing before training"),
        ({"arms": [{"name": "a", "settings": {"epochs": 2}}]}, "arm 'a' sets epochs; the budget stands in training"),
        ({"training": {"batch_rows": "auto"}}, "arm 'multi-way' would take a batch of its own size; give batch_rows"),
        ({"training": {"early_stopping": 2}}, "arm 'multi-way' would stop early, and budgets would differ"),
        ({"arms": [{"name": "a", "change": {"margin": 9}}]}, "arm 'a': objective: margin is 9, must be less than or"),
        ({"arms": [{"name": "a/b"}]}, "arms.0.*name is 'a/b'"),
        ({"report": {"control": "en-x"}}, r"report\.control is 'en-x', must be one of the arms multi-way"),
        ({"seeds": [-1]}, r"seeds\.0 is -1, must be greater than or equal to 0"),
        ({"seeds": [1, 1]}, r"seeds \[1, 1\] repeat a seed"),
        ({"scale": [1, 1.0]}, r"scale \[1\.0, 1\.0\] repeats a multiple"),
        ({"scale": [0]}, r"scale\.0 is 0, must be greater than 0"),
        (
            {"corpus": {"english": "a", "tu": ["de"]}},
            r"corpus: build: to is missing; engines is missing; unknown key 'tu'",
        ),
        (
            {"corpus": BUILD | {"to": ["de", "xx"], "engines": ["memry:a"]}},
            "corpus: build: to: unknown language code 'xx'; .* unknown engine 'memry' .did you mean 'memory'",
        ),
        (
            {"languages": ["en", "qq"], "evaluation": {"own_rows": "sample", "languages": ["xx", "all"]}},
            "languages: unknown language code 'qq'.*; evaluation.languages: unknown language code 'xx'",
        ),
        (
            {
                "bases": {"a": {"base": "static", "languages": ["en", "qq"]}},
                "base": None,
                "evaluation": {"tasks": {"Tatoeba": ["xx"], "STSBenchmark": 3}},
            },
            "bases.a.languages: unknown language code 'qq'.*; evaluation.tasks.STSBenchmark is 3, .*; "
            "evaluation.tasks.Tatoeba: unknown language code 'xx'",
        ),
        ({"evaluation": {"tasks": [{"Tatoeba": ["de"]}]}}, "evaluation.tasks is .*, must be a valid dictionary"),
        ({"evaluation": {}}, "evaluation: evaluation has neither tasks nor own_rows; name an MTEB task"),
        ({"training": {"epochs": 1, "steps": 1}}, "training: epochs and steps are given; a budget is one of"),
        (
            {"base": 3, "seeds": []},
            r"base is 3, must be a valid string; seeds is \[\], List should have at least 1",
        ),
        ({"base": None}, "a recipe has a base or several bases; give one of the two"),
        ({"bases": {"a": {"base": "static"}}}, "a recipe has a base or several bases; give one of the two"),
        (
            {"base": None, "bases": {"a": {"base": "static", "arms": ["base"]}, "b": {"base": "x", "seeds": [1, 1]}}},
            r"bases.a: no arm trains; add one.*; bases.b: seeds \[1, 1\] repeat a seed",
        ),
        (
            {"base": None, "languages": ["en", "de"], "bases": {"a": {"base": "static", "languages": ["en", "fr"]}}},
            "bases.a trains on fr, and the recipe does not name them",
        ),
        (
            {"base": None, "bases": {"report-a": {"base": "x"}}},
            "a base is called 'report-a', as a folder of the run is",
        ),
        (
            {"arms": [{"name": "a", "equal": ["pairs"]}]},
            "arm 'a' is equal in pairs, and the recipe only in rows",
        ),
        (
            {"tuning": {"learning_rate": [0.1]}, "training": {"dev_rows": 0}},
            "tuning chooses by the dev rows, and training.dev_rows is 0; hold some out",
        ),
        (
            {"base": "static", "projected": [{"lexical": {}}]},
            "a static base is lexical as a whole; leave lexical out of projected",
        ),
        ({"tuning": {"learning_rate": []}}, r"tuning\.learning_rate is \[\], List should have at least 1"),
    ],
)
def test_mistakes_are_told_in_one_line(tmp_path, change, message):
    with pytest.raises(UserError, match=message) as caught:
        load_recipe(written(tmp_path, SMALL | change))
    assert "\n" not in str(caught.value)


def test_what_is_no_recipe(tmp_path):
    with pytest.raises(
        UserError, match=r"no recipe .nowhere.: not a file, nor one of the packaged ablation, curves, gpu"
    ):
        load_recipe("nowhere")
    with pytest.raises(UserError, match="is not valid YAML at line 2: "):
        load_recipe(written(tmp_path, "corpus: x\nbase: [1"))
    with pytest.raises(UserError, match="it must be a mapping with the keys corpus, base, bases, languages"):
        load_recipe(written(tmp_path, "- a\n- b\n"))
    with pytest.raises(UserError, match="corpus is missing; arms is missing; evaluation is missing"):
        load_recipe(written(tmp_path, "seeds: [1]\n"))


def test_several_bases_change_the_recipe_each_for_itself(tmp_path):
    study = SMALL | {
        "base": None,
        "training": {"epochs": 2, "batch_rows": 8},
        "bases": {
            "plain": {"base": "some/model"},
            "small": {"base": "static", "training": {"steps": 9}, "seeds": [4, 5]},
        },
    }
    recipe = load_recipe(written(tmp_path, study))
    plain, small = recipe.with_base("plain"), recipe.with_base("small")
    assert (plain.base, plain.training, plain.seeds) == ("some/model", recipe.training, recipe.seeds)
    assert (small.base, small.training.budget(static=True), small.training.batch_rows) == ("static", {"steps": 9}, 8)
    assert (small.seeds, small.arms, small.bases) == ([4, 5], recipe.arms, {})
    assert load_recipe(written(tmp_path, recipe.model_dump(mode="json"))) == recipe


def test_a_teacher_may_be_another_base(tmp_path):
    arms = ["multi-way", *({"name": name, "objective": "distill", "teacher": name} for name in ("big", "elsewhere"))]
    study = SMALL | {"base": None, "arms": arms, "bases": {"big": {"base": "some/model"}, "small": {"base": "static"}}}
    recipe = load_recipe(written(tmp_path, study)).with_base("small")
    assert [arm.teacher for arm in recipe.trained_arms] == [None, "some/model", "elsewhere"]


def test_every_arm_has_as_many_trials():
    """Without a temperature to tune, four learning rates evenly spaced by their logarithm: each 10 times the last."""
    tuning = TuningSettings(learning_rate=[0.001, 1.0], temperature=[0.05, 0.1])
    assert tuning.trials(PRESETS["multi-way"]) == [
        {"learning_rate": rate, "temperature": temperature} for rate in (0.001, 1.0) for temperature in (0.05, 0.1)
    ]
    assert tuning.trials(PRESETS["distill"]) == [{"learning_rate": rate} for rate in (0.001, 0.01, 0.1, 1.0)]


def test_the_corpus_may_be_a_build(tmp_path):
    recipe = load_recipe(written(tmp_path, SMALL | {"corpus": BUILD}), ["corpus.min_languages=2"])
    assert recipe.corpus == BuildSettings.checked(BUILD | {"min_languages": 2}, "build")
    again = load_recipe(written(tmp_path, recipe.model_dump(mode="json")))
    assert again == recipe, "what a run writes down reads back as the same recipe"


def test_a_build_takes_its_file_then_the_options_then_set(tmp_path):
    path = written(tmp_path, BUILD | {"source": {"rows": 10, "seed": 1}, "verdicts": {"copied": 0.5}})
    given = {"to": ["es"], "source.rows": 20, "similarity.encoder": "some/model"}
    found = load_build(path, given, ["source.rows=30", "verdicts.repetitions=4", "engines=['es=apertium']"])
    assert (found.english, found.to) == (["sample"], ["es"])
    assert (found.source.rows, found.source.seed) == (30, 1)
    assert (found.verdicts.copied, found.verdicts.repetitions) == (0.5, 4)
    assert (found.engines[0].spec, found.engines[0].languages) == ("apertium", ["es"])
    assert found.similarity.encoder == "some/model"
    assert load_build(None, BUILD) == load_build(written(tmp_path, BUILD), {})


def test_all_problems_of_a_build_are_told_at_once(tmp_path):
    with pytest.raises(UserError) as caught:
        load_build(
            written(tmp_path, {"to": ["xx", "de", "de"], "engines": ["apertum"], "foo": 1}),
            {"source.split": "words", "min_languages": 0},
            ["verdicts.copid=1"],
        )
    for part in (
        "english is missing", "unknown language code 'xx'", "'de' stands there twice", "(did you mean 'apertium'?)",
        "source.split is 'words', must be 'lines' or 'sentences'", "min_languages is 0", "unknown key 'foo'",
        "unknown key 'verdicts.copid' (did you mean 'copied'?)",
    ):  # fmt: skip
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"{tmp_path}/recipe.yaml: ")


@pytest.mark.parametrize(
    ("text", "changes", "message"),
    [
        (None, [], "^build: english is missing; to is missing; engines is missing$"),
        ("", [], "recipe.yaml: english is missing; to is missing; engines is missing$"),
        ("- a", [], "recipe.yaml must be a mapping with the keys english, to, engines, source"),
        ("to: [de", [], "recipe.yaml is not valid YAML at line 1: "),
        ("to: [de, no]", [], r"to\.1 is False, .* \(YAML reads a bare no, yes, on or off"),
        ("source: 5", ["source.rows=3"], r"--set 'source\.rows=3': source is neither a mapping nor a list"),
        (yaml.safe_dump(BUILD), ["min_languages=3"], "min_languages is 3, but there are 2 languages in to"),
        (yaml.safe_dump(BUILD), ["to=[en, de]"], "to: English is the source; leave it out"),
        (yaml.safe_dump(BUILD), ["english=[]"], r"english is \[\], List should have at least 1 item"),
    ],
)
def test_mistakes_of_a_build_are_told_in_one_line(tmp_path, text, changes, message):
    with pytest.raises(UserError, match=message) as caught:
        load_build(None if text is None else written(tmp_path, text), {}, changes)
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match=r"^no such file: nowhere\.yaml; give a YAML file with the keys english"):
        load_build(Path("nowhere.yaml"), {})


@pytest.mark.parametrize(
    ("change", "changed"),
    [
        ("seeds=[0, 1, 2]", []),
        ("seeds=[1, 0]", ["seeds"]),
        ("bases.small.seeds=[0, 1, 4]", []),
        ("bases.small.seeds=[4]", ["bases.small.seeds"]),
        ("bases.new={base: static}", []),
        ("bases.small.training.batch_rows=16", ["bases.small.training"]),
        ("training.learning_rate=0.1", ["training"]),
        ("languages=[en, de]", ["languages"]),
        ("corpus=other.jsonl", ["corpus"]),
    ],
)
def test_what_a_recipe_has_grown_from(tmp_path, change, changed):
    bases = {"plain": {"base": "static"}, "small": {"base": "static", "training": {"static": {"dimensions": 16}}}}
    study = SMALL | {"base": None, "bases": bases, "arms": ["multi-way", "en-x"], "seeds": [0, 1]}
    before, now = (load_recipe(written(tmp_path, study), changes) for changes in ([], [change]))
    assert now.changes_since(before) == changed
    assert now.changes_since(now) == []
    assert before.changes_since(before.with_base("plain")) == ["base", "bases"]
    del study["bases"]["small"]
    assert load_recipe(written(tmp_path, study)).changes_since(before) == ["bases.small"]
