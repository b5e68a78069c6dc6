"""Publishing a checkpoint on the Hub."""

from pathlib import Path

from ..errors import InputError, NetworkError
from .hub_errors import explain, failures


def publish(folder: Path, repo: str) -> str:
    """Upload a folder to the Hub; the local copy stays.

    Args:
        folder: the checkpoint.
        repo: repo id; the repo is created if it does not exist.

    Returns:
        The URL of the repo.

    Raises:
        InputError: `repo` is not a valid repo id.
        NetworkError: the repo cannot be created or written.
    """
    import huggingface_hub as hub
    from huggingface_hub import errors

    try:
        hub.HfApi().create_repo(repo, exist_ok=True)
        hub.HfApi().upload_folder(repo_id=repo, folder_path=folder)
    except errors.HFValidationError as error:
        raise InputError(f"--upload-repo {repo}: {error}") from None
    except failures() as error:
        reason = explain(error, repo, None)
        raise NetworkError(
            f"{folder} is written but could not be uploaded to {repo}: {reason}"
        ) from None
    return f"https://huggingface.co/{repo}"
