"""The `doctor` command: what this machine is, and whether its GPU computes what its CPU does.

It also counts what a token and a picture ask of the GPU. Exit codes: 0 all as expected (or no GPU
to check), 1 not as expected or failed, 2 wrong use, 130 interrupted.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

from .. import __version__
from ..checkpoint.aliases import DEMO, full_name
from ..errors import InputError
from ..whole_folder import check_file, new_file
from .common import MODEL_HELP, SCHEMA, run_command, stage
from .parser import Parser

PACKAGES = ("mlx", "numpy", "pillow", "tokenizers", "jinja2", "huggingface_hub")
EPILOG = """\
examples:
  mlx_lfm2vl doctor
  mlx_lfm2vl doctor -m 450m --report report.md
  mlx_lfm2vl doctor --offline

The report names no folders, so it can be shared.
"""


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="mlx_lfm2vl doctor",
        description="Report versions, chip, memory and limits. Then run a model on three drawn\n"
        "pictures and a text, compare the GPU's numbers with the CPU's, and count kernels\n"
        "and waits.",
        epilog=EPILOG,
    )
    add = parser.add_argument
    about = MODEL_HELP.partition("; default")[0]
    add(
        "-m",
        "--model",
        dest="checked",
        metavar="MODEL",
        default=DEMO,
        help=f"{about}; default: demo",
    )
    add(
        "--report",
        type=Path,
        metavar="FILE",
        help="also write the report, as Markdown (NAME.md) or JSON (NAME.json)",
    )
    add("--offline", action="store_true", help="do not ask whether the Hub can be reached")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    return run_command(build_parser(), _doctor, arguments)


class _Report:
    """What was found, printed at once and written to a file at the end."""

    def __init__(self) -> None:
        self._lines: list[tuple[str, str]] = []
        self._values: dict[str, Any] = {}

    def add(self, label: str, text: str, **values: Any) -> None:
        """Print a line.

        Args:
            label: of the line.
            text: of the line.
            values: what the JSON has instead of the text.
        """
        print(f"{label:10}{text}", flush=True)
        self._lines.append((label, text))
        self._values |= values or {label.lower(): text}

    def write(self, path: Path) -> None:
        """Write the report, in the format that the file's name asks for."""
        if path.suffix == ".json":
            text = json.dumps({"schema": SCHEMA, **self._values}, indent=2, ensure_ascii=False)
        else:
            rows = [
                f"| {label} | {text.replace('|', chr(92) + '|')} |" for label, text in self._lines
            ]
            text = "\n".join(["| what | found |", "|---|---|", *rows])
        with new_file(path) as partial:
            partial.write_text(text + "\n", encoding="utf-8")
        print(f"wrote {path}", file=sys.stderr)


def _doctor(options: argparse.Namespace) -> int:
    _check_target(options.report)
    report = _Report()
    for label, text in _machine(offline=options.offline):
        report.add(label, text)
    model = options.checked if os.path.isdir(options.checked) else full_name(options.checked)
    report.add("model", Path(model).resolve().name if os.path.isdir(model) else model)
    wrong = _check(model, report)
    if options.report:
        report.write(options.report)
    if wrong:
        print("error: the GPU does not compute what the CPU computes; share this", file=sys.stderr)
    return 1 if wrong else 0


def _check_target(path: Path | None) -> None:
    """Find mistakes before minutes of work."""
    if path is None:
        return
    if path.suffix not in (".md", ".json"):
        raise InputError(f"--report {path}: expected a name that ends in .md or .json")
    check_file(path)


def _machine(*, offline: bool) -> list[tuple[str, str]]:
    """What is known without a model: (label, text)."""
    import mlx.core as mx

    from ..checkpoint.hub_cache import describe_hub
    from ..device import choose_limits, cpu_brand, prepare_device, read_chip

    prepare_device(read_chip())
    info = mx.device_info()
    memory = info.get("memory_size")
    working = info.get("max_recommended_working_set_size")
    sizes = [f"{memory / 1e9:.0f} GB"] if isinstance(memory, int) else ["not known"]
    if isinstance(working, int):
        sizes.append(f"{working / 1e9:.0f} GB for the GPU")
    limits = [
        f"{name} {'as MLX has it' if size is None else f'{size / 1e9:.1f} GB'}"
        for name, size in asdict(choose_limits(0)).items()
    ]
    system = platform.mac_ver()[0]
    return [
        ("version", f"mlx_lfm2vl {__version__}, Python {platform.python_version()}"),
        ("packages", ", ".join(f"{name} {_version(name)}" for name in PACKAGES)),
        ("system", f"macOS {system}" if system else f"{platform.system()} {platform.machine()}"),
        ("chip", cpu_brand() or str(info.get("device_name", "not known"))),
        ("memory", ", ".join(sizes)),
        ("limits", ", ".join(limits)),
        ("Hub", "not asked" if offline else describe_hub()),
    ]


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "of unknown version"


def _check(model: str, report: _Report) -> int:
    """Run the model and report what was compared; return how many number types differ."""
    import mlx.core as mx

    from ..checkpoint.find import find_checkpoint
    from ..device_check import compare, count_work, has_gpu, observe, observe_on_cpu

    find_checkpoint(model)  # here, because another process could not tell well what is wrong
    with stage("running the CPU path"):
        reference = observe_on_cpu(model)
    tokens = sum(len(ids) for name, ids in reference.items() if name.startswith("tokens"))
    report.add("CPU", f"float32: three pictures and a text read, {tokens} tokens answered")
    with stage("counting"):
        work = count_work(model)
    picture = f"a picture of {work.views} view{'s' if work.views > 1 else ''}"
    report.add(
        "kernels",
        f"{work.token_kernels} a token, {work.token_chain} of them in a chain; "
        f"{work.image_kernels} {picture}, {work.image_chain} of them in a chain"
        f"{'' if has_gpu() else ' (as Metal would have them)'}",
        work=asdict(work),
    )
    times = "time" if work.token_reads == 1 else "times"
    reads = f"the host waits {work.token_reads:g} {times} a token, {work.image_reads} a picture"
    report.add("waits", reads, work=asdict(work))
    if not has_gpu():
        text = "not checked: MLX has no GPU here, so neither its float32 nor its 16 bits"
        report.add("GPU", text, gpu=None)
        return 0
    found: dict[str, Any] = {}
    for name in dict.fromkeys(("float32", work.dtype)):
        with stage(f"running the GPU path in {name}"):
            agreement = compare(observe(model, "float32" if name == "float32" else None), reference)
        expected = agreement.is_expected(name)
        found[name] = {**asdict(agreement), "expected": expected}
        report.add(
            "GPU",
            f"{name}: features differ by {agreement.features:.1e}, logits by "
            f"{agreement.logits:.1e} of the largest; same best token {agreement.best:.1%}; "
            f"{agreement.greedy} of {agreement.tokens} greedy tokens equal: "
            f"{'as expected' if expected else 'NOT AS EXPECTED'}",
            gpu=found,
        )
        mx.clear_cache()
    return sum(not values["expected"] for values in found.values())
