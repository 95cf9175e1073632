"""A recipe: everything that decides a run, validated before anything is computed."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import AfterValidator, Field, field_validator, model_validator

from polyalign.corpus import Corpus
from polyalign.errors import UserError
from polyalign.languages import canonical
from polyalign.settings import Settings, apply_change, parse_yaml
from polyalign.storage import fingerprint
from polyalign.training.objective import Objective
from polyalign.training.settings import ProjectionSettings, TrainingSettings
from polyalign.translation.settings import BuildSettings

BASE_ARM = "base"
"""The arm that is the untouched base."""

SAMPLE = "sample"
"""The corpus, or the own rows, that come with the package."""


BUDGETS = frozenset({"epochs", "steps", "texts"})
"""The training settings that say how long."""

NAME = r"^[A-Za-z0-9][A-Za-z0-9._+-]*$"
"""What an arm or a base may be called: names of folders are made of it."""

Budget = Literal["rows", "texts", "pairs"]


def _known(languages: list[str]) -> list[str]:
    for tag in languages:
        try:
            canonical(tag)
        except UserError as error:
            raise ValueError(str(error)) from error
    return languages


def _known_or_all(languages: list[str]) -> list[str]:
    _known([tag for tag in languages if tag != "all"])
    return languages


Languages = Annotated[list[str], AfterValidator(_known)]
LanguagesOrAll = Annotated[list[str], AfterValidator(_known_or_all)]


class Arm(Settings):
    """One way to train the base.

    Attributes:
        name: as the report shows it.
        objective: the name of a preset.
        change: fields of that objective that this arm sets differently.
        settings: training settings that this arm sets differently; budgets excepted, which the recipe sets for all.
        equal: those of the recipe's budgets that it takes part in; None for all.
        teacher: of a ``keep`` term: a folder, a Hub id or the name of another of the recipe's bases; None for the
            untrained base.
    """

    name: str = Field(pattern=NAME)
    objective: str = "multi-way"
    change: dict[str, Any] = {}
    settings: dict[str, Any] = {}
    equal: list[Budget] | None = Field(None, min_length=1)
    teacher: str | None = None

    @property
    def full_objective(self) -> Objective:
        """The preset with this arm's changes."""
        return Objective.named(self.objective, **self.change)


class EvaluationSettings(Settings):
    """What the encoders are measured on.

    Attributes:
        tasks: names of MTEB tasks with languages of their own, None for those below; a list stands for names alone.
        languages: those to evaluate, seen and unseen, or ``["all"]``; None for the languages trained on.
        split: of the tasks; None for each task's own.
        mteb_data: a folder with the tasks' data in the layout of the Hub; None loads them from the Hub.
        own_rows: held-out parallel rows of the user's own, scored as a bitext task; ``sample`` for the packaged ones.
        batch_size: texts per forward pass.
    """

    tasks: dict[str, LanguagesOrAll | None] = {}
    languages: LanguagesOrAll | None = None
    split: str | None = None
    mteb_data: Path | None = None
    own_rows: str | None = None
    batch_size: int = Field(64, ge=1)

    @field_validator("tasks", mode="before")
    @classmethod
    def _names_alone(cls, tasks: Any) -> Any:
        names = isinstance(tasks, list) and all(isinstance(task, str) for task in tasks)
        return dict.fromkeys(tasks) if names else tasks

    @property
    def held_out(self) -> str | None:
        """The own rows, where they lie."""
        return _packaged("heldout") if self.own_rows == SAMPLE else self.own_rows

    def languages_for(self, trained: Sequence[str]) -> list[str]:
        """Return the languages to evaluate, given those of the corpus."""
        return self.languages or [tag for tag in trained if tag != "en"]

    @model_validator(mode="after")
    def _measures_something(self) -> Self:
        if not self.tasks and self.own_rows is None:
            raise ValueError("evaluation has neither tasks nor own_rows; name an MTEB task or a file of held-out rows")
        return self


class ReportSettings(Settings):
    """How the encoders are compared.

    Attributes:
        control: the arm that the others are compared with; None lets `compare` choose.
        resamples: of the bootstrap.
    """

    control: str | None = None
    resamples: int = Field(1000, ge=100)


