"""The commands of the skills: typed answers on stdout, as lines or as JSON."""

import json
import shlex
from pathlib import Path

import pytest
from PIL import Image
from processes import modules_after

from mlx_lfm2vl import cli
from mlx_lfm2vl.commands.table import SKILLS
from mlx_lfm2vl.skills.tasks import TASKS

PICTURES = Path(__file__).parents[2] / "examples" / "images"
TOY = Path(__file__).parents[1] / "golden" / "new_names" / "checkpoint"


@pytest.fixture
def typed(monkeypatch, capsys):
    """Runs a line in the folder of example pictures; returns code, stdout and stderr."""
    monkeypatch.chdir(PICTURES)

    def run(line: str, model: str = "demo") -> tuple[int, str, str]:
        name, *rest = shlex.split(line)
        code = cli.main([name, "-m", model, *rest])
        return code, *capsys.readouterr()

    return run


def test_every_skill_has_a_command():
    assert list(SKILLS) == list(TASKS)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("ocr word.png", "YXOA"),
        ("keywords --count 2 shapes.png", "green ring, blue star"),
        ("detect shapes.png star", "blue star: 30, 2, 64, 36"),
        (
            "detect --labels star ring shapes.png",
            "green ring: 22, 56, 40, 74\nblue star: 29, 2, 64, 36",
        ),
        ("point shapes.png 'the star'", "46 18"),
        ("ask 'What color is the text?' word.png", "The text is purple."),
    ],
)
def test_an_answer_is_printed_as_lines(typed, line, expected):
    assert typed(line)[:2] == (0, f"{expected}\n")


def test_json_has_the_typed_answer_and_the_size_that_its_pixels_belong_to(typed):
    _, out, _ = typed("detect shapes.png 'the star' --json")
    box = {"image": 0, "label": "blue star", "pixels": [30, 2, 64, 36]}
    assert json.loads(out) == {
        "schema": 1,
        "skill": "detect",
        "file": "shapes.png",
        "boxes": [{**box, "relative": [0.28, 0.03, 0.6, 0.48]}],
        "model": "demo",
        "kind": "demo",
        "images": [{"file": "shapes.png", "width": 107, "height": 76}],
        "finish_reason": "stop",
    }


def test_labels_are_printed_with_their_shares(typed):
    assert typed("classify demo --labels star circle")[1].startswith("circle: 9")
    _, out, _ = typed("classify --labels star circle --json demo")
    answer = json.loads(out)["answers"]["label"]
    assert (answer["choice"], answer["calibrated"]) == ("circle", False)


def test_images_are_answered_one_by_one_and_a_bad_one_does_not_stop_the_others(typed):
    code, out, err = typed("ocr word.png nope.png --json")
    found, lost = map(json.loads, out.splitlines())
    assert (code, found["file"], found["text"]) == (1, "word.png", "YXOA")
    assert (lost["file"], lost["exit_code"]) == ("nope.png", 2)
    assert "1 of 2 images not answered" in err


def test_several_images_have_headers_and_pairs_are_compared(typed):
    assert typed("ocr word.png word.png")[1] == "==> word.png <==\nYXOA\n\n" * 2
    code, out, _ = typed("compare before.png after.png --json")
    answer = json.loads(out)
    assert (code, [image["file"] for image in answer["images"]]) == (0, ["before.png", "after.png"])
    assert "file" not in answer


def test_boxes_are_drawn_into_a_copy(typed, tmp_path):
    path = tmp_path / "boxes.png"
    assert typed(f"detect shapes.png star --draw {path}")[0] == 0
    with Image.open(path) as drawn, Image.open(PICTURES / "shapes.png") as original:
        assert drawn.size == original.size
        assert drawn.tobytes() != original.convert("RGB").tobytes()


