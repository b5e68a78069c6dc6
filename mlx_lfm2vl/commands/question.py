"""What a user asks: a prompt and images, told apart however they were typed."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from glob import glob
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TextIO

from ..checkpoint.aliases import DEMO
from ..errors import InputError
from ..images.endings import images_in, is_image_name, is_picture_name

if TYPE_CHECKING:
    from ..images.source import ImageLimits, ImageSource

MAX_PROMPT_BYTES = 16 * 2**20  # of stdin, far more than any context holds


def complete_question(options: argparse.Namespace) -> None:
    """Fill in what is asked from bare words, patterns, folders and stdin.

    These are `options.image`, and `options.prompt` or `options.questions`.

    Args:
        options: of `generate`; its `words` are images and at most one prompt.

    Raises:
        InputError: there is no prompt, or more than one, or it is empty, or it stands beside --ask.
    """
    words = _swallowed(options) + options.words
    images = [word for word in words if names_image(word)]
    prompts = [word for word in (options.prompt, *words) if word not in (None, *images)]
    if len(prompts) > 1:
        raise InputError(
            f"two prompts: {prompts[0]!r:.80} and {prompts[1]!r:.80}; put a prompt of several "
            "words in quotes"
        )
    options.image = expand_images([*images, *options.image], each=options.each)
    if prompts:
        options.prompt = prompts[0]
    if [*options.image, options.prompt, options.ask_file].count("-") > 1:
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
    for taken in (options.image, options.special_tokens):
        if options.prompt is None and len(taken) > 1 and _is_question(taken[-1]):
            return [*found, taken.pop()]
    return found


def _is_question(word: str) -> bool:
    """Whether a word cannot be meant as a file, so that no misspelt file becomes a prompt."""
    is_sentence = re.search(r"\s|[?!.:]$|[^\x00-\x7f]", word)
    return bool(is_sentence) and not names_image(word)


def names_image(word: str) -> bool:
    """Whether a word is an image: a file, or what can only be meant as one."""
    if word in ("-", DEMO) or re.match(r"(?i)(https?|file)://|data:", word):
        return True
    if is_picture_name(word) or ("/" in word and not re.search(r"\s", word)):
        return True
    return _exists(word) or bool(re.search(r"[*[]", word) and glob(word))


def _path(word: str) -> Path:
    """The path of a word. A file whose name begins with ~ comes before a home folder."""
    path = Path(word)
    return path if path.exists() else path.expanduser()


def _exists(word: str) -> bool:
    try:
        return bool(word) and _path(word).exists()
    except (OSError, ValueError, RuntimeError):  # too long, or no home
        return False


def expand_images(names: Sequence[str], *, each: bool) -> list[str]:
    """Replace patterns by the files that match: some programs start us without a shell.

    Args:
        names: images as the user gave them. A file of that name comes before the pattern.
        each: with it, a folder stands for the image files in it.

    Raises:
        InputError: a folder is given without `each`, or has no images.
    """
    expanded: list[str] = []
    for name in names:
        if not _exists(name):
            found = sorted(glob(str(Path(name)))) if re.search(r"[*?[]", name) else []
            expanded += [path for path in found if Path(path).is_file()] or [name]
        elif name not in ("-", DEMO) and _path(name).is_dir():
            expanded += _in_folder(name, each=each)
        else:
            expanded.append(name)
    return expanded


def _in_folder(name: str, *, each: bool) -> list[str]:
    if not each:
        raise InputError(f"{name} is a folder; --each --image {name} asks about each image in it")
    found = [str(path) for path in images_in(_path(name))]
    if not found:
        raise InputError(f"there are no images in {name}")
    return found


def read_sources(options: argparse.Namespace, limits: ImageLimits) -> list[ImageSource]:
    """Return the images: the bytes on stdin for `-`, and its file for `demo`.

    Files and pipes are read here, once, unless each image is asked about by itself: then every
    file is read when its turn comes.
    """
    from ..checkpoint.find import find_image
    from ..images.read import read_once

    sources: list[ImageSource] = []
    for source in options.image:
        if source == "-":
            sources.append(_stdin().buffer.read(limits.max_bytes + 1))
        else:
            found = find_image(source)
            sources.append(found if options.each else read_once(found, limits))
    return sources


def _prompt(options: argparse.Namespace) -> str:
    prompt = options.prompt
    missing = "the prompt is missing: put it in quotes in the last place"
    if prompt is None and options.image and not names_image(options.image[-1]):
        word = options.image[-1]  # as in `--image a.png Describe`
        raise InputError(f"{missing}, or is it {word!r:.60}? then write --prompt")
    if prompt is None and "-" not in options.image and not _stdin().isatty():
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
        lines = _read_questions(options.ask_file).splitlines()
        questions += [line for line in lines if line.strip()]
    if not questions:
        raise InputError(f"{options.ask_file} holds no questions")
    return questions


def _read_questions(name: str) -> str:
    if name == "-":
        return _read_text(_stdin().buffer, "the text on standard input")
    try:
        with _path(name).open("rb") as file:
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
    text = _read_text(_stdin().buffer, "the prompt on standard input")
    return text.removesuffix("\n").removesuffix("\r")


def _read_text(file: BinaryIO, what: str) -> str:
    """Read a text of limited size, without the mark of an editor."""
    data = file.read(MAX_PROMPT_BYTES + 1)
    if len(data) > MAX_PROMPT_BYTES:
        raise InputError(f"{what} has over {MAX_PROMPT_BYTES} bytes")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{what} is not UTF-8: {error}") from None
