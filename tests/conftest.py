"""Small corpora and tiny encoders of the real architectures, built on the spot: nothing is downloaded."""

import gc
import multiprocessing
import os
from multiprocessing import forkserver
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # models and frames are tiny: threads only wait for each other
os.environ.setdefault("POLARS_MAX_THREADS", "1")  # read at the import

import hypothesis
import polars as pl
import pytest

# Nothing is timed: a busy machine must not fail a test.
hypothesis.settings.register_profile(
    "untimed", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow], derandomize=True
)
hypothesis.settings.load_profile("untimed")


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory):
    """Tokens and the like are kept apart from the user's own, for subprocesses, too."""
    os.environ["POLYALIGN_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module", autouse=True)
def _only_new_objects_are_collected():
    """Every training ends with a garbage collection, which would look at all modules again: half a second each."""
    gc.freeze()


PRELOADED = """
import polyalign.running
import polyalign.translation.building
from polyalign.identification import _model
_model()
"""


@pytest.fixture(scope="session")
def start_process(tmp_path_factory):
    """Return a function that starts a script, with its global names, in a process where all is loaded.

    It is forked from one server, which loads modules and the language model once: five seconds and half a second.
    """
    folder = tmp_path_factory.mktemp("preloaded")
    (folder / "polyalign_preloaded.py").write_text(PRELOADED)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["polyalign_preloaded"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(folder), prepend=os.pathsep)
        forkserver.ensure_running()

    def start(script, **names):
        process = context.Process(target=exec, args=(script, names))
        process.start()
        return process

    return start


SAMPLE = Path(__file__).parents[1] / "src" / "polyalign" / "sample"


@pytest.fixture(scope="session")
def sample_rows() -> pl.DataFrame:
    """The 500 packaged rows in seven languages."""
    return pl.read_ndjson(SAMPLE / "train.jsonl")


@pytest.fixture(scope="session")
def gappy_file(sample_rows, tmp_path_factory) -> Path:
    """60 rows in English, German, Russian and Chinese, where every third German and every fifth Chinese is missing."""
    rows = sample_rows.head(60).select("en", "de", "ru", "zh").with_row_index()
    rows = rows.with_columns(
        de=pl.when(pl.col("index") % 3 == 0).then(None).otherwise("de"),
        zh=pl.when(pl.col("index") % 5 == 0).then(None).otherwise("zh"),
    )
    path = tmp_path_factory.mktemp("corpus") / "gappy.parquet"
    rows.drop("index").write_parquet(path)
    return path


@pytest.fixture(scope="session")
def texts(sample_rows) -> list[str]:
    return [text for column in sample_rows.columns for text in sample_rows[column].head(80)]


@pytest.fixture(scope="session")
def tiny_xlmr(tmp_path_factory, texts) -> str:
    """A bare transformers folder in the shape of XLM-R: subwords, position ids from the padding."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast, XLMRobertaConfig, XLMRobertaModel, set_seed

    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.BpeTrainer(vocab_size=1500, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", cls_token="<s>", pad_token="<pad>", eos_token="</s>",
        sep_token="</s>", unk_token="<unk>", mask_token="<mask>", model_max_length=64,
    )  # fmt: skip
    set_seed(0)
    config = XLMRobertaConfig(
        vocab_size=len(fast), hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
        max_position_embeddings=66, pad_token_id=1, bos_token_id=0, eos_token_id=2,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("tiny") / "xlm-roberta"
    XLMRobertaModel(config).save_pretrained(folder)
    fast.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def make_bert(tmp_path_factory):
    """Return a function that writes a bare transformers folder in the shape of BERT: WordPiece, token types."""

    def make(texts, *, subwords, lowercase=False, alphabet="", layers=2, hidden=32) -> str:
        """``texts``: to learn the subwords from; ``alphabet``: letters that it knows in any case."""
        from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
        from transformers import BertConfig, BertModel, BertTokenizerFast, set_seed

        from polyalign.training.extension import wordpieces

        tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        found = wordpieces(tokenizer, texts, subwords, min_frequency=0)
        special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
        pieces = dict.fromkeys([*special, *alphabet, *sorted(found, key=found.__getitem__)])
        tokenizer.model = models.WordPiece({piece: i for i, piece in enumerate(pieces)}, unk_token="[UNK]")
        tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
        fast = BertTokenizerFast(tokenizer_object=tokenizer, model_max_length=64)
        set_seed(0)
        config = BertConfig(
            vocab_size=len(fast), hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=4,
            intermediate_size=64, max_position_embeddings=64,
        )  # fmt: skip
        folder = tmp_path_factory.mktemp("bert") / "bert"
        BertModel(config).save_pretrained(folder)
        fast.save_pretrained(folder)
        return str(folder)

    return make


@pytest.fixture(scope="session")
def tiny_bert(make_bert, texts) -> str:
    """A bare transformers folder in the shape of multilingual BERT."""
    return make_bert(texts, subwords=900)
