"""Official MTEB tasks: which are supported, their families and languages, and where their data lies.

A task runs as MTEB wrote it. What is chosen here is only which of its subsets and which of its splits run, and
whether the data comes from the Hub or from a local folder in the Hub's layout.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from polyalign import languages as codes_table
from polyalign.errors import UserError, nearest
from polyalign.metrics import MAIN_METRICS
from polyalign.storage import fingerprint

if TYPE_CHECKING:
    from mteb.abstasks import AbsTask

FAMILIES = {"BitextMining": "bitext", "STS": "sts", "Classification": "classification"}
"""MTEB's task type -> our family."""

DATA_OF = {
    "SIB200Bitext": "SIB200Classification",
    "SIB200Pool": "SIB200Classification",
    "SIB200ZeroShot": "SIB200Classification",
    "STSBenchmarkCrosslingual": "STSBenchmarkMultilingualSTS",
}
"""Each of `polyalign.evaluation.crosslingual.TASKS` -> the official task whose data it evaluates."""

# SIB-200 has 205 languages, the official task these fewer: its "zh" is zho_Hant, ours is zho_Hans.
SIB200_LEFT_OUT = ("ace_Arab", "arb_Arab", "bjn_Arab", "kas_Arab", "knc_Arab", "min_Arab", "taq_Latn", "zho_Hans")

ALL_LANGUAGES = "all"
ENGLISH = "en"


@dataclass(frozen=True)
class Subset:
    """The languages of one subset of a task.

    Attributes:
        codes: MTEB's codes in the subset's own order, such as ``("deu-Latn", "eng-Latn")``.
        tags: the same languages as canonical tags; the tag that was asked for where several mean the same code.
    """

    codes: tuple[str, ...]
    tags: tuple[str, ...]

    @property
    def languages(self) -> list[str]:
        """The distinct tags, English first."""
        return sorted(dict.fromkeys(self.tags), key=lambda tag: tag != ENGLISH)

    @property
    def script(self) -> str:
        """ISO 15924 script of the side that is not English; ``Latn+Cyrl`` for two other languages in two scripts."""
        foreign = [code for code in self.codes if not is_english(code)] or self.codes
        return "+".join(dict.fromkeys(code.split("-")[1] for code in foreign))

    def exposure(self, seen: Collection[str]) -> str:
        """Return ``seen`` if ``seen`` holds all tags but English, ``english`` if there is no other, or ``unseen``."""
        foreign = [(code, tag) for code, tag in zip(self.codes, self.tags, strict=True) if not is_english(code)]
        if not foreign:
            return "english"
        known = all(
            tag in seen or any(codes_table.mteb_codes(other, [code]) for other in seen) for code, tag in foreign
        )
        return "seen" if known else "unseen"


@dataclass(frozen=True)
class SelectedTask:
    """An MTEB task cut down to the subsets of the languages asked for, and to one split.

    Attributes:
        task: the instance to run.
        split: the one split that runs.
        subsets: MTEB's subset name -> its languages; all that runs, in MTEB's order.
        missing: tags asked for that no subset has.
    """

    task: AbsTask
    split: str
    subsets: dict[str, Subset]
    missing: tuple[str, ...]

    @property
    def name(self) -> str:
        """MTEB's name of the task."""
        return str(self.task.metadata.name)

    @property
    def family(self) -> str:
        """``bitext``, ``sts`` or ``classification``; or what a task that is not MTEB's says of itself."""
        return str(getattr(self.task, "family", FAMILIES[self.task.metadata.type]))


def is_english(code: str) -> bool:
    """Return whether an MTEB code such as ``eng-Latn`` is English."""
    return code.split("-")[0] == "eng"


def load_tasks(
    names: Iterable[str],
    languages: Sequence[str],
    split: str | None = None,
    mteb_data: Path | None = None,
    *,
    beside: Sequence[str] = (),
) -> list[SelectedTask]:
    """Return the official tasks ``names``, cut down to ``languages`` and one split; no data is read yet.

    Args:
        names: MTEB task names.
        languages: canonical tags, or ``["all"]`` for every subset. English joins bitext tasks by itself.
        split: the split to run; None takes ``test`` where the task evaluates it, else the first it evaluates.
        mteb_data: folder that holds the tasks' datasets under their Hub ids; None loads them from the Hub.
        beside: names of tasks that are not MTEB's, which an unknown name may mean.

    Raises:
        UserError: for a task that is unknown, of another family, without the split, without any of the languages,
            or without its folder in ``mteb_data``.
    """
    selected = []
    for name in dict.fromkeys(names):
        task = _official_task(name, beside)
        if mteb_data is not None:
            use_local_data(task, mteb_data)
        selected.append(select(task, languages, split, pivot=task.metadata.type == "BitextMining"))
    return selected


