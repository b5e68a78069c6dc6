"""Pictures of a Mac's screen, whose `screencapture` a script stands in for."""

import os
import sys
from types import SimpleNamespace

import pytest
from pictures import make_picture

from mlx_lfm2vl.errors import Cancelled, InputError
from mlx_lfm2vl.images import screenshot
from mlx_lfm2vl.images.limits import ImageLimits
from mlx_lfm2vl.images.screenshot import take_screenshot
from mlx_lfm2vl.images.source import open_image


@pytest.fixture
def screencapture(tmp_path, monkeypatch):
    """Makes a `screencapture` that keeps its arguments in a file and runs a shell line."""
    make_picture(9, 12, 1).save(tmp_path / "screen.png")

    def make(line: str) -> None:
        program = tmp_path / "screencapture"
        keep = f"echo \"$@\" > '{tmp_path}/arguments'; for target; do :; done"
        program.write_text(f"#!/bin/sh\n{keep}\ncd '{tmp_path}'\n{line}\n")
        program.chmod(0o755)

    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(screenshot, "_may_record", lambda: True)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return make


@pytest.mark.parametrize(("region", "flags"), [(False, ["-x"]), (True, ["-x", "-i"])])
def test_the_screen_is_captured_without_a_sound(screencapture, tmp_path, region, flags, caplog):
    screencapture('cp screen.png "$target"')
    image = take_screenshot(region=region)
    *given, target = (tmp_path / "arguments").read_text().split()
    assert given == flags
    assert target.endswith("screenshot.png")
    assert not os.path.exists(target)
    assert (image.name, image.path) == ("screenshot", None)
    assert open_image(image.source, ImageLimits()).size == (9, 12)
    assert caplog.text == ""


def test_a_selection_that_was_broken_off_leaves_no_file_and_ends_as_an_interrupt(screencapture):
    screencapture("exit 0")
    with pytest.raises(Cancelled, match="no part of the screen was selected") as error:
        take_screenshot(region=True)
    assert error.value.exit_code == 130


@pytest.mark.parametrize("line", ["exit 0", "exit 1"])
def test_a_screen_that_cannot_be_read_names_the_permission(screencapture, line):
    screencapture(line)
    with pytest.raises(
        InputError, match="cannot be read: allow .* Screen & System Audio Recording"
    ):
        take_screenshot()


def test_without_permission_a_note_says_what_is_missing(screencapture, monkeypatch, caplog):
    screencapture('cp screen.png "$target"')
    monkeypatch.setattr(screenshot, "_may_record", lambda: False)
    take_screenshot()
    assert "may show nothing but the desktop picture: allow the program" in caplog.text


@pytest.mark.parametrize("answer", [True, False])
def test_macos_is_asked_for_the_permission(monkeypatch, answer):
    asked = []
    library = SimpleNamespace(CGPreflightScreenCaptureAccess=lambda: answer)
    monkeypatch.setattr("ctypes.CDLL", lambda path: (asked.append(path), library)[1])
    assert screenshot._may_record() is answer
    assert asked == [screenshot.GRAPHICS]


def test_a_system_that_cannot_be_asked_is_taken_to_allow_it():
    assert screenshot._may_record() is (sys.platform != "darwin")


def test_only_a_mac_has_a_screen(monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")
    with pytest.raises(InputError, match="only on macOS; take it with another program"):
        take_screenshot()
