"""Quick Actions of the Finder: written to a folder of services, and removed from it again.

A Quick Action is a folder `NAME.workflow` of two property lists, as Automator saves it: what the
menu shows, and a "Run Shell Script" action that gets the chosen files as arguments. Finder starts
it without the user's PATH, so it names this Python by its path.
"""

import hashlib
import json
import plistlib
import shlex
import uuid
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from ..errors import InputError
from ..whole_folder import new_file

SERVICES = Path("~/Library/Services")
MANIFEST = ".mlx_lfm2vl.json"  # what was written, beside the actions
UNDO_FILE = "renamed-by-lfm2vl.jsonl"  # in the home folder
# Names in the menu. Words in braces are filled in; a run keeps its results only while it lasts.
ACTIONS = {
    "Copy Alt Text (LFM2-VL)": '{program} caption -m {model} --length alt "$@" | /usr/bin/pbcopy',
    "Copy Text in Image (LFM2-VL)": '{program} ocr -m {model} "$@" | /usr/bin/pbcopy',
    "Caption in Comment (LFM2-VL)": "{run} caption -m {model} --write finder-comment {files}",
    "Keywords as Tags (LFM2-VL)": "{run} keywords -m {model} --write finder-tags {files}",
    "Keywords in XMP (LFM2-VL)": "{run} keywords -m {model} --write xmp {files}",
    "Rename by Content (LFM2-VL)": (
        "{run} caption -m {model} --length short --rename '{{date}}_{{slug}}{{ext}}' "
        f'--undo-file "$HOME/{UNDO_FILE}" {{files}}'
    ),
}
# Without a language, pbcopy takes text for MacRoman.
SCRIPT = """\
export LANG=en_US.UTF-8
set -o pipefail
{line}
"""
RUN_SCRIPT = """\
export LANG=en_US.UTF-8
folder=$(/usr/bin/mktemp -d) || exit 1
trap '/bin/rm -r "$folder"' EXIT
{line}
"""


@dataclass
class Removed:
    """What an uninstall did.

    Attributes:
        removed: files that are gone.
        kept: files that were changed since, and stay.
    """

    removed: list[Path] = field(default_factory=list[Path])
    kept: list[Path] = field(default_factory=list[Path])


def script(line: str, python: str, model: str) -> str:
    """Return the shell script of an action."""
    program = f"{shlex.quote(python)} -m mlx_lfm2vl"
    filled = line.format(
        program=program,
        run=f"{program} run",
        model=shlex.quote(model),
        files='--out "$folder/results.jsonl" "$@"',
    )
    return (RUN_SCRIPT if line.startswith("{run}") else SCRIPT).format(line=filled)


def install(folder: Path, python: str, model: str) -> list[Path]:
    """Write the Quick Actions; those of an earlier install are replaced.

    Args:
        folder: of services; made if it is not there.
        python: path of the interpreter.
        model: as `--model` takes it.

    Returns:
        The `.workflow` folders.

    Raises:
        InputError: a file is there that this did not write, or that was changed since; nothing is
            written then.
    """
    known = _manifest(folder)
    files = {
        f"{name}.workflow/Contents/{file}": plistlib.dumps(content)
        for name, line in ACTIONS.items()
        for file, content in _plists(name, script(line, python, model)).items()
    }
    for name, data in files.items():
        path = folder / name
        if path.exists() and _digest(path) not in (known.get(name), _hash(data)):
            raise InputError(f"{path} is not as it was written: move or delete it first")
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with new_file(path) as partial:
            partial.write_bytes(data)
    _write_manifest(folder, known | {name: _hash(data) for name, data in files.items()})
    return [folder / f"{name}.workflow" for name in ACTIONS]


def uninstall(folder: Path) -> Removed:
    """Remove what `install` wrote, and nothing else: a file that was changed since stays.

    Raises:
        InputError: the list of what was written cannot be read.
    """
    known, done = _manifest(folder), Removed()
    left = {}
    for name, digest in known.items():
        path = folder / name
        if not path.exists():
            continue
        if _digest(path) == digest:
            path.unlink()
            done.removed.append(path)
        else:
            done.kept.append(path)
            left[name] = digest
    for contents in {(folder / name).parent for name in known}:
        for empty in (contents, contents.parent):
            if empty.is_dir() and not any(empty.iterdir()):
                empty.rmdir()
    if left:
        _write_manifest(folder, left)
    else:
        (folder / MANIFEST).unlink(missing_ok=True)
    return done


