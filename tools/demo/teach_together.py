"""Train the whole demo model on pictures and questions, and write the mean of its late weights.

usage: python tools/demo/teach_together.py MODEL DATA OUT --steps 1000 [--learning-rate 2e-4]

Near the end of training, the updates of a model of this size are mostly noise. The weights move
around a point without reaching it, and their mean is nearer to it than any of them (Izmailov et
al., "Averaging weights leads to wider optima", 2018). Processes started with MLX_RANK and
MLX_HOSTFILE share the work. A run that was stopped continues when started again.
"""

import argparse
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mlx_lfm2vl import load
from mlx_lfm2vl.arrays import named_arrays
from mlx_lfm2vl.prompt.rows import read_rows
from mlx_lfm2vl.prompt.samples import SampleMaker
from mlx_lfm2vl.saving import save_checkpoint
from mlx_lfm2vl.training.adapters import train_fully
from mlx_lfm2vl.training.checkpoints import newest
from mlx_lfm2vl.training.settings import TrainSettings
from mlx_lfm2vl.training.trainer import Trainer

KEPT = TrainSettings().keep
LAST = 3  # the mean is taken over the last 1 / LAST of the updates
EVERY = 10  # updates between two sets of weights that enter the mean
SAVE_EVERY = 50  # updates between two checkpoints


class MeanOfWeights:
    """The mean of the weights over the last part of a run, updated when called after every update.

    The mean is saved whenever it changes, so that a run resumed from any checkpoint has the mean of
    that update.
    """

    def __init__(self, model: nn.Module, run: Path, steps: int) -> None:
        """
        Args:
            model: the model in training.
            run: folder of the run.
            steps: number of updates in the run.
        """
        self.model, self.run, self.steps = model, run, steps
        self.mean, self.count = named_arrays(model.parameters()), 0
        checkpoint = newest(run / "checkpoints")
        last = f"mean-{checkpoint.name}" if checkpoint else ""
        files = [file for file in sorted(run.glob("mean-step-*")) if file.stem <= last]
        if files:
            self.mean, known = mx.load(str(files[-1]), return_metadata=True)
            self.count = int(known["count"])

    def __call__(self, entry: dict[str, Any]) -> None:
        """Add the current weights to the mean, if it is their turn.

        Args:
            entry: the log entry of the update just made.
        """
        step = entry["step"]
        is_late = step >= self.steps - self.steps // LAST
        if step == self.steps or (is_late and step % EVERY == 0):
            self.count += 1
            for name, now in named_arrays(self.model.parameters()).items():
                self.mean[name] = self.mean[name] + (now - self.mean[name]) / self.count
            path = self.run / f"mean-step-{step:07d}.safetensors"
            mx.save_safetensors(str(path), self.mean, {"count": str(self.count)})
            for old in sorted(self.run.glob("mean-step-*"))[: -KEPT * SAVE_EVERY // EVERY - 1]:
                old.unlink()


def main() -> None:
    parser = argparse.ArgumentParser(description="Teach the demo model from pictures")
    add = parser.add_argument
    add("model", type=Path, help="checkpoint folder to start from")
    add("data", type=Path, help="a JSONL file of conversations")
    add("out", type=Path, help="checkpoint folder to write")
    add("--steps", type=int, required=True, help="updates")
    add("--learning-rate", type=float, default=2e-4, help="peak; default: 0.0002")
    add("--seed", type=int, default=0, help="seed of the data order; default: 0")
    options = parser.parse_args()
    settings = TrainSettings(
        method="full",
        parts=("language", "connector", "vision"),
        steps=options.steps,
        batch_size=4,
        accumulate=4,
        optimizer="muon",
        learning_rate=options.learning_rate,
        weight_decay=0.15,
        seed=options.seed,
        save_every=SAVE_EVERY,
    )
    model, processor = load(options.model, dtype="float32")
    end_id = processor.tokenizer.id_of("<|im_end|>")
    assert end_id is not None
    train_fully(model, settings.parts)
    run = options.out.with_name(f"{options.out.name}-run")
    mean = MeanOfWeights(model, run, options.steps)
    trainer = Trainer(
        model,
        SampleMaker(processor, {end_id}),
        read_rows(options.data),
        settings,
        run,
        identity={"model": str(options.model), "data": str(options.data)},
        report=mean,
    )
    trainer.train(resume=True)
    if trainer.is_first:
        model.load_weights(list(mean.mean.items()))
        save_checkpoint(model, options.model, options.out, overwrite=True)


if __name__ == "__main__":
    main()
