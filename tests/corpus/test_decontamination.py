"""Which texts count as standing in evaluation data, on tiny datasets laid out like those of the Hub."""

import json
import os
import unicodedata
from fractions import Fraction
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mteb.tasks import SIB200Classification

from polyalign import Corpus, build, import_corpus
from polyalign.corpus import decontamination
from polyalign.corpus.decontamination import DecontaminationSettings, Decontaminator, evaluation_texts
from polyalign.errors import UserError
from polyalign.evaluation.crosslingual import TASKS
from polyalign.tasks import DATA_OF, SIB200_LEFT_OUT, load_evaluation_task

NOLLY = "NollySentiBitextMining"  # bitext that evaluates its train split
NTREX = "NTREXBitextMining"  # bitext with a column per language
STS = "STSBenchmarkMultilingualSTS"
BANKING = "Banking77Classification"
SCIFACT = "SciFact"
NEWSGROUPS = "TwentyNewsgroupsClustering"

LONG = "The quick brown fox jumps over the lazy dog near the river."  # 12 words
CHINESE = "敏捷的棕色狐狸跳过河边的一只懒狗"  # 16 characters, 8 words' worth


def write_dataset(root, hub_id, configs):
    """Write ``{config: {split: columns}}`` as a dataset of the Hub; the config "default" lies at the top."""
    lines = ["---", "configs:"]
    for config, splits in configs.items():
        lines += [f"- config_name: {config}", "  data_files:"]
        for split, columns in splits.items():
            path = f"{config}-{split}.parquet"
            (root / hub_id).mkdir(parents=True, exist_ok=True)
            pl.DataFrame(columns).write_parquet(root / hub_id / path)
            lines += [f"  - split: {split}", f"    path: {path}"]
    (root / hub_id / "README.md").write_text("\n".join([*lines, "---", ""]))


@pytest.fixture(scope="module", autouse=True)
def _datasets_cache(tmp_path_factory):
    import datasets

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("datasets"))
        yield


@pytest.fixture(scope="module")
def mteb_data(tmp_path_factory):
    root = tmp_path_factory.mktemp("mteb_data")
    nolly = {
        pair: {
            "train": {"sentence1": [f"A film about {pair}."], "sentence2": [f"Fim {pair}"]},
            "test": {"sentence1": [f"Unused film about {pair}."], "sentence2": [f"Unused fim {pair}"]},
        }
        for pair in ("en-ha", "en-ig", "en-pcm", "en-yo")
    }
    write_dataset(root, "mteb/NollySentiBitextMining", nolly)
    ntrex = {"eng_Latn": [LONG], "zho_Hans": [CHINESE], "url": ["https://example.org/fox"], "deu_Latn": [None]}
    write_dataset(root, "mteb/NTREXBitextMining", {"default": {"test": ntrex}})
    tags = ("en", "de", "es", "fr", "it", "nl", "pl", "pt", "ru", "zh")
    sts = {
        split: {
            "sentence1": [f"A {split} sentence in {tag}." for tag in tags],
            "sentence2": [f"Another {split} sentence in {tag}." for tag in tags],
            "similarity_score": [2.5] * len(tags),
            "lang": tags,
        }
        for split in ("dev", "test", "train")
    }
    write_dataset(root, "mteb/stsb_multi_mt", {"default": sts})
    banking = {
        "train": {"text": ["Where is my money?"], "label": [0], "label_text": ["transfer"]},
        "test": {
            "text": ["Why was my card declined?", "Yes."],
            "label": [1, 0],
            "label_text": ["declined", "transfer"],
        },
    }
    write_dataset(root, "mteb/banking77", {"default": banking})
    scifact = {
        "default": {"test": {"query-id": ["q1"], "corpus-id": ["d1"], "score": [1]}},
        "corpus": {"corpus": {"_id": ["d1", "d2"], "text": ["Foxes jump.", ""], "title": ["On foxes", "On dogs"]}},
        "queries": {"queries": {"_id": ["q1", "q2"], "text": ["Do foxes jump?", "Unjudged?"]}},
    }
    write_dataset(root, "mteb/scifact", scifact)
    newsgroups = {
        "sentences": [["Selling my fox", "Buying a dog"], ["Launch day"]],
        "labels": [["sale", "sale"], ["space"]],
    }
    write_dataset(root, "mteb/twentynewsgroups-clustering", {"default": {"test": newsgroups}})
    return root


