"""The `serve` command: answer over HTTP until a signal ends it.

Exit codes: 0 ended by SIGTERM or after --exit-when-idle, 1 failed, 2 wrong use, 130 interrupted.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InputError, Lfm2VLError
from .answer_output import say
from .cache_options import chosen_bytes, chosen_folder
from .common import run_command, stage
from .default_model import chosen_model
from .open_engine import image_limits
from .serve_options import build_parser

if TYPE_CHECKING:  # heavy imports wait until the arguments are right
    from ..images.limits import ImageLimits
    from ..serving.core import Core, Limits
    from ..serving.http.access import Access
    from ..serving.http.guard import Seen
    from ..serving.served import Served

TOKEN_VARIABLE = "MLX_LFM2VL_TOKEN"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    return run_command(build_parser(), _serve, arguments)


def _serve(options: argparse.Namespace) -> int:
    limits, core_limits = _image_limits(options), _core_limits(options)
    token = _token(options)
    models = _models(options, limits)
    try:
        from ..serving.http.app import App, Settings
        from ..serving.http.fronts import all_fronts
        from ..serving.http.server import Patience, listen, serve
    except ModuleNotFoundError as error:
        if error.name and error.name.partition(".")[0] in ("starlette", "uvicorn", "h11", "anyio"):
            raise Lfm2VLError(
                "the server needs starlette and uvicorn, the extra 'server': pip install "
                "starlette uvicorn"
            ) from None
        raise
    from ..serving.core import Core
    from ..serving.exchange import Terms

    with listen(options.host, options.port) as listener, _errors_only():
        access = _access(options, listener.getsockname()[:2], token)
        with stage("looking for the models"):
            for model in models:
                _ = model.info  # a wrong name shows now, not at the first question
        core = Core(models, core_limits)
        terms = Terms(core.model, limits, options.max_tokens)
        settings = Settings(log=_log if options.log_requests else None)
        return serve(
            App(core, terms, access, all_fronts(), settings),
            core,
            listener,
            Patience(grace=options.grace),
            lambda: _begin(core, access),
            lambda: _end(core, options.grace),
            core_limits.keep_alive if options.exit_when_idle else None,
        )


@contextlib.contextmanager
def _errors_only() -> Iterator[None]:
    """Print no notes: they tell of the images in requests."""
    logger = logging.getLogger("mlx_lfm2vl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _begin(core: Core, access: Access) -> None:
    """Say that the server answers, and load the first model before anybody asks."""
    say(f"listening on {access.url}")
    if core.limits.keep_alive == 0:
        return
    from ..serving.http.errors import is_internal

    def tell(event: object) -> None:
        if isinstance(event, Lfm2VLError) and is_internal(event):
            say(f"error: {event}")

    core.warm_up(tell)


def _end(core: Core, grace: float) -> None:
    """Say why the server does not end at once."""
    if core.status().running:
        say(f"stopping: running answers have {grace:g} s to finish; a second signal ends them")


def _log(seen: Seen) -> None:
    say(f"{seen.method} {seen.path} {seen.status} {seen.seconds:.3f} s")


def _image_limits(options: argparse.Namespace) -> ImageLimits:
    if options.max_images < 1:
        raise InputError(f"--max-images is {options.max_images}, expected at least 1")
    return replace(image_limits(options), max_images=options.max_images)


def _core_limits(options: argparse.Namespace) -> Limits:
    """The limits that were given.

    Raises:
        InputError: one is out of range, or two contradict each other.
    """
    from ..serving.core import Limits

    for name, least in (("max_tokens", 1), ("max_waiting", 1), ("port", 0)):
        value = getattr(options, name)
        if value is not None and value < least:
            raise InputError(f"--{name.replace('_', '-')} is {value}, expected at least {least}")
    if options.port > 65535:
        raise InputError(f"--port is {options.port}, expected 0 to 65535")
    if options.max_seconds is not None and not options.max_seconds > 0:
        raise InputError(f"--max-seconds is {options.max_seconds}, expected more than 0")
    if options.grace is None:
        raise InputError("--grace is forever, and the server would never end: give a time")
    if options.exit_when_idle and options.keep_alive is None:
        raise InputError("--exit-when-idle needs a time: add --keep-alive, as in --keep-alive 10m")
    return Limits(
        waiting=options.max_waiting, seconds=options.max_seconds, keep_alive=options.keep_alive
    )


def _token(options: argparse.Namespace) -> str | None:
    """The token that clients must bring, if any.

    Raises:
        InputError: there are two, or one that is no secret.
    """
    from ..serving.http.access import checked_token, read_token

    in_environment = os.environ.get(TOKEN_VARIABLE)
    if options.token_file is None:
        return checked_token(in_environment, TOKEN_VARIABLE) if in_environment else None
    if in_environment:
        raise InputError(f"--token-file and {TOKEN_VARIABLE} both give a token: keep one")
    return read_token(options.token_file)


def _models(options: argparse.Namespace, limits: ImageLimits) -> list[Served]:
    """The models that requests may name, none of them loaded.

    Raises:
        InputError: two have one name, or an option of a single model was given for several.
    """
    from ..serving.served import served_model

    named = dict[str, str]()
    for given in options.models or [chosen_model(None)]:
        name, model = _named(given)
        if name in named:
            raise InputError(f"two models are called {name}: name one, as in --model NAME={model}")
        named[name] = model
    single = {
        "--revision": options.revision,
        "--adapter": options.adapter,
        "--draft-model": options.draft_model,
    }
    for option, value in single.items():
        if value is not None and len(named) > 1:
            raise InputError(f"{option} belongs to one model, and {len(named)} are given")
    folder = chosen_folder(options.cache)
    return [
        served_model(
            model,
            name=name,
            revision=options.revision,
            dtype=options.dtype,
            adapter=options.adapter,
            limits=limits,
            draft_model=options.draft_model,
            folder=folder,
            folder_bytes=chosen_bytes(options.cache_size),
        )
        for name, model in named.items()
    ]


def _named(given: str) -> tuple[str, str]:
    """Return the name in requests of a --model, and the model. A folder's path is not its name."""
    name, equals, model = given.partition("=")
    if equals and name and model and not os.path.isdir(given):
        return name, chosen_model(model)
    return (Path(given).resolve().name if os.path.isdir(given) else given), chosen_model(given)


def _access(options: argparse.Namespace, address: tuple[str, int], token: str | None) -> Access:
    from ..serving.http.access import Access

    names = tuple(name.lower() for name in options.allow_host)
    return Access(*address, names, tuple(options.allow_origin), token)
