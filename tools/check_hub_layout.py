"""Check that transformers reads what `--layout hub` writes, with equal logits.

usage: python tools/check_hub_layout.py WRITE_DIR PYTHON

PYTHON runs this package. For each golden checkpoint this program writes, under WRITE_DIR, what
`convert` makes of it: `hub` directly, and `back` by way of MLX layout, in shards. It loads these
and the golden one with transformers and compares tensors bit for bit, and ids, pixels and logits of
the golden prompts. A legacy checkpoint needs code of its own there, so its logits are compared with
the golden ones instead, which may differ by rounding.

Needs torch, torchvision and transformers 5.23 or later, as `make_golden.py` does.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))  # for pictures.py

from golden.files import GOLDEN
from golden.processor import prepare
from golden.torchvision_operators import declare_torchvision_operators

ROOT = Path(__file__).resolve().parents[1]


def run(python: str, *arguments: object) -> None:
    subprocess.run([python, "-m", *map(str, arguments)], check=True, cwd=ROOT)


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of a checkpoint, under the names of published repositories."""
    found = {}
    for path in sorted(folder.glob("model*.safetensors")):
        for name, value in load_file(path).items():
            if "vision_model." not in name:
                name = name.replace("model.vision_tower.", "model.vision_tower.vision_model.")
            found[name] = value
    return found


def equal_files(one: Path, other: Path) -> bool:
    """Whether two checkpoints hold the same tensors, bit for bit."""
    a, b = tensors(one), tensors(other)
    return a.keys() == b.keys() and all(
        a[name].dtype == b[name].dtype and torch.equal(a[name], b[name]) for name in a
    )


class Read:
    """What transformers makes of a checkpoint."""

    def __init__(self, folder: Path, dtype: torch.dtype) -> None:
        self.processor = transformers.AutoProcessor.from_pretrained(folder, trust_remote_code=False)
        model, self.problems = transformers.AutoModelForImageTextToText.from_pretrained(
            folder, dtype=dtype, output_loading_info=True, trust_remote_code=False
        )
        self.model = model.eval()

    @torch.no_grad()
    def answer(self, messages: list[dict]) -> dict[str, torch.Tensor]:
        """The ids of a prompt, the pixels of its images, and the logits at its last position."""
        _, inputs = prepare(self.processor, messages)
        pixels = {k: v for k, v in inputs.items() if k in ("pixel_values", "spatial_shapes")}
        logits = self.model(**inputs).logits[0, -1].float()
        return {"ids": inputs["input_ids"][0].int(), "logits": logits, **pixels}


def read_original(folder: Path, dtype: torch.dtype) -> Read | None:
    """The original read by transformers; None for a legacy one, whose code it would run."""
    try:
        return Read(folder, dtype)
    except ValueError as error:
        if "trust_remote_code" not in str(error):
            raise
        return None


def check(name: str, case: str, written: Path) -> bool:
    """Print one row about a folder that was written."""
    original = GOLDEN / case / "checkpoint"
    prompts = json.loads((GOLDEN / case / "expected.json").read_text())["prompts"]
    golden = load_file(GOLDEN / case / "expected.safetensors")
    results = {"tensors": equal_files(original, written)}
    kinds = {value.dtype for value in tensors(original).values()} | {torch.float32}
    for dtype in sorted(kinds, key=str):
        new, old = Read(written, dtype), read_original(original, dtype)
        kind = str(dtype).removeprefix("torch.")
        clean = not any(new.problems[key] for key in ("missing_keys", "unexpected_keys"))
        results[f"names in {kind}"] = clean
        for prompt, about in prompts.items():
            found = new.answer(about["messages"])
            results["ids"] = results.get("ids", True) and torch.equal(
                found["ids"], golden[f"{prompt}.input_ids"]
            )
            if old is not None:
                wanted = old.answer(about["messages"])
                results[f"{prompt} in {kind}"] = found.keys() == wanted.keys() and all(
                    torch.equal(found[key], wanted[key]) for key in found
                )
            elif dtype == torch.float32:
                gap = (found["logits"] - golden[f"{prompt}.logits"]).abs().max().item()
                results[f"{prompt} in {kind} within 1e-5"] = gap < 1e-5
    ends = new.model.generation_config.eos_token_id
    results["end token"] = ends == new.processor.tokenizer.eos_token_id
    failed = [key for key, passed in results.items() if not passed]
    verdict = f"FAILED: {', '.join(failed)}" if failed else "equal"
    print(f"| {name} | {', '.join(results)} | {verdict} |", flush=True)
    return not failed


def main() -> int:
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    work, python = Path(sys.argv[1]).resolve(), sys.argv[2]
    library = declare_torchvision_operators()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    convert, passed = "mlx_lfm2vl.convert", True
    print("| checkpoint | compared | result |\n|---|---|---|")
    for case in sorted(path.name for path in GOLDEN.iterdir() if path.is_dir()):
        original = GOLDEN / case / "checkpoint"
        mlx, hub, back = (work / f"{case}-{kind}" for kind in ("mlx", "hub", "back"))
        run(python, convert, "-m", original, "--output", mlx)
        run(python, convert, "-m", original, "--layout", "hub", "--output", hub)
        shards = ("--max-shard-size", "50KB")
        run(python, convert, "-m", mlx, "--layout", "hub", *shards, "--output", back)
        passed &= check(f"{case}, hub", case, hub)
        passed &= check(f"{case}, mlx, hub", case, back)
    del library
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