@pytest.fixture(scope="module")
def decontaminator(mteb_data):
    tasks = [NOLLY, NTREX, STS, BANKING, NTREX, SCIFACT, NEWSGROUPS]
    return Decontaminator(DecontaminationSettings(tasks=tasks, mteb_data=mteb_data))


def claims(decontaminator, *texts):
    return decontaminator.claims(pl.Series(texts, dtype=pl.String)).rows()


def texts_of(name, mteb_data):
    return set(pl.concat(list(evaluation_texts(load_evaluation_task(name, mteb_data)))))


def test_bitext_evaluates_its_train_split_in_all_subsets(mteb_data):
    pairs = ("en-ha", "en-ig", "en-pcm", "en-yo")
    assert texts_of(NOLLY, mteb_data) == {f"A film about {p}." for p in pairs} | {f"Fim {p}" for p in pairs}


def test_only_language_columns_of_parallel_subsets_are_texts(mteb_data):
    assert texts_of(NTREX, mteb_data) == {LONG, CHINESE}


def test_both_sides_of_all_evaluated_sts_splits_are_texts(mteb_data):
    texts = texts_of(STS, mteb_data)
    assert len(texts) == 2 * 2 * 10
    assert {"A dev sentence in en.", "Another test sentence in zh."} < texts


def test_labels_and_the_split_that_fits_the_classifier_are_no_texts(mteb_data):
    assert texts_of(BANKING, mteb_data) == {"Why was my card declined?", "Yes."}


def test_documents_are_texts_with_and_without_their_title_and_queries_if_judged(mteb_data):
    assert texts_of(SCIFACT, mteb_data) == {"Foxes jump.", "On foxes Foxes jump.", "", "On dogs ", "Do foxes jump?"}


def test_sentences_in_lists_are_texts(mteb_data):
    assert texts_of(NEWSGROUPS, mteb_data) == {"Selling my fox", "Buying a dog", "Launch day"}


def test_tasks_of_our_own_claim_what_they_evaluate(tmp_path, mteb_data, monkeypatch):
    """SIB-200 as bitext evaluates every split, and Simplified Chinese, which the official task leaves out."""
    assert set(DATA_OF) == set(TASKS)
    official = {"eng_Latn": ["eng-Latn"], "deu_Latn": ["deu-Latn"]}
    shorter = SIB200Classification.metadata.model_copy(update={"eval_langs": official})
    monkeypatch.setattr(SIB200Classification, "metadata", shorter)
    splits = ("train", "validation", "test")
    sib = {
        name: {
            split: {"index_id": [number], "category": ["sports"], "text": [f"{name} {split}"]}
            for number, split in enumerate(splits)
        }
        for name in (*official, *SIB200_LEFT_OUT)
    }
    write_dataset(tmp_path, "mteb/sib200", sib)
    for task in ("SIB200Bitext", "SIB200Pool", "SIB200ZeroShot"):
        assert texts_of(task, tmp_path) == {f"{name} {split}" for name in sib for split in splits}
    assert texts_of("SIB200Classification", tmp_path) == {f"{name} {split}" for name in official for split in splits}
    assert texts_of("STSBenchmarkCrosslingual", mteb_data) == texts_of(STS, mteb_data)


