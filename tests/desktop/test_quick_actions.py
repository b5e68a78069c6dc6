"""Quick Actions: what Automator reads, scripts that run, and an uninstall that takes no more."""

import json
import os
import plistlib
import subprocess
import sys

import pytest

from mlx_lfm2vl.commands.mac import main
from mlx_lfm2vl.desktop import quick_actions
from mlx_lfm2vl.desktop.quick_actions import ACTIONS, MANIFEST, install, script, uninstall
from mlx_lfm2vl.errors import InputError

MODEL = "LiquidAI/LFM2.5-VL-450M"
PYTHON = "/Users/a b/it's/python"


def files(folder) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_an_action_is_a_finder_service_that_runs_a_shell_script(tmp_path):
    for workflow in install(tmp_path, PYTHON, "450m"):
        info = plistlib.loads((workflow / "Contents" / "Info.plist").read_bytes())
        (service,) = info["NSServices"]
        assert service["NSMenuItem"] == {"default": workflow.stem}
        assert service["NSMessage"] == "runWorkflowAsService"
        document = plistlib.loads((workflow / "Contents" / "document.wflow").read_bytes())
        (action,) = document["actions"]
        parameters = action["action"]["ActionParameters"]
        assert (parameters["inputMethod"], parameters["shell"]) == (1, "/bin/zsh")
        assert "'/Users/a b/it'\"'\"'s/python' -m mlx_lfm2vl" in parameters["COMMAND_STRING"]
        kinds = document["workflowMetaData"]
        assert kinds["workflowTypeIdentifier"] == "com.apple.Automator.servicesMenu"


@pytest.mark.parametrize("name", ACTIONS)
def test_the_script_of_an_action_gets_files_as_they_are(name, tmp_path):
    python = tmp_path / "my python"
    calls = tmp_path / "calls"
    python.write_text(f'#!/bin/sh\nfor a; do printf "%s\\0" "$a"; done >"{calls}"\necho words\n')
    python.chmod(0o755)
    text = script(ACTIONS[name], str(python), "my model").replace(
        "/usr/bin/pbcopy", f"cat >'{tmp_path}/copied'"
    )
    photos = ["/a b.jpg", '/$(x)".jpg', "/'.jpg"]
    command = ["bash", "-c", text, "bash", *photos]
    environment = {**os.environ, "TMPDIR": str(tmp_path), "HOME": "/Users/me"}
    subprocess.run(command, check=True, capture_output=True, env=environment)
    given = calls.read_text().split("\0")[:-1]
    assert given[:2] == ["-m", "mlx_lfm2vl"]
    assert given[given.index("-m", 2) + 1] == "my model"
    assert [each for each in given if each in photos] == photos
    if "| cat" in text:
        assert (tmp_path / "copied").read_text() == "words\n"
    else:
        assert not os.path.exists(os.path.dirname(given[given.index("--out") + 1]))


def test_an_uninstall_removes_what_was_written_and_nothing_else(tmp_path):
    services = tmp_path / "Services"
    other = services / "Mine.workflow" / "Contents" / "document.wflow"
    other.parent.mkdir(parents=True)
    other.write_text("mine")
    install(services, PYTHON, "450m")
    install(services, "/other/python", "3b")
    assert len(uninstall(services).removed) == 2 * len(ACTIONS)
    assert files(tmp_path) == {"Services/Mine.workflow/Contents/document.wflow": b"mine"}
    assert uninstall(services).removed == []


def test_what_the_user_changed_or_added_stays(tmp_path):
    first, second, *_ = install(tmp_path, PYTHON, "450m")
    changed = first / "Contents" / "document.wflow"
    changed.write_bytes(changed.read_bytes().replace(b"/bin/zsh", b"/bin/sh"))
    (second / "Contents" / "QuickLook.png").touch()
    with pytest.raises(InputError, match="is not as it was written"):
        install(tmp_path, PYTHON, "3b")
    done = uninstall(tmp_path)
    assert done.kept == [changed]
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    kept = str(changed.relative_to(tmp_path))
    assert left == {MANIFEST, kept, f"{second.name}/Contents/QuickLook.png"}
    assert list(json.loads((tmp_path / MANIFEST).read_text())["files"]) == [kept]


@pytest.mark.parametrize(
    "text", ["x", "[]", '{"files": {"../x": "a"}}', '{"files": {"/etc/Contents/x": "a"}}']
)
def test_a_damaged_list_removes_nothing(text, tmp_path):
    (tmp_path / MANIFEST).write_text(text)
    with pytest.raises(InputError, match="is damaged"):
        uninstall(tmp_path)


def test_the_command_installs_says_what_to_paste_and_uninstalls(tmp_path, capsys, monkeypatch):
    folder = str(tmp_path / "my services")
    assert main(["install", "-m", "450m", "--folder", folder]) == 0
    shown = capsys.readouterr().out
    assert all(f"{folder}/{name}.workflow\n" in shown for name in ACTIONS)
    assert f"{sys.executable} -m mlx_lfm2vl ocr -m {MODEL} -\n" in shown
    assert "once they are in ~/Library/Services" in shown
    assert "They are in Finder's menu" not in shown
    assert main(["uninstall", "--folder", folder]) == 0
    assert capsys.readouterr().out.startswith(f"removed {2 * len(ACTIONS)} files")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my model").mkdir()
    assert main(["install", "-m", "my model", "--folder", folder]) == 0
    assert f"ocr -m '{tmp_path}/my model' -\n" in capsys.readouterr().out
    monkeypatch.setattr(sys, "platform", "linux")
    assert main(["install", "-m", "450m"]) == 2
    assert "Quick Actions are for macOS" in capsys.readouterr().err
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(quick_actions, "SERVICES", tmp_path / "Library")
    assert main(["install"]) == 2  # which model?
    assert not (tmp_path / "Library").exists()
