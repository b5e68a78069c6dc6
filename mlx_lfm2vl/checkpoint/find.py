"""Finding a checkpoint: the built-in one, a local folder, or a repository on the Hub."""

import logging
import re
from pathlib import Path

from ..errors import CheckpointError, InputError, Lfm2VLError
from .aliases import DEMO, full_name, similar_name
from .json_file import shown
from .names import some

logger = logging.getLogger(__name__)

DEMO_FOLDER = Path(__file__).parents[1] / "demo"
DEMO_DRAFTER = DEMO_FOLDER / "drafter"


def find_checkpoint(
    model: str,
    revision: str | None = None,
    *,
    with_weights: bool = True,
    update: bool = False,
) -> Path:
    """Return a folder with the checkpoint's files; download them if they are not cached.

    A complete copy in the cache is used without a request. The Hub library's environment variables
    apply (HF_HOME, HF_TOKEN, HF_HUB_OFFLINE, ...).

    Args:
        model: `demo` for the built-in model (write `./demo` for a folder of that name), a folder,
            a repo id such as `LiquidAI/LFM2.5-VL-450M`, or its short name, `450m`.
        revision: branch, tag or commit of a repo.
        with_weights: False downloads only the small files.
        update: ask the Hub for a newer commit of the revision, and download it with its weights.

    Raises:
        InputError: `model` is neither a folder nor a repo id, or it cannot have a revision or be
            updated.
        CheckpointError: the repo or revision does not exist or is not accessible, or the built-in
            model is missing.
        NetworkError: the repo is not in the local cache, or not completely, and cannot be
            downloaded.
    """
    if model == DEMO:
        return _built_in(revision, update)
    try:
        path = Path(model)
        path = path if path.exists() else path.expanduser()
        is_folder, exists = path.is_dir(), path.exists()
    except (OSError, RuntimeError, ValueError) as error:
        raise InputError(f"{model[:200]} is not a usable path: {error}") from None
    if is_folder:
        if revision is not None:
            raise InputError(f"{model} is a folder and has no revision {revision!r}")
        if update:
            raise InputError(f"{model} is a folder: --update is for repositories of the Hub")
        if not any((path / name).exists() for name in ("config.json", "tokenizer.json")):
            raise CheckpointError(f"there is no checkpoint in {model}: {_found_there(path)}")
        return path
    if exists:
        raise InputError(f"{model} is a file, expected a checkpoint folder or a repo id")
    model = full_name(model)
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", model) or model.startswith((".", "/", "~")):
        near = similar_name(model)
        hint = f"; did you mean {near}?" if near else " such as LiquidAI/LFM2.5-VL-450M"
        raise InputError(f"{model[:200]} is neither a folder nor a repo id{hint}")
    return _on_the_hub(model, revision, with_weights or update, update)


def find_drafter(drafter: str, revision: str | None = None, *, update: bool = False) -> Path:
    """Return a folder with a drafter's files; see `find_checkpoint`, which finds it alike.

    `demo` is the built-in model's drafter.
    """
    folder = find_checkpoint(drafter, revision, update=update)
    return DEMO_DRAFTER if folder == DEMO_FOLDER else folder


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
    from .cached_copy import ADAPTER_CONFIG, cached_copy, holds_adapter

    copy = cached_copy(name, None)
    if copy and holds_adapter(copy):
        return copy

    from .download import download_adapter, find_commit, name_commit

    try:
        commit = copy.name if copy else find_commit(name, None)
        folder = download_adapter(name, commit)
        name_commit(name, None, commit)
    except Lfm2VLError as error:
        what = "is not a folder, not in the local cache, and cannot be downloaded"
        raise type(error)(f"the adapter {name} {what}: {error}") from None
    if not holds_adapter(folder):
        raise CheckpointError(f"{name} holds no adapter: it has no {ADAPTER_CONFIG} or no weights")
    return folder


def _found_there(folder: Path) -> str:
    """Say what a folder without a checkpoint is, or where in it one lies."""
    if (folder / "adapter_config.json").exists():
        return "it is an adapter, which goes to --adapter (adapter=), with its base as the model"
    for pattern in ("snapshots/*", "*"):  # the Hub's cache, or the checkpoints of a training run
        inner = [path.parent for path in folder.glob(f"{pattern}/config.json")]
        if inner:
            return f"did you mean {max(inner, key=lambda path: path.stat().st_mtime)}?"
    return "it has no config.json"


def find_image(name: str) -> str:
    """Return the built-in picture's path for `demo`, unless a file has that name; else `name`."""
    if name == DEMO and not Path(name).exists():
        return str(DEMO_FOLDER / "example.png")
    return name


def _built_in(revision: str | None, update: bool) -> Path:
    if revision is not None:
        raise InputError(f"{DEMO} is part of this package and has no revision {revision!r}")
    if update:
        raise InputError(f"{DEMO} is part of this package: --update is for repositories of the Hub")
    if not (DEMO_FOLDER / "model.safetensors").exists():
        raise CheckpointError(
            f"the built-in model is missing from {DEMO_FOLDER}: install mlx-lfm2vl again "
            f"(for your own folder {DEMO}, write ./{DEMO})"
        )
    return DEMO_FOLDER


def _on_the_hub(repo: str, revision: str | None, with_weights: bool, update: bool) -> Path:
    """Return the cached copy of a repository; fetch what it lacks, or a newer one if asked to.

    What is there is never replaced unasked: what a copy lacks is fetched from its own commit.
    """
    from .cached_copy import cached_copy, lacking

    copy = cached_copy(repo, revision)
    lacks = lacking(copy, with_weights=with_weights) if copy else []
    if copy and not lacks and not update:
        return copy

    from .download import download, find_commit, name_commit

    if update:
        failed = f"{repo} cannot be updated"
    elif copy:
        failed = f"{repo} is in the local cache, but lacks {some(lacks)}, which cannot be fetched"
    else:
        failed = f"{repo} is not a folder, not in the local cache, and cannot be downloaded"
    try:
        commit = copy.name if copy and not update else find_commit(repo, revision)
        folder = download(repo, commit, with_weights=with_weights)
        name_commit(repo, revision, commit)
    except Lfm2VLError as error:
        hint = "; without --update the local copy is used" if copy and not lacks else ""
        raise type(error)(f"{failed}: {error}{hint}") from None
    if update and folder == copy:
        logger.warning("%s has no newer revision", repo)
    return folder
