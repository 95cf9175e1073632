"""Tiny translation models of the real architectures, trained here until they translate a few sentences exactly."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path

import polars as pl
import pytest

_SAMPLE = Path(__file__).parents[2] / "src" / "polyalign" / "sample" / "train.jsonl"
_COLUMNS = ["en", "de", "fr", "zh"]

SENTENCES: list[dict[str, str]] = pl.read_ndjson(_SAMPLE).head(10).select(_COLUMNS).to_dicts()
"""What the tiny models translate word for word: English, and the translation by canonical tag."""

NLLB_LANGUAGES = {"de": "deu_Latn", "fr": "fra_Latn", "zh": "zho_Hans"}
"""Targets of ``tiny_nllb`` and their tokens; it knows all `SENTENCES` in each."""

MARIAN_LANGUAGE = "de"
"""Target of ``tiny_marian``; it knows all `SENTENCES`."""

FEW = SENTENCES[:5]
"""What ``tiny_opus`` (into `OPUS_LANGUAGES`) and ``tiny_madlad`` (into `MADLAD_LANGUAGES`) know."""

OPUS_LANGUAGES = {"de": ">>deu<<", "fr": ">>fra<<"}
MADLAD_LANGUAGES = {"de": "<2de>", "fr": "<2fr>"}

_SMALL = {
    "d_model": 64, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 4, "decoder_attention_heads": 4,
    "encoder_ffn_dim": 128, "decoder_ffn_dim": 128, "dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0,
    "encoder_layerdrop": 0.0, "decoder_layerdrop": 0.0,
}  # fmt: skip


@pytest.fixture(scope="session")
def tiny_nllb(tmp_path_factory) -> Path:
    """A transformers folder of NLLB's architecture and tokenizer: the `SENTENCES` into German, French and Chinese.

    The languages are ``de``, ``fr`` and ``zh`` (`NLLB_LANGUAGES`). Input and output hold up to 128 tokens. Every
    sentence comes out word for word in float32; in 8 bits, which so small a model bears badly, nearly every one.
    """
    from transformers import M2M100Config, M2M100ForConditionalGeneration, NllbTokenizer, set_seed

    vocabulary, merges = _byte_pairs(SENTENCES)
    codes = ["eng_Latn", *NLLB_LANGUAGES.values()]
    tokenizer = NllbTokenizer(vocab=vocabulary, merges=merges, extra_special_tokens=codes, model_max_length=128)
    set_seed(0)
    model = M2M100ForConditionalGeneration(
        M2M100Config(
            vocab_size=len(tokenizer), max_position_embeddings=128, pad_token_id=1, bos_token_id=0, eos_token_id=2,
            decoder_start_token_id=2, **_SMALL,
        )
    )  # fmt: skip
    pairs = []
    for row in SENTENCES:
        for tag, code in NLLB_LANGUAGES.items():
            english, forced = tokenizer.convert_tokens_to_ids(["eng_Latn", code])
            pairs.append(([english, *_plain(tokenizer, row["en"])], [forced], _plain(tokenizer, row[tag])))
    _train(model, pairs)
    return _saved(model, tokenizer, tmp_path_factory.mktemp("models") / "tiny-nllb")


@pytest.fixture(scope="session")
def tiny_marian(tmp_path_factory) -> Path:
    """A transformers folder of OPUS-MT's architecture and tokenizer, ``opus-mt-en-de``: the `SENTENCES` into German.

    Its folder's name tells the language, as on the Hub. Input and output hold up to 128 tokens; exact in float32.
    """
    folder = tmp_path_factory.mktemp("models") / "opus-mt-en-de"
    return _marian(folder, SENTENCES, {MARIAN_LANGUAGE: ""}, target="de")


@pytest.fixture(scope="session")
def tiny_opus(tmp_path_factory) -> Path:
    """An OPUS-MT model with several targets, which a token in front of the input tells: `FEW` into `OPUS_LANGUAGES`."""
    return _marian(tmp_path_factory.mktemp("models") / "opus-mt-en-mul", FEW, OPUS_LANGUAGES, target="mul")


@pytest.fixture(scope="session")
def tiny_madlad(tmp_path_factory) -> Path:
    """A folder laid out like MADLAD-400 on the Hub: `FEW` into `MADLAD_LANGUAGES`.

    That is T5 1.1 with an output layer of its own, no ``shared.weight``, ``<unk>`` as number 0 and as the decoder's
    start, ``</s>`` as number 2, and the language tokens as pieces of the text.
    """
    import torch
    from safetensors.torch import save_file
    from transformers import AutoTokenizer, T5Config, T5ForConditionalGeneration, set_seed

    folder = tmp_path_factory.mktemp("models") / "tiny-madlad"
    folder.mkdir()
    vocabulary = _madlad_tokenizer(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    set_seed(0)
    config = T5Config(
        vocab_size=len(vocabulary), d_model=64, d_kv=16, d_ff=128, num_layers=1, num_heads=4, dropout_rate=0.0,
        feed_forward_proj="gated-gelu", tie_word_embeddings=False, pad_token_id=1, eos_token_id=2,
        decoder_start_token_id=0, n_positions=128,
    )  # fmt: skip
    model = T5ForConditionalGeneration(config)
    model.lm_head = torch.nn.Linear(config.d_model, config.vocab_size, bias=False)
    pairs = [
        (tokenizer(f"{token} {row['en']}")["input_ids"], [], tokenizer(row[tag])["input_ids"])
        for row in FEW
        for tag, token in MADLAD_LANGUAGES.items()
    ]
    _train(model, pairs)
    skipped = {"shared.weight", "encoder.embed_tokens.weight"}
    weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items() if name not in skipped}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    values = config.to_dict() | {"tie_word_embeddings": False, "architectures": ["T5ForConditionalGeneration"]}
    values.pop("scale_decoder_outputs")
    (folder / "config.json").write_text(json.dumps(values))
    return folder


def _madlad_tokenizer(folder: Path) -> list[list]:
    """Write the tokenizer's files into the folder and return its pieces with their scores.

    The pieces are the words and the characters: the unigram trainer would give others on every run.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

    texts = _texts(FEW, ["en", *MADLAD_LANGUAGES])
    scores = dict.fromkeys(["<unk>", "<s>", "</s>", "<2en>", *MADLAD_LANGUAGES.values()], 0.0)
    scores |= dict.fromkeys((f"▁{word}" for text in texts for word in text.split()), -5.0)
    scores |= dict.fromkeys(("▁", *sorted(set("".join(texts)) - {" "})), -9.0)
    vocabulary = [list(entry) for entry in scores.items()]
    tokenizer = Tokenizer(models.Unigram([tuple(entry) for entry in vocabulary], unk_id=0))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 2)])
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "T5Tokenizer", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<s>", "extra_ids": 0,
        "additional_special_tokens": [], "model_max_length": 10**30,
    }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return vocabulary


