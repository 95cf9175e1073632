"""Sentences per second of the engine `ctranslate2` against a plain transformers generate loop, on a CPU.

Both translate the same English sentences with the same weights, beam and output length, in turns, in one process. The
plain loop takes the sentences in the order found, 16 at a time, in float32; the engine runs with its defaults: int8,
batches by tokens over length-sorted text. The weights are random, so that no sentence ends by itself: every output is
cut at the same number of tokens, which is checked.

    python benchmarks/translate.py            # the shape of NLLB-200-distilled-600M: 10 GB of memory, 10 to 20 minutes
    python benchmarks/translate.py --quick    # a third of it, under two minutes on two idle cores

The last line is one JSON object: name, value, unit, goal, met.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from collections import defaultdict
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TQDM_DISABLE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

SAMPLE = Path(__file__).parents[1] / "src" / "polyalign" / "sample" / "train.jsonl"
GOAL = 4.0
BATCH = 16
SHAPES = {
    "600M": {"d_model": 1024, "layers": 12, "heads": 16, "ffn": 4096, "vocabulary": 256_206},
    "200M": {"d_model": 768, "layers": 8, "heads": 12, "ffn": 3072, "vocabulary": 100_000},
}


def main() -> None:
    """Make the model, let the two take turns, print what was measured."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="the smaller shape, under two minutes")
    parser.add_argument("--shape", choices=SHAPES, help="default 600M, with --quick 200M")
    parser.add_argument("--model", help="a transformers folder of an NLLB model to take instead of random weights")
    parser.add_argument("--sentences", type=int, help="English sentences per round; default 64, with --quick 32")
    parser.add_argument("--rounds", type=int, default=2, help="turns of each")
    parser.add_argument("--beam", type=int, default=4, help="beam of both; 4 is the engine's default, 1 is greedy")
    parser.add_argument("--tokens", type=int, default=32, help="output tokens of every sentence, of both")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads of both")
    options = parser.parse_args()
    options.shape = options.shape or ("200M" if options.quick else "600M")
    options.sentences = options.sentences or (32 if options.quick else 64)
    os.environ["OMP_NUM_THREADS"] = str(options.threads)  # before torch is imported
    texts = [json.loads(line)["en"] for line in SAMPLE.read_text(encoding="utf-8").splitlines()[: options.sentences]]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(options.model) if options.model else make_model(Path(temporary) / "nllb", SHAPES[options.shape])
        measure(folder, Path(temporary) / "cache", texts, options)


def measure(folder: Path, cache: Path, texts: list[str], options: argparse.Namespace) -> None:
    """Print the machine, each round, and the result."""
    from polyalign.translation.engines.ct2 import Ct2Engine, Ct2Settings

    plain = PlainLoop(folder, options)
    settings = Ct2Settings(
        beam_size=options.beam, max_output_tokens=options.tokens, threads=options.threads, device="cpu", cache=cache
    )
    engine = Ct2Engine(str(folder), settings)
    started = time.perf_counter()
    translate(engine, texts[:2])
    prepared = time.perf_counter() - started
    print(f"{machine()}; {options.threads} threads")
    print(
        f"shape {options.model or options.shape}: {plain.parameters / 1e6:.0f} million parameters; {len(texts)} "
        f"sentences, beam {options.beam}, {options.tokens} output tokens each; converted in {prepared:.0f} s"
    )
    plain.translate(texts[:2])
    seconds: defaultdict[str, float] = defaultdict(float)
    processor: defaultdict[str, float] = defaultdict(float)
    for turn in range(options.rounds):
        for name, run in (("transformers", plain.translate), ("ctranslate2", partial(translate, engine))):
            started, used = time.perf_counter(), time.process_time()
            lengths = run(texts)
            taken = time.perf_counter() - started
            seconds[name] += taken
            processor[name] += time.process_time() - used
            if not options.model and lengths != [options.tokens] * len(texts):
                raise SystemExit(f"{name} gave outputs of {sorted(set(lengths))} tokens instead of {options.tokens}")
            load = os.getloadavg()[0]
            print(f"round {turn + 1} {name:12} {len(texts) / taken:7.2f} sentences/s (load {load:.1f})", flush=True)
    wall = seconds["transformers"] / seconds["ctranslate2"]
    cpu = processor["transformers"] / processor["ctranslate2"]
    print(f"in processor time, which other programs on the machine disturb less: {cpu:.2f} times")
    result = {"name": "translate", "value": round(wall, 2), "unit": "times the sentences/s of transformers"}
    print(json.dumps(result | {"goal": GOAL, "met": wall >= GOAL}))


