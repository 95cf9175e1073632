"""The same batch on 1, 2 and 4 processes: the same loss and gradient, negatives taken from all of them."""

import json
import os
import socket
import subprocess
import sys
from functools import partial

import numpy as np
import polars as pl
import pytest
import torch

from polyalign.encoder import load_encoder
from polyalign.training import MultiwayLoss, Objective, TrainingSettings, train
from polyalign.training.distributed import add_up, add_up_gradients, from_first, gather, join, rank, world_size
from polyalign.training.engine import RowBatches

OBJECTIVES = {
    "multi-way": Objective(),
    "english anchors, all negatives": Objective(anchors="english", negatives="all", learn_temperature=True),
    "keep": Objective(keep="soft-labels", keep_weight=0.5, denominator="negatives-only"),
}
ROWS, DIMENSIONS = 7, 6


class Encoder(torch.nn.Module):
    """Numbers in, embeddings out."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(5, DIMENSIONS)
        self.unused = torch.nn.Linear(2, 2)

    def forward(self, features):
        return {"sentence_embedding": self.layer(features["input_ids"])}

    def get_embedding_dimension(self):
        return DIMENSIONS


def rows_of_a_batch():
    """Return for each row its label and features: 2 to 4 texts, the last language often missing, an equal text."""
    generator = torch.Generator().manual_seed(0)
    rows = []
    for row in range(ROWS):
        texts = 2 + row % 3
        label = torch.tensor([[100 + row, language, 1000 * row + language] for language in range(texts)])
        rows.append((label, torch.randn(texts, 5, generator=generator)))
    rows[3][0][1, 2] = rows[5][0][1, 2]
    return rows


def step(rows, objective, cache):
    """Return the loss and the gradients of a process's share of a batch, in two chunks."""
    torch.manual_seed(1)
    model = Encoder()
    keys = torch.arange(100, 100 + ROWS)
    teacher = (
        (keys, torch.randn(ROWS, 3, generator=torch.Generator().manual_seed(2))) if objective.keep != "none" else None
    )
    loss = MultiwayLoss(model, objective, teacher, cache_gradients=cache)
    label = torch.cat([label for label, _ in rows]) if rows else torch.zeros(0, 3, dtype=torch.long)
    features = [{"input_ids": part} for part in torch.cat([f for _, f in rows]).split(4)] if rows else []
    value = loss(features, label)
    value.backward()
    add_up_gradients(loss.parameters())
    return value.item(), {name: p.grad.tolist() for name, p in loss.named_parameters() if p.grad is not None}


def process(index, processes, port, folder):
    """One of several: every objective with and without cached gradients, and the exchanges themselves."""
    torch.set_num_threads(1)
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ |= address | {"RANK": str(index), "WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes)}
    join()
    rows = rows_of_a_batch()[:3] if processes == 4 else rows_of_a_batch()  # three rows leave one of four without any
    found = {
        f"{name} {cache}": step(rows[index::processes], objective, cache)
        for name, objective in OBJECTIVES.items()
        for cache in (False, True)
    }
    joined, own = gather(torch.full((index, 2), float(index)))
    found["gather"] = joined.tolist()
    found["own"] = joined[own].tolist()
    found["sum"] = add_up(torch.tensor(2.0), torch.tensor([index]))[1].tolist()
    found["first"] = from_first({"from": index})
    found["batches"] = list(RowBatches(10, 4, seed=3))
    found["place"] = [rank(), world_size()]
    (folder / f"{processes}-{index}.json").write_text(json.dumps(found))
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module", params=[2, 4])
def processes(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # Forked: so none of them has to import what this one has.
    run = partial(process, processes=request.param, port=port, folder=folder)
    torch.multiprocessing.start_processes(run, nprocs=request.param, start_method="fork")
    return [json.loads((folder / f"{request.param}-{index}.json").read_text()) for index in range(request.param)]


def test_loss_and_gradient_are_those_of_one_process(processes):
    rows = rows_of_a_batch()[:3] if len(processes) == 4 else rows_of_a_batch()
    for name, objective in OBJECTIVES.items():
        value, gradients = step(rows, objective, cache=False)
        for found in processes:
            for cache in (False, True):
                found_value, found_gradients = found[f"{name} {cache}"]
                assert found_value == pytest.approx(value, abs=1e-5)
                for parameter, gradient in gradients.items():
                    np.testing.assert_allclose(
                        found_gradients[parameter], gradient, atol=1e-5, err_msg=f"{name} {parameter}"
                    )


def test_what_the_processes_exchange(processes):
    count = len(processes)
    for index, found in enumerate(processes):
        assert found["gather"] == [[float(other)] * 2 for other in range(count) for _ in range(other)]
        assert found["own"] == [[float(index)] * 2] * index
        assert found["sum"] == [sum(range(count))]
        assert found["first"] == {"from": 0}
        assert found["place"] == [index, count]


def test_a_batch_is_shared_out_without_a_row_twice(processes):
    alone = list(RowBatches(10, 4, seed=3))
    assert [len(batch) for batch in alone] == [4, 4, 2]
    for number, batch in enumerate(alone):
        shares = [found["batches"][number] for found in processes]
        assert sorted(row for share in shares for row in share) == sorted(batch)
        assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_alone_nothing_is_exchanged():
    tensor = torch.tensor([[1.0, 2.0]])
    joined, own = gather(tensor)
    assert torch.equal(joined[own], tensor)
    assert add_up(tensor) == (tensor,)
    assert from_first("this") == "this"
    assert (rank(), world_size()) == (0, 1)


@pytest.fixture(scope="module")
def still_xlmr(tiny_xlmr, tmp_path_factory):
    """The tiny base without dropout, so that processes may draw different numbers."""
    model = load_encoder(tiny_xlmr, device="cpu")
    model[0].model.config.hidden_dropout_prob = model[0].model.config.attention_probs_dropout_prob = 0.0
    folder = tmp_path_factory.mktemp("still") / "base"
    model.save(str(folder))
    return folder


def test_training_on_two_processes_ends_where_one_does(still_xlmr, gappy_file, tmp_path):
    """The command line as the README shows it; the two cache gradients, the one does not."""
    rows = pl.read_parquet(gappy_file)
    assert (len(rows) - 12) % 9 == 3, "the last batch is short"
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "-m",
        "polyalign",
    ]
    command += ["train", gappy_file, "--base", still_xlmr, "--out", tmp_path / "two", "--batch", "9", "--epochs", "1"]
    command += ["--dev-rows", "12", "--objective", "multi-way", "--learn-temperature", "--gradient-cache", "--json"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    two = json.loads(done.stdout)
    settings = TrainingSettings(batch_rows=9, epochs=1, dev_rows=12)
    objective = Objective(learn_temperature=True)
    one = train(gappy_file, tmp_path / "one", base=str(still_xlmr), objective=objective, settings=settings)
    for counted in ("texts_encoded", "rows_seen", "pairs", "steps", "terms_without_negative", "tokens"):
        assert one["cost"][counted] == two["cost"][counted]
    assert (one["processes"], two["processes"]) == (1, 2)
    assert one["temperature"] == pytest.approx(two["temperature"], abs=1e-6)
    assert one["temperature"] != 0.05
    assert one["best"]["dev_accuracy"] == pytest.approx(two["best"]["dev_accuracy"], abs=0.02)
    texts = ["Das Brot.", "早上好。", "Good morning."]
    vectors = [load_encoder(tmp_path / name, device="cpu").encode(texts) for name in ("one", "two")]
    np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-5)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "two"]
