"""What a failed request to the Hub means: one line that says what it was and what to do."""

import re
from typing import Any, cast
from urllib.parse import urlsplit
from urllib.request import getproxies

from ..disk_space import FULL
from ..errors import CheckpointError, Lfm2VLError, NetworkError

LOG_IN = "set HF_TOKEN to a valid one, or run `hf auth login`"


def failures() -> tuple[type[Exception], ...]:
    """Return the exceptions that a request and writing what came may raise.

    The HTTP library's own are among them. Its name depends on the version of the Hub library.
    """
    from huggingface_hub import errors

    bases = cast(tuple[type[Exception], ...], errors.HfHubHTTPError.__bases__)
    return (*bases, OSError, ValueError)


def explain(error: Exception, repo: str, revision: str | None) -> Lfm2VLError:
    """Return the error to raise instead of one of `failures`; its text is the reason alone.

    Args:
        error: what was raised.
        repo: repo id.
        revision: branch, tag or commit that was asked for; None for the main branch.
    """
    from huggingface_hub import constants, errors

    host = urlsplit(constants.ENDPOINT).netloc or constants.ENDPOINT
    kinds = _kinds(error)
    if isinstance(error, errors.OfflineModeIsEnabled):
        return NetworkError("HF_HUB_OFFLINE is set")
    if getattr(error, "response", None) is not None:
        return _refusal(error, repo, revision)
    if "TimeoutException" in kinds:
        return NetworkError(
            f"{host} has sent nothing for {constants.HF_HUB_DOWNLOAD_TIMEOUT} seconds: check the "
            "network and run it again"
        )
    if "ProxyError" in kinds:
        return NetworkError(f"the proxy does not connect ({_line(error)}): check HTTPS_PROXY")
    if "UnsupportedProtocol" in kinds or "InvalidURL" in kinds:
        return NetworkError(f"HF_ENDPOINT is {constants.ENDPOINT}, expected https://...")
    if "gaierror" in kinds:
        return NetworkError(f"{host} has no address here: check the network")
    if "SSLError" in kinds:
        return NetworkError(f"the certificate of {host} is not trusted ({_line(error)})")
    if "ConnectError" in kinds:
        proxy = urlsplit(getproxies().get(urlsplit(constants.ENDPOINT).scheme, ""))
        way = f" through the proxy {proxy.hostname}:{proxy.port}" if proxy.hostname else ""
        return NetworkError(f"{host} cannot be reached{way} ({_line(error)}): check the network")
    if kinds & {"TransportError", "ConnectionError"}:
        return NetworkError(
            f"the connection to {host} was lost; run it again: it continues where it stopped"
        )
    if isinstance(error, OSError) and error.errno in FULL:
        return NetworkError(f"no space is left in {constants.HF_HUB_CACHE}; HF_HOME names another")
    if isinstance(error, OSError):
        name = f"{error.filename}: " if error.filename else ""
        return NetworkError(f"{name}{error.strerror or _line(error)}")
    return NetworkError(
        f"{host} did not answer as the Hub does; does this network ask for a login?"
    )


def is_passing(error: Exception) -> bool:
    """Whether the same request may succeed a moment later."""
    kinds = _kinds(error)
    if getattr(error, "response", None) is not None:
        return cast(Any, error).response.status_code >= 500
    fixed = {"TimeoutException", "ProxyError", "UnsupportedProtocol", "OfflineModeIsEnabled"}
    return bool(kinds & {"TransportError", "ConnectionError"}) and not kinds & fixed


def _refusal(error: Any, repo: str, revision: str | None) -> Lfm2VLError:
    """Explain an answer of the Hub that is an error."""
    from huggingface_hub import constants, errors

    response = error.response
    status = response.status_code
    if isinstance(error, errors.GatedRepoError):
        return CheckpointError(
            f"it is gated ({status}): accept its license at {constants.ENDPOINT}/{repo}, then "
            + LOG_IN
        )
    if isinstance(error, errors.DisabledRepoError):
        return CheckpointError(f"the Hub has disabled it ({status}): choose another")
    if isinstance(error, errors.RevisionNotFoundError):
        what = f"revision {revision}" if revision else "branch main; name one with --revision"
        return CheckpointError(f"it has no {what}")
    if status == 401 and "authorization" in response.request.headers:
        return NetworkError(f"the Hub refuses the token as wrong or expired (401): {LOG_IN}")
    if isinstance(error, errors.RepositoryNotFoundError) or status in (401, 404):
        return CheckpointError(
            f"the Hub has no repo of this name, or it is private ({status}): check the spelling; "
            f"for a private one, {LOG_IN}"
        )
    if status == 403:
        return CheckpointError(
            f"access to it is forbidden (403): it is private or gated, or the token has no "
            f"right to it; {LOG_IN}"
        )
    if status == 429:
        wait = response.headers.get("Retry-After", "")
        wait = f"{wait} seconds" if wait.isdecimal() else "some minutes"
        return NetworkError(f"too many requests (429): wait {wait}, or log in: {LOG_IN}")
    if status >= 500:
        return NetworkError(f"the Hub has a fault of its own ({status}): try again later")
    return NetworkError(f"the Hub answers {status}: {_line(error)}")


def _kinds(error: BaseException | None) -> set[str]:
    """Return the names of an error's classes, and of those that led to it."""
    names: set[str] = set()
    for _ in range(10):  # a chain may be a loop
        if error is None:
            break
        names |= {kind.__name__ for kind in type(error).__mro__}
        error = error.__cause__ or error.__context__
    return names


def _line(error: BaseException) -> str:
    """Return the first line of an error's text."""
    return re.split(r"[\r\n]", str(error).strip())[0][:200]
