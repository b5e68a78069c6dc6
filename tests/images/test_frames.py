"""Frames of animations, and of videos by an ffmpeg that only looks at its arguments."""

import io
import json
import stat
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mlx_lfm2vl.checkpoint.image_config import ImageConfig
from mlx_lfm2vl.errors import InputError
from mlx_lfm2vl.images import frames as reader
from mlx_lfm2vl.images import video
from mlx_lfm2vl.images.frames import spread
from mlx_lfm2vl.images.inputs import Input
from mlx_lfm2vl.images.limits import ImageLimits
from mlx_lfm2vl.images.pages import PageOptions, expand_inputs
from mlx_lfm2vl.images.source import open_image

CONFIG = ImageConfig(16, 2)
KINDS = {"GIF": {}, "WEBP": {"lossless": True}, "PNG": {}}


def animation(kind: str, times: int | list[int] = 100, count: int = 10) -> bytes:
    """Frame n has its first n + 1 columns white, and the rest black: each adds one."""
    pixels = np.zeros((count, 16, 16, 3), np.uint8)
    for number in range(count):
        pixels[number, :, : number + 1] = 255
    first, *rest = (Image.fromarray(frame) for frame in pixels)
    file = io.BytesIO()
    first.save(file, kind, save_all=True, append_images=rest, duration=times, **KINDS[kind])
    return file.getvalue()


def found(source: object, options: PageOptions, **limits: int) -> list[Input]:
    return list(expand_inputs([Input("a", source)], options, CONFIG, ImageLimits(**limits)))


def columns(item: Input) -> int:
    """How many columns of a frame are white."""
    pixels = np.asarray(open_image(item.source, ImageLimits()).decode())
    assert set(np.unique(pixels).tolist()) <= {0, 255}
    return int((pixels[8, :, 0] == 255).sum())


@pytest.mark.parametrize(
    ("count", "total", "numbers"),
    [
        (1, 10, [5]),
        (2, 10, [2, 7]),
        (3, 10, [1, 5, 8]),
        (10, 10, list(range(10))),
        (99, 3, [0, 1, 2]),
        (4, 1000, [125, 375, 625, 875]),
    ],
)
def test_frames_are_the_middles_of_equal_parts(count, total, numbers):
    assert spread(count, total) == numbers


@pytest.mark.parametrize("kind", KINDS)
def test_frames_of_an_animation_are_whole_pictures(kind):
    items = found(animation(kind), PageOptions(frames=3))
    assert [(item.name, item.page) for item in items] == [
        ("a, frame 2", 2),
        ("a, frame 6", 6),
        ("a, frame 9", 9),
    ]
    assert [columns(item) for item in reversed(items)] == [9, 6, 2]  # in any order


@pytest.mark.parametrize("kind", KINDS)
def test_a_time_shows_the_frame_that_a_viewer_shows_then(kind):
    data = animation(kind, [100, 300, 100, 500], count=4)
    items = found(data, PageOptions(at=(0, 0.25, 0.41, 0.999)))
    assert [item.page for item in items] == [1, 2, 3, 4]
    assert [item.seconds for item in items] == [0, 0.25, 0.41, 0.999]
    (refused,) = found(data, PageOptions(at=(1.0,)))
    with pytest.raises(InputError, match=r"a lasts 1.00 seconds: there is no frame at 1"):
        open_image(refused.source, ImageLimits())


def test_without_the_option_an_animation_shows_its_first_frame():
    (item,) = found(animation("GIF"), PageOptions())
    assert columns(item) == 1


def test_a_picture_of_one_frame_passes_as_it_is():
    file = io.BytesIO()
    Image.new("RGB", (9, 9)).save(file, "PNG")
    (item,) = found(file.getvalue(), PageOptions(frames=5))
    assert (item.name, item.page) == ("a", None)


def test_the_color_below_transparent_frames_can_be_chosen():
    clear = Image.new("RGBA", (9, 9))
    dot = clear.copy()
    dot.putpixel((0, 0), (255, 0, 0, 255))
    file = io.BytesIO()
    clear.save(file, "PNG", save_all=True, append_images=[dot])
    item = found(file.getvalue(), PageOptions(frames=2))[1]
    for background, shown in ((None, (255, 255, 255)), ("navy", (0, 0, 128))):
        image = open_image(item.source, ImageLimits()).decode(background=background)
        assert [image.getpixel(at) for at in ((0, 0), (8, 8))] == [(255, 0, 0), shown]


