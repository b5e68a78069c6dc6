"""Measure draft models: what they save, what wrong ones cost, and mlx-vlm with the same one.

usage: python benchmarks/drafts.py [--drafter demo] [--questions FILE.jsonl]
           [--peer-python PYTHON] [--preload libopenblas.so.0] [--repeats 3]

- Demo: the demo model with its drafter, on questions with images; runs without it take turns.
- Wrong: a drafter of the demo model with random weights, which guesses nothing.
- Counts: kernels of a round on Metal, and bytes, for the depth of published models. Widths are
  small, which does not affect the kernels; bytes follow from the published shapes.
- Peer: mlx-vlm 0.7.10 with a tiny drafter of tests/golden, whole blocks, in processes that take
  turns; seconds and CPU seconds, the host's waits, and the kernels of all graphs on this CPU.

Tables are Markdown. A bar that is missed is bold.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import mlx.core as mx
from compare_mlx_vlm import HERE, Side, run
from op_counts import ATTENTION_LAYERS, make_model

from mlx_lfm2vl import AnswerOptions, Engine, Sampling, load, load_drafter
from mlx_lfm2vl.checkpoint.drafter_config import DrafterConfig
from mlx_lfm2vl.generation.drafted import drafted_step
from mlx_lfm2vl.generation.drafting import Drafting, ModelDrafter
from mlx_lfm2vl.generation.loop import Drafts, generate_step
from mlx_lfm2vl.generation.sampling import Sampler
from mlx_lfm2vl.generation.verifying import VerifyingSampler
from mlx_lfm2vl.model.draft_heads import GROUPS
from mlx_lfm2vl.model.drafter import DraftModel
from mlx_lfm2vl.model.lfm2vl import Lfm2VL
from mlx_lfm2vl.prompt.messages import user_message
from mlx_lfm2vl.speed.launches import decode_step, draft_round

sys.path.append(str(HERE.parent / "tests"))

IMAGES = HERE.parent / "examples" / "images"
GOLDEN = HERE.parent / "tests" / "golden" / "drafters" / "own_head"
SAMPLINGS = {"greedy": Sampling(), "T 0.2, top-k 50": Sampling(temperature=0.2, top_k=50)}
TOKENS_PER_ROUND = 4.2  # published for the drafter of LFM2.5-VL-3B
SETTLED, WRONG_TOKENS = 64, 512  # tokens until a drafter that guesses wrong rests, and in all
PEER_TOKENS = 24  # of which the drafter knows most


ATTENTIONS_3B = (2, 5, 9, 13, 17, 21, 24, 27)


class Shape(NamedTuple):
    """Sizes of a published decoder, and the layers that its drafter reads."""

    layers: int
    attentions: tuple[int, ...]
    hidden: int
    inner: int
    vocabulary: int
    taps: tuple[int, ...]

    @property
    def kinds(self) -> tuple[str, ...]:
        return tuple(
            "full_attention" if i in self.attentions else "conv" for i in range(self.layers)
        )


SHAPES = {  # keys and values have 8 heads of 64; no drafter of the 450M is published
    "450M": Shape(16, ATTENTION_LAYERS, 1024, 4608, 65536, (2, 5, 8, 11, 14)),
    "3B": Shape(30, ATTENTIONS_3B, 2048, 10752, 128000, (2, 9, 17, 21, 27)),
}


def judged(value: float, bar: float, *, at_most: bool = False) -> str:
    reached = value <= bar if at_most else value >= bar
    sign = "<=" if at_most else ">="
    return f"{sign} {bar:g}: {'reached' if reached else '**missed**'}"


def demo_rows(drafter: str, questions: Path, repeats: int) -> Iterator[str]:
    """Table rows of the demo model with its drafter."""
    model, processor = load("demo")
    engine = Engine(model, processor, drafter=load_drafter(drafter, model))
    rows = read_questions(questions)
    for name, sampling in SAMPLINGS.items():
        options = AnswerOptions(max_tokens=256, sampling=sampling, seed=1)
        rounds, tokens, accepted, equal = 0, 0, 0, 0
        seconds = [0.0, 0.0]
        for question, images in rows:
            messages = user_message(question, [str(image) for image in images])
            pairs = [
                [engine.generate(messages, options, draft_tokens=n) for n in (0, None)]
                for _ in range(repeats)
            ]
            plain, drafted = zip(*pairs, strict=True)
            equal += all(each.token_ids == plain[0].token_ids for each in drafted)
            rounds += sum(drafted[-1].rounds.values())
            accepted += sum(n * count for n, count in drafted[-1].rounds.items())
            tokens += len(plain[0].token_ids)
            for number, results in enumerate((plain, drafted)):
                seconds[number] += min(result.timings.decode for result in results)
        gain, per_round = seconds[0] / seconds[1], (accepted + rounds) / max(rounds, 1)
        yield (
            f"| {name} | {len(rows)} | {equal} | {tokens} | {per_round:.2f} | "
            f"{judged(per_round, 2.5)} | {gain:.2f} | {judged(gain, 1.4)} |"
        )


def read_questions(path: Path) -> list[tuple[str, list[Path]]]:
    """Read questions and images as make_eval.py or examples/images have them."""
    text = path.read_text()
    rows = json.loads(text) if text.startswith("[") else map(json.loads, text.splitlines())
    return [
        (row["question"], [path.parent / image for image in row["images"]])
        for row in rows
        if row.get("category") not in ("box",)
    ]


def random_drafter(model: Lfm2VL, layers: int = 2, block: int = 5) -> DraftModel:
    """A drafter with random weights."""
    text = model.config.text
    depth, heads = len(text.layer_types), text.num_attention_heads
    config = DrafterConfig(
        hidden_size=text.hidden_size,
        intermediate_size=2 * text.hidden_size,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=text.num_key_value_heads,
        head_dim=text.head_dim,
        rms_norm_eps=1e-5,
        vocab_size=text.vocab_size,
        rope_theta=1e6,
        half_split_rope=False,
        block_size=block,
        markov_rank=32,
        mask_token_id=text.vocab_size - 1,
        target_layer_ids=tuple(sorted({1, depth // 2, depth - 2})),
        num_target_layers=depth,
        has_confidence=True,
        quantization=None,
    )
    mx.random.seed(0)
    drafter = DraftModel(config)
    drafter.set_dtype(model.language_model.embedding_norm.weight.dtype)
    drafter.eval()
    mx.eval(drafter.parameters())
    return drafter


def wrong_rows(repeats: int) -> Iterator[str]:
    """Table rows of a drafter that guesses nothing, after it has settled."""
    model, _ = load("demo")
    drafter = random_drafter(model)
    prompt = [i % 90 + 30 for i in range(64)]
    accepted = 0

    def later(drafted: bool) -> tuple[float, float]:
        """Seconds and CPU seconds of all tokens but the first `SETTLED`."""
        nonlocal accepted
        cache, drafts = model.make_cache(), Drafts()
        kind = VerifyingSampler if drafted else Sampler
        sampler = kind(Sampling(), [prompt], [0])
        embeds = model.embed(prompt)
        if isinstance(sampler, VerifyingSampler):
            pace, block = Drafting(drafter).pace, drafter.config.block_size
            own = ModelDrafter(drafter, model, sampler, drafter.make_cache(), pace, block)
            steps = drafted_step(model, embeds, cache, sampler, WRONG_TOKENS, own, drafts)
        else:
            steps = generate_step(model, embeds, cache, sampler, WRONG_TOKENS)
        start = (0.0, 0.0)
        for number, _ in enumerate(steps, 1):
            if number == SETTLED:
                start = time.perf_counter(), time.process_time()
        accepted += drafts.accepted
        return time.perf_counter() - start[0], time.process_time() - start[1]

    pairs = [(later(False), later(True)) for _ in range(repeats + 1)][1:]
    for name, index in (("seconds", 0), ("CPU seconds", 1)):
        plain, drafted = (min(pair[side][index] for pair in pairs) for side in (0, 1))
        cost = drafted / plain - 1
        middle = sorted(pair[1][index] / pair[0][index] - 1 for pair in pairs)[repeats // 2]
        yield (
            f"| {name} | {plain:.3f} | {drafted:.3f} | {cost:+.1%} | {middle:+.1%} | "
            f"{judged(cost, 0.05, at_most=True)} |"
        )


def deep_pair(shape: Shape) -> tuple[Lfm2VL, DraftModel]:
    """A narrow model with the layers of a published one, and a drafter like the published ones."""
    narrow = make_model()
    # A large vocabulary is drafted from by groups.
    text = replace(narrow.config.text, layer_types=shape.kinds, vocab_size=8192)
    config = replace(narrow.config, text=text)
    model = Lfm2VL(config, narrow.image_config)
    model.set_dtype(mx.bfloat16)
    model.eval()
    drafter = random_drafter(model, layers=4, block=9)
    settings = replace(drafter.config, target_layer_ids=shape.taps)
    drafter = DraftModel(settings)
    drafter.set_dtype(mx.bfloat16)
    drafter.eval()
    mx.eval(model.parameters(), drafter.parameters())
    return model, drafter


def megabytes(shape: Shape) -> tuple[float, float, float]:
    """Megabytes in 16 bits that a plain step reads, that a draft reads, and that the peer's does.

    A draft reads the target's head once more. Of the Markov table ours reads the rows of `GROUPS`
    tokens per proposal, and the peer all of them.
    """
    size, keys = shape.hidden, 8 * 64
    feed_forward = 3 * size * shape.inner
    mixers = {"conv": 4 * size * size, "full_attention": 2 * size * size + 2 * size * keys}
    layers = sum(mixers[kind] + feed_forward for kind in shape.kinds)
    head, rank, proposals, depth = shape.vocabulary * size, 256, 9, 4
    inner = 3 * size
    drafter = 5 * size * size + depth * (2 * size * size + 2 * size * keys + 3 * size * inner)
    ours, theirs = GROUPS * rank * proposals, shape.vocabulary * rank * proposals
    parts = (layers + head, drafter + head + ours, drafter + head + theirs)
    plain, draft, peer = (2 * part / 1e6 for part in parts)
    return plain, draft, peer


def count_rows() -> Iterator[str]:
    """Table rows of kernels and bytes per committed token."""
    for name, shape in SHAPES.items():
        model, drafter = deep_pair(shape)
        step, draft, peer = megabytes(shape)
        read = (step + draft) / TOKENS_PER_ROUND
        for label, sampling in SAMPLINGS.items():
            plain = decode_step(model, sampling)
            whole = draft_round(model, drafter, sampling, 7)
            kernels = whole.kernels.total() / TOKENS_PER_ROUND
            ratio = kernels / plain.kernels.total()
            chain = whole.chain / TOKENS_PER_ROUND / plain.chain
            yield (
                f"| {name}, {label} | {plain.kernels.total()} | {whole.kernels.total()} | "
                f"{kernels:.0f} | {ratio:.2f} | {judged(ratio, 0.4, at_most=True)} | {chain:.2f} | "
                f"{step:.0f} | {read:.0f} | {(step + peer) / TOKENS_PER_ROUND:.0f} |"
            )


def peer_rows(peer_python: str, preload: str, repeats: int) -> Iterator[str]:
    """Table rows of both packages with the same drafter."""
    from drafters import make_target

    program = HERE / "drafts_peer.py"
    sides = {
        "mlx_lfm2vl": Side(sys.executable, "mlx_lfm2vl", program),
        "mlx-vlm": Side(peer_python, "mlx_lfm2vl", program),  # both count with our instruments
    }
    with tempfile.TemporaryDirectory() as folder:
        target = make_target(Path(folder) / "target", GOLDEN.name)

        def ask(name: str, tokens: int, count: int) -> dict:
            arguments = [name, str(target), str(GOLDEN), str(tokens), "10", str(count)]
            command = [sides[name].python, str(program), *arguments]
            out = run(command, sides[name].environment(preload))[2]
            return json.loads(out.splitlines()[-1])

        runs = [{name: ask(name, PEER_TOKENS, 0) for name in sides} for _ in range(repeats)]
        counts = {name: ask(name, PEER_TOKENS, 1) for name in sides}
    both = [each[name][kind] for each in runs for name in sides for kind in ("plain", "drafted")]
    assert all(each["tokens"] == both[0]["tokens"] for each in both), "the answers differ"
    for key in ("seconds", "cpu_seconds"):
        mine, peer = (
            min(each[name]["drafted"][key] for each in runs) for name in ("mlx_lfm2vl", "mlx-vlm")
        )
        plain = min(each["mlx_lfm2vl"]["plain"][key] for each in runs)
        ratio = peer / mine
        yield (
            f"| {key.replace('_', ' ')} | {mine:.3f} | {peer:.3f} | {ratio:.2f} | "
            f"{judged(ratio, 1.3)} | {plain:.3f} |"
        )
    rounds = {name: runs[0][name]["drafted"]["rounds"] for name in sides}
    yield f"| rounds | {rounds['mlx_lfm2vl']} | {rounds['mlx-vlm']} | | | |"
    tokens = PEER_TOKENS - 8
    mine, peer = (counts[name]["drafted"] for name in sides)
    waits = mine[0] / mine[2]
    yield (
        f"| waits per round | {waits:.2f} | {peer[0] / max(peer[2], 1):.2f} | | "
        f"{judged(waits, 1, at_most=True)} | {counts['mlx_lfm2vl']['plain'][0] / tokens:.2f} |"
    )
    own, other = mine[1] / mine[2], peer[1] / max(peer[2], 1)
    yield (
        f"| kernels per round, on this CPU | {own:.0f} | {other:.0f} | {other / own:.2f} | | "
        f"{counts['mlx_lfm2vl']['plain'][1] / tokens:.0f} |"
    )


def table(head: str, rows: Iterator[str]) -> None:
    print(f"\n{head}\n|{'---|' * (head.count('|') - 1)}", flush=True)
    for row in rows:
        print(row, flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--drafter", help="of the demo model; without it that part is left out")
    add("--questions", type=Path, default=IMAGES / "questions.json")
    add("--peer-python", help="Python that has mlx-vlm; without it that part is left out")
    add("--preload", default="", help="library for LD_PRELOAD, such as libopenblas.so.0")
    add("--repeats", type=int, default=3)
    options = parser.parse_args(arguments)
    if options.drafter:
        table(
            "| demo model | questions | equal answers | tokens | per round | bar | gain | bar |",
            demo_rows(options.drafter, options.questions, options.repeats),
        )
    table(
        "| a drafter that is wrong | plain | drafted | cost | median of pairs | bar |",
        wrong_rows(options.repeats),
    )
    table(
        f"| at {TOKENS_PER_ROUND} tokens a round | kernels, plain | of a round | per token | ratio "
        "| bar | longest chain, ratio | MB per token, plain | drafted | as the peer drafts |",
        count_rows(),
    )
    if options.peer_python:
        table(
            "| the same drafter | mlx_lfm2vl | mlx-vlm | ratio | bar | mlx_lfm2vl, plain |",
            peer_rows(options.peer_python, options.preload, options.repeats),
        )


if __name__ == "__main__":
    main()
