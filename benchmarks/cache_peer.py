"""Ask three questions about an image, undo one, and see what ours and mlx-vlm reuse.

usage: python benchmarks/cache_peer.py CHECKPOINT IMAGE --peer-python PYTHON

Every turn runs warm, after the turns before it, and cold, with nothing cached, in float32. mlx-vlm
runs with its prefix cache (`APCManager`, in memory). The difference is the largest one between the
warm and the cold log-probabilities of the first token.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

TURNS = {  # what was asked so far; the answers are given, so that both read the same
    "first question": ["What is in this picture?"],
    "second question": ["What is in this picture?", "Which colors do you see in it?"],
    "third question": [
        "What is in this picture?",
        "Which colors do you see in it?",
        "Why is that?",
    ],
    "undo, another": [
        "What is in this picture?",
        "Which colors do you see in it?",
        "Are you sure?",
    ],
    "the second edited": ["What is in this picture?", "Which shapes do you see in it?"],
}
ANSWER = "There are two cats on a red sofa."
Ask = Callable[[list[str], bool], tuple[int, int, list[float]]]  # tokens, of them cached, logprobs


def ours(checkpoint: str, image: str) -> Ask:
    """Ask with this package."""
    import mlx.core as mx

    from mlx_lfm2vl import Sampling, load
    from mlx_lfm2vl.generation.engine import Engine
    from mlx_lfm2vl.generation.prefix_store import PrefixStore
    from mlx_lfm2vl.prompt.messages import user_message

    model, processor = load(checkpoint, dtype="float32")
    warm = Engine(model, processor, store=PrefixStore())

    def ask(questions: list[str], cold: bool) -> tuple[int, int, list[float]]:
        messages = user_message(questions[0], [image])
        for question in questions[1:]:
            messages += [{"role": "assistant", "content": ANSWER}, *user_message(question, [])]
        found = []

        def keep(_tokens: mx.array, logits: mx.array) -> mx.array:
            found.append((logits - mx.logsumexp(logits, axis=-1, keepdims=True))[0].tolist())
            return logits

        engine = Engine(model, processor) if cold else warm
        result = engine.generate(
            messages, max_tokens=1, sampling=Sampling(), logits_processors=[keep]
        )
        return result.prompt_tokens, result.cached_tokens, found[0]

    return ask


def peers(checkpoint: str, image: str) -> Ask:
    """Ask with mlx-vlm."""
    import mlx.core as mx
    from mlx.utils import tree_map
    from mlx_vlm import load, stream_generate
    from mlx_vlm.apc import APCManager

    model, processor = load(checkpoint)
    model.update(tree_map(lambda array: array.astype(mx.float32), model.parameters()))
    warm = APCManager()

    def ask(questions: list[str], cold: bool) -> tuple[int, int, list[float]]:
        # Its own `apply_chat_template` would move the image to the last question.
        image_part = {"type": "image"}
        messages = []
        for question in questions:
            text = {"type": "text", "text": question}
            said = [{"role": "assistant", "content": ANSWER}] if messages else []
            content = [text] if messages else [image_part, text]
            messages += [*said, {"role": "user", "content": content}]
        prompt = processor.tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=False
        )
        manager = {} if cold else {"apc_manager": warm}
        answer = stream_generate(
            model, processor, prompt, image=[image], max_tokens=1, temperature=0.0, **manager
        )
        first = next(iter(answer))
        for _ in answer:
            pass  # or nothing would be kept
        logprobs = first.logprobs.astype(mx.float32).flatten().tolist()
        return first.prompt_tokens, first.cached_tokens, logprobs

    return ask


def rows(ask: Ask) -> Iterator[list]:
    """Prompt tokens, cached tokens and the difference of each turn."""
    for name, questions in TURNS.items():
        total, cached, warm = ask(questions, False)
        _, _, cold = ask(questions, True)
        yield [name, total, cached, max(abs(a - b) for a, b in zip(warm, cold, strict=True))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", help="checkpoint folder")
    parser.add_argument("image")
    parser.add_argument("--peer-python", help="Python of an environment with mlx-vlm")
    options = parser.parse_args()
    if not options.peer_python:  # this is the peer's Python
        print(json.dumps(list(rows(peers(options.checkpoint, options.image)))))
        return
    command = [options.peer_python, Path(__file__), options.checkpoint, options.image]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    print("| turn | prompt | ours: cached, difference | mlx-vlm: cached, difference |")
    print("|---|---|---|---|")
    theirs = json.loads(done.stdout.splitlines()[-1])
    for our, their in zip(rows(ours(options.checkpoint, options.image)), theirs, strict=True):
        name, total, cached, difference = our
        total = f"{total:,}" if total == their[1] else f"{total:,}; theirs {their[1]:,}"
        print(f"| {name} | {total} | {cached:,}, {difference:.1e} | {their[2]:,}, {their[3]:.1e} |")


if __name__ == "__main__":
    sys.exit(main())
