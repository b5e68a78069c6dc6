"""Run the commands of a README with two versions of the package and compare what they leave.

    python tools/compare_commands.py OLD NEW [--readme README.md]

OLD and NEW are checkouts. The commands are those of OLD's README, each run with both versions in a
folder of its own, with the demo model in place of published ones. Compared are exit codes, standard
output, and every file written, byte by byte, except for plots, model cards (prose), measurements
(seconds, memory) and seeds drawn at random.
Exits 1 if anything differs.
"""

import argparse
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

SHORT = {"generate": ["--max-tokens", "20"], "train": ["--steps", "4"]}
TIMED = ("benchmark",)  # prints measurements
PROSE = (".png", ".md")
VARYING = ("timings", "peak_memory_bytes", "seed")  # keys of `generate --json`
ROW = '{"image": "photo.jpg", "prompt": "Which plant is this?", "answer": "A lady fern."}\n'


def commands(readme: Path) -> list[list[str]]:
    """Command name and arguments of every `python -m mlx_lfm2vl.NAME` line, in order."""
    lines = re.findall(r"^python -m mlx_lfm2vl\.(.+)$", readme.read_text(), re.MULTILINE)
    found = [shlex.split(line) for line in lines]
    for words in found:
        words[words.index("--model") + 1] = "demo"
    return [words + SHORT.get(words[0], []) for words in found if words[0] not in TIMED]


def prepare(desk: Path, version: Path) -> None:
    """Put the files that the commands read into a folder."""
    (desk / "examples").symlink_to(version / "examples")
    picture = Image.new("RGB", (180, 120), "white")
    ImageDraw.Draw(picture).ellipse((20, 20, 90, 90), fill="red")
    picture.save(desk / "photo.jpg")
    picture.resize((1920, 1080)).save(desk / "screenshot.png")
    (desk / "photos").mkdir()
    picture.save(desk / "photos" / "one.png")
    (desk / "plants.jsonl").write_text(ROW)


def run_all(version: Path, desk: Path, lines: list[list[str]]) -> list[tuple[int, Any]]:
    """Exit code and standard output of every command."""
    prepare(desk, version)
    environment = {**os.environ, "PYTHONPATH": str(version), "HF_HUB_OFFLINE": "1"}
    results = []
    for name, *arguments in lines:
        done = subprocess.run(
            [sys.executable, "-m", f"mlx_lfm2vl.{name}", *arguments],
            cwd=desk, env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        results.append((done.returncode, _lasting(done.stdout)))
    return results


def _lasting(printed: str) -> Any:
    """Standard output, without what differs from run to run if it is JSON."""
    try:
        return json.loads(
            printed,
            object_hook=lambda found: {key: found[key] for key in found if key not in VARYING},
        )
    except json.JSONDecodeError:
        return printed


def written(desk: Path) -> dict[str, Any]:
    """Content of every file, by path."""
    files = [path for path in desk.rglob("*") if path.is_file() and path.suffix not in PROSE]
    return {
        str(path.relative_to(desk)): _content(path)
        for path in files
        if "examples" not in path.relative_to(desk).parts
    }


def _content(path: Path) -> Any:
    if path.suffix == ".jsonl":
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        return [{key: row[key] for key in row if "seconds" not in key} for row in rows]
    return path.read_bytes()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--readme", default="README.md", help="page of OLD; default: README.md")
    options = parser.parse_args()
    lines = commands(options.old / options.readme)
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        old = run_all(options.old.resolve(), Path(one), lines)
        new = run_all(options.new.resolve(), Path(other), lines)
        before, after = written(Path(one)), written(Path(other))
    problems = [
        f"{shlex.join(line)}: {was!r} became {now!r}"
        for line, was, now in zip(lines, old, new, strict=True)
        if was != now
    ]
    names = sorted(before.keys() | after.keys())
    problems += [f"{name} differs" for name in names if before.get(name) != after.get(name)]
    failed = sum(code != 0 for code, _ in new)
    print(f"{len(lines)} commands ({failed} fail), {len(names)} files")
    print("\n".join(problems) or "no difference")
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())