@pytest.mark.parametrize(
    ("text", "claim"),
    [
        ("A film about en-ha.", (NOLLY, "exact")),
        ("a FILM about “en ha”!", (NOLLY, "exact")),
        ("A film—about en—ha", (NOLLY, "exact")),
        ("Unused film about en-ha.", (None, None)),
        ("Ａ film\u00a0about e\u00adn\u200b-ha", (NOLLY, "exact")),
        ("A film about", (None, None)),
        (LONG.upper(), (NTREX, "exact")),
        (f"She typed {LONG!r} twice.", (NTREX, "n-gram overlap")),
        ("One fox jumps over the lazy dog near a river", (None, None)),  # 7 words in a row
        ("A fox jumps over the lazy dog near the river", (NTREX, "n-gram overlap")),  # 8
        (" ".join(CHINESE), (NTREX, "exact")),
        (f"他说：{CHINESE}。", (NTREX, "n-gram overlap")),
        (f"他说：{CHINESE[1:]}。", (None, None)),
        ("another test sentence in zh", (STS, "exact")),
        ("YES", (BANKING, "exact")),
        ("transfer", (None, None)),
        ("https://example.org/fox", (None, None)),
        ("On dogs", (SCIFACT, "exact")),
        ("On foxes", (None, None)),
        ("Buying a dog?", (NEWSGROUPS, "exact")),
        ("...", (None, None)),
        ("", (None, None)),
        (None, (None, None)),
    ],
)
def test_claims(decontaminator, text, claim):
    assert claims(decontaminator, text) == [claim]


def test_claims_keep_the_order_and_number_of_texts(decontaminator):
    assert claims(decontaminator) == []
    assert claims(decontaminator, "none", None, "yes", LONG) == [
        (None, None),
        (None, None),
        (BANKING, "exact"),
        (NTREX, "exact"),
    ]


def test_the_task_named_first_claims_what_several_hold(mteb_data, tmp_path):
    (tmp_path / "mteb").mkdir()
    for dataset in (mteb_data / "mteb").iterdir():
        (tmp_path / "mteb" / dataset.name).symlink_to(dataset)
    (tmp_path / "mteb" / "banking77").unlink()
    text = {"text": [LONG, f"{LONG} Or not."], "label": [0, 1]}
    write_dataset(tmp_path, "mteb/banking77", {"default": {"train": text, "test": text}})
    inside = f"As they say: {LONG}"
    for tasks in ([NTREX, BANKING], [BANKING, NTREX]):
        found = claims(Decontaminator(DecontaminationSettings(tasks=tasks, mteb_data=tmp_path)), LONG, inside)
        assert found == [(tasks[0], "exact"), (tasks[0], "n-gram overlap")]


def test_the_length_of_ngrams_is_a_setting(mteb_data):
    part = "brown fox jumps over"
    for length, claim in ((4, (NTREX, "n-gram overlap")), (5, (None, None))):
        settings = DecontaminationSettings(tasks=[NTREX], mteb_data=mteb_data, ngram_words=length)
        assert claims(Decontaminator(settings), part) == [claim]


def test_a_removed_row_is_listed_once_with_its_strongest_claim(decontaminator):
    rows = pl.DataFrame(
        {
            "row_id": ["a", "b", "c", "d"],
            "en": [f"Look: {LONG}", "fine", "Launch day", None],
            "de": ["Yes!", "gut", "Starttag", "auch gut"],
            "zh": [CHINESE, "好", None, f"看：{CHINESE}"],
        }
    )
    assert decontaminator.removed(rows).rows() == [
        ("a", "de", BANKING, "exact"),
        ("c", "en", NEWSGROUPS, "exact"),
        ("d", "zh", NTREX, "n-gram overlap"),
    ]
    assert decontaminator.removed(rows).columns == ["row_id", "language", "task", "how"]
    assert decontaminator.removed(rows.select("row_id", "en")).rows() == [
        ("a", "en", NTREX, "n-gram overlap"),
        ("c", "en", NEWSGROUPS, "exact"),
    ]
    assert decontaminator.removed(rows.clear()).is_empty()


def test_provenance_says_what_was_compared(decontaminator):
    provenance = decontaminator.provenance
    assert provenance["ngram_words"] == 8
    assert [task["task"] for task in provenance["tasks"]] == [NOLLY, NTREX, STS, BANKING, SCIFACT, NEWSGROUPS]
    assert provenance["tasks"][0] == {
        "task": NOLLY,
        "dataset": "mteb/NollySentiBitextMining",
        "revision": "77d807ea44797c4663a3e0aca353d630c62d85cf",
        "splits": ["train"],
        "subsets": 4,
        "texts": 8,
    }


