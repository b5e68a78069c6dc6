"""`generate --ask`: several questions about the same images, which are read once."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from ..errors import Lfm2VLError, printable
from .answer_output import print_objects, print_rest, result_object, say, say_costs
from .common import is_watched, stage

if TYPE_CHECKING:  # heavy imports wait until the arguments are right
    from ..generation.engine import Engine
    from ..generation.result import Piece
    from ..images.source import ImageSource
    from ..options import AnswerOptions

Ask = Callable[[str], "Iterator[Piece]"]


def answer_questions(
    engine: Engine,
    options: argparse.Namespace,
    sources: Sequence[ImageSource],
    answer: AnswerOptions,
) -> int:
    """Answer `options.questions` in their order, one by one; returns the exit code.

    Each answer is the one that the question gets in a run of its own. A batch would be faster, but
    its rounding differs in half precision.
    """
    ask = _reader(engine, options, sources, answer)
    objects: list[dict[str, Any]] = []
    failed = 0
    try:
        for question in options.questions:
            try:
                objects.append(_answer_one(ask, question, options, objects))
            except Lfm2VLError as error:
                failed += 1
                say(f"error: {_line(question)}: {error}")
                cause = {"error": str(error), "exit_code": error.exit_code}
                objects.append({"question": question, **cause})
    except KeyboardInterrupt:
        if options.json:
            print_objects(objects)
        return 130
    if options.json:
        print_objects(objects)
    if failed:
        say(f"{failed} of {len(options.questions)} questions not answered")
    return 1 if failed else 0


def _reader(
    engine: Engine,
    options: argparse.Namespace,
    sources: Sequence[ImageSource],
    answer: AnswerOptions,
) -> Ask:
    """Read the images; return what answers a question about them."""
    from ..prompt.messages import user_message

    if not sources:
        engine.keep_prefixes()  # of the system message and the tools
        return lambda question: engine.stream(user_message(question, [], options.system), answer)
    with stage("reading the images") as tell:
        reports = {
            "on_encode": partial(tell, "encoding images"),
            "on_prefill": partial(tell, "reading the images"),
        }
        told = reports if is_watched() else {}  # the host waits for what is reported
        seen = engine.see(sources, answer.changed(told), system=options.system)
    return partial(seen.stream, on_encode=None, on_prefill=None)


def _answer_one(
    ask: Ask, question: str, options: argparse.Namespace, objects: list[dict[str, Any]]
) -> dict[str, Any]:
    """Answer a question, and print the answer piece by piece unless it is for --json.

    Args:
        ask: answers it.
        question: as it was typed.
        options: of the command.
        objects: gets what was begun if the user interrupts.

    Returns:
        The object for --json.
    """
    text, token_ids, result = "", [], None
    try:
        for piece in ask(question):
            if not options.json:
                header = "" if token_ids else f"==> {_line(question)} <==\n"
                print(header + piece.text, end="", flush=True)
            text += piece.text
            token_ids += piece.token_ids
            result = piece.result
    except KeyboardInterrupt:
        if not options.json:
            print(flush=True)
        ids = {"token_ids": token_ids} if options.token_ids else {}
        begun = {"question": question, "text": text, **ids, "finish_reason": "interrupted"}
        objects.append({**begun, "model": options.model})
        raise
    assert result is not None
    if not options.json:
        print_rest(result)
        print(flush=True)
    if options.verbose:
        say_costs(result)
    values = result_object(result, options.image, options.model, token_ids=options.token_ids)
    return {"question": question, **values}


def _line(question: str) -> str:
    """Return a question on one line."""
    return printable(" ".join(question.split()))
