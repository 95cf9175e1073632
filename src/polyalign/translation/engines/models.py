"""What the neural engines share: finding a translation model, its tokenizer, its language tokens and its limits."""

from __future__ import annotations

import contextlib
import csv
import json
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from langcodes import Language

from polyalign.errors import UserError
from polyalign.languages import canonical, from_opus, script, to_flores, to_m2m, to_madlad
from polyalign.storage import fingerprint_files

OPUS = "opus-mt"
"""Given as a model, it stands for the OPUS-MT models of ``opus.tsv``, one or more per language."""

CT2_WEIGHTS = "model.bin"
_TOKENIZER_SUFFIXES = {".json", ".model", ".spm", ".txt"}
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_MARIAN_TOKEN = re.compile(r">>\w+<<")
_OPUS_NAME = re.compile(r"opus-(?:mt|tatoeba)-(?:tc-)?(?:big-|base-)?en-(\w+)")
_SPDX = {
    identifier.lower(): identifier
    for identifier in (
        "Apache-2.0", "MIT", "CC0-1.0", "CC-BY-4.0", "CC-BY-SA-4.0", "CC-BY-NC-4.0", "CC-BY-NC-SA-4.0", "GPL-3.0"
    )
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Family:
    """How a family of models is told the language.

    Attributes:
        code: gives the family's code of a canonical tag; raises UserError for a language that it lacks.
        token: the token of a code, with ``{}`` in its place.
        source: the token in front of English text, where the family has one.
        forced: whether the target's token starts the output; otherwise it stands in front of the input.
        positions: longest input, in tokens, of the published models.
        licence: of the published models.
    """

    code: Callable[[str], str] | None = None
    token: str = "{}"
    source: str | None = None
    forced: bool = False
    positions: int = 512
    licence: str = "unknown"


FAMILIES = {
    "nllb": Family(code=to_flores, source="eng_Latn", forced=True, positions=1024, licence="CC-BY-NC-4.0"),
    "m2m": Family(code=to_m2m, token="__{}__", source="__en__", forced=True, positions=1024, licence="MIT"),
    "madlad": Family(code=to_madlad, token="<2{}>", licence="Apache-2.0"),
    "marian": Family(),
    "other": Family(),
}


@dataclass(frozen=True)
class Serving:
    """What to ask for: a model (a folder or a Hub id) and the language token, None where the model's tokens say it."""

    model: str
    token: str | None = None


@cache
def opus_models() -> dict[str, Serving]:
    """Return the OPUS-MT model and token of each language, by canonical tag."""
    with files("polyalign.translation.engines").joinpath("opus.tsv").open(encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))
    return {row["tag"]: Serving(row["model"], row["token"] or None) for row in rows}


def serving(model: str, language: str) -> Serving | None:
    """Return which model serves the language: ``model``, or the one that ``opus.tsv`` lists for it, if any."""
    if model != OPUS:
        return Serving(model)
    return opus_models().get(language) or opus_models().get(_without_region(language))


