"""The `run` command: ask the same about many pictures, with a record of each in a file.

Exit codes: 0 all answered, 1 failed or a picture was not answered, 2 wrong use or bad input, 130
interrupted.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

from ..errors import InputError, Lfm2VLError
from .answer_output import say, say_failure
from .common import run_command
from .image_options import chosen_image_options
from .open_engine import check_memory_options, image_limits, open_engine
from .page_options import chosen_pages
from .run_options import build_parser, check_run_options, skill_of
from .run_progress import Progress, noun, summary
from .skill_options import answer_changes, kind_of, split_words, task_options
from .source_options import chosen_inputs, has_sources, reads_stdin
from .write_options import undo_renames, write_plan

if TYPE_CHECKING:  # heavy imports wait until the arguments are right
    from ..checkpoint.image_config import ImageConfig
    from ..desktop.folder_run import Counts
    from ..desktop.write_back import Plan
    from ..generation.engine import Engine
    from ..generation.result import Result
    from ..images.inputs import Input
    from ..images.limits import ImageLimits
    from ..images.ready import ReadyImage
    from ..skills.tasks import Task

TABLE_SECONDS = 10.0  # between two versions of a table under --watch

__all__ = ["build_parser", "main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == ["--undo"]:
        return undo_renames(given)
    try:
        name = skill_of(given)
    except InputError as error:
        say(f"error: {error}")
        return error.exit_code
    rest = given[1:] if name else given
    return run_command(build_parser(name), partial(_run, name), rest)


def _run(name: str | None, options: argparse.Namespace) -> int:
    from ..desktop.tables import check_table, journal_of
    from ..skills.tasks import make_task
    from ..whole_folder import check_file

    assert name is not None  # or the parser has printed its help
    split_words(name, options, need_image=False)
    if not has_sources(options):
        raise InputError(f"which pictures? as in mlx_lfm2vl run {name} photos --out results.jsonl")
    check_run_options(options)
    plan = write_plan(options)
    check_memory_options(options)
    own = task_options(name, options)
    if options.out:
        check_file(options.out)
        check_table(options.out, journal_of(options.out))
    task = make_task(name, options.kind or kind_of(options), **own)
    changes = {**answer_changes(options), "image_options": chosen_image_options(options)}
    task = replace(task, options=task.options.changed(changes))
    return _plan(task, options) if options.dry_run else _ask(task, own, options, plan)


def _ask(
    task: Task[Any], own: Mapping[str, Any], options: argparse.Namespace, plan: Plan | None
) -> int:
    from ..desktop.facts import facts_for
    from ..desktop.folder_run import FolderRun, settings_of
    from ..desktop.shares import Group, SharedJournal
    from ..desktop.tables import journal_of, write_table
    from ..desktop.write_back import WriteBack

    limits = image_limits(options)
    writer = WriteBack(plan) if plan else None
    inputs = None if options.watch else chosen_inputs(options, limits)
    engine = open_engine(options, limits, task.options)
    group, skill = Group(), task.skill()
    if options.watch and group.size > 1:
        raise InputError("--watch is for one process")
    if plan and (plan.csv or plan.rename) and group.size > 1:
        raise InputError("--rename and --exiftool-csv are for one process")
    settings = settings_of(engine, skill, options.model, own)
    journal = journal_of(options.out)
    shared = SharedJournal(journal, settings, group, restart=options.restart)
    total = None if inputs is None else _total(options, limits)
    progress = Progress(total and -(-total // group.size))
    keeper = _Tables(options) if options.watch and journal != options.out else None

    def report(counts: Counts) -> None:
        if not group.rank:
            progress.show(counts)
        if keeper:
            keeper.write(counts)

    direct = partial(_classify, engine, task, options.labels) if task.name == "classify" else None
    run = FolderRun(
        engine,
        skill,
        shared.journal,
        settings,
        facts=facts_for(task.prompt),
        on_record=writer,
        on_known=writer,
        read=partial(_read, task),
        direct=direct,
        report=report,
        batch_size=options.batch_size,
    )
    config = engine.processor.image_config.with_options(chosen_image_options(options))
    pictures = _expanded(task, inputs, config, limits, options, progress)
    interrupted = False
    try:
        with writer or nullcontext():
            run.run(shared.shared_out(pictures, in_order=options.in_order))
    except KeyboardInterrupt:
        interrupted = True
    except BaseException:
        shared.journal.close()
        raise
    finally:
        progress.clear()
    failed = run.counts.failed + (len(writer.problems) if writer else 0)
    if not interrupted:
        failed = sum(int(number) for number in group.exchange(str(failed).encode()))
    shared.finish(together=not interrupted)
    if not group.rank and journal != options.out:
        write_table(journal, options.out)
    say(summary(run.counts, str(options.out)))
    if interrupted and not options.watch:  # which ends in no other way
        say("interrupted: the same command continues")
        return 130
    return 1 if failed else 0


def _read(task: Task[Any], given: Input, results: Sequence[Result]) -> Mapping[str, Any]:
    """Return the typed answer about a picture."""
    from ..skills.whole_answers import read_whole

    return read_whole(task, given, results).to_dict()


def _classify(
    engine: Engine,
    task: Task[Any],
    labels: Sequence[str],
    image: ReadyImage,
    facts: Mapping[str, str],
) -> Mapping[str, Any]:
    """Return the label of a picture, with probabilities."""
    from ..skills.functions import score_task

    (answer,) = score_task(engine, task, image, labels, facts).to_dict()["answers"].values()
    return answer


def _expanded(
    task: Task[Any],
    inputs: Iterator[Input] | None,
    config: ImageConfig,
    limits: ImageLimits,
    options: argparse.Namespace,
    progress: Progress,
) -> Iterator[Input | None]:
    """Yield single pictures: pages for PDFs, frames and slices on request; up to the limit."""
    from ..desktop.watch import watched
    from ..images.pages import expand_inputs
    from ..skills.whole_answers import JOINED

    pages, whole = chosen_pages(options), task.name in JOINED

    def expanded() -> Iterator[Input | None]:
        for given in watched(_listing(options, limits)) if inputs is None else inputs:
            if given is None:
                yield None
                continue
            pictures = expand_inputs([given], pages, config, limits, whole=whole)
            for number, picture in enumerate(pictures):
                if number and progress.total is not None:
                    progress.total += 1
                yield picture

    return islice(expanded(), options.limit)


def _listing(options: argparse.Namespace, limits: ImageLimits) -> Callable[[], Iterable[Input]]:
    """Return what lists the sources under watch: a folder may be empty, or not there yet."""
    from ..images.drawn import Refused
    from ..images.gather import gather

    def listing() -> Iterator[Input]:
        found = gather(options.image, recursive=options.recursive, limits=limits)
        return (given for given in found if not isinstance(given.source, Refused))

    return listing


def _total(options: argparse.Namespace, limits: ImageLimits) -> int | None:
    """Count the pictures beforehand, where listing them twice takes nothing away."""
    from ..images.gather import gather

    if options.files_from or options.clipboard or options.screenshot or reads_stdin(options):
        return options.limit
    found = gather(options.image, recursive=options.recursive, limits=limits)
    return sum(1 for _ in islice(found, options.limit))


class _Tables:
    """Writes the table of a run that has no end, now and then."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._out, self._done, self._last = options.out, 0, 0.0

    def write(self, counts: Counts) -> None:
        """Write the table if there is something new and the last one is old enough."""
        import time

        from ..desktop.tables import journal_of, write_table

        now = time.monotonic()
        if counts.done > self._done and now - self._last >= TABLE_SECONDS:
            self._done, self._last = counts.done, now
            write_table(journal_of(self._out), self._out)


