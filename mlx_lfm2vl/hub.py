"""Finding a checkpoint: a local folder as it is, or a repository on the Hugging Face Hub."""

import re
import sys
from pathlib import Path

from .errors import CheckpointError, InputError, NetworkError

SMALL_FILES = ["*.json", "*.jinja"]
WEIGHT_FILES = ["*.safetensors"]


def find_checkpoint(model: str, revision: str | None = None, *, with_weights: bool = True) -> Path:
    """A folder with the checkpoint's files, downloaded only if it is not a local path.

    The `HF_*` environment variables work as everywhere (HF_HOME, HF_TOKEN, HF_HUB_OFFLINE, ...).

    Args:
        model: a folder, or a repo id such as `LiquidAI/LFM2.5-VL-450M`.
        revision: branch, tag or commit of a repo.
        with_weights: False fetches only the small files.

    Raises:
        InputError: it is neither a folder nor a repo id.
        CheckpointError: the repo does not exist or is not accessible.
        NetworkError: it is not in the local cache and cannot be fetched.
    """
    path = Path(model).expanduser()
    if path.is_dir():
        if revision is not None:
            raise InputError(f"{model} is a folder, which has no revision {revision!r}")
        return path
    if path.exists():
        raise InputError(f"{model} is a file, expected a checkpoint folder or a repo id")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", model) or model.startswith((".", "/", "~")):
        raise InputError(f"{model} is neither a folder nor a repo id such as LiquidAI/LFM2-VL-450M")
    return _download(model, revision, SMALL_FILES + (WEIGHT_FILES if with_weights else []))


def _download(repo: str, revision: str | None, patterns: list[str]) -> Path:
    import huggingface_hub as hub
    from huggingface_hub import errors, utils

    if not sys.stderr.isatty():
        utils.disable_progress_bars()
    try:
        # "*" also matches "/": files in folders are other formats of the same model.
        return Path(
            hub.snapshot_download(
                repo, revision=revision, allow_patterns=patterns, ignore_patterns=["*/*"]
            )
        )
    except errors.GatedRepoError:
        raise CheckpointError(f"{repo} is gated: accept its licence and set HF_TOKEN") from None
    except errors.RepositoryNotFoundError:
        raise CheckpointError(f"{repo} does not exist on the Hub, or needs HF_TOKEN") from None
    except errors.RevisionNotFoundError:
        raise CheckpointError(f"{repo} has no revision {revision!r}") from None
    except errors.HFValidationError as error:
        raise InputError(f"{repo} is not a valid repo id: {error}") from None
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled):
        raise NetworkError(
            f"{repo} is not in the local cache and the Hub cannot be reached; check the network, "
            "HF_HUB_OFFLINE, or give a local folder"
        ) from None
    except (errors.HfHubHTTPError, OSError) as error:
        raise NetworkError(f"{repo} cannot be downloaded: {str(error).splitlines()[0]}") from None