def test_incomplete_data_is_refused(mteb_data, tmp_path):
    write_dataset(tmp_path, "mteb/NTREXBitextMining", {"default": {"train": {"eng_Latn": [LONG]}}})
    write_dataset(tmp_path, "mteb/banking77", {"default": {"test": {"body": ["Yes."], "label": [0]}}})
    for name, message in (
        (
            NTREX,
            r"^the data of task 'NTREXBitextMining', subset 'all', split 'test', is missing; get the dataset whole",
        ),
        (BANKING, r"subset 'default', split 'test', has none of the columns text, but body, label; get the dataset at"),
    ):
        decontaminator = Decontaminator(DecontaminationSettings(tasks=[name], mteb_data=tmp_path))
        with pytest.raises(UserError, match=message):
            claims(decontaminator, "any")


def test_settings_are_checked():
    with pytest.raises(UserError, match=r"^recipe: tasks is \[\], .* at least 1 item"):
        DecontaminationSettings.checked({"tasks": []}, "recipe")
    with pytest.raises(UserError, match=r"ngram_words is 0, must be greater than or equal to 1"):
        DecontaminationSettings.checked({"tasks": ["Tatoeba"], "ngram_words": 0}, "recipe")


PARTS = {
    "狐": Fraction(1, 2),
    "狸": Fraction(1, 2),
    "き": Fraction(1, 3),
    "ー": Fraction(1, 3),
    "ก": Fraction(1, 4),
    "\u0e49": Fraction(1, 4),  # a tone mark
}


def naive_tokens(text):
    tokens, last = [], "nothing"
    for character in unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold()):
        category = unicodedata.category(character)
        if category == "Cf" or character in "'‘’ʼ":
            continue
        if category[0] == "M" and last == "character":
            tokens[-1] += character
        elif character in PARTS:
            tokens.append(character)
            last = "character"
        elif category[0] in "LMN" or category in ("Sm", "Sc", "So"):
            tokens.append(tokens.pop() + character if last == "word" else character)
            last = "word"
        else:
            last = "nothing"
    return tokens


def naive_ngrams(tokens, words):
    ngrams = set()
    for start in range(len(tokens)):
        for end in range(start + 1, len(tokens) + 1):
            if sum(PARTS.get(token[0], 1) for token in tokens[start:end]) >= words:
                ngrams.add(tuple(tokens[start:end]))
                break
    return ngrams


@pytest.mark.parametrize("bytes_per_slice", [1, 16, 1 << 20])
@given(
    texts=st.lists(st.none() | st.text("aAßé\u0301 ,.'’`+1\u00ad狐狸きーก\u0e49", max_size=16), max_size=8),
    words=st.integers(1, 3),
)
def test_hashes_are_equal_where_tokens_and_ngrams_are(bytes_per_slice, texts, words):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decontamination, "_BYTES_PER_SLICE", bytes_per_slice)
        whole, ngrams = [], []
        for part in decontamination._hashed(pl.Series(texts, dtype=pl.String), words):
            whole += part.texts.tolist()
            ngrams += [set(part.ngrams[part.owners == i].tolist()) for i in range(len(part.texts))]
    tokens = [naive_tokens(text or "") for text in texts]
    expected = [naive_ngrams(own, words) for own in tokens]
    assert len(whole) == len(texts)
    assert [len(own) for own in ngrams] == [len(own) for own in expected]
    for i in range(len(texts)):
        assert (whole[i] == 0) == (not tokens[i])
        for j in range(i):
            assert (whole[i] == whole[j]) == ("".join(tokens[i]) == "".join(tokens[j]))
            assert len(ngrams[i] & ngrams[j]) == len(expected[i] & expected[j])


@given(
    st.lists(st.lists(st.integers(0, 2**64 - 1) | st.integers(0, 5), max_size=20), min_size=1, max_size=4),
    st.lists(st.integers(0, 2**64 - 1) | st.integers(0, 6), max_size=20),
)
def test_an_index_finds_the_first_task_that_has_a_hash(by_task, wanted):
    index = decontamination._Index.of([np.array(own, dtype=np.uint64) for own in by_task])
    wanted += [value for own in by_task for value in own]
    expected = [next((i for i, own in enumerate(by_task) if value in own), 99) for value in wanted]
    assert index.find(np.array(wanted, dtype=np.uint64), 99).tolist() == expected


