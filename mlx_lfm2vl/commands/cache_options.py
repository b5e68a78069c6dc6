"""The options of the disk cache, and the folder that they mean."""

import argparse
import os
from pathlib import Path

from ..errors import InputError

VARIABLE = "MLX_LFM2VL_CACHE"
DEFAULT_GB = 2.0


def add_cache_options(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--cache",
        nargs="?",
        const="",
        metavar="DIR",
        help="keep what was read of images and prompts on disk, for the next run; default of DIR: "
        f"~/.cache/mlx_lfm2vl; {VARIABLE}=DIR does the same",
    )
    add(
        "--cache-size",
        type=float,
        default=DEFAULT_GB,
        metavar="GB",
        help=f"most that --cache keeps; what was unused for longest goes; default: {DEFAULT_GB:g}",
    )


def default_folder() -> Path:
    """Return where the cache is if nobody says: below `XDG_CACHE_HOME` or `~/.cache`."""
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(home).expanduser() / "mlx_lfm2vl"


def chosen_folder(given: str | None) -> Path | None:
    """Return the folder of the cache, or None if none is asked for.

    Args:
        given: value of --cache; "" is the default folder, and None lets the environment choose.

    Raises:
        InputError: the folder is a file.
    """
    if given is None:
        given = os.environ.get(VARIABLE, "0")
        if given in ("", "0"):
            return None
        given = "" if given == "1" else given
    folder = Path(given).expanduser() if given else default_folder()
    if os.path.isfile(folder):
        raise InputError(f"the cache {folder} is a file, expected a folder")
    return folder


def chosen_bytes(gigabytes: float) -> int:
    """Return the size of the cache in bytes.

    Raises:
        InputError: it is out of range.
    """
    if not 0 < gigabytes < 1e4:
        raise InputError(
            f"--cache-size is {gigabytes}, expected more than 0 and less than 10000 GB"
        )
    return int(gigabytes * 1e9)
