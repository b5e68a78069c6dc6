"""Ask a model the held-out questions and print its scores by category.

usage: python tools/demo/evaluate.py MODEL EVAL [--adapter DIR] [--limit N] [--answers FILE]
       [--json FILE] [--kv-bits 8]

MODEL is a checkpoint folder, or demo for the built-in model; EVAL is a folder written by
make_eval.py. Answers are greedy, in float32. Right answers score 1, wrong ones 0, and boxes their
overlap (see score.py).
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from score import Summary, score, summarise

from mlx_lfm2vl import Sampling, batch_generate, load
from mlx_lfm2vl.model.lfm2vl import Lfm2VL
from mlx_lfm2vl.prompt.messages import user_message
from mlx_lfm2vl.prompt.processor import Processor
from mlx_lfm2vl.training.adapters import load_adapter

MAX_TOKENS = 160
LABELS = {
    "box": "box (mean overlap)",
    "word": "of text: one word",
    "tiled": "of all: cut into tiles",
}


def table(summary: Summary) -> str:
    """The summary as Markdown, in percent."""
    lines = [
        "| questions | all | as in training | drawn otherwise | number |",
        "|---|---|---|---|---|",
    ]
    for name, means in summary.items():
        parts = [
            f"{100 * means[key]:.1f} %" if key in means else "–"
            for key in ("all", "plain", "shift")
        ]
        rows = f"{means['rows']:.0f}"
        lines.append(f"| {LABELS.get(name, name)} | {' | '.join(parts)} | {rows} |")
    return "\n".join(lines)


def ask_all(
    model: Lfm2VL, processor: Processor, rows: Sequence[dict], folder: Path, kv_bits: int = 0
) -> list[str]:
    """The answers to the rows of an eval.jsonl; `folder` holds their images."""
    questions = (
        user_message(row["question"], [folder / name for name in row["images"]]) for row in rows
    )
    results = batch_generate(
        model,
        processor,
        questions,
        batch_size=16,
        max_tokens=MAX_TOKENS,
        sampling=Sampling(),
        kv_bits=kv_bits,
    )
    return [result.text for result in results]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="checkpoint folder, or demo")
    parser.add_argument("eval", type=Path, help="folder that make_eval.py wrote")
    parser.add_argument("--adapter", type=Path, help="folder that `train` wrote for the model")
    parser.add_argument(
        "--limit", type=int, help="ask about roughly this many rows, evenly spaced; default: all"
    )
    parser.add_argument("--kv-bits", type=int, default=0, help="as for `generate`; default: 0")
    parser.add_argument("--answers", type=Path, help="write question, answer, truth and score here")
    parser.add_argument("--json", type=Path, help="write the table's numbers here")
    options = parser.parse_args()
    rows = [json.loads(line) for line in (options.eval / "eval.jsonl").read_text().splitlines()]
    if options.limit:
        rows = rows[:: len(rows) // options.limit | 1]  # an odd step keeps half of them shifted
    model, processor = load(options.model, dtype="float32")
    if options.adapter:
        load_adapter(model, options.adapter)
    started = time.perf_counter()
    answers = ask_all(model, processor, rows, options.eval, options.kv_bits)
    seconds = time.perf_counter() - started
    summary = summarise(rows, answers)
    print(table(summary))
    print(f"{len(rows)} questions in {seconds:.0f} s", file=sys.stderr)
    if options.json:
        options.json.write_text(json.dumps(summary, indent=2) + "\n")
    if options.answers:
        with options.answers.open("w") as file:
            for row, answer in zip(rows, answers, strict=True):
                entry = {"id": row["id"], "question": row["question"], "answer": answer}
                entry |= {"truth": row["answer"], "score": score(row, answer)}
                file.write(json.dumps(entry) + "\n")


if __name__ == "__main__":
    main()