def _plan(task: Task[Any], options: argparse.Namespace) -> int:
    """Print what a run would take, without weights."""
    from ..checkpoint.find import find_checkpoint
    from ..desktop.facts import facts_for
    from ..prompt.processor import Processor

    limits = image_limits(options)
    folder = find_checkpoint(
        options.model, options.revision, with_weights=False, update=options.update
    )
    processor = Processor.from_folder(folder, limits)
    config = processor.image_config.with_options(chosen_image_options(options))
    inputs = chosen_inputs(options, limits)
    progress, facts = Progress(None), facts_for(task.prompt)
    pictures = answers = failed = image_tokens = prompt_tokens = 0
    for given in _expanded(task, inputs, config, limits, options, progress):
        assert given is not None
        pictures += 1
        try:
            for one in given.asked:
                messages = task.messages([one.source], facts(given))
                prompt = processor(messages, options=task.options.image_options)
                image_tokens += prompt.image_tokens
                prompt_tokens += len(prompt.input_ids)
                answers += 1
        except Lfm2VLError as error:
            failed += 1
            say_failure(given.name, error)
    longest = answers * task.options.max_tokens
    unread = f" ({failed:,} cannot be read)" if failed else ""
    print(
        f"{pictures:,} {noun(pictures)}{unread}: {prompt_tokens:,} prompt tokens "
        f"({image_tokens:,} of images), at most {longest:,} answer tokens",
        flush=True,
    )
    return 1 if failed else 0