def _plists(name: str, command: str) -> dict[str, dict[str, Any]]:
    """Return the property lists of an action, by file name."""
    service = {
        "NSMenuItem": {"default": name},
        "NSMessage": "runWorkflowAsService",
        "NSRequiredContext": {"NSApplicationIdentifier": "com.apple.finder"},
        "NSSendFileTypes": ["public.image"],
    }
    return {"Info.plist": {"NSServices": [service]}, "document.wflow": _workflow(name, command)}


def _workflow(name: str, command: str) -> dict[str, Any]:
    texts = {"Container": "List", "Types": ["com.apple.cocoa.string"]}
    names = ("COMMAND_STRING", "CheckedForUserDefaultShell", "inputMethod", "shell", "source")
    images, nothing = "com.apple.Automator.fileSystemObject.image", "com.apple.Automator.nothing"
    action = {
        "AMAccepts": {**texts, "Optional": True},
        "AMActionVersion": "2.0.3",
        "AMApplication": ["Automator"],
        "AMParameterProperties": {each: {} for each in names},
        "AMProvides": texts,
        "ActionBundlePath": "/System/Library/Automator/Run Shell Script.action",
        "ActionName": "Run Shell Script",
        "ActionParameters": {
            "COMMAND_STRING": command,
            "CheckedForUserDefaultShell": True,
            "inputMethod": 1,  # files as arguments
            "shell": "/bin/zsh",
            "source": "",
        },
        "BundleIdentifier": "com.apple.RunShellScript",
        "CFBundleVersion": "2.0.3",
        "CanShowSelectedItemsWhenRun": False,
        "CanShowWhenRun": True,
        "Category": ["AMCategoryUtilities"],
        "Class Name": "RunShellScriptAction",
        **{key: _identifier(name, key) for key in ("InputUUID", "OutputUUID", "UUID")},
        "Keywords": ["Shell", "Script", "Command", "Run", "Unix"],
        "UnlocalizedApplications": ["Automator"],
        "arguments": {},
        "isViewVisible": 1,
    }
    return {
        "AMApplicationBuild": "523",
        "AMApplicationVersion": "2.10",
        "AMDocumentVersion": "2",
        "actions": [{"action": action, "isViewVisible": 1}],
        "connectors": {},
        "workflowMetaData": {
            "applicationBundleIDsByPath": {},
            "applicationPaths": [],
            "inputTypeIdentifier": images,
            "outputTypeIdentifier": nothing,
            "presentationMode": 15,
            "processesInput": False,
            "serviceApplicationBundleID": "com.apple.finder",
            "serviceApplicationPath": "/System/Library/CoreServices/Finder.app",
            "serviceInputTypeIdentifier": images,
            "serviceOutputTypeIdentifier": nothing,
            "serviceProcessesInput": False,
            "systemImageName": "NSActionTemplate",
            "useAutomaticInputType": False,
            "workflowTypeIdentifier": "com.apple.Automator.servicesMenu",
        },
    }


def _identifier(name: str, key: str) -> str:
    """Return an identifier that is the same in every install."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"mlx_lfm2vl/{name}/{key}")).upper()


def _manifest(folder: Path) -> dict[str, str]:
    """Return the hashes of what was written, by path below the folder.

    Raises:
        InputError: the list cannot be read, or names a file elsewhere.
    """
    path = folder / MANIFEST
    if not path.exists():
        return {}
    try:
        files = json.loads(path.read_bytes())["files"]
        names = [PurePosixPath(name) for name in files]
    except (OSError, ValueError, TypeError, LookupError, RecursionError):
        raise InputError(f"{path} is damaged: delete the Quick Actions in the Finder") from None
    for name in names:
        parts = name.parts
        if len(parts) != 3 or parts[1] != "Contents" or not parts[0].endswith(".workflow"):
            raise InputError(f"{path} is damaged: it names {name}")
    return dict(files)


def _write_manifest(folder: Path, files: dict[str, str]) -> None:
    with new_file(folder / MANIFEST) as partial:
        partial.write_text(json.dumps({"schema": 1, "files": files}, indent=1))


def _digest(path: Path) -> str:
    try:
        return _hash(path.read_bytes())
    except OSError:
        return ""


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
