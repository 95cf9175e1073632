"""What `train` says may suit a user better, by the record of a training."""

import pytest

from polyalign.training import TrainingSettings, advice, train


def record_of(objective, *, base="static", passes=3.0, rows=5000, languages=7, **more):
    texts = {f"l{number}": rows for number in range(languages)}
    cost = {"texts_encoded": round(passes * rows * languages)}
    corpus = {"rows": rows, "texts": texts}
    return {"base": base, "objective_name": objective, "corpus": corpus, "cost": cost} | more


WCCN = {"power": 0.5}
PROJECT = "`polyalign project` with --wccn 0.5: more translations"


@pytest.mark.parametrize(
    ("record", "starts"),
    [
        (
            record_of("multi-way"),
            ["--objective en-x --texts 105000: over 3.0 passes", "--objective multi-way-distill", PROJECT],
        ),
        (record_of("multi-way", wccn=WCCN), ["--objective multi-way-distill"]),
        (record_of("multi-way", passes=2.1), ["--objective multi-way-distill", PROJECT]),
        (record_of("multi-way", rows=3999), ["--objective en-x --texts 83979", PROJECT]),
        (record_of("multi-way", languages=2), ["--objective multi-way-distill", PROJECT]),
        (record_of("en-x", passes=2.0, rows=9, wccn=WCCN), ["--objective multi-way --texts 126: within 2.1 passes"]),
        (record_of("en-x", rows=100, wccn=WCCN), []),
        (record_of("multi-way-distill", wccn=WCCN), []),
        (record_of("x-y", base="org/model"), ["`polyalign project` with --lexical 0.8 --wccn 0.5"]),
        (record_of("x-y", base="org/model", lexical={"rows": 9}), [PROJECT]),
    ],
)
def test_what_is_said(record, starts):
    said = advice(record)
    assert [line[: len(start)] for line, start in zip(said, starts, strict=True)] == starts


def test_a_real_record(gappy_file, tmp_path):
    record = train(
        gappy_file,
        tmp_path / "out",
        settings=TrainingSettings(steps=1, batch_rows=8, dev_rows=12),
        objective="multi-way",
    )
    assert advice(record) == ["`polyalign project` with --wccn 0.5: more translations, in seconds"]
