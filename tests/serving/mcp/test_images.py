"""MCP: an agent reads images in the folders that were allowed, and nothing else, by no trick."""

import os
import socket
import threading

import pytest

from mlx_lfm2vl.errors import InputError
from mlx_lfm2vl.images.inputs import Input
from mlx_lfm2vl.images.limits import ImageLimits
from mlx_lfm2vl.serving.mcp import images as mcp_images
from mlx_lfm2vl.serving.mcp.images import Allowed, AllowedFolder

LIMITS = ImageLimits(max_bytes=100)
OUTSIDE = "is not in a folder that is allowed; whoever starts this server allows one with --allow-f"


@pytest.fixture
def place(tmp_path):
    """An allowed folder with a file in it, beside a secret."""
    (tmp_path / "ours" / "inner").mkdir(parents=True)
    (tmp_path / "ours" / "inner" / "a b.png").write_bytes(b"picture")
    (tmp_path / "secret.png").write_bytes(b"secret")
    (tmp_path / "ours2").mkdir()
    (tmp_path / "ours2" / "c.png").write_bytes(b"secret")
    return tmp_path


@pytest.fixture
def allowed(place):
    return Allowed([AllowedFolder(place / "ours")])


def read(allowed: Allowed, name: object) -> bytes:
    return bytes(allowed.open(str(name), LIMITS).source)


def test_a_file_below_the_folder_is_read_however_it_is_named(place, allowed, monkeypatch):
    file = place / "ours" / "inner" / "a b.png"
    (place / "link").symlink_to(place / "ours")
    (place / "ours" / "there.png").symlink_to(file)
    monkeypatch.chdir(place / "ours")
    monkeypatch.setenv("HOME", str(place))
    names = [file, file.as_uri(), "inner/../inner/a b.png", "~/ours/there.png"]
    open_files = len(os.listdir("/dev/fd"))
    for name in [*names, place / "link" / "inner" / "a b.png", place / "ours/../ours/there.png"]:
        assert read(allowed, name) == b"picture", name
    assert len(os.listdir("/dev/fd")) == open_files
    file.write_bytes(b"x" * LIMITS.max_bytes)
    assert len(read(allowed, file)) == LIMITS.max_bytes


@pytest.mark.parametrize(
    "name",
    [
        "{place}/secret.png",
        "{place}/ours/../secret.png",
        "{place}/ours/inner/../../secret.png",
        "{place}/ours/out.png",
        "{place}/ours/up/secret.png",
        "{place}/ours2/c.png",
        "{place}/missing.png",
        "/etc/passwd",
        "/proc/self/root{place}/secret.png",
        "/proc/self/environ",
        "file://{place}/ours/%2e%2e/secret.png",
        "{place}",
    ],
)
def test_nothing_outside_is_read_and_nobody_learns_whether_it_exists(place, allowed, name):
    (place / "ours" / "out.png").symlink_to(place / "secret.png")
    (place / "ours" / "up").symlink_to(place)
    with pytest.raises(InputError, match=OUTSIDE):
        read(allowed, name.format(place=place))


@pytest.mark.parametrize("name", [".hidden.png", ".ssh/key.png", "link.png"])
def test_hidden_files_are_not_read(place, allowed, name):
    folder = place / "ours"
    (folder / ".ssh").mkdir()
    (folder / ".hidden.png").write_bytes(b"hidden")
    (folder / ".ssh" / "key.png").write_bytes(b"hidden")
    (folder / "link.png").symlink_to(".hidden.png")
    with pytest.raises(InputError, match="is hidden"):
        read(allowed, folder / name)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("pipe.png", "it is a pipe, device or link"),
        ("socket.png", "it is a pipe, device or link"),
        ("inner", "it is a folder"),
        ("", "it is a folder"),
        ("missing.png", "does not exist"),
        ("inner/missing.png", "does not exist"),
        ("large.png", "has more than 100 bytes"),
        ("loop.png", "it is a pipe, device or link"),
        ("closed.png/x", "cannot be read: Not a directory"),
        ("nul\0.png", "cannot be read: embedded null"),
        ("x" * 300, "cannot be read: File name too long"),
        ("\ud800.png", "cannot be read|does not exist"),
    ],
)
def test_what_is_no_small_file_is_refused_at_once(place, allowed, monkeypatch, name, expected):
    folder = place / "ours"
    os.mkfifo(folder / "pipe.png")
    monkeypatch.chdir(folder)  # the path of a socket is short
    with socket.socket(socket.AF_UNIX) as end:
        end.bind("socket.png")
    (folder / "large.png").write_bytes(b"x" * 101)
    (folder / "closed.png").write_bytes(b"x")
    (folder / "loop.png").symlink_to("loop.png")
    with pytest.raises(InputError, match=expected):
        read(allowed, f"{folder}/{name}")


