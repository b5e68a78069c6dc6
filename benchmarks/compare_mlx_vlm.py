"""Measure mlx_lfm2vl and mlx-vlm side by side, and print the ratios as Markdown.

usage: python benchmarks/compare_mlx_vlm.py --checkpoint DIR --tiny DIR --photo FILE
           --peer-python PYTHON [--preload libopenblas.so.0] [--json OUT]

Every number is the best of several new processes, with our package and the peer in turn. Commands
run as a user would run them; `stages_ours.py` and `stages_peer.py` measure the stages.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

HERE = Path(__file__).resolve().parent
RSS_UNIT = 1 if sys.platform == "darwin" else 1024  # bytes; Linux counts in KiB
IMPORTS = "import mlx.core, numpy, PIL, tokenizers"

# Targets: (measure, image size) -> ratio. For speeds, the peer's seconds over ours must be at least
# this; for memory, ours over the peer's must be at most this.
BARS = {
    ("help", ""): 1.5,  # our seconds over those of IMPORTS, at most
    ("one token", ""): 6.0,
    ("one token memory", ""): 0.5,
    ("encode", "320x240"): 2.5,
    ("encode", "640x480"): 1.15,
    ("encode", "1920x1080"): 1.2,
    ("first token", "320x240"): 2.5,
    ("first token", "640x480"): 1.4,
    ("first token", "1920x1080"): 1.5,
    ("decode", "640x480"): 1.15,
    ("peak memory", "1920x1080"): 0.75,
}


@dataclass(frozen=True)
class Side:
    """One of the two packages and the Python that has it."""

    python: str
    package: str
    stages: Path

    def environment(self, preload: str) -> dict[str, str]:
        env = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        for name in ("LD_PRELOAD", "PYTHONDONTWRITEBYTECODE"):  # the latter slows starts down
            env.pop(name, None)
        env["PYTHONPATH"] = str(HERE.parent) if self.package == "mlx_lfm2vl" else ""
        return {**env, "LD_PRELOAD": preload} if preload else env


@dataclass(frozen=True)
class Row:
    """One row of the table. A larger `ratio` is better, unless `at_most` is set."""

    measure: str
    image: str
    ours: float
    other: float
    unit: str
    ratio: float
    at_most: bool = False

    @property
    def bar(self) -> float | None:
        return BARS.get((self.measure, self.image))

    def markdown(self) -> str:
        verdict = ""
        if self.bar is not None:
            reached = self.ratio <= self.bar if self.at_most else self.ratio >= self.bar
            sign = "<=" if self.at_most else ">="
            verdict = f"{sign} {self.bar:g}: {'reached' if reached else 'MISSED'}"
        name = f"{self.measure} {self.image}".strip()
        numbers = f"{self.ours:.3g} | {self.other:.3g} | {self.unit}"
        return f"| {name} | {self.ratio:.2f} | {verdict} | {numbers} |"


def run(command: Sequence[str], env: dict[str, str]) -> tuple[float, int, str]:
    """Run a process; returns wall-clock seconds, peak resident bytes and stdout."""
    start = time.perf_counter()
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(command, env=env, cwd=HERE.parent, stdout=out, stderr=errors)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            errors.seek(0)
            sys.exit(f"{' '.join(command)} failed:\n{errors.read().decode()[-2000:]}")
        out.seek(0)
        return seconds, usage.ru_maxrss * RSS_UNIT, out.read().decode()


def in_turn(repeats: int, *measures: Callable[[], dict]) -> list[list[dict]]:
    """Run all measures in turn, `repeats` times; returns the results of each measure."""
    rounds = [[measure() for measure in measures] for _ in range(repeats)]
    return [list(results) for results in zip(*rounds, strict=True)]


def best(results: Sequence[dict], key: str, choose: Callable = min) -> float:
    return choose(result[key] for result in results)


def command(side: Side, *arguments: str) -> Callable[[], dict]:
    def measure() -> dict:
        seconds, memory, _ = run([side.python, *arguments], side.environment(""))
        return {"seconds": seconds, "peak_bytes": memory}

    measure()  # compiles bytecode and fills the disk cache
    return measure


def stages(
    side: Side, checkpoint: Path, image: Path, tokens: int, preload: str
) -> Callable[[], dict]:
    arguments = [side.python, str(side.stages), str(checkpoint), str(image), str(tokens)]
    return lambda: json.loads(run(arguments, side.environment(preload))[2].splitlines()[-1])


def for_the_peer(tiny: Path, folder: Path) -> Path:
    """Copy a checkpoint and add the keys that mlx-vlm needs in its text config."""
    shutil.copytree(tiny, folder)
    config = json.loads((folder / "config.json").read_text())
    text = config["text_config"]
    same = {"block_dim": "hidden_size", "conv_dim": "hidden_size"}
    text |= {name: text[source] for name, source in same.items()}
    text.setdefault("num_heads", text["num_attention_heads"])
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def compare_commands(ours: Side, peer: Side, tiny: Path, work: Path, repeats: int) -> list[Row]:
    help_ours, imports, help_peer = in_turn(
        repeats,
        command(ours, "-m", "mlx_lfm2vl.generate", "--help"),
        command(ours, "-c", IMPORTS),
        command(peer, "-m", "mlx_vlm.generate", "--help"),
    )
    picture = work / "small.png"
    Image.radial_gradient("L").convert("RGB").resize((30, 20)).save(picture)
    options = ["--image", str(picture), "--prompt", "Hi", "--max-tokens", "1", "--temperature", "0"]
    adapted = for_the_peer(tiny, work / "tiny")
    one_ours, one_peer = in_turn(
        repeats,
        command(ours, "-m", "mlx_lfm2vl.generate", "--model", str(tiny), *options),
        command(peer, "-m", "mlx_vlm.generate", "--model", str(adapted), *options),
    )
    seconds = [best(r, "seconds") for r in (help_ours, imports, help_peer, one_ours, one_peer)]
    memory = [best(r, "peak_bytes") / 1e6 for r in (one_ours, one_peer)]
    return [
        Row("help", "", seconds[0], seconds[1], "s", seconds[0] / seconds[1], at_most=True),
        Row("help against the peer's", "", seconds[0], seconds[2], "s", seconds[2] / seconds[0]),
        Row("one token", "", seconds[3], seconds[4], "s", seconds[4] / seconds[3]),
        Row("one token memory", "", *memory, "MB", memory[0] / memory[1], at_most=True),
    ]


def compare_stages(size: str, ours: list[dict], peer: list[dict]) -> list[Row]:
    if not all(result["complete"] for result in ours + peer):
        sys.exit(f"{size}: an answer ended early, so its speed would be misleading")
    rows = []
    for name, key in (("encode", "encode_seconds"), ("first token", "first_token_seconds")):
        seconds = best(ours, key), best(peer, key)
        rows.append(Row(name, size, *seconds, "s", seconds[1] / seconds[0]))
    key = "tokens_per_second"
    speed = best(ours, key, max), best(peer, key, max)
    rows.append(Row("decode", size, *speed, "tokens/s", speed[0] / speed[1]))
    memory = best(ours, "peak_bytes") / 1e9, best(peer, "peak_bytes") / 1e9
    rows.append(
        Row("peak memory", size, *memory, "GB", memory[0] / memory[1], at_most=True),
    )
    above = [(best(r, "peak_bytes") - best(r, "weight_bytes")) / 1e9 for r in (ours, peer)]
    rows.append(
        Row("memory above weights", size, *above, "GB", above[0] / above[1], at_most=True),
    )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--checkpoint", type=Path, required=True, help="float32 checkpoint with published shapes")
    add("--tiny", type=Path, required=True, help="tiny checkpoint for whole processes")
    add("--photo", type=Path, required=True, help="image to resize to --sizes")
    add("--peer-python", required=True, help="a Python with mlx-vlm")
    sizes = ["320x240", "640x480", "1920x1080"]
    add("--sizes", nargs="*", default=sizes, metavar="WIDTHxHEIGHT", help="default: %(default)s")
    add("--tokens", type=int, default=16, help="tokens per image; default: %(default)s")
    add("--repeats", type=int, default=2, help="processes per image; default: %(default)s")
    add("--command-repeats", type=int, default=7, help="processes per command; default: 7")
    preload = os.environ.get("LFM2VL_BENCH_PRELOAD", "")
    add("--preload", default=preload, help="library to preload into the stages of both packages")
    add("--json", type=Path, help="write all measurements and the rows here")
    options = parser.parse_args()
    # Absolute, but not resolved: Python finds its virtual environment through the link.
    ours = Side(sys.executable, "mlx_lfm2vl", HERE / "stages_ours.py")
    peer = Side(os.path.abspath(options.peer_python), "mlx_vlm", HERE / "stages_peer.py")
    checkpoint, tiny = options.checkpoint.absolute(), options.tiny.absolute()
    raw: dict[str, dict] = {}
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        rows = compare_commands(ours, peer, tiny, work, options.command_repeats)
        for size in options.sizes:
            width, height = map(int, size.split("x"))
            image = work / f"{size}.png"
            photo = Image.open(options.photo).convert("RGB")
            photo.resize((width, height), Image.Resampling.BICUBIC).save(image)
            measures = [
                stages(side, checkpoint, image, options.tokens, options.preload)
                for side in (ours, peer)
            ]
            results = in_turn(options.repeats, *measures)
            raw[size] = {"ours": results[0], "peer": results[1]}
            rows += compare_stages(size, *results)
    print("| measure | ratio | bar | mlx_lfm2vl | against | unit |\n|---|---|---|---|---|---|")
    print("\n".join(row.markdown() for row in rows))
    if options.json:
        lines = [{**vars(row), "bar": row.bar} for row in rows]
        options.json.write_text(json.dumps({"rows": lines, "stages": raw}, indent=1) + "\n")


if __name__ == "__main__":
    main()
