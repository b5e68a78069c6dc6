"""Ask a model the held-out questions and print how right it is, by category.

usage: python tools/demo/evaluate.py MODEL EVAL [--adapter DIR] [--limit N] [--answers FILE]

MODEL is a checkpoint folder, EVAL the folder make_eval.py wrote. Greedy, float32.
"""

import argparse
import json
import sys
import time
from pathlib import Path

from score import score, summarise

from mlx_lfm2vl import Sampling, generate, load
from mlx_lfm2vl.adapters import load_adapter
from mlx_lfm2vl.processor import user_message

MAX_TOKENS = 160


def table(summary: dict[str, dict[str, float]]) -> str:
    """The summary as Markdown, in percent."""
    lines = [
        "| questions | all | as in training | drawn otherwise | rows |",
        "|---|---|---|---|---|",
    ]
    for name, means in summary.items():
        parts = [
            f"{100 * means[key]:.1f} %" if key in means else "–"
            for key in ("all", "plain", "shift")
        ]
        lines.append(f"| {name} | {' | '.join(parts)} | {means['rows']:.0f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("eval", type=Path)
    parser.add_argument("--adapter", type=Path)
    parser.add_argument("--limit", type=int, help="every so many rows only, to look in between")
    parser.add_argument("--answers", type=Path, help="write question, answer, truth and score here")
    options = parser.parse_args()
    rows = [json.loads(line) for line in (options.eval / "eval.jsonl").read_text().splitlines()]
    if options.limit:
        rows = rows[:: max(1, len(rows) // options.limit)]
    model, processor = load(options.model, dtype="float32")
    if options.adapter:
        load_adapter(model, options.adapter)
    answers = []
    started = time.perf_counter()
    for row in rows:
        messages = user_message(row["question"], [options.eval / name for name in row["images"]])
        result = generate(model, processor, messages, max_tokens=MAX_TOKENS, sampling=Sampling())
        answers.append(result.text)
    seconds = time.perf_counter() - started
    print(table(summarise(rows, answers)))
    print(f"{len(rows)} questions in {seconds:.0f} s", file=sys.stderr)
    if options.answers:
        with options.answers.open("w") as file:
            for row, answer in zip(rows, answers, strict=True):
                entry = {"id": row["id"], "question": row["question"], "answer": answer}
                entry |= {"truth": row["answer"], "score": score(row, answer)}
                file.write(json.dumps(entry) + "\n")


if __name__ == "__main__":
    main()