def test_a_relative_name_that_leads_nowhere_is_told_to_be_a_whole_path(place, allowed, monkeypatch):
    monkeypatch.chdir(place)
    with pytest.raises(InputError, match="own folder: give the whole path; whoever starts"):
        read(allowed, "a.png")


@pytest.mark.parametrize(
    "name", ["http://a/b.png", "HTTPS://a/b.png", "ftp://a/b.png", "data:image/png;base64,AA"]
)
def test_no_address_is_fetched(allowed, name):
    with pytest.raises(InputError, match="is an address, which is not fetched"):
        read(allowed, name)


def test_a_folder_that_is_swapped_for_a_link_after_the_check_is_not_followed(place, monkeypatch):
    folder = AllowedFolder(place / "ours")
    parts_of = folder.parts_of

    def swapped(path):
        parts = parts_of(path)
        (place / "ours" / "inner").rename(place / "ours" / "moved")
        (place / "elsewhere").mkdir()
        (place / "elsewhere" / "a b.png").write_bytes(b"secret")
        (place / "ours" / "inner").symlink_to(place / "elsewhere")
        return parts

    monkeypatch.setattr(folder, "parts_of", swapped)
    with pytest.raises(InputError, match="cannot be read"):
        read(Allowed([folder]), place / "ours" / "inner" / "a b.png")


def test_a_file_that_is_swapped_for_a_pipe_after_the_check_is_refused(place, allowed, monkeypatch):
    os.mkfifo(place / "ours" / "pipe.png")
    look = os.stat

    def before(path, **how):
        """What stood there a moment ago."""
        return look(place / "secret.png") if "dir_fd" in how else look(path, **how)

    monkeypatch.setattr(os, "stat", before)
    with pytest.raises(InputError, match="it is a pipe, device or link"):
        read(allowed, place / "ours" / "pipe.png")


def test_no_secret_is_read_while_another_program_swaps_files_and_links(place, allowed):
    file, spare = place / "ours" / "x.png", place / "ours" / "spare"
    file.write_bytes(b"picture")
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            spare.symlink_to(place / "secret.png")
            spare.replace(file)
            spare.write_bytes(b"picture")
            spare.replace(file)

    thread = threading.Thread(target=swap)
    thread.start()
    outcomes = set()
    for _ in range(300):
        try:
            outcomes.add(read(allowed, file))
        except InputError:
            outcomes.add(b"refused")
    stop.set()
    thread.join()
    assert outcomes <= {b"picture", b"refused", b""}
    assert b"picture" in outcomes


def test_the_allowed_folder_is_the_one_that_was_opened(place, allowed):
    (place / "ours").rename(place / "renamed")
    (place / "ours").mkdir()
    (place / "ours" / "new.png").write_bytes(b"secret")
    with pytest.raises(InputError, match=OUTSIDE):
        read(allowed, place / "ours" / "new.png")
    assert read(allowed, place / "renamed" / "inner" / "a b.png") == b"picture"


@pytest.mark.parametrize("name", ["missing", "secret.png", "nul\0"])
def test_only_a_folder_can_be_allowed(place, name):
    with pytest.raises(InputError, match="--allow-folder '"):
        AllowedFolder(f"{place}/{name}")


@pytest.mark.parametrize(
    ("name", "flag"), [("clipboard", "--allow-clipboard"), ("screenshot", "--allow-screenshot")]
)
def test_clipboard_and_screen_need_their_flags(allowed, monkeypatch, name, flag):
    image = Input(name, b"image")
    monkeypatch.setattr(mcp_images, "copied", lambda _: [image])
    monkeypatch.setattr(mcp_images, "take_screenshot", lambda: image)
    with pytest.raises(InputError, match=f"not allowed; whoever starts this server .* {flag}"):
        allowed.open(name, LIMITS)
    both = Allowed(clipboard=True, screenshot=True)
    assert both.open(name, LIMITS) is image
    monkeypatch.setattr(mcp_images, "copied", lambda _: [image, image])
    if name == "clipboard":
        with pytest.raises(InputError, match="2 images were copied"):
            both.open(name, LIMITS)


def test_an_agent_is_told_what_is_allowed(place):
    folder = AllowedFolder(place / "ours")
    assert Allowed([folder], clipboard=True, screenshot=True).described == (
        f"the whole path of an image or PDF in {place / 'ours'}, "
        'or "clipboard" for the image that was copied, '
        'or "screenshot" for what the screen shows now'
    )