class TranslationModel:
    """A folder with a translation model, seen from its tokenizer; the weights are the engines' affair.

    Args:
        model: a CTranslate2 folder with the tokenizer's files beside the weights, a transformers folder, or a Hub id.
        language: canonical tag of the target of a bilingual model; None where its name or its tokenizer tells.

    Attributes:
        name: the Hub id, or the name of the folder.
        folder: where the files lie.
        family: one of `FAMILIES`.
        positions: longest input, in tokens, the special ones included.

    Raises:
        UserError: when the model is missing, unreachable or not a translation model.
    """

    def __init__(self, model: str, language: str | None = None) -> None:
        self.name, self.folder = find(model)
        self.tokenizer = _load_tokenizer(self.folder)
        self.family = _family(self.tokenizer)
        self._language = language
        self._config = _read_json(self.folder / "config.json")
        self.positions = int(
            self._config.get("max_position_embeddings")
            or self._config.get("n_positions")
            or min(self.tokenizer.model_max_length, FAMILIES[self.family].positions)
        )

    @property
    def is_ctranslate2(self) -> bool:
        """Whether the folder holds converted weights."""
        return (self.folder / CT2_WEIGHTS).is_file()

    @cached_property
    def vocabulary(self) -> list[str] | None:
        """The target tokens of converted weights, by id; None for others, whose ids are the tokenizer's."""
        return read_vocabulary(self.folder) if self.is_ctranslate2 else None

    @cached_property
    def revision(self) -> str:
        """The Hub's commit where the folder tells it, else a hash of the weights and of the tokenizer's files."""
        if self.folder.parent.name == "snapshots" and _COMMIT.fullmatch(self.folder.name):
            return self.folder.name
        return _hash_files(tuple(_stamp(path) for path in model_files(self.folder)), self.folder)

    @cached_property
    def licence(self) -> str:
        """SPDX identifier by the folder's README.md, else of the family's published models, else ``unknown``."""
        stated = _licence_in(self.folder / "README.md")
        if stated is None:
            return "CC-BY-4.0" if _OPUS_NAME.search(self.name) else FAMILIES[self.family].licence
        return _SPDX.get(stated.lower(), "unknown" if stated == "other" else stated)

    def token(self, language: str) -> str | None:
        """Return the target's token, an empty string if the model needs none, or None if it lacks the language.

        Args:
            language: canonical tag.

        Raises:
            UserError: when the family has a token for the language but this folder does not know it, or when a
                bilingual model does not tell its language.
        """
        family = FAMILIES[self.family]
        if family.code is None:
            return self._token_by_vocabulary(language)
        try:
            token = family.token.format(family.code(language))
        except UserError:
            return None
        for needed in filter(None, (token, family.source)):
            self.require(needed)
        return token

    def require(self, token: str) -> None:
        """Check that both the tokenizer and the weights know a token.

        Raises:
            UserError: when one of them does not; the token would become the unknown one, and any language come out.
        """
        number = self.tokenizer.convert_tokens_to_ids(token)
        if number is None or number == self.tokenizer.unk_token_id:
            raise UserError(
                f"the tokenizer in {self.folder} does not know the language token {token!r}: the folder is incomplete "
                "(often only the sentencepiece file was saved) or of another model; fetch all its tokenizer files"
            )
        known = token in self.vocabulary if self.vocabulary else number < self._config.get("vocab_size", number + 1)
        if not known:
            raise UserError(
                f"the weights in {self.folder} do not know the language token {token!r}: "
                "the tokenizer beside them is of another model; put the right one there or convert again"
            )
        if self.family == "madlad" and number not in self.tokenizer(f"{token} a")["input_ids"][:2]:
            raise UserError(f"the tokenizer in {self.folder} splits the language token {token!r}; fetch all its files")

    def encode(self, texts: Sequence[str], token: str) -> list[list[int]]:
        """Return the ids of each English text, with language tokens and end of sentence, of any length.

        Text that looks like a special token is text: it cannot change the language or end the sentence.
        """
        if not texts:
            return []
        if self.family == "madlad":  # the token is a piece of the text, as in training
            texts, token = [f"{token} {text}" for text in texts], ""
        if self.family == "marian":  # its tokenizer takes ">>…<<" at the start of a text for a language token
            texts = [f" {text}" if text.startswith(">>") else text for text in texts]
        plain = self.family not in ("other", "madlad")
        ids: list[list[int]] = self.tokenizer(
            list(texts), add_special_tokens=not plain, split_special_tokens=plain, verbose=False
        )["input_ids"]
        if not plain:
            return ids
        start = FAMILIES[self.family].source or token
        prefix = [self.tokenizer.convert_tokens_to_ids(start)] if start else []
        return [[*prefix, *row, self.tokenizer.eos_token_id] for row in ids]

    def cut(self, ids: list[int]) -> list[int]:
        """Return the ids shortened to the model's positions, the last one (end of sentence) kept."""
        return ids if len(ids) <= self.positions else [*ids[: self.positions - 1], ids[-1]]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of output ids, without special tokens and outer white space."""
        text: str = self.tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text.strip()

    def _token_by_vocabulary(self, language: str) -> str | None:
        tokens = {token for token in self.tokenizer.get_vocab() if _MARIAN_TOKEN.fullmatch(token)}
        if not tokens or self.family != "marian":
            return "" if self._bilingual_target() in (language, _without_region(language)) else None
        return next((token for token in _opus_tokens(language) if token in tokens), None)

    def _bilingual_target(self) -> str:
        source = getattr(self.tokenizer, "source_lang", None)
        if source and _opus_tag(source) not in (None, "en"):
            raise UserError(f"{self.name} translates from {source!r}, not from English; choose another model")
        if self._language:
            return canonical(self._language)
        named = _OPUS_NAME.search(self.name)
        for code in (getattr(self.tokenizer, "target_lang", None), named and named[1]):
            if code and (tag := _opus_tag(code)):
                return tag
        raise UserError(
            f"cannot tell which language {self.name} translates into; say it with the engine's setting `language`"
        )


def _without_region(language: str) -> str:
    """Return the tag without the region, unless the region says the script ("zh-TW")."""
    code = language.split("-")[0]
    return code if script(language) == script(code) else language


def _opus_tag(code: str) -> str | None:
    try:
        return from_opus(code)
    except UserError:
        return None


def _opus_tokens(language: str) -> list[str]:
    """Return the tokens by which OPUS-MT's multi-target models may call the language, the most exact first."""
    code, *rest = language.split("-")
    region = next((subtag for subtag in rest if len(subtag) == 2), "")
    written = script(language)
    alpha3 = [Language.get(code).to_alpha3()]
    with contextlib.suppress(UserError):
        alpha3.insert(0, to_flores(language).split("_")[0])
    if code == "zh":
        alpha3.insert(0, "cmn")
    names = ["pob"] if language == "pt-BR" else []
    names += [f"{name}_{region}" for name in (code, *alpha3) if region]
    names += [f"{name}_{written}" for name in alpha3]
    if written == script(code):  # a token without a script means the usual one
        names += [*alpha3, code]
    return [f">>{name}<<" for name in names]


