"""The `doctor` command: what this machine is, and whether its GPU computes what its CPU does.

Exit codes: 0 all as expected (or no GPU to check), 1 not as expected or failed, 2 wrong use, 130
interrupted.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path

from .. import __version__
from ..checkpoint.aliases import DEMO, full_name
from .common import MODEL_HELP, run_command, stage
from .parser import Parser

PACKAGES = ("mlx", "numpy", "pillow", "tokenizers", "jinja2", "huggingface_hub")
EPILOG = """\
examples:
  mlx_lfm2vl doctor
  mlx_lfm2vl doctor -m 450m
  mlx_lfm2vl doctor --offline

The report names no folders, so it can be shared.
"""


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="mlx_lfm2vl doctor",
        description="Report versions, chip, memory and limits. Then run a model on three drawn\n"
        "pictures and a text, and compare the GPU's numbers with the CPU's.",
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
    add("--offline", action="store_true", help="do not ask whether the Hub can be reached")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    return run_command(build_parser(), _doctor, arguments)


def _doctor(options: argparse.Namespace) -> int:
    for label, text in _machine(offline=options.offline):
        print(f"{label:10}{text}", flush=True)
    model = options.checked if os.path.isdir(options.checked) else full_name(options.checked)
    named = Path(model).resolve().name if os.path.isdir(model) else model
    print(f"{'model':10}{named}", flush=True)
    return _check(model)


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


def _check(model: str) -> int:
    """Run the model, print what was compared, and return the exit code."""
    import mlx.core as mx

    from ..arrays import dtype_name
    from ..device_check import compare, has_gpu, observe, observe_on_cpu
    from ..loading import load

    with stage("running the CPU path"):
        reference = observe_on_cpu(model)
    tokens = sum(len(ids) for name, ids in reference.items() if name.startswith("tokens"))
    print(f"{'CPU':10}float32: three pictures and a text read, {tokens} tokens answered")
    if not has_gpu():
        print(f"{'GPU':10}not checked: MLX has no GPU here, so neither its float32 nor its 16 bits")
        return 0
    used = dtype_name(load(model)[0].vision_tower.post_layernorm.weight.dtype)
    wrong = 0
    for name in dict.fromkeys(("float32", used)):
        with stage(f"running the GPU path in {name}"):
            agreement = compare(observe(model, "float32" if name == "float32" else None), reference)
        expected = agreement.is_expected(name)
        wrong += not expected
        print(
            f"{'GPU':10}{name}: features differ by {agreement.features:.1e}, logits by "
            f"{agreement.logits:.1e} of the largest; same best token {agreement.best:.1%}; "
            f"{agreement.greedy} of {agreement.tokens} greedy tokens equal: "
            f"{'as expected' if expected else 'NOT AS EXPECTED'}"
        )
        mx.clear_cache()
    print(f"{'':10}kernel launches and host reads cannot be counted from here")
    if wrong:
        print("error: the GPU does not compute what the CPU computes; share this", file=sys.stderr)
    return 1 if wrong else 0
