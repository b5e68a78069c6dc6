"""Downloading a checkpoint from the Hub into the cache that other programs share.

What is in the cache when a download is cut off is not fetched again. The Hub library's own download
begins a cut-off file anew, and waits for ever where nothing answers.
"""

import contextlib
import fnmatch
import hashlib
import logging
import re
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote

from ..disk_space import free_bytes, size_text
from ..errors import CheckpointError, InputError, NetworkError
from ..whole_folder import new_file
from .cached_copy import ADAPTER_FILES, READ, marked_absent, repo_folder
from .hub_errors import explain, failures, is_passing
from .tensors import expected_weights

logger = logging.getLogger(__name__)

SMALL_FILES = ("*.json", "*.jinja", "LICENSE*", "README.md")
PAUSES = (1.0, 2.0, 4.0)  # seconds before another try, after one that brought no byte
HASH_BLOCK = 2**20  # bytes


@dataclass(frozen=True)
class HubFile:
    """A file to fetch.

    Attributes:
        name: its name, without a folder.
        url: where it is.
        nbytes: its size.
        blob: its place among the cache's blobs, named by the hash of its content.
    """

    name: str
    url: str
    nbytes: int
    blob: Path

    @property
    def partial(self) -> Path:
        """Where its bytes are until all are there."""
        return self.blob.with_name(f"{self.blob.name}.incomplete")

    def is_whole(self, *, hashed: bool) -> bool:
        """Whether all bytes are there and, if asked to hash them, are those that the Hub has."""
        if _size(self.partial) != self.nbytes:
            return False
        is_sha256 = re.fullmatch("[0-9a-f]{64}", self.blob.name)  # a small file's hash is another
        if not hashed or not is_sha256:
            return True
        digest = hashlib.sha256()
        with self.partial.open("rb") as data:
            while block := data.read(HASH_BLOCK):
                digest.update(block)
        return digest.hexdigest() == self.blob.name


def find_commit(repo: str, revision: str | None) -> str:
    """Ask the Hub for the newest commit of a revision.

    Raises:
        Lfm2VLError: it does not say; the text is the reason.
    """
    from huggingface_hub import errors, utils

    try:
        utils.validate_repo_id(repo)
    except errors.HFValidationError as error:
        raise InputError(str(error)) from None
    if revision and re.fullmatch("[0-9a-f]{40}", revision):
        return revision
    with _explained(repo, revision):
        answer = _ask(f"/api/models/{repo}/revision/{quote(revision or 'main', safe='')}").json()
        commit = answer["sha"] if isinstance(answer, dict) and "sha" in answer else None
        if not isinstance(commit, str) or not re.fullmatch(r"\w+", commit):
            raise ValueError("no commit")
        return commit


def download(repo: str, commit: str, *, with_weights: bool) -> Path:
    """Fetch the files of a commit that the cache lacks.

    Args:
        repo: repo id.
        commit: of the repo.
        with_weights: False fetches only the small files.

    Returns:
        The folder of the commit's files.

    Raises:
        Lfm2VLError: they cannot be fetched; the text is the reason.
    """
    folder = repo_folder(repo)
    copy = folder / "snapshots" / commit
    with _explained(repo, commit), _alone(folder, repo):
        files = _list_files(repo, commit)
        _fetch(repo, copy, {name: files[name] for name in files if _is_small(name)})
        for name in set(READ) - set(files):
            mark = marked_absent(copy) / name
            mark.parent.mkdir(parents=True, exist_ok=True)
            mark.touch()
        if with_weights:
            # Subfolders and files of other formats hold the same weights once more.
            weights = expected_weights(copy, set(files))
            if not weights:
                raise CheckpointError("it has no weights (*.safetensors)")
            _fetch(repo, copy, {name: files[name] for name in weights if name in files})
    return copy


def download_adapter(repo: str, commit: str) -> Path:
    """Fetch the files of an adapter and nothing else; see `download`."""
    folder = repo_folder(repo)
    copy = folder / "snapshots" / commit
    with _explained(repo, commit), _alone(folder, repo):
        files = _list_files(repo, commit)
        _fetch(repo, copy, {name: files[name] for name in ADAPTER_FILES if name in files})
    return copy


def name_commit(repo: str, revision: str | None, commit: str) -> None:
    """Note in the cache which commit a revision is, once its files are there."""
    if revision == commit:
        return
    reference = repo_folder(repo) / "refs" / (revision or "main")
    with _explained(repo, revision):
        reference.parent.mkdir(parents=True, exist_ok=True)
        with new_file(reference) as partial:
            partial.write_text(commit)


@contextlib.contextmanager
def _explained(repo: str, revision: str | None) -> Iterator[None]:
    try:
        yield
    except failures() as error:
        raise explain(error, repo, revision) from None


