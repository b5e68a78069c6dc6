"""Measure prompt lookup on the demo model: it must give the same answers, in fewer steps.

usage: python benchmarks/lookup.py [--lookup 4]

Asks greedily about the pictures in examples/images, with and without lookup.
"""

import argparse
import json
from pathlib import Path

from mlx_lfm2vl import Sampling, generate, load
from mlx_lfm2vl.prompt.messages import user_message

IMAGES = Path(__file__).resolve().parent.parent / "examples" / "images"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lookup", type=int, default=4, help="tokens to copy; default: 4")
    options = parser.parse_args()
    model, processor = load("demo")
    questions = json.loads((IMAGES / "questions.json").read_text())
    print("| question | tokens | guessed | right | decode seconds, without and with |")
    print("|---|---|---|---|---|")
    for question in questions:
        images = [IMAGES / name for name in question["images"]]
        messages = user_message(question["question"], images)
        results, seconds = [], []
        for lookup in (0, options.lookup):
            runs = [
                generate(model, processor, messages, sampling=Sampling(), lookup=lookup)
                for _ in range(3)
            ]
            results.append(runs[0])
            seconds.append(min(run.timings.decode for run in runs))
        plain, copied = results
        assert plain.token_ids == copied.token_ids
        print(
            f"| {question['question']} | {len(plain.token_ids)} | {copied.drafted_tokens} | "
            f"{copied.accepted_tokens} | {seconds[0]:.3f}, {seconds[1]:.3f} |"
        )


if __name__ == "__main__":
    main()
