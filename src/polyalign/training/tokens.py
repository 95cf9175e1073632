"""The token ids of a corpus: made once, as the encoder's own preprocessing makes them, and memory-mapped."""

from __future__ import annotations

import json
import logging
import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import torch
import xxhash

from polyalign.corpus.columns import ROW_ID
from polyalign.encoder import default_prompt
from polyalign.errors import UserError
from polyalign.storage import fingerprint, user_cache, versions
from polyalign.training.arrays import ArrayWriter, made_once, spans
from polyalign.training.batches import keys, language_numbers

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from polyalign.corpus import Corpus

log = logging.getLogger(__name__)

ROWS_PER_BLOCK = 8192
TEXTS_PER_CALL = 1024
_DTYPES = {
    "row_id_bytes": np.uint8,
    "first_byte": np.int64,
    "row_keys": np.int64,
    "first_cell": np.int64,
    "numbers": np.int16,
    "text_keys": np.int64,
    "first_token": np.int64,
    "ids": np.int32,
    "used": np.int64,
}
_LAYOUTS = {"attention_mask": "padded", "offsets": "bag", "cu_seq_lens_q": "packed"}
"""What tells the layout of a batch."""
_PACKED = {"position_ids", "seq_idx", "cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k"}
_FROM_IDS = {"input_ids", "attention_mask", "offsets"} | _PACKED
"""What follows from the token ids of the texts of a batch, and is made anew for another batch."""
_ADVICE = "choose one that needs nothing else"


@dataclass(frozen=True, eq=False)
class Tokens:
    """The token ids of R rows with C texts, read-only and memory-mapped; see `tokens_of`.

    Attributes:
        languages: the tags of the corpus, in its order.
        row_keys: int64 [R], `polyalign.training.batches.key` of each row id.
        first_cell: int64 [R + 1]; row ``r`` has the texts ``first_cell[r]`` to ``first_cell[r + 1]``, in the order of
            the languages.
        numbers: int16 [C], the language of each text; see `polyalign.training.batches.language_numbers`.
        text_keys: int64 [C], `polyalign.training.batches.key` of each text.
        first_token: int64 [C + 1]; text ``c`` has the ids ``first_token[c]`` to ``first_token[c + 1]``.
        ids: int32, all token ids, prompt and special tokens included, truncation applied.
        used: int64, the distinct ids, ascending.
        row_id_bytes: uint8, the row ids in UTF-8, one after the other.
        first_byte: int64 [R + 1], where each row id starts in them.
        layout: how the encoder takes a batch: ``padded`` rows, a ``bag`` with offsets, or one ``packed`` sequence.
        constants: what the encoder's preprocessing adds to every batch, such as ``prompt_length``.
        zeros: names of the tensors of zeros that it makes in the shape of the ids, such as ``token_type_ids``.
    """

    languages: tuple[str, ...]
    row_keys: np.ndarray
    first_cell: np.ndarray
    numbers: np.ndarray
    text_keys: np.ndarray
    first_token: np.ndarray
    ids: np.ndarray
    used: np.ndarray
    row_id_bytes: np.ndarray
    first_byte: np.ndarray
    layout: str
    constants: dict[str, Any]
    zeros: list[str]

    def __len__(self) -> int:
        return len(self.row_keys)

    def row_id(self, row: int) -> str:
        """Return the id of a row."""
        return self.row_id_bytes[self.first_byte[row] : self.first_byte[row + 1]].tobytes().decode()


def tokens_of(corpus: Corpus, model: SentenceTransformer, *, cache: Path | None = None) -> Tokens:
    """Return the tokens that ``model.encode`` sees of a corpus, its rows in the order of the corpus.

    They are kept in a folder that is named by all they depend on; a second call opens it and tokenizes nothing.

    Args:
        corpus: the rows.
        model: its preprocessing, default prompt and ``max_seq_length`` are used.
        cache: where the folder is; None for ``tokens`` in the user's cache.

    Raises:
        UserError: when the encoder makes more of a text than token ids.
    """
    folder = (user_cache("tokens") if cache is None else cache) / _key(corpus, model)
    about, arrays = made_once(folder, partial(_tokenize, corpus, model), _DTYPES)
    attributes: dict[str, Any] = {**about, **arrays}
    return Tokens(languages=corpus.languages, **attributes)


def _key(corpus: Corpus, model: SentenceTransformer) -> str:
    """Return the fingerprint of all that the tokens of a corpus depend on."""
    return fingerprint(
        {
            "tokenizer": _tokenizer_state(model.tokenizer),
            "module": [type(model[0]).__name__, getattr(model[0], "get_config_dict", dict)()],
            "packed": getattr(model[0], "can_flatten_inputs", False),
            "prompt": default_prompt(model),
            "max_seq_length": str(model.max_seq_length),
            "libraries": {name: versions()[name] for name in ("sentence-transformers", "transformers", "tokenizers")},
            "corpus": corpus.fingerprint,
            # The fingerprint of a corpus leaves the order of its rows open.
            "rows": xxhash.xxh3_128_hexdigest("\0".join(corpus.rows[ROW_ID]).encode()),
            "languages": corpus.languages,
        }
    )


def _tokenizer_state(tokenizer: Any) -> list[Any]:
    """Return what decides the ids that a tokenizer gives, whatever it has been used for so far."""
    about = [
        type(tokenizer).__name__,
        *(getattr(tokenizer, name, None) for name in ("truncation_side", "chat_template")),
    ]
    backend = getattr(tokenizer, "backend_tokenizer", tokenizer)
    if not hasattr(backend, "to_str"):
        return [*about, repr(sorted(tokenizer.get_vocab().items())), tokenizer.init_kwargs]
    state = json.loads(backend.to_str())
    if backend is not tokenizer:  # left over from the last call; each sets its own
        del state["truncation"], state["padding"]
    return [*about, state]