class TuningSettings(Settings):
    """A grid over which every arm is tuned by itself, on the dev rows, before it is trained.

    An arm without a temperature gets as many trials, over as many learning rates in the same range.

    Attributes:
        learning_rate: those to try.
        temperature: those to try with each; empty for the objective's own.
        share: of the reference's encoded texts that a trial may encode, above 0, at most 1.
        seed: of the trials.
    """

    learning_rate: list[Annotated[float, Field(gt=0)]] = Field(min_length=1)
    temperature: list[Annotated[float, Field(gt=0)]] = []
    share: float = Field(0.25, gt=0, le=1)
    seed: int = Field(0, ge=0, lt=2**32)

    def trials(self, objective: Objective) -> list[dict[str, float]]:
        """Return the combinations that an arm with this objective tries, each with ``learning_rate``."""
        wanted = len(self.learning_rate) * max(1, len(self.temperature))
        if objective.contrast == 0 and len(set(self.learning_rate)) > 1:
            rates = np.geomspace(min(self.learning_rate), max(self.learning_rate), wanted)
            return [{"learning_rate": float(f"{rate:.3g}")} for rate in rates]
        if objective.contrast == 0 or not self.temperature:
            return [{"learning_rate": rate} for rate in self.learning_rate]
        return [
            {"learning_rate": rate, "temperature": temperature}
            for rate in self.learning_rate
            for temperature in self.temperature
        ]


class BaseSettings(Settings):
    """One of several bases of a study, and what is different for it.

    Attributes:
        base: ``static``, or a folder or Hub id.
        languages: those to train on, of the recipe's; None for all.
        arms: instead of the recipe's.
        equal: instead of the recipe's.
        scale: instead of the recipe's.
        seeds: instead of the recipe's.
        training: single settings that differ from the recipe's.
        tuning: instead of the recipe's.
        trust_remote_code: whether code that comes with the base may run.
    """

    base: str
    languages: Languages | None = Field(None, min_length=2)
    arms: list[Any] | None = None
    equal: list[Any] | None = None
    scale: list[Any] | None = None
    seeds: list[Any] | None = None
    training: dict[str, Any] = {}
    tuning: dict[str, Any] | None = None
    trust_remote_code: bool | None = None


