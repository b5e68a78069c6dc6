"""mlx-vlm, measured in a Python of its own on the same images."""

import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import InputError, Lfm2VLError

SCRIPT = Path(__file__).with_name("mlx_vlm_stages.py")
START_SECONDS, RUN_SECONDS = 120, 3600  # before it is stopped


@dataclass(frozen=True)
class PeerImage:
    """As far as mlx-vlm can be measured what `ImageSpeed` says of ours, in the same units."""

    views: int
    prompt_tokens: int
    prepare_seconds: float
    encode_seconds: float
    first_token_seconds: float
    tokens_per_second: float
    peak_memory_bytes: int


@dataclass(frozen=True)
class Peer:
    """A version of mlx-vlm, and how long it took; the images in the order asked."""

    version: str
    dtype: str
    load_seconds: float
    images: list[PeerImage]


def find_peer(python: str) -> str:
    """The path of a Python with mlx-vlm.

    Raises:
        InputError: there is no such program, or it does not import mlx_vlm.
    """
    found = shutil.which(python)
    if found is None:
        raise InputError(f"--compare {python}: there is no such program")
    program = os.path.abspath(found)  # a link stays one: a virtual environment is known by it
    done = _run([program, "-c", "import mlx_vlm"], START_SECONDS)
    if done.returncode:
        raise InputError(f"--compare {python} cannot import mlx_vlm: {_last_line(done.stderr)}")
    return program


def measure_peer(
    program: str,
    checkpoint: Path,
    images: Sequence[Path],
    *,
    prompt: str,
    tokens: int,
    repeats: int,
) -> Peer:
    """Measure mlx-vlm; takes as long as it takes to answer each image `repeats` + 1 times.

    Raises:
        Lfm2VLError: it failed, or took too long.
    """
    task = {
        "checkpoint": str(checkpoint.absolute()),
        "images": [str(image.absolute()) for image in images],
        "prompt": prompt,
        "tokens": tokens,
        "repeats": repeats,
    }
    # Sent through stdin: started as a file, it would import its neighbours by their short names.
    done = _run([program, "-", json.dumps(task)], RUN_SECONDS, SCRIPT.read_text())
    if done.returncode:
        raise Lfm2VLError(f"mlx-vlm failed: {_last_line(done.stderr)}")
    try:
        values = json.loads(_last_line(done.stdout))
        parts = [PeerImage(**image) for image in values.pop("images")]
        return Peer(**values, images=parts)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Lfm2VLError(f"{program} gave no measurement of mlx-vlm: {error}") from None


def _run(
    command: Sequence[str], seconds: float, text: str = ""
) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command, input=text, timeout=seconds, capture_output=True, text=True, errors="replace"
        )
    except OSError as error:
        raise InputError(f"{command[0]} does not start: {error.strerror}") from None
    except subprocess.TimeoutExpired:
        raise Lfm2VLError(f"{command[0]} took more than {seconds} s and was stopped") from None


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["it said nothing"])[-1]