def translate(engine: Any, texts: list[str]) -> list[int]:
    """Let the engine translate into German; return the number of output tokens of each, 0 where it ended by itself."""
    lengths = [-1] * len(texts)
    for batch in engine.translate(texts, "de"):
        for index, translation in batch:
            lengths[index] = engine.settings.max_output_tokens if translation.truncated else 0
    return lengths


class PlainLoop:
    """What one writes with transformers in ten lines: batches of 16 as they come, `generate`, `batch_decode`."""

    def __init__(self, folder: Path, options: argparse.Namespace) -> None:
        import torch
        from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

        torch.set_num_threads(options.threads)
        self.tokenizer = AutoTokenizer.from_pretrained(folder, src_lang="eng_Latn")
        self.model = AutoModelForSeq2SeqLM.from_pretrained(folder).eval()
        self.parameters = sum(parameter.numel() for parameter in self.model.parameters())
        self.options = options

    def translate(self, texts: list[str]) -> list[int]:
        """Return the number of output tokens of each text, the language token not counted."""
        import torch

        lengths = []
        for start in range(0, len(texts), BATCH):
            inputs = self.tokenizer(texts[start : start + BATCH], return_tensors="pt", padding=True)
            with torch.inference_mode():
                found = self.model.generate(
                    **inputs,
                    forced_bos_token_id=self.tokenizer.convert_tokens_to_ids("deu_Latn"),
                    num_beams=self.options.beam,
                    max_new_tokens=self.options.tokens + 1,
                )
            self.tokenizer.batch_decode(found, skip_special_tokens=True)
            end = self.model.generation_config.eos_token_id
            lengths += [len(row) if end not in row else row.index(end) + 1 for row in found[:, 2:].tolist()]
        return lengths


def make_model(folder: Path, shape: dict[str, int]) -> Path:
    """Write a model of NLLB's architecture with random weights and a tokenizer learnt from the packaged sample."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import M2M100Config, M2M100ForConditionalGeneration, NllbTokenizer, set_seed

    learner = Tokenizer(models.BPE(unk_token="<unk>"))
    learner.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    rows = [json.loads(line) for line in SAMPLE.read_text(encoding="utf-8").splitlines()]
    trainer = trainers.BpeTrainer(vocab_size=8000, special_tokens=special, show_progress=False)
    learner.train_from_iterator([text for row in rows for text in row.values()], trainer)
    learnt = json.loads(learner.to_str())["model"]
    codes = ["eng_Latn", "deu_Latn"]
    pieces = dict(learnt["vocab"])  # and as many more as the shape has: they are never read, but may be written
    while len(pieces) < shape["vocabulary"] - len(codes) - 1:
        pieces[f"▁{len(pieces)}"] = len(pieces)
    merges = [tuple(merge) for merge in learnt["merges"]]
    tokenizer = NllbTokenizer(vocab=pieces, merges=merges, extra_special_tokens=codes, model_max_length=1024)
    set_seed(0)
    config = M2M100Config(
        vocab_size=len(tokenizer), d_model=shape["d_model"], max_position_embeddings=1024, activation_function="relu",
        encoder_layers=shape["layers"], decoder_layers=shape["layers"],
        encoder_attention_heads=shape["heads"], decoder_attention_heads=shape["heads"],
        encoder_ffn_dim=shape["ffn"], decoder_ffn_dim=shape["ffn"],
        pad_token_id=1, bos_token_id=0, eos_token_id=2, decoder_start_token_id=2,
    )  # fmt: skip
    M2M100ForConditionalGeneration(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def machine() -> str:
    """Return the processor, the number of cores and the versions that decide the numbers."""
    cpu = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.processor(),
    )
    versions = ", ".join(f"{name} {version(name)}" for name in ("ctranslate2", "transformers", "torch"))
    return f"{cpu}, {os.cpu_count()} cores; Python {platform.python_version()}, {versions}"


if __name__ == "__main__":
    main()