class Recipe(Settings):
    """A run: one corpus, a base or several, several arms at equal budgets, several seeds, one evaluation, one report.

    Attributes:
        corpus: anything `Corpus.open` takes, several files, or ``sample``; or the settings of a `build`.
        base: ``static``, or a folder or Hub id.
        bases: instead of ``base``, several by name, the same one also under several settings; each is a run of its own,
            all are in one report.
        languages: those to train on; None for all of the corpus.
        arms: names of presets, `Arm`s, or ``base`` for the untouched base. The first one that trains is the reference:
            it gets the budget of ``training``, and the others as much.
        equal: what the budgets are equal in. ``rows``: every arm sees as many rows as the reference; ``texts``: every
            arm encodes as many texts; ``pairs``: every arm has as many anchor-positive terms. An arm is trained once
            for budgets that come to the same steps.
        scale: multiples of the budget, above 0; each is a comparison of its own, with trials of its own. So quality can
            be followed over the length of training.
        training: hyper-parameters for all arms.
        seeds: each arm is trained once with each.
        tuning: how learning rate and temperature of each arm are chosen; None takes them from ``training``.
        projected: what is put at the end of every arm, and of the untouched base, fitted on the training rows; with
            each of these it is measured once more, without being trained further, as ``multi-way+lexical+wccn``.
        evaluation: what the encoders are measured on.
        report: how they are compared.
        trust_remote_code: whether code that comes with the base may run.
    """

    corpus: str | list[str] | BuildSettings
    base: str | None = None
    bases: dict[Annotated[str, Field(pattern=NAME)], BaseSettings] = {}
    languages: Languages | None = None
    arms: list[Arm | Literal["base"]] = Field(min_length=1)
    equal: list[Budget] = Field(["rows"], min_length=1)
    scale: list[Annotated[float, Field(gt=0)]] = Field([1.0], min_length=1)
    training: TrainingSettings = TrainingSettings()
    seeds: list[Annotated[int, Field(ge=0, lt=2**32)]] = Field([0], min_length=1)
    tuning: TuningSettings | None = None
    projected: list[ProjectionSettings] = []
    evaluation: EvaluationSettings
    report: ReportSettings = ReportSettings()
    trust_remote_code: bool = False

    @field_validator("corpus", mode="before")
    @classmethod
    def _check_build(cls, corpus: Any) -> Any:
        if not isinstance(corpus, dict):
            return corpus
        try:  # here, since a union tells for each of its kinds why the value is not of it
            return BuildSettings.checked(corpus, "build")
        except UserError as error:
            raise ValueError(str(error)) from error

    @field_validator("arms", mode="before")
    @classmethod
    def _name_presets(cls, arms: Any) -> Any:
        if not isinstance(arms, list):
            return arms
        return [{"name": arm, "objective": arm} if isinstance(arm, str) and arm != BASE_ARM else arm for arm in arms]

    @model_validator(mode="after")
    def _one_base_or_several(self) -> Self:
        if (self.base is None) == (not self.bases):
            raise ValueError("a recipe has a base or several bases; give one of the two")
        problems = []
        for name, one in self.bases.items():
            if other := sorted(set(one.languages or ()) - set(self.languages or one.languages or ())):
                problems.append(f"bases.{name} trains on {', '.join(other)}, and the recipe does not name them")
        taken = [name for name in self.bases if name == "corpus" or name.startswith("report")]
        problems += [f"a base is called {name!r}, as a folder of the run is; choose another name" for name in taken]
        for name in self.bases:
            try:
                self.with_base(name)
            except UserError as error:
                problems.append(str(error))
        if problems:
            raise ValueError("; ".join(problems))
        return self

    @model_validator(mode="after")
    def _arms_fit_together(self) -> Self:
        problems = []
        names = [arm if isinstance(arm, str) else arm.name for arm in self.arms]
        problems += [f"two arms are called {name!r}" for name in sorted(set(names)) if names.count(name) > 1]
        if not self.trained_arms:
            problems.append("no arm trains; add one, such as multi-way")
        if self.base == "static" and any(one.lexical for one in self.projected):
            problems.append("a static base is lexical as a whole; leave lexical out of projected")
        if BASE_ARM in names and self.base == "static":
            problems.append("a static base knows nothing before training; leave the arm 'base' out")
        suffixes = [projection.suffix for projection in self.projected]
        problems += [f"two of projected are called {one!r}" for one in sorted({*suffixes}) if suffixes.count(one) > 1]
        names += [name + suffix for suffix in suffixes for name in names]
        if self.report.control is not None and self.report.control not in names:
            problems.append(f"report.control is {self.report.control!r}, must be one of the arms {', '.join(names)}")
        if len(set(self.seeds)) < len(self.seeds):
            problems.append(f"seeds {self.seeds} repeat a seed")
        if len(set(self.scale)) < len(self.scale):
            problems.append(f"scale {self.scale} repeats a multiple")
        if self.tuning and self.training.dev_rows == 0:
            problems.append("tuning chooses by the dev rows, and training.dev_rows is 0; hold some out")
        for arm in self.trained_arms:
            problems += self._problems_of(arm)
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def _problems_of(self, arm: Arm) -> list[str]:
        problems = []
        unequal = [kind for kind in arm.equal or [] if kind not in self.equal]
        if unequal:
            problems.append(
                f"arm {arm.name!r} is equal in {unequal[0]}, and the recipe only in {', '.join(self.equal)}"
            )
        budgets = sorted(BUDGETS & set(arm.settings))
        if budgets:
            problems.append(f"arm {arm.name!r} sets {budgets[0]}; the budget stands in training, equal for all arms")
        if arm.settings.get("early_stopping", self.training.early_stopping) is not None:
            problems.append(f"arm {arm.name!r} would stop early, and budgets would differ; set early_stopping to null")
        if arm.settings.get("batch_rows", self.training.batch_rows) == "auto":
            problems.append(f"arm {arm.name!r} would take a batch of its own size; give batch_rows a number")
        for check in (lambda: arm.full_objective, lambda: self.settings_of(arm)):
            try:
                check()
            except UserError as error:
                problems.append(f"arm {arm.name!r}: {error}")
        return problems

    @property
    def corpus_files(self) -> list[str]:
        """What the corpus is imported from, where that lies; none for a build."""
        if isinstance(self.corpus, BuildSettings):
            return []
        sources = [self.corpus] if isinstance(self.corpus, str) else self.corpus
        return [_packaged("train") if source == SAMPLE else source for source in sources]

    @property
    def trained_arms(self) -> list[Arm]:
        """The arms without the untouched base; the first is the reference of the budgets."""
        return [arm for arm in self.arms if isinstance(arm, Arm)]

    def bases_among(self, only: Sequence[str]) -> list[str | None]:
        """Return the names of the bases to run: those of ``only``, if there are any, else all; of a single base, None.

        Raises:
            UserError: for a name that the recipe lacks.
        """
        if unknown := set(only) - set(self.bases):
            raise UserError(
                f"no base {', '.join(sorted(unknown))} in the recipe; it has {', '.join(self.bases) or 'one'}"
            )
        return [*(only or self.bases)] or [None]

    def with_base(self, name: str) -> Recipe:
        """Return the recipe of one of several bases.

        Raises:
            UserError: one line with every problem of that recipe.
        """
        changed = self.bases[name].model_dump(exclude_none=True)
        values = self.model_dump(exclude={"bases"})
        training = values["training"]
        if BUDGETS & set(changed["training"]):  # one budget takes the place of the other
            training = {key: value for key, value in training.items() if key not in BUDGETS}
        changed["training"] = training | changed["training"]
        recipe = Recipe.checked(values | changed, f"bases.{name}")
        return recipe.model_copy(update={"arms": [self._with_teacher(arm) for arm in recipe.arms]})

    def changes_since(self, before: Recipe) -> list[str]:
        """Return the keys whose values differ from an earlier recipe's, as ``seeds`` or ``bases.static.seeds``.

        Arms, seeds, multiples of the budget, projections and bases may have become more, while the first of them stays.
        A base is compared with all that it takes from the recipe.
        """
        if not self.bases or not before.bases:
            return _changed(before, self)
        general = {key for key in ("corpus", "languages") if getattr(self, key) != getattr(before, key)}
        kept = [name for name in before.bases if name in self.bases]
        found = {name: _changed(before.with_base(name), self.with_base(name)) for name in kept}
        if found:
            general |= set.intersection(*map(set, found.values()))
        return [
            *sorted(general),
            *(f"bases.{name}" for name in before.bases if name not in kept),
            *(f"bases.{name}.{key}" for name, keys in found.items() for key in keys if key not in general),
        ]

    def _with_teacher(self, arm: Arm | Literal["base"]) -> Arm | Literal["base"]:
        """Return an arm whose teacher is no longer called by its name among the bases."""
        if isinstance(arm, str) or arm.teacher not in self.bases:
            return arm
        return arm.model_copy(update={"teacher": self.bases[arm.teacher].base})

    def rows_of(self, corpus: Corpus) -> Corpus:
        """Return the rows in the languages to train on."""
        return corpus.select(self.languages) if self.languages else corpus

    def settings_of(self, arm: Arm) -> TrainingSettings:
        """Return the training settings of an arm: those of the recipe with its own on top."""
        return TrainingSettings.checked(self.training.model_dump() | arm.settings, "settings")


