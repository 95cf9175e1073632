"""The contract between `build` and whatever translates: English texts and a target language in, translations out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

from polyalign.storage import fingerprint


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Where the translations of one engine into one language come from.

    Attributes:
        engine: kind and model, such as ``ctranslate2:facebook/nllb-200-distilled-600M``.
        revision: of the model: a hash of its files, versions of its packages, or what its server says.
        licence: SPDX identifier of what the model's licence makes of its output, or ``unknown``.
        settings: whatever else decides the output (beam size, language token, prompt ...); JSON-serialisable.
    """

    engine: str
    revision: str
    licence: str
    settings: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def key(self) -> str:
        """Hash of all that decides the output: two engines with the same key translate alike."""
        return fingerprint({"engine": self.engine, "revision": self.revision, "settings": self.settings})


@dataclass(frozen=True, slots=True, kw_only=True)
class Translation:
    """One text as an engine gave it back.

    Attributes:
        text: the translation; empty when there is an error, or when the engine gave nothing.
        score: mean natural log-probability of an output token (at most 0), or None where the engine has none.
        truncated: whether the engine's limits cut the input or the output.
        unknown: number of words that the engine did not know and passed through.
        error: why there is no translation; such a text is asked for again by the next build.
    """

    text: str
    score: float | None = None
    truncated: bool = False
    unknown: int = 0
    error: str | None = None


Batch = list[tuple[int, Translation]]
"""Finished translations, each with the index of its text in the sequence that was asked for."""


class Engine(Protocol):
    """Translates English. Construction is cheap: models load when first used."""

    def provenance(self, language: str) -> Provenance | None:
        """Return where translations into ``language``, a canonical tag, come from; None if it cannot translate into it.

        Raises:
            UserError: when the engine should know the language but cannot serve it as set up.
        """
        ...

    def translate(self, texts: Sequence[str], language: str) -> Iterator[Batch]:
        """Yield the translations batch by batch, in any order.

        Every index of ``texts`` is yielded once; only a translation memory leaves out what it does not know. What one
        text becomes does not depend on the texts beside it. A failure of single texts is their ``error``; a failure
        that will strike every text is raised.

        Args:
            texts: English, in NFC, without outer white space or line breaks.
            language: canonical tag of the target, for which `provenance` is not None.

        Raises:
            UserError: for what the user can mend, such as a missing model or key.
        """
        ...

    def close(self) -> None:
        """Free processes, connections and models."""
        ...