def test_the_prompt_is_shown_in_the_form_that_replaces_it(typed, tmp_path):
    code, out, _ = typed("detect --kind 3b --show-prompt")
    assert (code, 'user = "Provide bounding boxes for {target}."' in out) == (0, True)
    path = tmp_path / "own.toml"
    arguments = f"ocr word.png --prompt-file {path}"
    path.write_text('user = "What color is the text?"\nmax_tokens = 30\n')
    assert typed(arguments)[1] == "The text is purple.\n"
    shown = json.loads(typed(f"{arguments} --show-prompt --json")[1])
    assert shown["messages"][0]["content"] == [
        {"type": "image"},
        {"type": "text", "text": "What color is the text?"},
    ]
    assert (shown["kind"], shown["settings"]) == ("demo", {"max_tokens": 30})


def test_fields_come_as_lines_and_an_answer_that_is_cut_is_said(typed):
    fields = "--fields 'kind: select from cat, or dog' demo"
    code, out, _ = typed(f"extract {fields}", str(TOY))
    assert (code, out in ("kind: cat\n", "kind: dog\n")) == (0, True)
    assert "the answer ends at 2 tokens; --max-tokens" in typed("ocr --max-tokens 2 word.png")[2]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("caption", "which image? as in mlx_lfm2vl caption photo.jpg"),
        ("caption word.png 'What is this?'", "no image 'What is this?', and caption takes"),
        ("ask word.png", "QUESTION is missing: put it in quotes in the last place"),
        ("ask word.png ''", "the question is empty"),
        ("detect word.png ''", "a target is empty"),
        ("point word.png ''", "a target is empty"),
        ("ask word.png 'One?' 'Two?'", "two texts: 'One?' and 'Two?'"),
        ("ask word.png 'Is it {date}?'", "the prompt names {date}, which is unknown"),
        ("compare word.png", "compare takes 2 or more images, and 1 was given"),
        ("classify word.png", "--labels is missing, as in --labels cat dog"),
        ("detect word.png star --labels ring", "'star' and --labels: use one of them"),
        ("extract word.png", 'extract needs --fields "name: description" or --schema FILE'),
        ("extract word.png --schema nope.json", "nope.json cannot be read: No such file"),
        ("layout word.png", "layout: only LFM2.5-VL-3B was taught"),
        ("detect word.png before.png --draw a.png", "--draw draws into one image"),
        ("detect word.png --draw a.txt", "--draw a.txt has no ending of .png"),
        ("detect word.png --draw none/a.png", "a.png cannot be written: there is no folder none"),
        ("ocr nope.png", "'nope.png' does not exist"),
        ("caption word.png --length long", "invalid choice: 'long'"),
        ("caption word.png --temperature -1", "temperature -1.0 is out of range"),
    ],
)
def test_wrong_use_is_one_line_and_code_2(typed, line, message):
    code, out, err = typed(line)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1


def test_boxes_of_slices_are_drawn_into_the_whole_picture(typed, tmp_path):
    Image.new("RGB", (256, 3200), "white").save(tmp_path / "long.png")
    line = f"detect {tmp_path}/long.png --slices auto --max-tokens 8"
    code, out, err = typed(f"{line} --draw {tmp_path}/drawn.png --json", str(TOY))
    (answer,) = map(json.loads, out.splitlines())
    assert (code, "cut into 3 slices" in err) == (0, True)
    assert answer["images"] == [{"file": f"{tmp_path}/long.png", "width": 256, "height": 3200}]
    with Image.open(tmp_path / "drawn.png") as drawn:
        assert drawn.size == (256, 3200)


def test_options_of_pages_that_choose_nothing_are_refused_in_one_question(typed):
    code, _, err = typed("compare shapes.png word.png --pages 2")
    assert (code, err) == (2, "error: --pages chooses pages of a PDF, and none is given\n")


def test_help_loads_nothing_heavy():
    code = "from mlx_lfm2vl.cli import main; assert main(['detect', '--help']) == 0"
    assert modules_after(code) == set()