def find(model: str) -> tuple[str, Path]:
    """Return the name and the folder of a model, fetching it from the Hub unless it is a folder.

    Raises:
        UserError: when there is no such folder and the Hub cannot give it; the message says how to get it.
    """
    path = Path(model).expanduser()
    if path.is_dir():
        return path.resolve().name, path.resolve()
    if path.exists() or not _HUB_ID.fullmatch(model):
        raise UserError(f"{model} is not a model folder; give a CTranslate2 or transformers folder, or a Hub id")
    return model, _fetch(model)


def _fetch(model: str) -> Path:
    """Return the Hub snapshot of the current commit, or without network the one fetched last."""
    from huggingface_hub import HfApi, snapshot_download

    try:
        info = HfApi().model_info(model, timeout=10)  # one request: the download's own retries take minutes
        wanted = _wanted([entry.rfilename for entry in info.siblings or []])
        return Path(snapshot_download(model, revision=info.sha, allow_patterns=wanted))
    except Exception as error:  # whatever the Hub's client and its HTTP library raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    try:
        return Path(snapshot_download(model, local_files_only=True))
    except Exception as error:
        raise UserError(
            f"cannot load the model {model!r}: no such folder, and it cannot be had from the Hub ({reason}); "
            f"on a machine with network run `hf download {model} --local-dir DIR` and give DIR"
        ) from error


def _wanted(names: list[str]) -> list[str]:
    """Return the files worth fetching: the tokenizer's, the card, and the weights in one format only."""
    names = [name for name in names if "/" not in name]
    weights = [name for name in names if name == CT2_WEIGHTS]
    weights = weights or [name for name in names if name.endswith(".safetensors")]
    weights = weights or [name for name in names if name.startswith("pytorch_model") and name.endswith(".bin")]
    return ["README.md", *weights, *(name for name in names if Path(name).suffix in _TOKENIZER_SUFFIXES)]


