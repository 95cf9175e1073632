"""Tiny encoders whose vectors are written by hand, and tiny MTEB datasets in the Hub's layout."""

import json

import polars as pl
import pytest

CONCEPTS = ("sun", "moon", "star", "rain", "snow", "wind", "tree", "bird", "fish", "stone")
WORDS = {
    "en": CONCEPTS,
    "de": ("sonne", "mond", "stern", "regen", "schnee", "wind_de", "baum", "vogel", "fisch", "stein"),
    "fr": ("soleil", "lune", "etoile", "pluie", "neige", "vent", "arbre", "oiseau", "poisson", "pierre"),
    "zh": ("太阳", "月亮", "星星", "雨", "雪", "风", "树", "鸟", "鱼", "石头"),
}
FOREIGN = {"de": "deu", "fr": "fra", "zh": "cmn"}


@pytest.fixture(scope="session", autouse=True)
def _datasets_cache(tmp_path_factory):
    import datasets

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("datasets"))
        yield


@pytest.fixture(scope="session")
def make_encoder(tmp_path_factory):
    """Return a function that saves a static encoder giving each word its concept's axis."""

    def make(name="encoder", *, swapped=(), noise=0.0, prompts=None, default_prompt=None, record=None):
        """``swapped``: German words that take the vector of "sonne" instead of their own; ``noise``: added to all."""
        import torch
        from sentence_transformers import SentenceTransformer
        from sentence_transformers.sentence_transformer.modules import StaticEmbedding
        from tokenizers import Tokenizer
        from tokenizers.models import WordLevel
        from tokenizers.pre_tokenizers import WhitespaceSplit

        vocabulary = {"[UNK]": 0}
        rows = [torch.zeros(len(CONCEPTS))]
        for words in WORDS.values():
            for concept, word in enumerate(words):
                vocabulary[word] = len(rows)
                rows.append(torch.nn.functional.one_hot(torch.tensor(0 if word in swapped else concept), len(CONCEPTS)))
        for prefix in (prompts or {}).values():
            if prefix.strip() and prefix.strip() not in vocabulary:
                vocabulary[prefix.strip()] = len(rows)
                rows.append(torch.full((len(CONCEPTS),), 0.1 * len(rows)))
        tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
        tokenizer.pre_tokenizer = WhitespaceSplit()
        weights = torch.stack([row.float() for row in rows])
        weights += noise * torch.randn(weights.shape, generator=torch.Generator().manual_seed(0))
        model = SentenceTransformer(
            modules=[StaticEmbedding(tokenizer, embedding_weights=weights.numpy())],
            prompts=prompts,
            default_prompt_name=default_prompt,
            device="cpu",
        )
        folder = tmp_path_factory.mktemp("encoders") / name
        model.save(str(folder), create_model_card=False)
        if record is not None:
            (folder / "polyalign.json").write_text(json.dumps(record))
        return folder

    return make


def sentences(language, count=8):
    """Sentence i holds the words i and i + 1: distinct, and close to its neighbours."""
    words = WORDS[language]
    return [f"{words[i]} {words[(i + 1) % len(words)]}" for i in range(count)]


@pytest.fixture(scope="session")
def write_dataset():
    """Return a function that writes a dataset in the Hub's layout."""
    return _write_dataset


def _write_dataset(root, hub_id, configs):
    """Write ``{config: {split: frame}}`` as a Hub dataset; a config named default lies at the top."""
    folder = root / hub_id
    lines = ["---", "configs:"]
    for config, splits in configs.items():
        lines += [f"- config_name: {config}", "  data_files:"]
        for split, frame in splits.items():
            path = f"{split}.parquet" if config == "default" else f"{config}/{split}.parquet"
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            frame.write_parquet(folder / path)
            lines += [f"  - split: {split}", f"    path: {path}"]
    (folder / "README.md").write_text("\n".join([*lines, "---", ""]))


@pytest.fixture(scope="session")
def mteb_data(tmp_path_factory):
    """Tatoeba, STSb (dev and test) and SIB-200 (Chinese in both scripts) in all languages, NTREX without Chinese."""
    root = tmp_path_factory.mktemp("mteb_data")
    tatoeba = [
        pl.DataFrame({"sentence1": sentences(tag), "sentence2": sentences("en"), "lang": f"{code}-eng"})
        for tag, code in FOREIGN.items()
    ]
    _write_dataset(root, "mteb/tatoeba-bitext-mining", {"default": {"test": pl.concat(tatoeba)}})

    def sts(shift):
        frames = []
        for tag in WORDS:
            first = sentences(tag)
            second = [first[(i + shift * (i % 3)) % len(first)] for i in range(len(first))]
            scores = [5.0 - 2 * (i % 3) - 0.1 * i for i in range(len(first))]
            frames.append(
                pl.DataFrame({"sentence1": first, "sentence2": second, "similarity_score": scores, "lang": tag})
            )
        return pl.concat(frames)

    _write_dataset(root, "mteb/stsb_multi_mt", {"default": {"dev": sts(2), "test": sts(1)}})

    def sib(tag, start, count):
        """Sentence i holds the words i and i + k, k from 1 to 4: distinct over the 34 of all splits."""
        rows = range(start, start + count)
        words = WORDS[tag]
        columns = {
            "index_id": [str(i) for i in rows],
            "category": ["day" if i % 10 < 5 else "night" for i in rows],
            "text": [f"{words[i % 10]} {words[(i + i // 10 + 1) % 10]}" for i in rows],
        }
        return pl.DataFrame(columns)

    configs = {
        code: {"train": sib(tag, 0, 20), "validation": sib(tag, 20, 4), "test": sib(tag, 24, 10)}
        for code, tag in {
            "eng_Latn": "en",
            "deu_Latn": "de",
            "fra_Latn": "fr",
            "zho_Hans": "zh",
            "zho_Hant": "zh",
        }.items()
    }
    _write_dataset(root, "mteb/sib200", configs)

    ntrex = pl.DataFrame(
        {code: sentences(tag) for code, tag in {"eng_Latn": "en", "deu_Latn": "de", "fra_Latn": "fr"}.items()}
    )
    _write_dataset(root, "mteb/NTREXBitextMining", {"default": {"test": ntrex}})
    return root


@pytest.fixture
def encoded(monkeypatch):
    """Every text that reaches the model, prefix included, in order."""
    from sentence_transformers import SentenceTransformer

    texts = []
    original = SentenceTransformer.encode

    def encode(self, inputs, *args, prompt=None, **kwargs):
        texts.extend((prompt or "") + text for text in inputs)
        return original(self, inputs, *args, prompt=prompt, **kwargs)

    monkeypatch.setattr(SentenceTransformer, "encode", encode)
    return texts