def load_evaluation_task(name: str, mteb_data: Path | None = None) -> AbsTask:
    """Return a task of any type with text, with the data of all its subsets.

    Args:
        name: MTEB task name, or one of `DATA_OF`: the official task, with every language that ours has.
        mteb_data: folder that holds the task's dataset under its Hub id; None loads it from the Hub.

    Raises:
        UserError: for a task that is unknown, has no text or is an aggregate, and when its data cannot be loaded.
    """
    from mteb.abstasks import AbsTaskRetrieval

    task = _task_with_text(DATA_OF.get(name, name), beside=list(DATA_OF))
    if name != task.metadata.name and task.metadata.name == "SIB200Classification":
        task.hf_subsets = [*task.hf_subsets, *SIB200_LEFT_OUT]
    if mteb_data is not None:
        use_local_data(task, mteb_data)
    try:
        task.load_data()
        if isinstance(task, AbsTaskRetrieval):
            task.convert_v1_dataset_format_to_v2(num_proc=None)
    except Exception as error:  # the library, a task's own code and the network raise what they like
        reason = (str(error).splitlines() or [""])[0]
        raise UserError(
            f"cannot load the data of task {name!r} ({type(error).__name__}: {reason}); give --mteb-data FOLDER with a "
            f"copy of the Hub dataset in FOLDER/{type(task).metadata.dataset['path']}, or use a machine with network"
        ) from error
    return task


def _task_with_text(name: str, beside: Sequence[str]) -> AbsTask:
    from mteb.abstasks.aggregated_task import AbsTaskAggregate

    allowed = f"MTEB tasks with text; {', '.join(beside)}"
    task = _known_task(name, None, allowed, beside)
    if isinstance(task, AbsTaskAggregate):
        parts = ", ".join(part.metadata.name for part in task.metadata.tasks)
        raise UserError(f"task {name!r} is an aggregate; name its parts instead: {parts}")
    if "text" not in task.modalities:
        raise UserError(f"task {name!r} is of {' and '.join(task.modalities)}; allowed: {allowed}")
    return task


def _known_task(name: str, types: Sequence[str] | None, allowed: str, beside: Sequence[str] = ()) -> AbsTask:
    import mteb

    try:
        return mteb.get_task(name)
    except KeyError as error:
        known = mteb.get_tasks(task_types=types, exclude_superseded=False)
        close = nearest(name, [*beside, *(task.metadata.name for task in known)])
        raise UserError(f"unknown MTEB task {name!r}{close}; allowed: {allowed}") from error


def _official_task(name: str, beside: Sequence[str]) -> AbsTask:
    from mteb.abstasks import AbsTaskClassification
    from mteb.abstasks.aggregated_task import AbsTaskAggregate

    ours = f"; {', '.join(beside)}" if beside else ""
    task = _known_task(name, list(FAMILIES), f"MTEB tasks of type {_families()}{ours}", beside)
    kind = task.metadata.type
    if kind not in FAMILIES or isinstance(task, AbsTaskAggregate):
        raise UserError(f"task {name!r} is of MTEB's type {kind}; allowed: single tasks of type {_families()}")
    metric, supported = task.metadata.main_score, MAIN_METRICS[FAMILIES[kind]]
    if metric != supported:
        raise UserError(f"task {name!r} is scored by {metric!r}; allowed: {kind} tasks scored by {supported!r}")
    if isinstance(task, AbsTaskClassification) and task.is_cross_validation:
        raise UserError(f"task {name!r} is cross-validated; allowed: classification tasks with a split of their own")
    return task


def _families() -> str:
    return ", ".join(f"{kind} ({family})" for kind, family in FAMILIES.items())


