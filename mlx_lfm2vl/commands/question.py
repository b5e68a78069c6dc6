"""What a user asks: a prompt and images, told apart however they were typed."""

from __future__ import annotations

import argparse
import re
import shlex
import sys
from collections.abc import Sequence
from glob import iglob
from pathlib import Path
from typing import BinaryIO, TextIO

from ..checkpoint.aliases import DEMO
from ..errors import InputError
from ..images.endings import is_image_name, is_picture_name
from ..images.gather import find_path, gather, is_address
from ..images.inputs import Input
from .source_options import reads_stdin

MAX_PROMPT_BYTES = 16 * 2**20  # of stdin, far more than any context holds


def complete_question(options: argparse.Namespace) -> None:
    """Fill in what is asked from bare words and stdin.

    These are `options.image`, the names of images, and `options.prompt` or `options.questions`.

    Args:
        options: of `generate`; its `words` are images and at most one prompt.

    Raises:
        InputError: there is no prompt, or more than one, or it is empty, or it stands beside --ask,
            or a folder is given without --each.
    """
    words = _swallowed(options) + options.words
    images = [word for word in words if names_image(word)]
    prompts = [word for word in (options.prompt, *words) if word not in (None, *images)]
    if len(prompts) > 1:
        raise InputError(
            f"two prompts: {prompts[0]!r:.80} and {prompts[1]!r:.80}; put a prompt of several "
            "words in quotes"
        )
    options.image = [*images, *options.image]
    if not options.each:
        _refuse_folders(options.image)
    if prompts:
        options.prompt = prompts[0]
    files = (options.files_from, options.ask_file, options.json_schema, options.grammar)
    if [*options.image, options.prompt, *files].count("-") > 1:
        raise InputError("stdin (-) can be used only once")
    options.questions = []
    if options.ask or options.ask_file is not None:
        if prompts:
            raise InputError(
                f"--ask and the prompt {prompts[0]!r:.80}: use --ask for all questions"
            )
        if options.each:
            raise InputError("--ask asks about all images together: remove it, or --each")
        options.questions = [] if options.plan else _questions(options)
    elif not options.plan:
        options.prompt = _prompt(options)


def _swallowed(options: argparse.Namespace) -> list[str]:
    """Take what another option has taken: the prompt in `--image a.png "What is this?"`.

    `--cache` may have taken a prompt or an image, and then stands for its default.
    """
    word, found = options.cache, list[str]()
    if word and (_is_question(word) or is_image_name(word)):
        options.cache = ""
        found.append(word)
        if _is_question(word):
            return found
    for taken in (options.image, options.special_tokens, options.choice):
        if options.prompt is None and len(taken) > 1 and _is_question(taken[-1]):
            return [*found, taken.pop()]
    return found


def _is_question(word: str) -> bool:
    """Whether a word cannot be meant as a file, so that no misspelt file becomes a prompt."""
    is_sentence = re.search(r"\s|[?!.:]$|[^\x00-\x7f]", word)
    return bool(is_sentence) and not names_image(word)


def names_image(word: str) -> bool:
    """Whether a word is an image: a file, or what can only be meant as one."""
    if word in ("-", DEMO) or is_address(word):
        return True
    if is_picture_name(word) or ("/" in word and not re.search(r"\s", word)):
        return True
    if find_path(word) is not None:
        return True
    return bool(re.search(r"[*[]", word)) and any(iglob(word))  # ? ends a prompt, too


def expand_images(names: Sequence[str]) -> list[Input]:
    """Return the images of one prompt: files, and those that match patterns.

    Raises:
        InputError: a folder is given.
    """
    _refuse_folders(names)
    return list(gather(names))


def _refuse_folders(names: Sequence[str]) -> None:
    for name in names:
        path = find_path(name)
        if path is not None and path.is_dir() and name not in ("-", DEMO):
            raise InputError(
                f"{name} is a folder; --each --image {shlex.quote(name)} asks about each "
                "image in it"
            )


def _prompt(options: argparse.Namespace) -> str:
    prompt = options.prompt
    missing = "the prompt is missing: put it in quotes in the last place"
    if prompt is None and options.image and not names_image(options.image[-1]):
        word = options.image[-1]  # as in `--image a.png Describe`
        raise InputError(f"{missing}, or is it {word!r:.60}? then write --prompt")
    is_free = not reads_stdin(options) and "-" not in (options.json_schema, options.grammar)
    if prompt is None and is_free and not _stdin().isatty():
        prompt = _read_prompt() or None  # nothing is sent if the user has forgotten the prompt
    elif prompt == "-":
        prompt = _read_prompt()
    if prompt is None:
        raise InputError(missing)
    if not prompt.strip():
        raise InputError("the prompt is empty")
    return prompt


def _questions(options: argparse.Namespace) -> list[str]:
    """Return the questions of --ask, then those of --ask-file."""
    questions = list(options.ask)
    if not all(question.strip() for question in questions):
        raise InputError("a question of --ask is empty")
    if options.ask_file is not None:
        lines = read_file(options.ask_file).splitlines()
        questions += [line for line in lines if line.strip()]
    if not questions:
        raise InputError(f"{options.ask_file} holds no questions")
    return questions


def read_file(name: str) -> str:
    """Return the text of a file, or that on stdin for `-`.

    Raises:
        InputError: it cannot be read, is too large or not UTF-8.
    """
    if name == "-":
        return _read_text(_stdin().buffer, "the text on standard input")
    try:
        with (find_path(name) or Path(name)).open("rb") as file:
            return _read_text(file, name)
    except (OSError, ValueError, RuntimeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"{name} cannot be read: {reason}") from None


def _stdin() -> TextIO:
    if sys.stdin is None:
        raise InputError("standard input is closed: there is nothing to read for -")
    return sys.stdin


def _read_prompt() -> str:
    """Read the prompt on stdin, without the line end of the shell."""
    hint = "; an image there is called -"
    text = _read_text(_stdin().buffer, "the prompt on standard input", hint)
    return text.removesuffix("\n").removesuffix("\r")


def _read_text(file: BinaryIO, what: str, hint: str = "") -> str:
    """Read a text of limited size, without the mark of an editor."""
    data = file.read(MAX_PROMPT_BYTES + 1)
    if len(data) > MAX_PROMPT_BYTES:
        raise InputError(f"{what} has over {MAX_PROMPT_BYTES} bytes")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{what} is not UTF-8: {error.reason} at byte {error.start}{hint}"
        ) from None
