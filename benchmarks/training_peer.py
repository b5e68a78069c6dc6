"""Train a LoRA adapter with mlx-vlm for a few updates, and print JSON.

usage: python benchmarks/training_peer.py CHECKPOINT ROWS UPDATES

Runs in an environment with mlx-vlm. `training_ours.py` makes the same measurements of mlx_lfm2vl.
"""

import json
import resource
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import mlx.core as mx
import mlx.optimizers as optim
from mlx.utils import tree_flatten
from mlx_vlm import load
from mlx_vlm.trainer.api import Trainer
from mlx_vlm.trainer.common.model import prepare_model_for_training
from mlx_vlm.trainer.vlm.config import VLMTrainingArgs

BATCH = 2


def without_line_end(batch: dict) -> mx.array:
    """The positions to learn, without the line end after an answer, which ours does not learn."""
    last = batch["attention_mask"].sum(axis=1, keepdims=True) - 1
    places = mx.arange(batch["completion_mask"].shape[1])
    return mx.where(places == last, 0, batch["completion_mask"])


def main(checkpoint: str, rows_path: str, updates: int) -> None:
    model, processor = load(checkpoint)
    rows = [json.loads(line) for line in Path(rows_path).read_text().splitlines()]
    prepare_model_for_training(model, lora_rank=8, lora_alpha=16.0, verbose=False)
    trained = dict(tree_flatten(model.trainable_parameters()))
    times = []

    def report(_metrics: dict) -> None:
        times.append((time.perf_counter(), time.process_time()))

    with tempfile.TemporaryDirectory() as folder:
        args = VLMTrainingArgs(
            batch_size=BATCH,
            iters=updates,
            steps_per_report=1,
            train_on_completions=True,  # the loss of the answers, as ours
            adapter_file=f"{folder}/adapters.safetensors",
        )
        trainer = Trainer(
            model,
            args,
            train_dataset=rows,
            processing_class=processor,
            optimizer=optim.AdamW(learning_rate=1e-4),
            training_callback=SimpleNamespace(on_train_loss_report=report),
        )
        compared = trainer.task.prepare_dataset(rows[:BATCH])
        batch = next(iter(trainer.task.batches(compared, train=False)))
        batch["completion_mask"] = without_line_end(batch)
        loss, metrics = trainer.task.objective(model, batch)
        mx.eval(loss, metrics)
        first = loss.item(), metrics["num_tokens"].item()
        mx.reset_peak_memory()
        report({})
        trainer.train()
    measured = {
        "loss": first[0],
        "tokens": first[1],
        "trained_layers": len(trained) // 2,
        "trained_numbers": sum(value.size for value in trained.values()),
        "seconds": [b[0] - a[0] for a, b in zip(times, times[1:])],  # noqa: B905
        "cpu_seconds": [b[1] - a[1] for a, b in zip(times, times[1:])],  # noqa: B905
        "peak_bytes": mx.get_peak_memory(),
        "max_rss": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
    }
    print(json.dumps(measured))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