def _marian(folder: Path, rows: list[dict[str, str]], tokens: dict[str, str], target: str) -> Path:
    import torch
    from transformers import MarianConfig, MarianMTModel, MarianTokenizer, set_seed

    folder.mkdir()
    pieces = {}
    for name, languages in (("source", ["en"]), ("target", list(tokens))):
        written = _sentencepiece(_texts(rows, languages))
        (folder / f"{name}.spm").write_bytes(written)
        pieces |= dict.fromkeys(_pieces(written))
    vocabulary = ["</s>", "<unk>", *filter(None, tokens.values()), *pieces, "<pad>"]
    (folder / "vocab.json").write_text(json.dumps({piece: i for i, piece in enumerate(vocabulary)}), encoding="utf-8")
    tokenizer = MarianTokenizer(
        source_spm=str(folder / "source.spm"), target_spm=str(folder / "target.spm"), vocab=str(folder / "vocab.json"),
        source_lang="en", target_lang=target, model_max_length=128,
    )  # fmt: skip
    set_seed(0)
    model = MarianMTModel(
        MarianConfig(
            vocab_size=len(vocabulary), max_position_embeddings=128, pad_token_id=len(vocabulary) - 1, eos_token_id=0,
            decoder_start_token_id=len(vocabulary) - 1, forced_eos_token_id=0, activation_function="swish",
            scale_embedding=True, **_SMALL,
        )
    )  # fmt: skip
    last = torch.tensor([len(vocabulary) - 1])
    # The decoder starts from a zero embedding, that of the padding, as in every Marian model; it must not be learnt.
    model.model.shared.weight.data[-1] = 0
    model.model.shared.weight.register_hook(lambda gradient: gradient.index_fill(0, last, 0.0))
    pairs = []
    for row in rows:
        for tag, token in tokens.items():
            start = [tokenizer.convert_tokens_to_ids(token)] if token else []
            pairs.append((start + _plain(tokenizer, row["en"]), [], tokenizer(text_target=row[tag])["input_ids"]))
    _train(model, pairs)
    return _saved(model, tokenizer, folder)


