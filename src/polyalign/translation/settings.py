"""What decides a build."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from pydantic import Field, field_validator, model_validator

from polyalign.corpus.columns import ENGLISH
from polyalign.corpus.decontamination import DecontaminationSettings
from polyalign.corpus.verdicts import VerdictSettings
from polyalign.errors import UserError
from polyalign.languages import canonical
from polyalign.settings import Settings, apply_change, parse_yaml, put
from polyalign.translation.engines.choosing import EngineChoice, choice_values
from polyalign.translation.english import EnglishSettings


class SimilaritySettings(Settings):
    """How cells are scored by an encoder, and what is required of the score.

    Attributes:
        encoder: a folder or Hub id.
        neighbours: of each text, on the other side of its chunk of rows, that the margin compares with.
        min_similarity: least cosine similarity of a translation to its English, -1 to 1; None for any.
        min_margin: least margin, the ratio of that similarity to the mean similarity of both to their neighbours
            (Artetxe and Schwenk 2019, "Margin-based Parallel Corpus Mining", equation 2); None for any.
    """

    encoder: str
    neighbours: int = Field(4, ge=1)
    min_similarity: float | None = Field(None, ge=-1, le=1)
    min_margin: float | None = Field(None, ge=0)


class BuildSettings(Settings):
    """English in, a corpus out.

    Attributes:
        english: the sources (see `polyalign.translation.sources`).
        to: the target languages.
        engines: asked in this order (see `polyalign.translation.engines.choosing.find_routes`).
        source: what is taken of the sources.
        verdicts: thresholds of the verdicts on cells.
        similarity: scoring by an encoder, or None.
        min_languages: good translations that a row needs to be kept, at least 1.
        decontaminate: MTEB tasks whose evaluation texts must not occur, or None.
    """

    english: list[str] = Field(min_length=1)
    to: list[str] = Field(min_length=1)
    engines: list[EngineChoice] = Field(min_length=1)
    source: EnglishSettings = EnglishSettings()
    verdicts: VerdictSettings = VerdictSettings()
    similarity: SimilaritySettings | None = None
    min_languages: int = Field(1, ge=1)
    decontaminate: DecontaminationSettings | None = None

    @field_validator("english", mode="before")
    @classmethod
    def _one_source(cls, english: object) -> object:
        return [english] if isinstance(english, str) else english

    @field_validator("engines", mode="before")
    @classmethod
    def _plain_specs(cls, engines: object) -> object:
        if not isinstance(engines, list):
            return engines
        return [choice_values(engine) if isinstance(engine, str) else engine for engine in engines]

    @field_validator("to")
    @classmethod
    def _known_targets(cls, to: list[str]) -> list[str]:
        problems, tags = [], []
        for tag in to:
            try:
                tags.append(canonical(tag))
            except UserError as error:
                problems.append(str(error))
        if ENGLISH in tags:
            problems.append("English is the source; leave it out")
        problems += [f"{tag!r} stands there twice" for tag in sorted(set(tags)) if tags.count(tag) > 1]
        if problems:
            raise ValueError("; ".join(problems))
        return tags

    @model_validator(mode="after")
    def _enough_languages(self) -> Self:
        if self.min_languages > len(self.to):
            raise ValueError(f"min_languages is {self.min_languages}, but there are {len(self.to)} languages in to")
        return self


def load_build(path: Path | None, given: Mapping[str, Any], changes: Sequence[str] = ()) -> BuildSettings:
    """Return the validated settings of a build.

    Args:
        path: a YAML file with any of the keys of `BuildSettings`, or None.
        given: values that go before the file's, by key with dots.
        changes: ``KEY=VALUE``, see `polyalign.settings.apply_change`; they go before both.

    Raises:
        UserError: one line with every problem.
    """
    values: Any = {}
    if path is not None:
        if not path.is_file():
            raise UserError(
                f"no such file: {path}; give a YAML file with the keys {', '.join(BuildSettings.model_fields)}"
            )
        values = parse_yaml(path.read_text(encoding="utf-8"), str(path)) or {}
    if not isinstance(values, dict):
        raise UserError(f"{path} must be a mapping with the keys {', '.join(BuildSettings.model_fields)}")
    for key, value in given.items():
        put(values, key, value, key)
    for change in changes:
        apply_change(values, change)
    return BuildSettings.checked(values, str(path or "build"))