def model_files(folder: Path) -> list[Path]:
    """Return the weights and the tokenizer's files of a model folder: all that decides its output."""
    weights = {".bin", ".safetensors"}
    return sorted(path for path in folder.iterdir() if path.suffix in weights | _TOKENIZER_SUFFIXES and path.is_file())


def _stamp(path: Path) -> tuple[Path, int, int]:
    found = path.stat()
    return path, found.st_size, found.st_mtime_ns


@cache
def _hash_files(stamps: tuple[tuple[Path, int, int], ...], folder: Path) -> str:
    return fingerprint_files([path for path, _, _ in stamps], folder)


def read_vocabulary(folder: Path) -> list[str]:
    """Return the target vocabulary of a CTranslate2 folder, in the order of the ids.

    Raises:
        UserError: when the folder has none.
    """
    for stem in ("shared_vocabulary", "target_vocabulary"):
        for path in (folder / f"{stem}.json", folder / f"{stem}.txt"):
            if path.is_file():
                text = path.read_text(encoding="utf-8")
                return list(json.loads(text)) if path.suffix == ".json" else text.removesuffix("\n").split("\n")
    raise UserError(f"{folder} has {CT2_WEIGHTS} but no vocabulary: it is not a whole CTranslate2 model; convert again")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}); fetch the model again") from error
    return values


@contextlib.contextmanager
def without_remarks() -> Iterator[None]:
    """Keep back that Marian's tokenizer recommends a package which tokenizing does not use."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Recommended: pip install sacremoses")
        yield


def _load_tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    try:
        with without_remarks():
            return _with_unknown(AutoTokenizer.from_pretrained(folder))
    except Exception as error:  # whatever the tokenizers and sentencepiece raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            f"cannot load a tokenizer from {folder} ({reason}); put the tokenizer's files of the original model there, "
            "beside the weights"
        ) from error


def _with_unknown(tokenizer: Any) -> Any:
    """Return the tokenizer, mended where transformers 5 gave it a wrong unknown piece.

    It gives every T5 tokenizer number 2. That is the end of sentence of MADLAD-400: an unknown character would end it.
    """
    from tokenizers import Tokenizer

    backend: Any = getattr(tokenizer, "_tokenizer", None)
    if type(getattr(backend, "model", None)).__name__ == "Unigram":
        state = json.loads(backend.to_str())
        if state["model"]["unk_id"] != tokenizer.unk_token_id:
            state["model"]["unk_id"] = tokenizer.unk_token_id
            tokenizer._tokenizer = Tokenizer.from_str(json.dumps(state))
    return tokenizer


def _family(tokenizer: Any) -> str:
    kind = type(tokenizer).__name__
    for start, family in (("Nllb", "nllb"), ("M2M100", "m2m"), ("Marian", "marian")):
        if kind.startswith(start):
            return family
    vocabulary = tokenizer.get_vocab()
    for token, family in (("eng_Latn", "nllb"), ("__en__", "m2m"), ("<2en>", "madlad")):
        if token in vocabulary:
            return family
    if hasattr(tokenizer, "src_lang"):
        raise UserError(
            f"the language tokens of {kind.removesuffix('Tokenizer')} models are not known here; "
            "use NLLB-200, M2M-100, MADLAD-400, OPUS-MT or a bilingual model"
        )
    return "other"


def _licence_in(card: Path) -> str | None:
    """Return the ``license`` of a model card's front matter, if it says one."""
    if not card.is_file():
        return None
    front = re.match(r"---\s*\n(.*?)\n---", card.read_text(encoding="utf-8", errors="replace"), re.DOTALL)
    try:
        values = yaml.safe_load(front[1]) if front else None
    except yaml.YAMLError:
        return None
    stated = values.get("license") if isinstance(values, dict) else None
    if isinstance(stated, list):
        stated = " AND ".join(map(str, stated)) or None
    return None if stated is None else str(stated)