@contextlib.contextmanager
def _alone(folder: Path, repo: str) -> Iterator[None]:
    """Wait until no other program of this package downloads the repository."""
    from filelock import FileLock, Timeout

    lock = FileLock(folder.parent / ".locks" / folder.name / "mlx_lfm2vl.lock")
    Path(lock.lock_file).parent.mkdir(parents=True, exist_ok=True)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        logger.warning("another program is downloading %s: waiting for it", repo)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _ask(path: str) -> Any:
    """Get an answer from the Hub's interface."""
    from huggingface_hub import constants, utils

    answer = utils.get_session().get(
        constants.ENDPOINT + path,
        headers=utils.build_hf_headers(),
        timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT,
    )
    utils.hf_raise_for_status(answer)
    return answer


def _list_files(repo: str, commit: str) -> dict[str, int]:
    """Ask for the names and sizes of the files of a commit, without those in folders."""
    try:
        entries = _ask(f"/api/models/{repo}/tree/{commit}").json()
        files = {str(e["path"]): int(e["size"]) for e in entries if e["type"] == "file"}
    except (LookupError, TypeError):
        raise ValueError("no list of files") from None
    return {name: files[name] for name in files if Path(name).name == name and name.isprintable()}


def _is_small(name: str) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in SMALL_FILES)


def _fetch(repo: str, copy: Path, sizes: dict[str, int]) -> None:
    """Fetch those files that the copy lacks; show how far it is."""
    from huggingface_hub import utils

    files = [
        _look_up(repo, copy, name, nbytes)
        for name, nbytes in sizes.items()
        if not (copy / name).exists()
    ]
    if not files:
        return
    new = {file.blob: file for file in files if not file.blob.exists()}.values()
    total, begun = sum(file.nbytes for file in new), sum(_size(file.partial) for file in new)
    free = free_bytes(copy)
    if total - begun > free:
        raise NetworkError(
            f"it needs {size_text(total - begun)} in {copy.parents[2]}, where only "
            f"{size_text(free)} are free; HF_HOME names another folder"
        )
    copy.mkdir(parents=True, exist_ok=True)
    (copy.parents[1] / "blobs").mkdir(exist_ok=True)
    is_terminal = sys.stderr is not None and sys.stderr.isatty()
    if not is_terminal and not all(_is_small(name) for name in sizes):
        # Minutes without another word.
        logger.warning("downloading %s from the Hub (%s)", repo, size_text(total - begun))
    with utils.tqdm(
        total=total,
        initial=begun,
        unit="B",
        unit_scale=True,
        desc=repo,
        disable=not is_terminal or None,
        leave=False,
    ) as bar:
        for file in files:
            _complete(file, bar)
            _link(copy / file.name, file.blob)


def _look_up(repo: str, copy: Path, name: str, nbytes: int) -> HubFile:
    """Ask for the hash of a file, which names it in the cache."""
    import huggingface_hub as hub
    from huggingface_hub import constants

    url = hub.hf_hub_url(repo, name, revision=copy.name)
    found = hub.get_hf_file_metadata(url, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT)
    if found.etag is None or not re.fullmatch(r"\w[\w.:+=-]{,199}", found.etag):
        raise ValueError("no hash of a file")
    blob = copy.parents[1] / "blobs" / found.etag
    return HubFile(name, url, nbytes if found.size is None else found.size, blob)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _complete(file: HubFile, bar: Any) -> None:
    """Fetch what is missing of a file; try again as long as that brings anything."""
    if file.blob.exists():
        return
    if _size(file.partial) > file.nbytes:
        file.partial.unlink()
    begun = most = _size(file.partial)
    pauses = iter(PAUSES)
    with file.partial.open("ab") as out:
        while out.tell() < file.nbytes:
            try:
                _receive(file, out, bar)
            except failures() as error:
                if out.tell() > most:
                    most, pauses = out.tell(), iter(PAUSES)
                    continue
                pause = next(pauses, None)
                if pause is None or not is_passing(error):
                    raise
                time.sleep(pause)
    if not file.is_whole(hashed=begun > 0):
        file.partial.unlink()
        raise NetworkError(f"what was there of {file.name} is damaged; run it again")
    file.partial.replace(file.blob)


def _receive(file: HubFile, out: IO[bytes], bar: Any) -> None:
    """Append the rest of a file to what is there of it."""
    from huggingface_hub import constants, utils

    # Compressed, the parts of a file would not fit together.
    headers = {**utils.build_hf_headers(), "Accept-Encoding": "identity"}
    if out.tell():
        headers["Range"] = f"bytes={out.tell()}-"
    with utils.get_session().stream(
        "GET",
        file.url,
        headers=headers,
        timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT,
        follow_redirects=True,
    ) as answer:
        if answer.status_code >= 400:
            answer.read()
        utils.hf_raise_for_status(answer)
        if answer.status_code != 206:  # the whole file, whatever was asked for
            bar.update(-out.tell())
            out.seek(0)
            out.truncate()
        for piece in answer.iter_bytes():
            out.write(piece)
            bar.update(len(piece))
    if out.tell() != file.nbytes:
        raise ConnectionError(f"{file.name} ended after {out.tell()} of {file.nbytes} bytes")


def _link(place: Path, blob: Path) -> None:
    """Give a blob its name in the copy."""
    place.unlink(missing_ok=True)  # a link to a blob that is gone
    try:
        place.symlink_to(Path("..", "..", "blobs", blob.name))
    except OSError:  # the disk has no links
        blob.replace(place)
