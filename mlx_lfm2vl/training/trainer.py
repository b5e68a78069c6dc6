"""The training loop: forward pass, backward pass, update, log and checkpoints."""

import contextlib
import logging
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
from mlx.utils import tree_map

from ..errors import InputError
from ..model.lfm2vl import Lfm2VL
from ..prompt.samples import Sample, SampleMaker
from ..prompt.template import Message
from .adapters import FULLY_TRAINED, load_trained, save_adapter
from .batches import LENGTH_STEP, Batch, UpdateOrder, make_batch
from .checkpoints import load_state, newest, save_state
from .frozen import FrozenViews
from .log import add_to_log, start_log
from .loss import as_float, loss_sum, mean_loss, on_device
from .optimizer import learning_rate, make_optimizer, set_learning_rate
from .settings import FEATURE_GB, TrainSettings

log = logging.getLogger(__name__)

MAX_COMPILED = 64  # MLX never frees a compiled graph: further batch shapes run uncompiled

BEST = "best"  # folder in the output: the adapter with the lowest validation loss

Rows = Sequence[Sequence[Message]]


class BadSampleError(InputError):
    """A conversation cannot be turned into a sample; the training up to it stays valid."""


class Trainer:
    """A training run on a model whose trainable parameters have been chosen."""

    def __init__(
        self,
        model: Lfm2VL,
        maker: SampleMaker,
        rows: Rows,
        settings: TrainSettings,
        output: Path,
        *,
        save: Callable[[Path], None] | None = None,
        validation: Rows = (),
        identity: Mapping[str, str] = MappingProxyType({}),
        report: Callable[[dict[str, Any]], None] = lambda _: None,
        answers: Callable[[], list[dict[str, str]]] | None = None,
        feature_gb: float = FEATURE_GB,
    ) -> None:
        """
        Args:
            model: its unfrozen parameters are trained, in place.
            maker: turns rows into samples.
            rows: conversations to train on.
            settings: how to train.
            output: folder for the log and the checkpoints.
            save: writes what is trained to a folder; None writes all as fully trained.
            validation: conversations to measure the loss on.
            identity: identifies the model and the data; a run resumes only with the same ones.
            report: called with every log entry.
            answers: called at each validation, for sample answers that go into the log.
            feature_gb: most gigabytes of image features to keep between epochs. It does not change
                the losses.
        """
        self.model, self.maker, self.rows, self.settings = model, maker, rows, settings
        self.validation, self.output, self.report = validation, output, report
        self.save = save or self._save_fully_trained
        self.answers = answers
        self.best = math.inf  # validation loss
        self.frozen = FrozenViews(model, int(feature_gb * 1e9))
        self.group = mx.distributed.init()
        lengths = maker.lengths(rows, "the training data")
        maker.lengths(validation, "the validation data")  # reports bad rows now, not at step 100
        # Samples in one batch, over all processes.
        self.batch_size = settings.batch_size * self.group.size()
        self.order = UpdateOrder(lengths, settings.accumulate * self.batch_size, settings.seed)
        self.optimizer = make_optimizer(settings)
        self.optimizer.init(model.trainable_parameters())
        self.run = {**asdict(settings), **identity, "processes": self.group.size()}
        self._gradient = nn.value_and_grad(model, loss_sum)
        self._compiled: dict[tuple[object, ...], Callable[..., Any]] = {}
        self._compiled_update: Callable[[Any, mx.array], mx.array] | None = None
        if settings.recompute:
            model.language_model.recompute_gradients()
            model.vision_tower.encoder.recompute_gradients()

    @property
    def is_first(self) -> bool:
        """Whether this is the first of several processes, the only one that writes files."""
        return self.group.rank() == 0

    def train(self, *, resume: bool = False) -> None:
        """Train to the last step.

        Args:
            resume: start from the newest checkpoint in the output folder, if there is one.

        Raises:
            BadSampleError: an image cannot be read; a checkpoint has been written.
            InputError: the loss is not finite, or the run to resume differs from this one.
            KeyboardInterrupt: Ctrl-C was pressed; a checkpoint has been written.
        """
        done = 0
        checkpoint = newest(self.output / "checkpoints") if resume else None
        if checkpoint is not None:
            done = load_state(checkpoint, self.model, self.optimizer, self.run, load_trained)
            if done >= self.settings.steps:
                asked = f"--steps is {self.settings.steps}"
                log.warning("nothing left to train: the run has %d updates, and %s", done, asked)
        self._begin_together(done)
        first = done
        if self.is_first:
            entries = start_log(self.output / "log.jsonl", done)
            self.best = min((e.get("validation_loss", math.inf) for e in entries), default=math.inf)
        with ThreadPoolExecutor(1) as pool, interrupts_deferred() as pressed:
            batches = self._prefetched(pool, done)
            for step in range(done, self.settings.steps):
                last = step + 1 == self.settings.steps
                try:
                    entry = self._step(step, batches)
                    done = step + 1
                    self._conclude(entry, last=last)
                except BadSampleError:
                    if done > first:
                        self._save(done)
                    raise
                stop = self._any(pressed()) and not last
                if done % self.settings.save_every == 0 or last or stop:
                    self._save(done)
                if stop:
                    raise KeyboardInterrupt

    def _begin_together(self, done: int) -> None:
        """Check that all processes resume at the same update; without a shared disk they may not.

        Raises:
            InputError: they differ.
        """
        most = mx.distributed.all_max(mx.array(done), group=self.group).item()
        if self._any(done != most):
            raise InputError(
                f"the processes cannot resume together: this one is at update {done}, one is at "
                f"{most}; copy the output folder of the first to every machine"
            )

    def _end_together(self, failure: BadSampleError | None) -> None:
        """If one process fails, fail in all of them; otherwise the others would wait forever."""
        if self._any(failure is not None):
            raise failure or BadSampleError("another process could not use a conversation")

    def _any(self, flag: bool) -> bool:
        """Whether the flag is set in any process."""
        if self.group.size() == 1:
            return flag
        return self._over_all(mx.array(float(flag))).item() != 0

    def _step(self, step: int, batches: Iterator[Batch]) -> dict[str, Any]:
        """Make one update; returns its log entry."""
        started = time.perf_counter()
        self.model.train()
        # The step determines the seed, so that resuming needs no generator state.
        mx.random.seed((self.settings.seed * 1009 + self.group.rank()) * 1_000_003 + step)
        total, tokens, grads, failure = mx.array(0.0), 0, None, None
        for _ in range(self.settings.accumulate):
            try:
                batch = next(batches)
            except BadSampleError as error:
                failure = error
                break
            loss, new = self._loss_and_gradient(batch)
            total, tokens = total + loss, tokens + batch.tokens
            grads = new if grads is None else tree_map(mx.add, grads, new)
            mx.async_eval(total, grads)
        self._end_together(failure)
        assert grads is not None
        tokens = self._over_all(mx.array(float(tokens)))
        grads = nn.average_gradients(grads, self.group)  # the processes' sums, averaged
        rate = learning_rate(self.settings, step)
        set_learning_rate(self.optimizer, rate)
        norm = self._updater()(grads, self.group.size() / tokens)
        loss = self._over_all(total) / tokens
        mx.eval(loss, norm, self.model.trainable_parameters(), self.optimizer.state)
        if not math.isfinite(as_float(loss)):
            raise InputError(
                f"the loss of update {step + 1} is {loss.item()}: use a lower --learning-rate or "
                "--dtype float32"
            )
        return {
            "step": step + 1,
            "loss": loss.item(),
            "grad_norm": norm.item(),
            "learning_rate": rate,
            "tokens": int(as_float(tokens)),
            "kept_bytes": self.frozen.nbytes,  # image features in memory
            "seconds": round(time.perf_counter() - started, 4),
        }

    def _updater(self) -> Callable[[Any, mx.array], mx.array]:
        """The function `_update`, compiled once for all updates if the settings say so.

        A GPU then runs a few kernels per trained matrix instead of about twenty.
        """
        if not self.settings.compile:
            return self._update
        if self._compiled_update is None:
            state = [self.model.state, self.optimizer.state]  # after a resumed run's is loaded
            self._compiled_update = mx.compile(self._update, inputs=state, outputs=state)
        return self._compiled_update

    def _update(self, grads: Any, factor: mx.array) -> mx.array:
        """Clip `factor` times some gradients and take a step; returns the norm before clipping."""
        grads = tree_map(lambda grad: grad * factor.astype(grad.dtype), grads)
        grads, norm = optim.clip_grad_norm(grads, self.settings.max_grad_norm)
        self.optimizer.update(self.model, grads)
        return norm

    def _loss_and_gradient(self, batch: Batch) -> tuple[mx.array, Any]:
        run = self._runner(batch.shape_key, batch.grids)
        return run(*on_device(batch, self.frozen))

    def _runner(self, key: tuple[object, ...], grids: tuple[tuple[int, int], ...]) -> Any:
        """The gradient function of one batch shape; the first MAX_COMPILED shapes are compiled."""

        def run(*arguments: Any) -> tuple[mx.array, Any]:
            return self._gradient(self.model, *arguments, grids, self.frozen.finish)

        if not self.settings.compile:
            return run
        if key not in self._compiled:
            if len(self._compiled) >= MAX_COMPILED:
                return run
            state = [self.model.state, mx.random.state]
            self._compiled[key] = mx.compile(run, inputs=state, outputs=state)
        return self._compiled[key]

    def _over_all(self, value: mx.array) -> mx.array:
        return mx.distributed.all_sum(value, group=self.group)

    def _prefetched(self, pool: ThreadPoolExecutor, done: int) -> Iterator[Batch]:
        """The batches in order; the next one is prepared while the device computes."""
        first = done * self.settings.accumulate
        last = self.settings.steps * self.settings.accumulate
        pending = pool.submit(self._batch, first)
        for number in range(first + 1, last + 1):
            batch = pending.result()
            if number < last:
                pending = pool.submit(self._batch, number)
            yield batch

    def _batch(self, number: int) -> Batch:
        step, part = divmod(number, self.settings.accumulate)
        batch = self.order(step)[part * self.batch_size : (part + 1) * self.batch_size]
        # The batch is sorted by length: dealing samples out in turn gives each about the same work.
        indices = batch[self.group.rank() :: self.group.size()]
        multiple = LENGTH_STEP if self.settings.compile else 1
        return make_batch([self._sample(self.rows, i) for i in indices], self.model, multiple)

    def _sample(self, rows: Rows, number: int) -> Sample:
        try:
            return self.maker(rows[number])
        except InputError as error:
            which = "validation conversation" if rows is self.validation else "conversation"
            raise BadSampleError(f"{which} {number + 1}: {error}") from None

    def _conclude(self, entry: dict[str, Any], *, last: bool) -> None:
        """Log an update, with the validation loss if it is due."""
        failure = None
        is_due = self.validation and (last or entry["step"] % self.settings.validate_every == 0)
        if is_due:
            try:
                entry["validation_loss"] = self.validate()
                self._keep_best(entry["validation_loss"])
                if self.answers and self.is_first:
                    entry["answers"] = self.answers()
            except BadSampleError as error:
                failure = error
        self._log(entry)
        if is_due:
            self._end_together(failure)

    def validate(self) -> float:
        """Mean loss of the assistant's tokens over the validation rows."""
        numbers = range(len(self.validation))
        return mean_loss(self.frozen, (self._sample(self.validation, n) for n in numbers))

    def _keep_best(self, loss: float) -> None:
        """Write the adapter to `best` if no validation before had a loss as low."""
        if self.is_first and loss < self.best:
            self.best = loss
            self.save(self.output / BEST)

    def _save_fully_trained(self, folder: Path) -> None:
        save_adapter(self.model, folder, dict(FULLY_TRAINED))

    def _save(self, done: int) -> None:
        if self.is_first:
            folder = self.output / "checkpoints"
            save_state(folder, done, self.save, self.optimizer, self.run)

    def _log(self, entry: dict[str, Any]) -> None:
        if self.is_first:
            add_to_log(self.output / "log.jsonl", entry)
            self.report(entry)


@contextlib.contextmanager
def interrupts_deferred() -> Iterator[Callable[[], bool]]:
    """Delay Ctrl-C until the step ends, since half a step cannot be resumed.

    A second Ctrl-C interrupts at once.

    Yields:
        A function that returns whether Ctrl-C was pressed.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    pressed = False
    previous = signal.getsignal(signal.SIGINT)

    def note(*_: object) -> None:
        nonlocal pressed
        pressed = True
        signal.signal(signal.SIGINT, previous)

    signal.signal(signal.SIGINT, note)
    try:
        yield lambda: pressed
    finally:
        signal.signal(signal.SIGINT, previous)
