"""Finding a checkpoint: the built-in one, a local folder, or a repository on the Hub."""

import logging
import re
import sys
from pathlib import Path

from ..errors import CheckpointError, InputError, NetworkError
from .aliases import DEMO, full_name, similar_name
from .json_file import shown
from .tensors import weight_files

logger = logging.getLogger(__name__)

DEMO_FOLDER = Path(__file__).parents[1] / "demo"
SMALL_FILES = ["*.json", "*.jinja", "LICENSE*", "README.md"]
WEIGHT_FILES = ["*.safetensors"]
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_FILES = [ADAPTER_CONFIG, "adapters.safetensors", "adapter_model.safetensors"]
NEEDED = (
    ("config.json",),
    ("tokenizer.json",),
    ("processor_config.json", "preprocessor_config.json"),
    ("chat_template.jinja", "chat_template.json", "tokenizer_config.json"),
)


def find_checkpoint(model: str, revision: str | None = None, *, with_weights: bool = True) -> Path:
    """Return a folder with the checkpoint's files; download them if they are not cached.

    The Hub library's environment variables apply (HF_HOME, HF_TOKEN, HF_HUB_OFFLINE, ...).

    Args:
        model: `demo` for the built-in model (write `./demo` for a folder of that name), a folder,
            a repo id such as `LiquidAI/LFM2.5-VL-450M`, or its short name, `450m`.
        revision: branch, tag or commit of a repo.
        with_weights: False downloads only the small files.

    Raises:
        InputError: `model` is neither a folder nor a repo id, or it cannot have a revision.
        CheckpointError: the repo or revision does not exist or is not accessible, or the built-in
            model is missing.
        NetworkError: the repo is not in the local cache and cannot be downloaded.
    """
    if model == DEMO:
        return _built_in(revision)
    try:
        path = Path(model).expanduser()
        is_folder, exists = path.is_dir(), path.exists()
    except (OSError, RuntimeError, ValueError) as error:
        raise InputError(f"{model[:200]} is not a usable path: {error}") from None
    if is_folder:
        if revision is not None:
            raise InputError(f"{model} is a folder and has no revision {revision!r}")
        if not any((path / name).exists() for name in ("config.json", "tokenizer.json")):
            raise CheckpointError(f"there is no checkpoint in {model}: it has no config.json")
        return path
    if exists:
        raise InputError(f"{model} is a file, expected a checkpoint folder or a repo id")
    model = full_name(model)
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", model) or model.startswith((".", "/", "~")):
        near = similar_name(model)
        hint = f"; did you mean {near}?" if near else " such as LiquidAI/LFM2.5-VL-450M"
        raise InputError(f"{model[:200]} is neither a folder nor a repo id{hint}")
    return _cached(model, revision, with_weights) or _download(model, revision, with_weights)


def find_adapter(name: str) -> Path:
    """Return the folder of an adapter; download its files if it is on the Hub and not cached.

    Args:
        name: a folder, or a repo id such as `me/my-lora`.

    Raises:
        InputError: there is no such folder, and this is not a repo id.
        CheckpointError: the repo does not exist or is not accessible, or holds no adapter.
        NetworkError: the repo is not in the local cache and cannot be downloaded.
    """
    try:
        path = Path(name).expanduser()
        exists, is_folder = path.exists(), path.is_dir()
    except (OSError, RuntimeError, ValueError) as error:
        raise InputError(f"{name[:200]} is not a usable path: {error}") from None
    if exists and not is_folder:
        raise InputError(f"{name} is a file, expected the folder of an adapter or a repo id")
    if exists:
        return path
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name) or name.startswith((".", "/", "~")):
        text = name[:200] if name.isprintable() else shown(name)
        raise InputError(f"the adapter {text} does not exist")
    folder = _cached_adapter(name) or _download(name, None, patterns=ADAPTER_FILES)
    if not (folder / ADAPTER_CONFIG).exists():
        raise CheckpointError(f"{name} holds no adapter: it has no {ADAPTER_CONFIG}")
    return folder


