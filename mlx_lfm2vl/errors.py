"""Errors a user can cause. Each message is one line; each class sets the command's exit code."""


class Lfm2VLError(Exception):
    """Base class of the errors this package raises on purpose."""

    exit_code = 1

    def __str__(self) -> str:
        return printable(super().__str__())


class CheckpointError(Lfm2VLError):
    """A checkpoint is broken, incomplete or of a kind this package does not run."""


class NetworkError(Lfm2VLError):
    """A download failed, was refused or took too long."""


class InputError(Lfm2VLError):
    """The input is bad: an unreadable image, a prompt that does not fit, a wrong setting."""

    exit_code = 2


class AnswerError(Lfm2VLError):
    """The model's answer is not in the form that was asked for."""


class Cancelled(Lfm2VLError):
    """The user has broken off what they were asked for, as by Escape in a selection."""

    exit_code = 130


def printable(text: str) -> str:
    """Spell out what a terminal would obey or hide: servers and files can put it into messages."""
    return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)
