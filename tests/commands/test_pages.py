"""`generate` about pages of PDFs, frames, slices, and with a color below transparent pixels."""

import json
from pathlib import Path

import pytest
from conftest import golden
from drawn_files import pdf
from pictures import make_picture
from PIL import Image

from mlx_lfm2vl import cli, loading, open_pages
from mlx_lfm2vl.images.source import open_image

TINY = str(golden("new_names").folder)
SQUARE = "/MediaBox [0 0 100 100]"


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Runs `generate` in a folder with a PDF of three pages; gives code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    colors = ("1 0 0", "0 1 0", "0 0 1")
    Path("scan.pdf").write_bytes(
        pdf(*((SQUARE, f"{color} rg 0 0 100 100 re f") for color in colors))
    )
    make_picture(30, 44, 1).save("photo.png")

    def run(*arguments: str) -> tuple[int, str, str]:
        code = cli.main(["generate", "-m", TINY, "--max-tokens", "3", "--seed", "1", *arguments])
        return code, *capsys.readouterr()

    return run


def test_pages_go_into_one_prompt_in_their_order(run):
    code, out, err = run("photo.png", "scan.pdf", "--pages", "3,1", "What?", "--json")
    assert code == 0
    files = [image["file"] for image in json.loads(out)["images"]]
    assert files == ["photo.png", "scan.pdf, page 3", "scan.pdf, page 1"]
    assert "note: 3 images in one prompt" in err


def test_pages_are_asked_about_one_by_one_and_a_bad_file_costs_one_answer(run):
    Path("bad.pdf").write_bytes(b"%PDF-1.7")
    code, out, err = run("--each", "bad.pdf", "photo.png", "scan.pdf", "What?", "--json")
    assert code == 1
    assert [json.loads(line)["file"] for line in out.splitlines()] == [
        "bad.pdf",
        "photo.png",
        "scan.pdf, page 1",
        "scan.pdf, page 2",
        "scan.pdf, page 3",
    ]
    assert err.splitlines() == [
        "error: bad.pdf is damaged",
        "1 of 5 images not answered",
    ]


def test_the_plan_shows_pages_frames_and_slices(run):
    frames = [make_picture(20, 20, seed) for seed in range(4)]
    frames[0].save("a.gif", save_all=True, append_images=frames[1:])
    make_picture(900, 60, 1).save("long.png")
    arguments = ["scan.pdf", "--pages", "2-", "a.gif", "--frames", "1", "--slices", "auto"]
    code, out, err = run(*arguments, "long.png", "--plan")
    assert code == 0
    assert [line.partition(":")[0] for line in out.splitlines()] == [
        *("scan.pdf, page 2", "scan.pdf, page 3", "a.gif, frame 3"),
        *(f"long.png, slice {number} of 4" for number in (1, 2, 3, 4)),
    ]
    assert "note: long.png is cut into 4 slices" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["scan.pdf", "--pages", "4"], "scan.pdf has 3 pages: there is no page 4"),
        (["photo.png", "--pages", "1"], "--pages chooses pages of a PDF, and none is given"),
        (["scan.pdf", "--frames", "2"], "--frames and --at choose frames of animations and videos"),
        (["scan.pdf", "--frames", "2", "--at", "1"], "frames and at both choose frames"),
        (
            ["scan.pdf", "--pages", "1-3" + ",1-3" * 10],
            "more than 32 pictures for one prompt; choose some with --pages",
        ),
        (["gone.pdf"], "'gone.pdf' does not exist"),
        (["scan.pdf", "--background", "whit"], "background 'whit' is no color"),
    ],
)
def test_what_cannot_be_asked_is_refused_before_the_model_is_loaded(
    run, monkeypatch, arguments, message
):
    monkeypatch.setattr(loading, "load", None)
    code, out, err = run(*arguments, "-p", "What?")
    assert (code, out) == (2, "")
    assert message in err


def test_the_background_changes_what_the_model_sees(run):
    Image.new("RGBA", (40, 40), (0, 0, 0, 0)).save("clear.png")
    Image.new("RGB", (40, 40), "#123456").save("blue.png")
    given = ["What?", "--temperature", "5", "--max-tokens", "9"]
    over_blue = run("clear.png", "--background", "#123456", *given)
    assert over_blue == run("blue.png", *given)
    assert over_blue != run("clear.png", *given)


@pytest.mark.usefixtures("run")
def test_python_opens_pages_too(tiny):
    _, processor = tiny
    names, colors = [], []
    for page in open_pages("scan.pdf", processor.image_config, pages="2-"):
        names.append(page.name)
        colors.append(open_image(page.source, processor.limits).decode().getpixel((9, 9)))
    assert names == ["scan.pdf, page 2", "scan.pdf, page 3"]
    assert colors == [(0, 255, 0), (0, 0, 255)]
