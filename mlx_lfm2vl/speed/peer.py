"""Measure mlx-vlm on the same images, in the Python that has it installed."""

import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import InputError, Lfm2VLError

SCRIPT = Path(__file__).with_name("mlx_vlm_stages.py")
START_SECONDS, RUN_SECONDS = 120, 3600  # time limits


@dataclass(frozen=True)
class PeerImage:
    """The fields of `ImageSpeed` that can be measured in mlx-vlm, in the same units."""

    views: int
    prompt_tokens: int
    prepare_seconds: float
    encode_seconds: float
    first_token_seconds: float
    tokens_per_second: float
    peak_memory_bytes: int


@dataclass(frozen=True)
class Peer:
    """Measurements of one version of mlx-vlm; the images are in the order requested."""

    version: str
    dtype: str
    load_seconds: float
    images: list[PeerImage]


def find_peer(python: str) -> str:
    """Find a Python program and check that it has mlx-vlm; returns its absolute path.

    Raises:
        InputError: there is no such program, or it cannot import mlx_vlm.
    """
    found = shutil.which(python)
    if found is None:
        raise InputError(f"--compare {python}: there is no such program")
    program = os.path.abspath(found)  # keeps links, by which Python finds its virtual environment
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
    """Measure mlx-vlm, which answers about each image `repeats` + 1 times.

    Args:
        program: path of a Python with mlx-vlm.
        checkpoint: folder.
        images: files, each asked about on its own.
        prompt: the question.
        tokens: number of tokens to decode after the first one.
        repeats: number of measured runs; one more run warms up.

    Raises:
        Lfm2VLError: mlx-vlm failed or took too long.
    """
    task = {
        "checkpoint": str(checkpoint.absolute()),
        "images": [str(image.absolute()) for image in images],
        "prompt": prompt,
        "tokens": tokens,
        "repeats": repeats,
    }
    # The script is sent through stdin: run as a file, it could import its neighbors by accident.
    done = _run([program, "-", json.dumps(task)], RUN_SECONDS, SCRIPT.read_text())
    if done.returncode:
        raise Lfm2VLError(f"mlx-vlm failed: {_last_line(done.stderr)}")
    try:
        values = json.loads(_last_line(done.stdout))
        parts = [PeerImage(**image) for image in values.pop("images")]
        return Peer(**values, images=parts)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Lfm2VLError(f"{program} printed no measurement of mlx-vlm: {error}") from None


def _run(
    command: Sequence[str], seconds: float, text: str = ""
) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command, input=text, timeout=seconds, capture_output=True, text=True, errors="replace"
        )
    except OSError as error:
        raise InputError(f"{command[0]} cannot be started: {error.strerror}") from None
    except subprocess.TimeoutExpired:
        raise Lfm2VLError(f"{command[0]} took more than {seconds} s and was stopped") from None


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["it printed nothing"])[-1]