@pytest.mark.parametrize("kind", KINDS)
def test_an_animation_of_too_many_frames_or_pixels_is_refused(kind, monkeypatch):
    data = animation(kind)
    monkeypatch.setattr(reader, "MAX_WORK", 16 * 16 * 9)
    assert len(found(data, PageOptions(frames=3))) == 3  # the ninth is the last
    (refused,) = found(data, PageOptions(frames=10))
    with pytest.raises(InputError, match="too many to reach frame 10; make a smaller copy"):
        open_image(refused.source, ImageLimits())
    monkeypatch.setattr(reader, "MAX_FRAMES", 9)
    (refused,) = found(data, PageOptions(frames=1))
    with pytest.raises(InputError, match="a has more than 9 frames, the limit"):
        open_image(refused.source, ImageLimits())


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_animation_is_refused_in_our_words(kind):
    data = animation(kind)
    *_, last = found(data[: len(data) // 2], PageOptions(frames=10))
    with pytest.raises(InputError, match="^a is damaged or not supported: "):
        open_image(last.source, ImageLimits()).decode()


def test_the_picture_before_an_animation_is_none_of_its_frames():
    red, blue, lime = (Image.new("RGB", (9, 9), name) for name in ("red", "blue", "lime"))
    file = io.BytesIO()
    red.save(file, "PNG", save_all=True, append_images=[blue, lime], default_image=True)
    items = found(file.getvalue(), PageOptions(frames=9))
    shown = [open_image(item.source, ImageLimits()).decode().getpixel((4, 4)) for item in items]
    assert shown == [(0, 0, 255), (0, 255, 0)]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"frames": 0}, "frames is 0, expected 1 to 1000"),
        ({"frames": 3, "at": (1.0,)}, "frames and at both choose frames"),
        ({"at": (-1.0,)}, "at is -1.0, expected seconds"),
        ({"at": (float("nan"),)}, "at is nan, expected seconds"),
        ({"at": (1.0,) * 1001}, "at has 1001 times"),
        ({"slices": "yes"}, "slices is 'yes', expected auto or off"),
        ({"pages": "x"}, "pages is 'x'"),
    ],
)
def test_options_out_of_range_are_refused(values, message):
    with pytest.raises(InputError, match=message):
        PageOptions(**values)


# -- videos --

MP4 = b"\0\0\0\x18ftypisom\0\0\0\0isomiso2" + b"\0" * 100
FAKE = """#!{python}
import json, sys, time
arguments = sys.argv[1:]
with open({log!r}, "a") as log:
    log.write(json.dumps(arguments) + "\\n")
{body}
"""
LENGTH = 'print("16.0") if "ffprobe" in sys.argv[0] else '


@pytest.fixture
def ffmpeg(tmp_path, monkeypatch):
    """Puts programs of that name first in PATH; returns the arguments that they got."""
    folder, log = tmp_path / "bin", tmp_path / "log"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))

    def install(body: str):
        for name in ("ffmpeg", "ffprobe"):
            program = folder / name
            program.write_text(FAKE.format(python=sys.executable, log=str(log), body=body))
            program.chmod(program.stat().st_mode | stat.S_IXUSR)
        return lambda: [json.loads(line) for line in log.read_text().splitlines()]

    return install


@pytest.fixture
def clip(tmp_path, monkeypatch) -> str:
    monkeypatch.chdir(tmp_path)
    Path("-i evil.mp4").write_bytes(MP4)
    return "-i evil.mp4"


