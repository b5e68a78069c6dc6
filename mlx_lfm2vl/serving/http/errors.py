"""Errors as HTTP answers: a status, headers, and the error object of OpenAI's protocol."""

from __future__ import annotations

import logging
import traceback
from typing import Any

from ...errors import AnswerError, InputError, Lfm2VLError
from ..request import Busy, Overdue, Stopping, UnknownModel

log = logging.getLogger("mlx_lfm2vl")
FAILED = "the server could not answer; its own output says why"


class HttpError(Lfm2VLError):
    """A request that HTTP refuses before anybody reads what it asks."""

    def __init__(
        self, status: int, text: str, code: str, headers: tuple[tuple[str, str], ...] = ()
    ) -> None:
        """
        Args:
            status: of the answer.
            text: what came, what was expected, what to do.
            code: one word for programs.
            headers: of the answer, beside those that all have.
        """
        super().__init__(text)
        self.status, self.code, self.headers = status, code, headers


def error_reply(error: Exception) -> tuple[int, dict[str, str], dict[str, Any]]:
    """Return how an error is answered.

    A message that concerns the request is told as it is: it names nothing but what the request
    holds. Any other error concerns the machine of the server, such as a file of the model, so its
    message stays there; see `is_internal`.

    Returns:
        Status, headers, and an object `{"error": {"message", "type", "param", "code"}}`.
    """
    status, code = _status(error)
    headers: dict[str, str] = {}
    if isinstance(error, HttpError):
        headers = dict(error.headers)
    elif isinstance(error, Busy):
        headers = {"Retry-After": str(error.retry_after)}
    elif isinstance(error, Overdue):
        headers = {"X-Should-Retry": "false"}  # OpenAI's libraries would ask twice more
    described = {
        "message": FAILED if is_internal(error) else str(error),
        "type": "invalid_request_error" if status < 500 else "server_error",
        "param": getattr(error, "param", None),
        "code": code,
    }
    return status, headers, {"error": described}


def is_internal(error: Exception) -> bool:
    """Return whether an error concerns the server's machine, so that only its owner is told."""
    return _status(error)[0] == 500


def report(error: Exception) -> None:
    """Tell the owner of the machine of an error. What a request held is not told."""
    if isinstance(error, Lfm2VLError):
        log.error("%s", error)
        return
    place = traceback.extract_tb(error.__traceback__)[-1]
    log.error("%s in %s, line %s", type(error).__name__, place.filename, place.lineno)


def _status(error: Exception) -> tuple[int, str | None]:
    """Return the status and the code of an error."""
    if isinstance(error, HttpError):
        return error.status, error.code
    for kind, status, code in (
        (UnknownModel, 404, "model_not_found"),
        (Busy, 503, "busy"),
        (Stopping, 503, "stopping"),
        (Overdue, 504, "overdue"),
        (AnswerError, 502, "unexpected_answer"),
        (InputError, 400, None),
    ):
        if isinstance(error, kind):
            return status, code
    return 500, "failed"