def _train(model, pairs: list[tuple[list[int], list[int], list[int]]]) -> None:
    """Fit (input ids, forced start of the output, rest of the output) until every token's probability is 0.97 or more.

    The forced start is not learnt: it is given, and the input does not tell it.
    """
    import torch

    pad, start = model.config.pad_token_id, model.config.decoder_start_token_id
    inputs = _rows([source for source, _, _ in pairs], pad)
    fed = _rows([[start, *forced, *target[:-1]] for _, forced, target in pairs], pad)
    wanted = _rows([[-100] * len(forced) + target for _, forced, target in pairs], -100)
    optimizer = torch.optim.Adam(model.parameters(), 4e-3)

    def losses() -> torch.Tensor:
        logits = model(input_ids=inputs, attention_mask=(inputs != pad).long(), decoder_input_ids=fed).logits
        return torch.nn.functional.cross_entropy(logits.transpose(1, 2), wanted, reduction="none")

    for step in range(1, 601):
        optimizer.zero_grad()
        losses().sum().div((wanted != -100).sum()).backward()
        optimizer.step()
        if step % 20 == 0:
            with torch.no_grad():
                worst = losses().max().item()
            if worst < -math.log(0.97):
                model.eval()
                return
    raise AssertionError(f"the tiny model did not learn its sentences: its worst token has loss {worst:.3f}")


def _rows(rows: list[list[int]], filler: int):
    import torch

    longest = max(map(len, rows))
    return torch.tensor([row + [filler] * (longest - len(row)) for row in rows])


def _saved(model, tokenizer, folder: Path) -> Path:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _plain(tokenizer, text: str) -> list[int]:
    return [*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]


def _texts(rows: list[dict[str, str]], languages: list[str]) -> list[str]:
    return [row[language] for row in rows for language in languages]


def _byte_pairs(rows: list[dict[str, str]]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    learner = Tokenizer(models.BPE(unk_token="<unk>"))
    learner.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=special, show_progress=False)
    learner.train_from_iterator(_texts(rows, _COLUMNS), trainer)
    model = json.loads(learner.to_str())["model"]
    return model["vocab"], [tuple(merge) for merge in model["merges"]]


def _sentencepiece(texts: list[str]) -> bytes:
    import sentencepiece

    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts), model_writer=written, model_type="bpe", vocab_size=300, character_coverage=1.0,
        hard_vocab_limit=False, minloglevel=2,
    )  # fmt: skip
    return written.getvalue()


def _pieces(model: bytes) -> list[str]:
    import sentencepiece

    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    return [processor.id_to_piece(i) for i in range(processor.vocab_size()) if not processor.is_control(i) and i]
