"""A recipe: everything that decides a run, validated before anything is computed."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from polyalign.errors import UserError
from polyalign.settings import Settings, apply_change, parse_yaml
from polyalign.training.objective import Objective
from polyalign.training.settings import TrainingSettings
from polyalign.translation.settings import BuildSettings

BASE_ARM = "base"
"""The arm that is the untouched base."""

SAMPLE = "sample"
"""The corpus, or the own rows, that come with the package."""


class Arm(Settings):
    """One way to train the base.

    Attributes:
        name: as the report shows it.
        objective: the name of a preset.
        change: fields of that objective that this arm sets differently.
        settings: training settings that this arm sets differently; budgets excepted, which the recipe sets for all.
        teacher: of a ``keep`` term; None for the untrained base.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]*$")
    objective: str = "multi-way"
    change: dict[str, Any] = {}
    settings: dict[str, Any] = {}
    teacher: str | None = None

    @property
    def full_objective(self) -> Objective:
        """The preset with this arm's changes."""
        return Objective.named(self.objective, **self.change)


class EvaluationSettings(Settings):
    """What the encoders are measured on.

    Attributes:
        tasks: names of MTEB tasks, or a mapping from names to languages of their own.
        languages: those to evaluate, seen and unseen, or ``["all"]``; None for the languages trained on.
        split: of the tasks; None for each task's own.
        mteb_data: a folder with the tasks' data in the layout of the Hub; None loads them from the Hub.
        own_rows: held-out parallel rows of the user's own, scored as a bitext task; ``sample`` for the packaged ones.
        batch_size: texts per forward pass.
    """

    tasks: list[str] | dict[str, list[str] | None] = []
    languages: list[str] | None = None
    split: str | None = None
    mteb_data: Path | None = None
    own_rows: str | None = None
    batch_size: int = Field(64, ge=1)

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


class Recipe(Settings):
    """A run: one corpus, one base, several arms at equal budgets, several seeds, one evaluation, one report.

    Attributes:
        corpus: anything `Corpus.open` takes, several files, or ``sample``; or the settings of a `build`.
        base: ``static``, or a folder or Hub id.
        languages: those to train on; None for all of the corpus.
        arms: names of presets, `Arm`s, or ``base`` for the untouched base. The first one that trains is the reference:
            it gets the budget of ``training``, and the others as much.
        equal: what the budgets are equal in. ``rows``: every arm sees as many rows as the reference; ``texts``: every
            arm encodes as many texts. With both, an arm is trained twice where they differ.
        training: hyper-parameters for all arms.
        seeds: each arm is trained once with each.
        evaluation: what the encoders are measured on.
        report: how they are compared.
        trust_remote_code: whether code that comes with the base may run.
    """

    corpus: str | list[str] | BuildSettings
    base: str
    languages: list[str] | None = None
    arms: list[Arm | Literal["base"]] = Field(min_length=1)
    equal: list[Literal["rows", "texts"]] = Field(["rows"], min_length=1)
    training: TrainingSettings = TrainingSettings()
    seeds: list[Annotated[int, Field(ge=0, lt=2**32)]] = Field([0], min_length=1)
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
    def _arms_fit_together(self) -> Self:
        problems = []
        names = [arm if isinstance(arm, str) else arm.name for arm in self.arms]
        problems += [f"two arms are called {name!r}" for name in sorted(set(names)) if names.count(name) > 1]
        if not self.trained_arms:
            problems.append("no arm trains; add one, such as multi-way")
        if BASE_ARM in names and self.base == "static":
            problems.append("a static base knows nothing before training; leave the arm 'base' out")
        if self.report.control is not None and self.report.control not in names:
            problems.append(f"report.control is {self.report.control!r}, must be one of the arms {', '.join(names)}")
        if len(set(self.seeds)) < len(self.seeds):
            problems.append(f"seeds {self.seeds} repeat a seed")
        for arm in self.trained_arms:
            problems += self._problems_of(arm)
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def _problems_of(self, arm: Arm) -> list[str]:
        problems = []
        budgets = sorted({"epochs", "steps", "texts"} & set(arm.settings))
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
    def trained_arms(self) -> list[Arm]:
        """The arms without the untouched base; the first is the reference of the budgets."""
        return [arm for arm in self.arms if isinstance(arm, Arm)]

    def settings_of(self, arm: Arm) -> TrainingSettings:
        """Return the training settings of an arm: those of the recipe with its own on top."""
        return TrainingSettings.checked(self.training.model_dump() | arm.settings, "settings")


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
