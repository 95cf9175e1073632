"""How many texts an evaluation will encode, against how many it then does."""

import pytest

from polyalign.evaluation import evaluate
from polyalign.evaluation.counting import count_texts
from polyalign.storage import read_manifest

pytestmark = [
    pytest.mark.filterwarnings(f"ignore::{category}:mteb")
    for category in ("UserWarning", "FutureWarning", "DeprecationWarning")
]


@pytest.mark.parametrize(
    ("tasks", "exact"),
    [
        (["Tatoeba", "STSBenchmarkMultilingualSTS"], True),
        (["SIB200Bitext", "SIB200Pool"], True),
        (["SIB200Classification", "SIB200ZeroShot"], False),  # a classifier sees a sample of the training texts
    ],
)
def test_it_is_what_an_evaluation_encodes(tasks, exact, make_encoder, mteb_data, tmp_path):
    counted = count_texts(tasks, languages=["de", "zh"], mteb_data=mteb_data)
    evaluate(make_encoder(), tasks=tasks, languages=["de", "zh"], mteb_data=mteb_data, out=tmp_path / "scores")
    encoded = read_manifest(tmp_path / "scores")["cost"]["texts_encoded"]
    assert counted == encoded if exact else encoded <= counted <= 1.5 * encoded