def _tokenize(corpus: Corpus, model: SentenceTransformer, writer: ArrayWriter) -> dict[str, Any]:
    """Append the arrays of `Tokens`, block by block; return its other attributes."""
    tokenizer = _Tokenizer(model)
    numbers = language_numbers(corpus.languages)
    number = np.array([numbers[tag] for tag in corpus.languages], dtype=np.int16)
    used = np.empty(0, dtype=np.int64)
    first = {name: np.zeros(1, dtype=np.int64) for name in ("first_byte", "first_cell", "first_token")}
    writer.append(**first)
    for rows in corpus.rows.iter_slices(ROWS_PER_BLOCK):
        row_ids = rows[ROW_ID].cast(pl.Binary)
        cells = rows.select(pl.concat_list(corpus.languages)).to_series().explode()
        present = cells.is_not_null().to_numpy().reshape(len(rows), len(corpus.languages))
        texts = cells.drop_nulls()
        text_keys = keys(texts)
        _, distinct, which = np.unique(text_keys, return_index=True, return_inverse=True)
        ids, starts, lengths = tokenizer(texts[distinct], np.bincount(which))
        sizes = {"first_byte": row_ids.bin.size(), "first_cell": present.sum(1), "first_token": lengths[which]}
        first = {name: first[name][-1] + np.cumsum(sizes[name], dtype=np.int64) for name in first}
        writer.append(
            row_id_bytes=np.frombuffer(b"".join(row_ids), dtype=np.uint8),
            row_keys=keys(rows[ROW_ID]),
            numbers=np.broadcast_to(number, present.shape)[present],
            text_keys=text_keys,
            ids=ids[spans(starts[which], lengths[which])],
            **first,
        )
        used = np.union1d(used, np.flatnonzero(np.bincount(ids)))
    writer.append(used=used)
    texts, ids_in_all = first["first_cell"][-1], first["first_token"][-1]
    log.info("tokenized %d texts into %d tokens; %d texts were cut", texts, ids_in_all, tokenizer.texts_cut)
    return tokenizer.rest


class _Tokenizer:
    """Texts in, token ids out, by the preprocessing of an encoder.

    Attributes:
        rest: ``layout``, ``constants`` and ``zeros`` of `Tokens`; empty before the first text.
        texts_cut: texts so far that ``max_seq_length`` has made shorter.
    """

    def __init__(self, model: SentenceTransformer) -> None:
        self._model = model
        self._prompt = default_prompt(model)
        self.rest: dict[str, Any] = {}
        self.texts_cut = 0

    def __call__(self, texts: pl.Series, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return all token ids, and int64 [n] the start and the number of the ids of each text.

        Args:
            texts: n texts.
            counts: int [n], how often each occurs.
        """
        order = texts.str.len_bytes().arg_sort().to_numpy()  # padding costs time here, too
        ids, lengths = self._ids_of(texts[order])
        self._count_cut(texts[order], lengths, counts[order])
        place = order.argsort()
        return ids, (lengths.cumsum() - lengths)[place], lengths[place]

    def _ids_of(self, texts: pl.Series, **limit: int) -> tuple[np.ndarray, np.ndarray]:
        """Return all token ids, one text after the other, and int64 [n] their numbers."""
        calls = []
        for start in range(0, len(texts), TEXTS_PER_CALL):
            part = texts[start : start + TEXTS_PER_CALL].to_list()
            features = self._model.preprocess(part, prompt=self._prompt, **limit)
            rest = _rest(features)
            if self.rest not in ({}, rest):
                raise UserError(f"this encoder makes {rest} of some texts and {self.rest} of others; {_ADVICE}")
            self.rest = rest
            calls.append(_unpadded(features, rest["layout"]))
        ids, lengths = zip(*calls, strict=True)
        return np.concatenate(ids), np.concatenate(lengths)

    def _count_cut(self, texts: pl.Series, lengths: np.ndarray, counts: np.ndarray) -> None:
        limit: Any = self._model.max_seq_length or math.inf
        full = np.flatnonzero(lengths >= limit)
        if len(full):  # some of them may just fit
            _, longer = self._ids_of(texts[full], max_length=limit + 1)
            self.texts_cut += int(counts[full[longer > limit]].sum())


def _rest(features: dict[str, Any]) -> dict[str, Any]:
    """Return what a preprocessed batch holds beside its ids: ``layout``, ``constants`` and ``zeros`` of `Tokens`.

    Raises:
        UserError: when there is more than that.
    """
    layout = next((layout for name, layout in _LAYOUTS.items() if name in features), None)
    if layout is None or "input_ids" not in features:
        raise UserError(f"this encoder makes {', '.join(features)} of a text, and not token ids; {_ADVICE}")
    constants, zeros = {}, []
    for name in sorted(features.keys() - _FROM_IDS):
        value = features[name]
        if isinstance(value, str | int):
            constants[name] = value
        elif isinstance(value, torch.Tensor) and value.shape == features["input_ids"].shape and not value.any():
            zeros.append(name)
        else:
            raise UserError(f"this encoder makes {name} of a text, beside its token ids; {_ADVICE}")
    return {"layout": layout, "constants": constants, "zeros": zeros}


def _unpadded(features: dict[str, Any], layout: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the ids of a preprocessed batch, one text after the other, and int64 [n] their numbers."""
    ids = features["input_ids"].numpy()
    if layout == "padded":
        mask = features["attention_mask"].numpy().astype(bool)
        return ids[mask], mask.sum(1)
    if layout == "bag":
        return ids, np.diff(features["offsets"].numpy(), append=len(ids))
    return ids[0], np.diff(features["cu_seq_lens_q"].numpy()).astype(np.int64)
