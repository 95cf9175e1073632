"""From what a user writes to engines: which there are, and which of them serve a language."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from pydantic import field_validator

from polyalign.errors import UserError, nearest
from polyalign.languages import canonical, name
from polyalign.settings import Settings
from polyalign.translation.engines.contract import Engine, Provenance

MEMORY = "memory"
_HOMES = {
    "apertium": ("apertium", "ApertiumEngine", "ApertiumSettings"),
    "ctranslate2": ("ct2", "Ct2Engine", "Ct2Settings"),
    MEMORY: ("translation_memory", "MemoryEngine", "MemorySettings"),
    "openai": ("chat", "ChatEngine", "ChatSettings"),
    "transformers": ("seq2seq", "Seq2SeqEngine", "Seq2SeqSettings"),
}
"""Kind of engine -> module, engine class, settings class."""


class EngineChoice(Settings):
    """One engine of a build.

    Attributes:
        spec: ``KIND`` or ``KIND:MODEL``, as ``ctranslate2:facebook/nllb-200-distilled-600M`` or ``memory:ours.tmx``.
        languages: the targets it is for; None for all that it knows.
        settings: of that kind of engine, such as ``beam_size``.
    """

    spec: str
    languages: list[str] | None = None
    settings: dict[str, Any] = {}

    @field_validator("spec")
    @classmethod
    def _known_kind(cls, spec: str) -> str:
        kind = spec.partition(":")[0]
        if kind not in _HOMES:
            raise ValueError(f"unknown engine {kind!r}{nearest(kind, _HOMES)}; allowed are {', '.join(_HOMES)}")
        return spec

    @field_validator("languages")
    @classmethod
    def _known_languages(cls, languages: list[str] | None) -> list[str] | None:
        try:
            return None if languages is None else [canonical(tag) for tag in languages]
        except UserError as error:
            raise ValueError(str(error)) from error

    @property
    def is_memory(self) -> bool:
        """Whether it answers only what it knows, at no cost."""
        return self.spec.partition(":")[0] == MEMORY

    def open(self, *, device_index: int | None = None) -> Engine:
        """Return the engine.

        Args:
            device_index: the GPU to use, where the kind of engine knows GPUs; None leaves its settings alone.

        Raises:
            UserError: for settings that are not the engine's, and for a missing program, package or model.
        """
        kind, _, model = self.spec.partition(":")
        module_name, engine_name, settings_name = _HOMES[kind]
        module = import_module(f"polyalign.translation.engines.{module_name}")
        settings_type: type[Settings] = getattr(module, settings_name)
        values = dict(self.settings)
        if device_index is not None and "device_index" in settings_type.model_fields:
            values.setdefault("device_index", device_index)
        engine: Engine = getattr(module, engine_name)(model, settings_type.checked(values, self.spec))
        return engine


def choice_values(text: str) -> dict[str, Any]:
    """Return the values of an `EngineChoice` from ``[LANGUAGE,…=]SPEC``, as ``de,fr=ctranslate2:models/nllb``."""
    before, equals, after = text.partition("=")
    if equals and ":" not in before:
        return {"spec": after, "languages": [code.strip() for code in before.split(",")]}
    return {"spec": text}


@dataclass(frozen=True)
class Route:
    """What serves one target language.

    Attributes:
        memories: positions of the translation memories that are asked first, with their provenance.
        engine: position of the engine that translates the rest, with its provenance; None where there is none.
    """

    memories: tuple[tuple[int, Provenance], ...]
    engine: tuple[int, Provenance] | None


def find_routes(
    choices: Sequence[EngineChoice], engines: Sequence[Engine], languages: Sequence[str]
) -> dict[str, Route]:
    """Return what serves each language: all memories that have it, and the first other engine that knows it.

    Raises:
        UserError: naming every language that nothing serves.
    """
    routes = {}
    for language in languages:
        able = [
            (position, choice.is_memory, provenance)
            for position, (choice, engine) in enumerate(zip(choices, engines, strict=True))
            if choice.languages is None or language in choice.languages
            if (provenance := engine.provenance(language)) is not None
        ]
        memories = tuple((position, provenance) for position, is_memory, provenance in able if is_memory)
        engine = next(((position, provenance) for position, is_memory, provenance in able if not is_memory), None)
        if memories or engine:
            routes[language] = Route(memories, engine)
    if missing := [language for language in languages if language not in routes]:
        wanted = ", ".join(f"{language} ({name(language)})" for language in missing)
        raise UserError(
            f"none of the engines {', '.join(choice.spec for choice in choices)} translates English into {wanted}; "
            "add one that does, or leave the language out of --to"
        )
    return routes