def use_local_data(task: AbsTask, mteb_data: Path) -> None:
    """Let this instance of a task load its dataset from ``mteb_data``, where it lies under its Hub id.

    Raises:
        UserError: when it does not.
    """
    hub_id = task.metadata.dataset["path"]
    folder = mteb_data / hub_id
    if not folder.is_dir():
        raise UserError(
            f"the data of task {task.metadata.name!r} is not in {folder}; copy the Hub dataset {hub_id!r} there, "
            "or leave out --mteb-data to load it from the Hub"
        )
    # The metadata belongs to the class: changed in place it would follow every later instance of the task.
    dataset = {**task.metadata.dataset, "path": str(_alias(folder.resolve()))}
    task.metadata = task.metadata.model_copy(update={"dataset": dataset})


def _alias(folder: Path) -> Path:
    """Return a link to a folder of data, named after its place and state.

    The cache of `datasets` tells folders apart by their last name alone: without the link, the data of another
    ``--mteb-data``, or of the same one before a change, would be used in silence.
    """
    from datasets import config

    stats = [(str(file), file.stat()) for file in sorted(folder.rglob("*")) if file.is_file()]
    state = fingerprint([[file, stat.st_size, stat.st_mtime_ns] for file, stat in stats])
    alias = Path(config.HF_DATASETS_CACHE) / "polyalign" / f"{folder.name}_{state}"
    alias.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):
        alias.symlink_to(folder)
    return alias


def select(task: AbsTask, languages: Sequence[str], split: str | None, *, pivot: bool) -> SelectedTask:
    """Return a task cut down to the subsets of some languages and to one split.

    Args:
        task: the instance to run; it is changed.
        languages: canonical tags, or ``["all"]`` for every subset.
        split: the split to run; None takes ``test`` where the task evaluates it, else the first it evaluates.
        pivot: whether English joins as the other side of a pair without being asked for.

    Raises:
        UserError: for a task without the split, or without any of the languages.
    """
    name, all_subsets = task.metadata.name, task.metadata.hf_subsets_to_langscripts
    split = _choose_split(task, split)
    available = dict.fromkeys(code for codes in all_subsets.values() for code in codes)
    tags = _tags(available, languages, [ENGLISH] if pivot else [])
    subsets = {
        subset: Subset(tuple(codes), tuple(tags[code] for code in codes))
        for subset, codes in all_subsets.items()
        # English is only the pivot of a pair, unless it was asked for itself.
        if all(code in tags for code in codes) and not (pivot and _pivot_only(codes, languages))
    }
    if not subsets:
        own = sorted({_tag(code) for code in available})
        raise UserError(
            f"task {name!r} has none of the languages {', '.join(languages)} (a pair needs both of its languages); "
            f"it has {', '.join(own[:20])}{', ...' if len(own) > 20 else ''}; choose among them or leave the task out"
        )
    used = {code for subset in subsets.values() for code in subset.codes}
    missing = tuple(tag for tag in languages if tag != ALL_LANGUAGES and not codes_table.mteb_codes(tag, used))
    task.filter_languages(None, hf_subsets=list(subsets)).filter_eval_splits([split])
    return SelectedTask(task, split, subsets, missing)


def _choose_split(task: AbsTask, split: str | None) -> str:
    own = list(task.metadata.eval_splits)
    if split is None:
        return "test" if "test" in own else own[0]
    if split not in own:
        raise UserError(f"task {task.metadata.name!r} has no split {split!r}; allowed: {', '.join(own)}")
    return split


def _tags(available: Iterable[str], languages: Sequence[str], pivot: Sequence[str]) -> dict[str, str]:
    """Return the tag of every available code that is wanted."""
    if ALL_LANGUAGES in languages:
        return {code: _tag(code) for code in available}
    tags: dict[str, str] = {}
    for tag in (*languages, *pivot):
        for code in codes_table.mteb_codes(tag, available):
            # "zh" means either script; "zh-Hant" asked for beside it is the better name of zho-Hant.
            if code not in tags or codes_table.from_mteb(code) == tag:
                tags[code] = tag
    return tags


def _tag(code: str) -> str:
    """Return the tag of any code; for a language that the table of languages lacks, its ISO 639-3 code."""
    return codes_table.from_mteb(code) if codes_table.is_known(code) else code.split("-")[0]


def _pivot_only(codes: Iterable[str], languages: Sequence[str]) -> bool:
    return all(is_english(code) for code in codes) and not {ENGLISH, ALL_LANGUAGES} & set(languages)
