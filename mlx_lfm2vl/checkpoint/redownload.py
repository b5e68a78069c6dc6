"""What to type when files of a checkpoint are missing or cut off."""

from pathlib import Path

BUILT_IN = Path(__file__).parents[1] / "demo"
MAX_NAMED = 3  # files in a command; for more it fetches the whole repository


def download_again(folder: Path, *names: str) -> str:
    """Return the end of an error message: the command that downloads files again.

    A snapshot in the Hub's cache has its repository in its path. Other folders do not tell where
    they came from.

    Args:
        folder: of the checkpoint.
        names: the files; none stands for the whole repository.
    """
    if folder.resolve() == BUILT_IN:
        return "install mlx-lfm2vl again"
    import shlex  # only a broken checkpoint needs it

    files = [shlex.quote(name) for name in names] if len(names) <= MAX_NAMED else []
    repo, options = "REPO", ["--local-dir", shlex.quote(str(folder))]
    cache = folder.parents[1] if len(folder.parents) > 1 else folder
    if folder.parent.name == "snapshots" and cache.name.startswith("models--"):
        repo = cache.name.removeprefix("models--").replace("--", "/")
        options = [] if _is_main(cache, folder.name) else ["--revision", folder.name]
    command = " ".join(["hf download", repo, *files, *options, "--force-download"])
    where = " (REPO is its name on the Hub)" if repo == "REPO" else ""
    return f"to download it again: {command}{where}"


def _is_main(cache: Path, commit: str) -> bool:
    try:
        return (cache / "refs" / "main").read_text().strip() == commit
    except (OSError, ValueError):
        return False
