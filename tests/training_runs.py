"""Training runs on a tiny checkpoint, and what they are given and leave behind."""

import json
import sys
from pathlib import Path

import mlx.core as mx
import numpy as np
from conftest import golden
from pictures import make_picture

from mlx_lfm2vl.commands.train import main as train
from mlx_lfm2vl.training.batches import make_batch
from mlx_lfm2vl.training.loss import loss_sum, on_device

TINY = golden("new_names").folder
ALL_PARTS = ("language", "connector", "vision")


def dialogue(prompt: str, answer: str, *pictures) -> list[dict]:
    images = [{"type": "image", "image": picture} for picture in pictures]
    return [
        {"role": "user", "content": [*images, {"type": "text", "text": prompt}]},
        {"role": "assistant", "content": answer},
    ]


MIXED = [
    dialogue("What?", "A cat.", make_picture(13, 21, 1)),
    dialogue("And now, what do you see here?", "Two dogs and a bird.", make_picture(45, 44, 2)),
    dialogue("Hi", "Hello"),
    dialogue("Compare.", "One is red.", make_picture(13, 21, 3), make_picture(30, 20, 4)),
]


def losses(model, maker, rows) -> float:
    """The training loss of a batch of conversations, summed."""
    batch = make_batch([maker(row) for row in rows], model)
    return loss_sum(model, *on_device(batch), batch.grids).item()


def write_rows(path: Path, rows: list) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return path


def run(data: Path, output: Path, *options: str, model: Path = TINY) -> int:
    fixed = ["--model", str(model), "--data", str(data), "--output", str(output)]
    return train([*fixed, "--save-every", "5", "--seed", "1", *options])


def train_command(data: Path, output: Path, *options: str) -> list[str]:
    fixed = ["--model", str(TINY), "--data", str(data), "--output", str(output), "--seed", "1"]
    return [sys.executable, "-m", "mlx_lfm2vl.train", *fixed, *options]


def log_of(output: Path) -> list[dict]:
    return [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]


def losses_of(output: Path) -> list[float]:
    return [entry["loss"] for entry in log_of(output)]


def perturb(model) -> None:
    """Give the zero factor of an adapter values."""
    mx.random.seed(0)
    for _, module in model.named_modules():
        if "lora_b" in module:
            module.lora_b = mx.random.normal(module.lora_b.shape) * 0.1


def prompt_logits(model, processor) -> np.ndarray:
    model.eval()
    inputs = processor(golden("new_names").messages("two_images"))
    return np.array(model(inputs.input_ids, inputs.pixel_values, inputs.spatial_shapes))
