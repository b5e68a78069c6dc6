"""The model card of a converted checkpoint: its source, its size, its loss and its speed."""

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

KEPT_KEYS = ("license", "license_name", "license_link", "language")
MOST_TOKENS_PER_SECOND = 20_000  # beyond, a step is far from bound by memory
PART_NAMES = {
    "language": "decoder layers",
    "embed": "embedding and head",
    "connector": "connector",
    "vision": "vision tower",
    "all": "all",
}


def write_model_card(folder: Path, source: Path, report: Mapping[str, Any]) -> None:
    """Write the `README.md` of a converted checkpoint.

    Args:
        folder: the new checkpoint.
        source: the checkpoint folder it was made from, whose card gives license and language.
        report: what `loss_report.quantization_report` returns, with "quality" if compared.
    """
    name = report["source"]
    front = _front_matter(source / "README.md")
    lines = [
        "---",
        *(front or ["license: other"]),
        f"library_name: {'transformers' if report.get('layout') == 'hub' else 'mlx'}",
        f"pipeline_tag: {'text-generation' if report['text_only'] else 'image-text-to-text'}",
        *([f"base_model: {name}"] if re.fullmatch(r"[\w.-]+/[\w.-]+", name) else []),
        "tags:",
        *(["- mlx"] if report.get("layout") != "hub" else []),
        "- lfm2" if report["text_only"] else "- lfm2-vl",
        "---",
        f"# {folder_title(report)}",
        "",
        f"Converted from `{name}` by mlx_lfm2vl {report['version']}: {report['settings']}.",
        *(["transformers loads it, too."] if report.get("layout") == "hub" else []),
        "The weights remain under the license of their source.",
        "",
        *_how_to_run(report),
        "",
        "## Size",
        "",
        *_table(
            ("part", "parameters", "MB", "bits per weight"),
            [
                (
                    PART_NAMES[part],
                    f"{size['parameters']:,}",
                    f"{size['bytes'] / 1e6:.1f}",
                    f"{size['bits_per_weight']:.2f}",
                )
                for part, size in report["sizes"].items()
            ],
        ),
    ]
    if report["kept"]:
        kept = ", ".join(f"`{path}` ({reason})" for path, reason in report["kept"].items())
        lines += ["", f"Not quantized, although requested: {kept}."]
    if report.get("quality"):
        lines += ["", "## What was lost", "", *_quality(report)]
    lines += _speed(report["decode_ceiling"])
    (folder / "README.md").write_text("\n".join(lines) + "\n")


def folder_title(report: Mapping[str, Any]) -> str:
    """The new checkpoint's name."""
    return Path(report["output"]).name


def _front_matter(path: Path) -> list[str]:
    """The front matter of the source's card that still holds, in lines."""
    if not path.exists():
        return []
    match = re.match(
        r"---\n(.*?)\n---", path.read_text(encoding="utf-8", errors="replace"), re.DOTALL
    )
    kept, keeps = [], False
    for line in match[1].splitlines() if match else ():
        if not line.startswith((" ", "-")):
            keeps = line.partition(":")[0] in KEPT_KEYS
        if keeps:
            kept.append(line)
    return kept


def _how_to_run(report: Mapping[str, Any]) -> list[str]:
    """How to install the program that runs the checkpoint, and one command."""
    name = report["upload"] or folder_title(report)
    if report["text_only"]:
        where, install = "In a new virtual environment", "pip install mlx-lm"
        command = f'python -m mlx_lm generate --model {name} --prompt "Hello"'
    else:
        where, install = "In the source folder of mlx_lfm2vl", "pip install ."
        command = f"python -m mlx_lfm2vl.generate --model {name} --image photo.jpg "
        command += '--prompt "What is in this photo?"'
    meaning = "" if report["upload"] else f" (`{name}` stands for the path of this folder)"
    environment = "python3 -m venv .venv && . .venv/bin/activate"
    return [f"{where}{meaning}:", "", "```", environment, install, command, "```"]


def _quality(report: Mapping[str, Any]) -> list[str]:
    quality = report["quality"]
    rows = [
        (
            kind,
            str(quality[kind]["positions"]),
            f"{quality[kind]['kl']:.4f}",
            f"{quality[kind]['agreement']:.1%}",
        )
        for kind in ("image", "text", "answer")
        if kind in quality
    ]
    perplexity = quality["perplexity"]
    lines = [
        f"Next-token distributions compared with the source's, on {report['samples']}:",
        "",
        *_table(("positions", "number", "mean KL (nats)", "same best token"), rows),
        "",
        f"Perplexity of the answers: {perplexity['source']:.3f} before, "
        f"{perplexity['converted']:.3f} after ({perplexity['change']:+.1%}).",
    ]
    for name, error in quality.get("features", {}).items():
        lines.append(f"Relative error of the {name}'s features: {error:.2%}.")
    return [*lines, *(f"\n**Note:** {note}." for note in report["warnings"])]


def _speed(ceiling: Mapping[str, float]) -> list[str]:
    """What memory bandwidth allows; nothing for a model so small that other work takes longer."""
    if max(ceiling.values(), default=0) > MOST_TOKENS_PER_SECOND:
        return []
    speeds = ", ".join(f"{chip} {two_digits(speed)}" for chip, speed in ceiling.items())
    return [
        "",
        "## Speed",
        "",
        "Decoding reads every decoder weight once per token. The most tokens per second that each "
        f"chip's memory bandwidth allows (computed, not measured): {speeds}.",
    ]


def two_digits(value: float) -> str:
    """Round to two significant digits: 709.5 -> "710", 0.0123 -> "0.012"."""
    digits = 1 - math.floor(math.log10(abs(value))) if value else 0
    return f"{round(value, digits):,.{max(digits, 0)}f}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    cells = [head, ["---"] * len(head), *rows]
    return [f"| {' | '.join(row)} |" for row in cells]