def _cached_adapter(repo: str) -> Path | None:
    """Return the cached copy of an adapter if it is complete, without asking the Hub."""
    import huggingface_hub as hub
    from huggingface_hub import errors

    try:
        folder = Path(
            hub.snapshot_download(
                repo, local_files_only=True, allow_patterns=ADAPTER_FILES, ignore_patterns=["*/*"]
            )
        )
    except (errors.LocalEntryNotFoundError, errors.HFValidationError, OSError):
        return None
    return folder if all(any(folder.glob(end)) for end in ("*.json", "*.safetensors")) else None


def find_image(name: str) -> str:
    """Return the built-in picture's path for `demo`, unless a file has that name; else `name`."""
    if name == DEMO and not Path(name).exists():
        return str(DEMO_FOLDER / "example.png")
    return name


def _built_in(revision: str | None) -> Path:
    if revision is not None:
        raise InputError(f"{DEMO} is part of this package and has no revision {revision!r}")
    if not (DEMO_FOLDER / "model.safetensors").exists():
        raise CheckpointError(
            f"the built-in model is missing from {DEMO_FOLDER}: install mlx-lfm2vl again "
            f"(for your own folder {DEMO}, write ./{DEMO})"
        )
    return DEMO_FOLDER


def _cached(repo: str, revision: str | None, with_weights: bool) -> Path | None:
    """Return the cached copy if it is complete, without asking the Hub for a newer revision."""
    import huggingface_hub as hub
    from huggingface_hub import errors

    try:
        folder = Path(hub.snapshot_download(repo, revision=revision, local_files_only=True))
        if with_weights:
            weight_files(folder)
        # Another program may have downloaded only some of the files.
        complete = all(any((folder / name).exists() for name in names) for names in NEEDED)
        return folder if complete else None
    except (errors.LocalEntryNotFoundError, errors.HFValidationError, CheckpointError, OSError):
        return None  # the download's error says what is wrong


def _download(
    repo: str,
    revision: str | None,
    with_weights: bool = False,
    patterns: list[str] | None = None,
) -> Path:
    import huggingface_hub as hub
    from huggingface_hub import constants, errors, utils

    patterns = patterns or SMALL_FILES + (WEIGHT_FILES if with_weights else [])
    if sys.stderr is None or not sys.stderr.isatty():
        utils.disable_progress_bars()
        if with_weights and not constants.HF_HUB_OFFLINE:
            logger.warning("downloading %s from the Hub", repo)  # minutes without another word
    try:
        # Hub patterns match across "/". Files in subfolders are other formats of the same model.
        folder = Path(
            hub.snapshot_download(
                repo, revision=revision, allow_patterns=patterns, ignore_patterns=["*/*"]
            )
        )
    except errors.GatedRepoError:
        raise CheckpointError(f"{repo} is gated: accept its license and set HF_TOKEN") from None
    except errors.RepositoryNotFoundError:
        raise CheckpointError(
            f"{repo} does not exist on the Hub, or is private: check the spelling or set HF_TOKEN"
        ) from None
    except errors.RevisionNotFoundError:
        raise CheckpointError(f"{repo} has no revision {revision!r}") from None
    except errors.HFValidationError as error:
        raise InputError(f"{repo} is not a valid repo id: {error}") from None
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled):
        raise NetworkError(
            f"{repo} is not a folder, not in the local cache, and the Hub cannot be reached; "
            "check the spelling, the network, or HF_HUB_OFFLINE"
        ) from None
    except (errors.HfHubHTTPError, OSError) as error:
        raise NetworkError(f"{repo} cannot be downloaded: {str(error).splitlines()[0]}") from None
    # Without a network the Hub library returns an incomplete cached copy.
    if with_weights and not any(folder.glob("*.safetensors")):
        raise NetworkError(
            f"{repo}: the local cache has no weights and none were downloaded; check the network "
            "and HF_HUB_OFFLINE, and that the repo has safetensors files"
        )
    return folder
