"""The training loop of a drafter; its target is frozen."""

import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
from mlx.utils import tree_map

from ..errors import InputError
from ..model.drafter import DraftModel
from ..model.lfm2vl import Lfm2VL
from .batches import UpdateOrder
from .checkpoints import load_state, newest, save_state
from .drafter_data import Lessons, make_blocks
from .drafter_files import restore_drafter, save_drafter
from .drafter_loss import Blocks, drafter_loss
from .drafter_replay import replay
from .log import add_to_log, start_log
from .loss import as_float
from .optimizer import learning_rate, make_optimizer, set_learning_rate
from .settings import DrafterSettings
from .trainer import BEST, interrupts_deferred

log = logging.getLogger(__name__)

BETAS = (0.9, 0.95)


class DrafterTrainer:
    """A training run of a drafter.

    Attributes:
        best: tokens per round of the best drafter so far.
    """

    def __init__(
        self,
        drafter: DraftModel,
        target: Lfm2VL,
        lessons: Lessons,
        lengths: list[int],
        settings: DrafterSettings,
        output: Path,
        *,
        validation: Lessons | None = None,
        identity: Mapping[str, Any],
        report: Callable[[dict[str, Any]], None] = lambda _: None,
    ) -> None:
        """
        Args:
            drafter: trained in place, in float32.
            target: frozen.
            lessons: to learn from.
            lengths: of the lessons, in any unit; estimates are enough.
            settings: how to train.
            output: folder for the log and the checkpoints.
            validation: greedy answers, whose rounds are replayed.
            identity: identifies target, data and drafter; a run resumes only with the same ones.
            report: called with every log entry.
        """
        self.drafter, self.target, self.lessons = drafter, target, lessons
        self.settings, self.output, self.report = settings, output, report
        self.validation = validation
        self.best = 0.0
        self.group = mx.distributed.init()
        update = settings.batch_size * settings.accumulate * self.group.size()
        self.order = UpdateOrder(lengths, update, settings.seed)
        self.optimizer = make_optimizer(settings, BETAS)
        self.optimizer.init(drafter.trainable_parameters())
        self.run = {**asdict(settings), **identity, "processes": self.group.size()}
        self._gradient = nn.value_and_grad(drafter, self._loss)

    @property
    def is_first(self) -> bool:
        """Whether this is the first of several processes, the only one that writes files."""
        return self.group.rank() == 0

    def train(self, *, resume: bool = False) -> None:
        """Train to the last step.

        Args:
            resume: start from the newest checkpoint in the output folder, if there is one.

        Raises:
            InputError: a conversation cannot be used, the loss is not finite, or the run to resume
                differs from this one.
            KeyboardInterrupt: Ctrl-C was pressed; a checkpoint has been written.
        """
        settings, done = self.settings, 0
        checkpoint = newest(self.output / "checkpoints") if resume else None
        if checkpoint is not None:
            done = load_state(checkpoint, self.drafter, self.optimizer, self.run, restore_drafter)
            if done >= settings.steps:
                asked = f"--steps is {settings.steps}"
                log.warning("nothing left to train: the run has %d updates, and %s", done, asked)
        if self.is_first:
            entries = start_log(self.output / "log.jsonl", done)
            self.best = max((e.get("tokens_per_round", 0.0) for e in entries), default=0.0)
        with interrupts_deferred() as pressed:
            for step in range(done, settings.steps):
                last = step + 1 == settings.steps
                entry = self._step(step)
                if last or (step + 1) % settings.validate_every == 0:
                    self._validate(entry)
                if self.is_first:
                    add_to_log(self.output / "log.jsonl", entry)
                    self.report(entry)
                stop = self._sum(mx.array(float(pressed()))) > 0 and not last
                if (step + 1) % settings.save_every == 0 or last or stop:
                    self._save(step + 1)
                if stop:
                    raise KeyboardInterrupt

    def _step(self, step: int) -> dict[str, Any]:
        """Make one update; returns its log entry."""
        started = time.perf_counter()
        total, accepted, weight, blocks = mx.array(0.0), mx.array(0.0), mx.array(0.0), 0
        grads = None
        for batch in self._batches(step):
            (loss, right), new = self._gradient(batch)
            total, accepted = total + loss, accepted + right
            weight = weight + batch.weights.sum()
            blocks += int(as_float((batch.weights[..., 0] > 0).sum()))
            grads = new if grads is None else tree_map(mx.add, grads, new)
            mx.eval(total, accepted, weight, grads)
        assert grads is not None
        size, weight = self.group.size(), mx.array(self._sum(weight))
        grads = nn.average_gradients(grads, self.group)  # the processes' sums, averaged
        grads = tree_map(lambda grad: grad * (size / weight), grads)
        grads, norm = optim.clip_grad_norm(grads, self.settings.max_grad_norm)
        rate = learning_rate(self.settings, step)
        set_learning_rate(self.optimizer, rate)
        self.optimizer.update(self.drafter, grads)
        mx.eval(norm, self.drafter.parameters(), self.optimizer.state)
        loss = self._sum(total) / as_float(weight)
        if not math.isfinite(loss):
            raise InputError(
                f"the loss of update {step + 1} is {loss}: use a lower --learning-rate"
            )
        drawn = self._sum(mx.array(float(blocks)))
        return {
            "step": step + 1,
            "loss": loss,
            "expected": self._sum(accepted) / drawn + 1,  # tokens a round, given the true ones
            "grad_norm": norm.item(),
            "learning_rate": rate,
            "blocks": int(drawn),
            "kept_bytes": self.lessons.nbytes,  # states of the target in memory
            "seconds": round(time.perf_counter() - started, 4),
        }

    def _batches(self, step: int) -> list[Blocks]:
        """Draw the blocks of an update: this process's share, in one part per micro-step."""
        settings = self.settings
        numbers = self.order(step)[self.group.rank() :: self.group.size()]
        batches = list[Blocks]()
        for start in range(0, len(numbers), settings.batch_size):
            some = numbers[start : start + settings.batch_size]
            # What is drawn does not depend on the number of processes, or on what came before.
            draws = [np.random.default_rng((settings.seed, step, number)) for number in some]
            lessons = [self.lessons(number) for number in some]
            block = self.drafter.config.block_size
            batches.append(make_blocks(lessons, settings.anchors, block, draws))
        return batches

    def _loss(self, blocks: Blocks) -> tuple[mx.array, mx.array]:
        return drafter_loss(self.drafter, self.target, blocks)

    def _sum(self, value: mx.array) -> float:
        """Return the sum over all processes."""
        return as_float(mx.distributed.all_sum(value, group=self.group))

    def _validate(self, entry: dict[str, Any]) -> None:
        """Add tokens per round to a log entry, and keep the drafter if it is the best so far."""
        if self.validation is None or not self.is_first:
            return
        lessons = map(self.validation, range(len(self.validation)))
        found = replay(self.drafter, self.target, lessons)
        entry["tokens_per_round"] = found.tokens_per_round
        entry["accepted"] = found.accepted
        if found.tokens_per_round > self.best:
            self.best = found.tokens_per_round
            self.save(self.output / BEST)

    def save(self, folder: Path) -> None:
        """Write the drafter as it is used, in 16 bits."""
        same = self.target.language_model.embedding_norm.weight.dtype == mx.bfloat16
        save_drafter(self.drafter, folder, "bfloat16" if same else "float16")

    def _save(self, done: int) -> None:
        if self.is_first:
            save_state(
                self.output / "checkpoints",
                done,
                lambda folder: save_drafter(self.drafter, folder, "float32"),
                self.optimizer,
                self.run,
            )
