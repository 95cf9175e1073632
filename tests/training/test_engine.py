"""The engine against a loop that anybody would write: one padded batch, a dense loss, AdamW over every weight."""

import pytest
import torch
from torch.nn.functional import normalize

from polyalign.corpus import Corpus
from polyalign.encoder import load_encoder
from polyalign.training import Objective, TrainingSettings, train
from polyalign.training.batches import batches_of_epoch

STEPS, BATCH, RATE = 60, 9, 1e-3


@pytest.fixture(scope="module")
def still_base(tiny_xlmr, tmp_path_factory):
    """A tiny base without dropout."""
    model = load_encoder(tiny_xlmr, device="cpu")
    model[0].model.config.hidden_dropout_prob = model[0].model.config.attention_probs_dropout_prob = 0.0
    folder = tmp_path_factory.mktemp("still") / "base"
    model.save(str(folder))
    return str(folder)


def plain_loss(embeddings, row, language):
    """Every language anchors every other, negatives in the positive's language; the sample has no equal texts."""
    cosine = normalize(embeddings) @ normalize(embeddings).T / 0.05
    same_row = row[:, None] == row
    terms = []
    for b in language.unique():
        column = language == b
        candidates = cosine.masked_fill(~column, -torch.inf)
        for t in range(len(row)):
            positive = (same_row[t] & column).nonzero().flatten()
            others = candidates[t].masked_fill(same_row[t], -torch.inf)
            if language[t] != b and len(positive) and (others > -torch.inf).any():
                own = cosine[t, positive[0]]
                terms.append(torch.logaddexp(others.logsumexp(0), own) - own)
    return torch.stack(terms).mean()


def plain_training(base, corpus):
    model = load_encoder(base, device="cpu").train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / STEPS)
    epochs = range(-(-STEPS * BATCH // len(corpus)))
    batches = [batch for epoch in epochs for batch in batches_of_epoch(len(corpus), BATCH, seed=4, epoch=epoch)]
    for batch in batches[:STEPS]:
        cells = [
            (row, number, corpus.rows[language][row])
            for row in batch
            for number, language in enumerate(corpus.languages)
            if corpus.rows[language][row] is not None
        ]
        rows, languages, texts = zip(*cells, strict=True)
        embeddings = model(model.preprocess(list(texts)))["sentence_embedding"]
        plain_loss(embeddings, torch.tensor(rows), torch.tensor(languages)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    return model.eval()


@pytest.fixture(scope="module")
def plain(still_base, gappy_file):
    return plain_training(still_base, Corpus.open(gappy_file))


@pytest.mark.parametrize("cache", [False, True], ids=["plain graph", "cached gradients"])
def test_sixty_steps_end_where_a_plain_loop_does(still_base, cache, gappy_file, tmp_path, plain):
    settings = TrainingSettings(
        steps=STEPS,
        batch_rows=BATCH,
        dev_rows=0,
        learning_rate=RATE,
        warmup=0,
        gradient_cache=cache,
        tokens_per_chunk=96,
    )
    train(gappy_file, tmp_path / "out", base=still_base, settings=settings, seed=4, objective="multi-way")
    texts = ["Das Brot.", "早上好。", "Good morning.", "Где вокзал?"]
    ours = load_encoder(tmp_path / "out", device="cpu")
    before = load_encoder(still_base, device="cpu").encode(texts, convert_to_tensor=True)
    reached = plain.encode(texts, convert_to_tensor=True)
    torch.testing.assert_close(ours.encode(texts, convert_to_tensor=True), reached, rtol=0, atol=1e-5)
    assert (reached - before).abs().max() > 0.1


def test_weight_decay_leaves_the_temperature_alone(still_base, gappy_file, tmp_path):
    """With a learning rate of nearly nothing decay would be all that moves it, as it moves the weights."""
    settings = TrainingSettings(steps=3, batch_rows=9, dev_rows=0, learning_rate=1e-12, weight_decay=1e11, warmup=0)
    objective = Objective(learn_temperature=True)
    record = train(gappy_file, tmp_path / "out", base=still_base, objective=objective, settings=settings)
    assert record["temperature"] == pytest.approx(0.05, rel=1e-6)
    before, after = (load_encoder(path, device="cpu").state_dict() for path in (still_base, tmp_path / "out"))
    moved = [name for name in before if not torch.equal(before[name], after[name])]
    assert moved
    assert all("LayerNorm" not in name for name in moved if name.endswith("weight"))
