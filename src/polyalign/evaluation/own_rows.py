"""The user's own held-out parallel rows as an MTEB bitext task."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any

from polyalign import languages as codes_table
from polyalign.corpus import Corpus
from polyalign.errors import UserError
from polyalign.tasks import ALL_LANGUAGES, ENGLISH, SelectedTask, Subset

if TYPE_CHECKING:
    from mteb.abstasks import AbsTask

NAME = "OwnRowsBitext"
_SPLIT = "test"


def own_rows_task(corpus: Corpus, languages: Sequence[str]) -> SelectedTask:
    """Return a bitext task over every pair of the corpus's languages that were asked for, English included.

    A subset is named as Tatoeba names its own, ``de-en``: sentence1 is the other language and sentence2 English;
    two other languages stand in alphabetical order. It holds the rows that have both languages.

    Args:
        corpus: held-out rows; gaps are allowed.
        languages: canonical tags, or ``["all"]``.

    Raises:
        UserError: when no row has two of the languages.
    """
    asked = corpus.languages if ALL_LANGUAGES in languages else languages
    wanted = sorted((set(asked) | {ENGLISH}) & set(corpus.languages), key=lambda tag: (tag == ENGLISH, tag))
    pairs = {
        f"{first}-{second}": (first, second)
        for first, second in combinations(wanted, 2)
        if not corpus.rows.select(first, second).drop_nulls().is_empty()
    }
    if not pairs:
        raise UserError(
            f"no own row has two of the languages {', '.join(languages)} (or one and English); "
            f"the rows have {', '.join(corpus.languages)}"
        )
    subsets = {name: Subset(tuple(_mteb_code(tag) for tag in pair), pair) for name, pair in pairs.items()}
    used = {tag for pair in pairs.values() for tag in pair}
    missing = tuple(tag for tag in asked if tag not in used)
    return SelectedTask(_task(corpus, subsets), _SPLIT, subsets, missing)


def _mteb_code(tag: str) -> str:
    from langcodes import Language

    return f"{Language.get(tag).to_alpha3()}-{codes_table.script(tag)}"


def _task(corpus: Corpus, subsets: dict[str, Subset]) -> AbsTask:
    from datasets import Dataset
    from mteb.abstasks.task_metadata import TaskMetadata

    from polyalign.evaluation.bitext import PairBitext

    class OwnRowsBitext(PairBitext):
        metadata = TaskMetadata(
            name=NAME,
            description="Held-out rows of the user's own parallel corpus.",
            dataset={"path": "own rows", "revision": corpus.fingerprint},
            type="BitextMining",
            eval_splits=[_SPLIT],
            eval_langs={name: list(subset.codes) for name, subset in subsets.items()},
            main_score="f1",
        )

        def load_data(self, num_proc: int | None = None, **_: Any) -> None:
            self.dataset = {}
            for name, subset in subsets.items():
                rows = corpus.rows.select("row_id", *subset.tags).drop_nulls()
                rows.columns = ["row_id", "sentence1", "sentence2"]
                self.dataset[name] = {_SPLIT: Dataset.from_dict(rows.to_dict(as_series=False))}
            self.data_loaded = True

    return OwnRowsBitext()
