"""The `chat` command: a conversation about images, line by line.

Exit codes: 0 ended, 1 failed, or a line from a pipe could not be done, 2 wrong use or bad input,
130 interrupted.
"""

from __future__ import annotations

import argparse
import contextlib
import signal
from collections.abc import Callable, Generator, Iterator, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InputError, Lfm2VLError
from .answer_output import say, say_costs
from .chat_input import Lines
from .chat_lines import Commands, Quit, completions
from .chat_words import leading_files
from .common import add_special_tokens, is_watched, run_command, stage
from .generate_options import add_engine_options
from .open_engine import answer_options, check_memory_options, image_limits, open_engine
from .parser import Parser
from .question import expand_images
from .state import History

if TYPE_CHECKING:  # heavy imports wait until the arguments are right
    from ..generation.conversation import Conversation
    from ..generation.result import Piece
    from ..images.source import ImageLimits, ImageSource

EPILOG = """\
examples:
  mlx_lfm2vl chat -m 450m photo.jpg
  mlx_lfm2vl chat -m 450m photo.jpg --system "Answer in one sentence."
  mlx_lfm2vl chat -m 450m --load holiday

exit codes: 0 ended, 1 failed, 2 wrong use or bad input, 130 interrupted
(lines from a pipe: 1 if one could not be done)
"""


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="mlx_lfm2vl chat",
        usage="mlx_lfm2vl chat [options] [IMAGE ...]",
        description="Talk with an LFM2-VL model about images. /help lists what lines can do.\n"
        "Answers go to stdout, everything else to stderr.",
        epilog=EPILOG,
    )
    chat = parser.add_argument_group("chat")
    add = chat.add_argument
    add("images", nargs="*", metavar="IMAGE", help="images for the first question")
    add("--load", type=Path, metavar="DIR", help="continue a conversation that /save has written")
    add("--system", help="system message; default: none")
    add(
        "--history",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="keep typed lines for the next chat, in ~/.local/state/mlx_lfm2vl; default: yes",
    )
    add_special_tokens(chat)
    add("-V", "--verbose", action="store_true", help="print settings and speed on stderr")
    add_engine_options(parser)
    parser.set_defaults(resident=False)  # a chat stays itself
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    return run_command(build_parser(), _chat, arguments)


def _chat(options: argparse.Namespace) -> int:
    limits, answer = image_limits(options), answer_options(options)
    check_memory_options(options)
    lines = Lines(History(kept=options.history), completions)
    sources = _sources(options.images, limits)
    engine = open_engine(options, limits, answer)
    from ..generation.conversation import Conversation

    conversation = Conversation(engine, answer, options.system)
    commands = Commands(conversation, lines, options.model)
    if options.load:
        commands.load(options.load)
    for source in sources:
        conversation.add_image(source)
    if lines.is_terminal:
        say(f"{options.model}: ask, or /help; Ctrl-D ends")
    return _Chat(conversation, commands, lines, verbose=options.verbose).run()


def _sources(names: Sequence[str], limits: ImageLimits) -> list[ImageSource]:
    """Read the images, and find bad ones before a checkpoint is downloaded or loaded."""
    from ..images.read import read_once
    from ..images.source import is_url, open_image

    expanded = expand_images(names)
    limits.check_count(len(expanded))
    sources = [read_once(image.source, limits) for image in expanded]
    for source in sources:
        if not is_url(source):
            open_image(source, limits)
    return sources


class _Chat:
    """Asks and prints until the lines end."""

    def __init__(
        self, conversation: Conversation, commands: Commands, lines: Lines, *, verbose: bool
    ) -> None:
        self._conversation, self._commands, self._lines = conversation, commands, lines
        self._verbose, self._pressed = verbose, False
        self._tell: Callable[[str, int, int], None] | None = None
        if lines.is_terminal or is_watched():  # the host waits for what is reported
            hooks = {
                "on_encode": partial(self._report, "encoding images"),
                "on_prefill": partial(self._report, "reading the prompt"),
            }
            conversation.options = conversation.options.changed(hooks)

    def run(self) -> int:
        """Do every line and return the exit code."""
        is_terminal, failed = self._lines.is_terminal, False
        while True:
            try:
                line = self._lines.read()
                failed = not self._is_done(line) or failed
            except (EOFError, Quit) as end:
                if is_terminal and isinstance(end, EOFError):
                    say("")
                return 1 if failed and not is_terminal else 0
            except InputError as error:  # the line cannot be read
                say(f"error: {error}")
                failed = True
            except KeyboardInterrupt:
                if not is_terminal:
                    raise
                say("")

    def _is_done(self, line: str) -> bool:
        """Do a line; say why if it cannot be done."""
        try:
            self._do(line)
        except BrokenPipeError:  # nobody reads the answers
            raise
        except (Lfm2VLError, RuntimeError, MemoryError, OSError) as error:
            say(f"error: {error}")
            return False
        return True

    def _do(self, line: str) -> None:
        if not line.strip():
            return
        if line.startswith("//"):
            pieces = self._conversation.ask(line[1:])
        elif line.startswith("/") or leading_files(line)[0]:
            pieces = self._commands.run(line)
        else:
            pieces = self._conversation.ask(line)
        if pieces:
            self._print(pieces)

    def _print(self, pieces: Generator[Piece, None, None]) -> None:
        """Print an answer as it grows, until it ends or Ctrl-C is pressed."""
        is_begun, result = False, None
        try:
            # Closing the pieces between two of them keeps the answer, and what was read for it.
            with self._flagging_ctrl_c(), contextlib.closing(pieces):
                with stage("reading the prompt") as self._tell:
                    first = next(pieces)
                for piece in chain([first], pieces):
                    print(piece.text, end="", flush=True)
                    is_begun, result = True, piece.result
                    if self._pressed:
                        break
        finally:
            if is_begun:
                print(flush=True)
        if result and result.finish_reason == "length":
            say(f"note: the answer was cut at {len(result.token_ids)} tokens (--max-tokens)")
        if result and self._verbose:
            say_costs(result)
            say(f"cached: {result.cached_tokens} of {result.prompt_tokens} tokens")

    def _report(self, label: str, done: int, total: int) -> None:
        """Show how far the prompt is read; between two passes Ctrl-C can stop that."""
        if self._pressed:
            say("stopped before the first word: the question is not kept")
            raise KeyboardInterrupt
        if self._tell:
            self._tell(label, done, total)

    @contextlib.contextmanager
    def _flagging_ctrl_c(self) -> Iterator[None]:
        """Let Ctrl-C wait for the next token. Pressed again, it interrupts at once."""
        self._pressed = False
        before = signal.getsignal(signal.SIGINT)
        if not self._lines.is_terminal or before is signal.SIG_IGN:
            yield
            return

        def press(_number: int, _frame: object) -> None:
            if self._pressed:
                raise KeyboardInterrupt
            self._pressed = True

        signal.signal(signal.SIGINT, press)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)
