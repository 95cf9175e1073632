"""Bases: the one made on the spot is the same every time, and E5 gets its prefix."""

import subprocess
import sys

import numpy as np
import pytest

from polyalign.corpus import Corpus
from polyalign.encoder import encoder_fingerprint
from polyalign.training import TrainingSettings
from polyalign.training.bases import load_base

SCRIPT = """
import sys
from polyalign.corpus import Corpus
from polyalign.encoder import encoder_fingerprint
from polyalign.training import TrainingSettings
from polyalign.training.bases import load_base
print(encoder_fingerprint(load_base("static", Corpus.open(sys.argv[1]), TrainingSettings(), seed=3)))
"""


def test_static_is_the_same_in_every_process(gappy_file):
    corpus = Corpus.open(gappy_file)
    here = encoder_fingerprint(load_base("static", corpus, TrainingSettings(), seed=3))
    there = subprocess.run([sys.executable, "-c", SCRIPT, str(gappy_file)], capture_output=True, text=True, check=True)
    assert there.stdout.strip() == here
    assert encoder_fingerprint(load_base("static", corpus, TrainingSettings(), seed=4)) != here


def test_static_is_the_mean_of_small_embeddings_and_ignores_case(gappy_file):
    settings = TrainingSettings(static={"dimensions": 16, "vocabulary": 500})
    model = load_base("static", Corpus.open(gappy_file), settings, seed=0)
    weights = model[0].embedding.weight
    assert weights.shape[1] == 16
    assert weights.shape[0] <= 500
    assert weights.detach().std().item() == pytest.approx(0.1, rel=0.1)
    ids = model.tokenizer.encode("warm bread").ids
    np.testing.assert_allclose(model.encode("Warm BREAD"), weights[ids].mean(0).detach().numpy(), rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "prompt", "expected"),
    [
        ("multilingual-e5-base", None, "query: "),
        ("e5-small-v2", None, "query: "),
        ("multilingual-e5-base", "passage: ", "passage: "),
        ("multilingual-e5-base", "", ""),
        ("xlm-roberta-base", None, None),
        ("me5x-base5-smalltalk", None, None),
    ],
)
def test_the_prefix_of_e5(name, prompt, expected, tiny_xlmr, gappy_file, tmp_path):
    (tmp_path / name).symlink_to(tiny_xlmr)
    settings = TrainingSettings(prompt=prompt, max_seq_length=32)
    model = load_base(str(tmp_path / name), Corpus.open(gappy_file), settings, seed=0)
    assert model.prompts.get(model.default_prompt_name) == expected
    assert model.max_seq_length == 32