def test_frames_of_a_video_come_from_ffmpeg_with_safe_arguments(ffmpeg, clip, tmp_path):
    file = io.BytesIO()
    Image.new("RGB", (8, 6), "red").save(file, "PNG")
    called = ffmpeg(f"{LENGTH}sys.stdout.buffer.write({file.getvalue()!r})")
    items = found(clip, PageOptions(frames=4))
    assert [(item.name, item.seconds, item.page) for item in items] == [
        ("a, 2.0 s", 2.0, None),
        ("a, 6.0 s", 6.0, None),
        ("a, 10.0 s", 10.0, None),
        ("a, 14.0 s", 14.0, None),
    ]
    opened = open_image(items[1].source, ImageLimits(max_pixels=1000))
    assert opened.size == (6, 8)
    probe, draw = called()
    for arguments in (probe, draw):
        options = dict(zip(arguments, arguments[1:], strict=False))
        assert options["-protocol_whitelist"] == "file,pipe"
        assert options["-format_whitelist"] == "mov,matroska,avi,mpeg,mpegts,flv,asf,ogg"
        assert f"file:{tmp_path}/-i evil.mp4" in arguments
        assert clip not in arguments
    assert "-nostdin" in draw
    at = {name: draw.index(name) for name in ("-ss", "-i", "-max_pixels", "-frames:v")}
    assert at["-max_pixels"] < at["-i"]  # options before it are those of the file that is read
    assert at["-ss"] < at["-i"] < at["-frames:v"]
    assert (draw[at["-ss"] + 1], draw[at["-max_pixels"] + 1]) == ("6.000", "1000")


@pytest.mark.parametrize("name", ["~/-i evil.mp4", "file://{}/-i%20evil.mp4"])
def test_a_video_is_found_under_any_name_of_its_file(name, ffmpeg, clip, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    called = ffmpeg(LENGTH + "None")
    found(name.format(tmp_path), PageOptions(frames=1))
    assert called()[0][-1] == f"file:{tmp_path}/{clip}"


def test_times_of_a_video_need_no_length(ffmpeg, clip):
    called = ffmpeg("")
    first, _ = found(clip, PageOptions(at=(12.5, 3)))
    assert (first.name, first.seconds) == ("a, 12.5 s", 12.5)
    with pytest.raises(InputError, match=r"a, 12\.5 s: the video has no picture there"):
        open_image(first.source, ImageLimits())
    assert len(called()) == 1


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("sys.exit('line\\nInvalid data')", "a: ffprobe cannot read it: Invalid data"),
        ("print('N/A')", "a does not tell how long it lasts; choose frames with --at"),
        ("time.sleep(30)", "a: ffprobe took more than 0.3 seconds"),
    ],
)
def test_a_video_that_cannot_be_read_says_why(body, message, ffmpeg, clip, monkeypatch):
    monkeypatch.setattr(video, "SECONDS", 0.3 if "sleep" in body else 60)
    ffmpeg(body)
    (refused,) = found(clip, PageOptions(frames=2))
    with pytest.raises(InputError) as caught:
        open_image(refused.source, ImageLimits())
    assert str(caught.value) == message


def test_without_ffmpeg_the_error_says_how_to_get_it(clip, monkeypatch):
    monkeypatch.setenv("PATH", "")
    (refused,) = found(clip, PageOptions(frames=2))
    with pytest.raises(InputError, match="a is a video, whose frames need ffprobe: .* brew"):
        open_image(refused.source, ImageLimits())


def test_without_the_option_a_video_is_refused_and_the_way_out_is_named(clip):
    (item,) = found(clip, PageOptions())
    with pytest.raises(InputError, match="is a video, .* generate --frames or --at"):
        open_image(item.source, ImageLimits())


def test_a_video_that_is_no_file_is_refused(ffmpeg):
    ffmpeg("")
    (refused,) = found(MP4, PageOptions(frames=2))
    with pytest.raises(InputError, match="a is a video; save it to a file first"):
        open_image(refused.source, ImageLimits())


def test_a_choice_that_chooses_nothing_is_said_once(caplog):
    still = io.BytesIO()
    Image.new("RGB", (8, 8)).save(still, "JPEG")
    for options, said in (
        (PageOptions(frames=2), "frames were chosen, and no file is a video or an animation"),
        (PageOptions(pages="1-2"), "the pages 1-2 were chosen, and no file is a PDF"),
    ):
        inputs = [Input("a", still.getvalue()), Input("b", still.getvalue())]
        assert len(list(expand_inputs(inputs, options, CONFIG, ImageLimits()))) == 2
        assert caplog.messages == [said]
        caplog.clear()
    found(animation("GIF"), PageOptions(frames=2))
    assert not caplog.messages