def _changed(before: Recipe, now: Recipe) -> list[str]:
    then, values = (recipe.model_dump(mode="json") for recipe in (before, now))
    return [key for key in values if not _same_or_more(key, then[key], values[key])]


def _same_or_more(key: str, before: Any, now: Any) -> bool:
    if key in ("arms", "seeds", "scale", "projected"):
        return bool(now[:1] == before[:1] or not before) and all(one in now for one in before)
    return fingerprint(before) == fingerprint(now)


def _packaged(part: str) -> str:
    return str(resources.files("polyalign") / "sample" / f"{part}.jsonl")


def packaged_recipes() -> list[str]:
    """Return the names of the recipes that come with the package."""
    folder = resources.files("polyalign") / "recipes"
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def load_recipe(source: str | Path, changes: Sequence[str] = ()) -> Recipe:
    """Return the validated recipe of a YAML file, or of a packaged recipe's name.

    Args:
        source: a path, or a name such as ``minilm``.
        changes: ``KEY=VALUE`` with dots between nested keys and the value in YAML, as ``training.steps=100``.

    Raises:
        UserError: one line with every problem of the recipe.
    """
    path = Path(source)
    if path.is_file():
        text = path.read_text(encoding="utf-8")
    elif str(source) in packaged_recipes():
        text = (resources.files("polyalign") / "recipes" / f"{source}.yaml").read_text(encoding="utf-8")
    else:
        raise UserError(
            f"no recipe {str(source)!r}: not a file, nor one of the packaged {', '.join(packaged_recipes())}"
        )
    values = parse_yaml(text, str(source))
    if not isinstance(values, dict):
        raise UserError(
            f"{source} is not a recipe: it must be a mapping with the keys {', '.join(Recipe.model_fields)}"
        )
    for change in changes:
        apply_change(values, change)
    return Recipe.checked(values, str(source))