def test_case_does_not_matter_in_any_script():
    for text in ("Straße", "ΐ", "İstanbul ışıkları", "istanbul IŞIKLARI", "ﬁn", "ΟΔΥΣΣΕΎΣ", "ǅ", "ԵՒ"):
        (hashes,) = decontamination._hashed(pl.Series([text, text.upper(), text.lower(), text.title()]), 8)
        assert set(hashes.texts.tolist()) == {hashes.texts[0]}, text


def test_punctuation_that_belongs_to_a_script_does_not_matter():
    for text in ("ខ្ញុំមានសំនួរមួយ។", "မင်္ဂလာပါ။", "ラーメン・うどん", "สวัสดี๚"):
        (hashes,) = decontamination._hashed(pl.Series([text, text.translate(str.maketrans("", "", "។။・๚"))]), 8)
        assert hashes.texts[0] == hashes.texts[1], text


def test_planted_tatoeba_sentences_are_found():
    data = Path(os.environ.get("POLYALIGN_DATA", Path(__file__).parents[3] / "shared" / "data"))
    file = data / "mteb" / "mteb" / "tatoeba-bitext-mining" / "test.parquet"
    if not file.is_file():
        pytest.skip(f"no evaluation data in {data}; POLYALIGN_DATA names its folder")
    decontaminator = Decontaminator(DecontaminationSettings(tasks=["Tatoeba"], mteb_data=data / "mteb"))
    planted = pl.read_parquet(file).filter(pl.col("lang").is_in(["deu-eng", "cmn-eng"]))
    for text in (planted["sentence1"], planted["sentence2"], planted["sentence1"].str.to_uppercase() + "!"):
        assert decontaminator.claims(text)["how"].unique().to_list() == ["exact"]


CONTAMINATED = [
    {"en": "A train sentence in en.", "de": "Ein Satz.", "fr": "Une phrase."},  # STSb evaluates no train split
    {"en": "Nobody has seen this one.", "de": "A test sentence in de.", "fr": "Une autre phrase."},
    {"en": "A film about en-ha!", "de": "Ein Film.", "fr": "Un film."},
    {"en": "A good row stays.", "de": "Eine gute Zeile bleibt.", "fr": "Une bonne ligne reste."},
]
KEPT = ["A train sentence in en.", "A good row stays."]


def removed_from(out):
    listed = json.loads((out / "manifest.json").read_text())["provenance"]["decontamination"]["removed"]
    return {(row["language"], row["task"], row["how"]) for row in listed}


def test_import_lists_what_it_removes_with_the_task_that_claims_it(mteb_data, tmp_path):
    source = tmp_path / "rows.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in CONTAMINATED))
    settings = DecontaminationSettings(tasks=[STS, NOLLY], mteb_data=mteb_data)
    corpus = import_corpus([source], tmp_path / "corpus", decontaminate=settings)
    assert corpus.rows["en"].to_list() == KEPT
    assert corpus.report["dropped"] == {"in evaluation data": 2}
    assert removed_from(tmp_path / "corpus") == {("de", STS, "exact"), ("en", NOLLY, "exact")}


def test_build_looks_at_the_english_and_at_every_translation(mteb_data, tmp_path):
    source = tmp_path / "rows.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in CONTAMINATED))
    request = {
        "english": str(source), "source": {"column": "en"}, "to": ["de", "fr"], "engines": [f"memory:{source}"],
        "decontaminate": {"tasks": [STS, NOLLY], "mteb_data": str(mteb_data)},
        "verdicts": {"ignored": ["wrong language"]},
    }  # fmt: skip
    manifest = build(request, tmp_path / "corpus", memory=tmp_path / "memory")
    assert Corpus.open(tmp_path / "corpus").rows["en"].to_list() == KEPT
    assert manifest["report"]["rows_read"] == 4
    assert manifest["report"]["dropped"] == {"in evaluation data": 2}
    assert removed_from(tmp_path / "corpus") == {("de", STS, "exact"), ("en", NOLLY, "exact")}
