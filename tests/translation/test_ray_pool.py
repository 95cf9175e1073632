"""A build on a Ray cluster: the same rows as without, though a worker is killed; and what is said without a cluster."""

import os
import signal
import sys
import time
from pathlib import Path
from threading import Thread

import polars as pl
import pytest

from polyalign import UserError, build
from polyalign.translation.engines.choosing import EngineChoice
from polyalign.translation.pool import Task
from polyalign.translation.ray_pool import RayPool

SAMPLE = Path(__file__).parents[2] / "src" / "polyalign" / "sample"
ray = pytest.importorskip("ray", reason="Ray is not installed; pip install 'polyalign[ray]'")


def working() -> list[int]:
    """Numbers of the worker processes that are at a task; Ray writes there what they are doing."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            title = path.read_bytes()
        except OSError:
            continue  # it has just ended
        if title.startswith(b"ray::MapWorker") and b".submit" in title:
            found.append(int(path.parent.name))
    return found


class Killer(Thread):
    """Kills one of two workers when both are at work and results have arrived, but not all."""

    def __init__(self, work: Path) -> None:
        super().__init__(daemon=True)
        self.work, self.finished, self.killed = work, 0, None

    def run(self):
        while self.killed is None:
            self.finished = len(list(self.work.glob("cells/*.parquet")))
            if self.finished and (workers := working()):
                self.killed = workers[0]
                os.kill(self.killed, signal.SIGKILL)
            time.sleep(0.002)


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds Ray's workers by /proc")
def test_a_killed_worker_changes_nothing(tiny_marian, tmp_path, monkeypatch):
    """30 tasks; most texts are unknown to the model, but what it says of them must be the same all the same."""
    monkeypatch.setenv("POLYALIGN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("polyalign.translation.english.ROWS_PER_CHUNK", 24)
    texts = pl.read_ndjson(SAMPLE / "train.jsonl")["en"].to_list() + (SAMPLE / "english.txt").read_text().splitlines()
    (tmp_path / "english.txt").write_text("\n".join(texts))
    settings = {"compute_type": "float32", "beam_size": 4}
    request = {
        "english": str(tmp_path / "english.txt"), "to": ["de"],
        "engines": [{"spec": f"ctranslate2:{tiny_marian}", "settings": settings}],
        "source": {"near_duplicates": None, "other_language": None},
    }  # fmt: skip
    plain = build(request, tmp_path / "plain", memory=tmp_path / "memory", workers=2)
    killer = Killer(tmp_path / ".clustered.build")
    killer.start()
    clustered = build(request, tmp_path / "clustered", memory=tmp_path / "other memory", workers=2, ray="local")
    assert killer.killed is not None
    assert 1 <= killer.finished < 30
    assert not ray.is_initialized()
    assert working() == []
    assert clustered["provenance"]["cost"]["translated"] == len(set(texts))
    assert clustered["fingerprint"] == plain["fingerprint"]
    files = [path.relative_to(tmp_path / "plain") for path in (tmp_path / "plain").rglob("*.parquet")]
    assert len(files) == 2
    for file in files:
        assert (tmp_path / "clustered" / file).read_bytes() == (tmp_path / "plain" / file).read_bytes()


def test_where_there_is_no_cluster_is_told_in_one_line():
    pool = RayPool([EngineChoice(spec="memory:sample")], "auto", None)
    with pytest.raises(UserError, match=r"^no Ray cluster at 'auto' \(.*\); start one, or use --ray local$") as caught:
        list(pool.run(iter([Task(0, {}, {})]), print))
    assert "\n" not in str(caught.value)
    assert not ray.is_initialized()


def test_ray_is_an_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray.data", None)
    with pytest.raises(UserError, match=r"^--ray needs Ray; install it with `pip install 'polyalign\[ray\]'`$"):
        RayPool([], "local", None)
