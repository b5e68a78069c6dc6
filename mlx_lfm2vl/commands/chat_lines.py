"""The lines of a chat that begin with a slash."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InputError
from .answer_output import describe_plan, say
from .chat_input import EDIT, Lines
from .chat_words import complete, leading_files, paths_in
from .parser import nearest
from .question import expand_images
from .state import user_secret

if TYPE_CHECKING:
    from ..generation.conversation import Conversation
    from ..generation.result import Piece
    from ..images.inputs import Input

HELP = {
    "/image": ("PATH ...", "add images to the next question; a dropped file does the same"),
    "/paste": ("", "add the image on the clipboard, or the files that were copied (macOS)"),
    "/system": ('[TEXT | ""]', "set the system message, show it, or remove it"),
    "/undo": ("", "take back the image that waits, or the last question and its answer"),
    "/edit": ("[TEXT]", "ask the last question again in other words"),
    "/retry": ("", "answer the last question again with another seed"),
    "/tokens": ("", "show how long the conversation is"),
    "/save": ("[DIR]", "save the conversation with its images"),
    "/load": ("DIR", "continue a saved conversation"),
    "/help": ("", "show this"),
    "/quit": ("", "end, as Ctrl-D does"),
}
KINDS = {"/image": "image", "/save": "folder", "/load": "folder"}


class Quit(Exception):
    """The chat is to end."""


class Commands:
    """What lines that begin with a slash do. Everything they say goes to stderr.

    Attributes:
        conversation: that they change.
        folder: where the conversation is saved; None if it was not.
    """

    def __init__(self, conversation: Conversation, lines: Lines, model: str) -> None:
        """
        Args:
            conversation: that they change.
            lines: to edit a question.
            model: as the user named it.
        """
        self.conversation, self._lines, self._model = conversation, lines, model
        self.folder: Path | None = None

    def run(self, line: str) -> Generator[Piece, None, None] | None:
        """Do what a line says; return the pieces of an answer if it asks for one.

        Raises:
            Quit: the chat is to end.
            Lfm2VLError: the line cannot be done; the conversation stays as it was.
        """
        name, _, text = line.replace("\t", " ").partition(" ")
        if name in HELP:
            action: Callable[[str], Generator[Piece, None, None] | None] = getattr(
                self, f"_{name[1:]}"
            )
            return action(text.strip())
        files, question = leading_files(line)
        if not files:
            near = nearest(name, HELP)
            hint = f"did you mean {near}?" if near else "/help shows them"
            raise InputError(
                f"there is no command {name!r:.80}; {hint} (a question may begin with //)"
            )
        self._add(files)
        return self.conversation.ask(question) if question else None

    def _image(self, text: str) -> None:
        if not text:
            raise InputError("/image needs a path")
        self._add(paths_in(text))

    def _add(self, names: list[str]) -> None:
        self._add_all(expand_images(names))

    def _add_all(self, images: Iterable[Input]) -> None:
        waiting = list(self.conversation.waiting)
        try:
            for image in images:
                say(describe_plan(image.name, self.conversation.add_image(image.source)))
        except BaseException:
            self.conversation.waiting = waiting  # all of them, or none
            raise

    def _paste(self, _text: str) -> None:
        from ..images.clipboard import copied

        self._add_all(copied(self.conversation.engine.processor.limits))

    def _system(self, text: str) -> None:
        if text:
            self.conversation.system = text if text.strip("\"'") else None
        say(f"system message: {self.conversation.system or 'none'}")

    def _undo(self, _text: str) -> None:
        if self.conversation.waiting:
            say(f"taken back: image {self.conversation.waiting.pop().data.name}")
            return
        turn = self.conversation.undo()
        images = f" and {_number(len(turn.images), 'image')}" if turn.images else ""
        say(f"taken back: {turn.question!r}{images}")

    def _edit(self, text: str) -> Generator[Piece, None, None] | None:
        if not self.conversation.turns:
            raise InputError("nothing was asked yet")
        if not text and not self._lines.is_terminal:
            raise InputError("/edit needs the new question")
        text = text or self._lines.read(EDIT, self.conversation.turns[-1].question)
        return self.conversation.edit(text) if text.strip() else None

    def _retry(self, _text: str) -> Generator[Piece, None, None]:
        pieces = self.conversation.retry()
        options, config = self.conversation.options, self.conversation.engine.model.config
        if options.sampling_over(config.sampling).is_greedy:
            say("note: at --temperature 0 every seed gives the same answer")
        return pieces

    def _tokens(self, _text: str) -> None:
        count = self.conversation.count()
        images = _number(count.images, "image")
        say(
            f"{count.tokens} tokens ({count.image_tokens} of {images}), {count.cached} cached, "
            f"room for {count.left} of {count.context}"
        )
        if waiting := self.conversation.waiting:
            say(f"for the next question: {_number(len(waiting), 'image')}")

    def _save(self, text: str) -> None:
        from ..generation.session import save_session

        folder = _folder(text) if text else self.folder
        if folder is None:
            raise InputError("/save needs the name of a folder")
        is_own = self.folder is not None and folder.resolve() == self.folder.resolve()
        save_session(
            self.conversation, folder, model=self._model, secret=user_secret(), overwrite=is_own
        )
        self.folder = folder
        say(f"saved in {folder}")

    def _load(self, text: str) -> None:
        if not text:
            raise InputError("/load needs the name of a folder")
        self.load(_folder(text))

    def load(self, folder: Path) -> None:
        """Continue the conversation that is saved in a folder."""
        from ..generation.session import load_session

        restored = load_session(self.conversation, folder, secret=user_secret())
        self.folder = folder
        turns, images = self.conversation.turns, self.conversation.pictures
        say(f"{folder}: {_number(len(turns), 'question')}, {_number(len(images), 'image')}")
        if turns and not restored.is_read:
            say(
                f"note: it was saved with {restored.model or 'a model'}, by another program, user "
                "or machine; the next question reads it all again"
            )
        if turns:
            say(f"last question: {turns[-1].question}\nlast answer: {turns[-1].answer}")

    def _help(self, _text: str) -> None:
        for name, (text, meaning) in HELP.items():
            say(f"  {f'{name} {text}':24}{meaning}")
        say("A line that ends in \\ goes on in the next one. Ctrl-C stops an answer.")

    def _quit(self, _text: str) -> None:
        raise Quit


def _folder(text: str) -> Path:
    """Return the folder that a line names."""
    (*_, last) = paths_in(text) or [text]
    path = Path(last if len(paths_in(text)) == 1 else text)
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise InputError(str(error)) from None


def _number(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def completions(line: str) -> list[str]:
    """Return the lines that a line up to the cursor may become."""
    return complete(line, HELP, KINDS)
