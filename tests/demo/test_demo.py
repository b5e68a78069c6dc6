"""The built-in demo model: found by name, complete, offline, and right about its examples."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from string import Formatter

import make_examples
import make_model
import mlx.core as mx
import numpy as np
import pytest
from model_card import CARD, TARGETS, architecture, targets
from pictures import make_picture
from PIL import Image
from score import score

from mlx_lfm2vl import Sampling, cli, generate, load
from mlx_lfm2vl.checkpoint import find
from mlx_lfm2vl.checkpoint.find import DEMO_FOLDER, find_checkpoint, find_image
from mlx_lfm2vl.errors import CheckpointError, InputError
from mlx_lfm2vl.images.source import ImageLimits, open_image
from mlx_lfm2vl.model import decode_step
from mlx_lfm2vl.prompt.messages import user_message

ROOT = Path(__file__).parents[2]
IMAGES = ROOT / "examples" / "images"
ROWS = json.loads((IMAGES / "questions.json").read_text())
CHECKPOINT = {
    "chat_template.jinja",
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "model.safetensors.index.json",
    "processor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
}
(FIRST,) = [row for row in ROWS if row["question"] == "Describe the picture."]
NOT_YET = {"compare-0012"}
LEARNED = [row for row in ROWS if row["id"] not in NOT_YET]
ASK = ["--model", "demo", "--image", "demo", "--prompt", FIRST["question"]]


@pytest.fixture(scope="module")
def demo():
    return load("demo", dtype="float32")


def messages_of(row):
    return user_message(row["question"], [IMAGES / name for name in row["images"]])


def ask(demo, row):
    return generate(*demo, messages_of(row), sampling=Sampling())


@pytest.fixture(scope="module")
def answers(demo):
    """What the model says to every question, by its number."""
    return {row["id"]: ask(demo, row) for row in ROWS}


# -- the name --


def test_demo_is_the_model_in_the_package_whatever_is_beside(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("demo").mkdir()
    Path("demo/config.json").touch()
    assert find_checkpoint("demo") == DEMO_FOLDER
    assert find_checkpoint("./demo") == Path("demo")
    with pytest.raises(InputError, match="part of this package and has no revision 'main'"):
        find_checkpoint("demo", "main")


def test_an_installation_without_the_model_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(find, "DEMO_FOLDER", tmp_path / "demo")
    with pytest.raises(CheckpointError, match="built-in model is missing .* install mlx-lfm2vl"):
        load("demo")


def test_demo_is_the_picture_in_the_package_unless_something_here_is(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert find_image("photo.jpg") == "photo.jpg"
    assert Path(find_image("demo")) == DEMO_FOLDER / "example.png"
    limits = ImageLimits()
    assert open_image("demo", limits).size == open_image(find_image("demo"), limits).size
    with pytest.raises(InputError, match="does not exist"):
        open_image(Path("demo"), limits)
    make_picture(20, 30, 1).save("demo", "png")
    assert open_image("demo", limits).size == (20, 30)
    assert find_image("demo") == "demo"
    assert cli.main(["generate", "--model", "demo", "--image", "demo", "--plan"]) == 0
    assert "demo: 30 x 20 pixels" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["generate", "train", "fuse"])
def test_help_names_it(command, capsys):
    assert cli.main([command, "--help"]) == 0
    assert "or demo (the tiny model in this package)" in " ".join(capsys.readouterr().out.split())


def test_it_is_trained_and_fused_by_name(tmp_path, monkeypatch):
    pytest.importorskip("mlx_lm")
    monkeypatch.chdir(tmp_path)
    row = {"image": str(IMAGES / "word.png"), "prompt": "Read.", "answer": "A word."}
    Path("data.jsonl").write_text(json.dumps(row))
    assert cli.main(["train", "--model", "demo", "--data", "data.jsonl", "--steps", "1"]) == 0
    fuse = ["fuse", "--model", "demo", "--adapter", "adapter", "--output", "fused"]
    assert cli.main(fuse) == 0
    assert {path.name for path in Path("fused").iterdir()} == CHECKPOINT


# -- the files --


def test_the_files_are_complete_small_and_in_the_wheel():
    files = {
        path.relative_to(DEMO_FOLDER): path.stat().st_size
        for path in DEMO_FOLDER.rglob("*")
        if path.is_file()
    }
    own = {str(path): size for path, size in files.items() if len(path.parts) == 1}
    assert set(own) == CHECKPOINT | {"README.md", "example.png"}
    assert sum(own.values()) < 8_000_000
    drafter = {str(path): size for path, size in files.items() if len(path.parts) > 1}
    assert set(drafter) == {"drafter/config.json", "drafter/model.safetensors"}
    assert sum(drafter.values()) < 2_000_000
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    patterns = settings["tool"]["setuptools"]["package-data"]["mlx_lfm2vl"]
    for path in files:  # a star does not reach into folders
        assert any(Path("demo", path).match(pattern) for pattern in patterns)


def test_the_weights_are_halves():
    weights = mx.load(str(DEMO_FOLDER / "model.safetensors"))
    assert isinstance(weights, dict)
    assert {value.dtype for value in weights.values()} == {mx.float16}


def test_a_model_made_anew_has_the_settings_of_the_packaged_one():
    config = json.loads((DEMO_FOLDER / "config.json").read_text())
    processor = json.loads((DEMO_FOLDER / "processor_config.json").read_text())
    assert processor["image_processor"] == make_model.IMAGE
    assert config["text_config"].items() >= make_model.TEXT.items()
    assert config["vision_config"].items() >= make_model.VISION.items()


def test_the_card_has_the_numbers_of_the_files():
    card = (DEMO_FOLDER / "README.md").read_text()
    assert architecture(DEMO_FOLDER) in card
    assert "license: mit" in card


def test_the_card_can_be_written_again():
    names = {name for _, name, _, _ in Formatter().parse(CARD) if name}
    assert names == {"architecture", "forms", "questions", "tiled", "table", "targets"}
    card = (DEMO_FOLDER / "README.md").read_text()
    for words in re.split(r"\{[a-z:,]+\}", CARD):
        assert words in card


def test_a_card_tells_reached_from_missed():
    summary = {group: {"all": least} for group, (_, least) in TARGETS.items()}
    summary["word"] = {"all": 0.85}
    rows = [line for line in targets(summary).splitlines() if "%" in line]
    assert len(rows) == len(TARGETS)
    assert [row for row in rows if "missed" in row] == [
        "| words of up to 6 letters read exactly | 90 % | 85.0 % | missed |"
    ]


def test_the_example_pictures_are_what_their_tool_draws():
    pictures, rows = make_examples.make_examples()
    assert json.loads(json.dumps(rows)) == ROWS
    assert {path.name for path in IMAGES.glob("*.png")} == set(pictures)
    for name, picture in pictures.items():
        with Image.open(IMAGES / name) as saved:
            difference = np.abs(np.asarray(saved, int) - np.asarray(picture, int))
        assert difference.mean() < 1  # another FreeType may set print a little otherwise
    assert (DEMO_FOLDER / "example.png").read_bytes() == (IMAGES / "mixed.png").read_bytes()
    assert sum(path.stat().st_size for path in IMAGES.iterdir()) < 150_000


# -- the answers --


def test_it_answers_in_an_empty_folder_without_network_or_hub(tmp_path):
    code = (
        "import socket, sys\n"
        "sys.modules['huggingface_hub'] = None\n"  # importing it fails
        "socket.socket = None\n"
        "from mlx_lfm2vl import cli\n"
        f"raise SystemExit(cli.main(['generate', *{ASK}]))"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert score(FIRST, run.stdout) == 1, run.stdout


@pytest.mark.slow
@pytest.mark.parametrize("row", LEARNED, ids=lambda row: row["question"])
def test_it_is_right_about_the_example_pictures(answers, row):
    answer = answers[row["id"]].text
    assert score(row, answer) > (0.7 if row["category"] == "box" else 0.99), answer


def test_the_large_picture_is_cut_into_tiles(demo):
    _, processor = demo
    (row,) = [row for row in ROWS if row["images"] == ["large.png"] and row["category"] == "text"]
    assert processor(messages_of(row)).images[0].grid == (2, 3)


@pytest.mark.slow
@pytest.mark.parametrize("chunk", [7, 64])
def test_reading_the_prompt_in_chunks_changes_no_answer(demo, answers, monkeypatch, chunk):
    monkeypatch.setattr(decode_step, "PREFILL_CHUNK", chunk)
    for row in ROWS if chunk == 7 else ROWS[::4]:
        assert ask(demo, row).token_ids == answers[row["id"]].token_ids


@pytest.mark.slow
def test_one_pass_over_prompt_and_answer_predicts_the_answer(demo, answers):
    model, processor = demo
    for row in ROWS:
        answer = answers[row["id"]].token_ids
        inputs = processor(messages_of(row))
        features = model.encode_images(inputs.pixel_values, inputs.spatial_shapes)
        embeds = model.embed([*inputs.input_ids, *answer], features)
        hidden = model.language_model(embeds)[0, len(inputs.input_ids) - 1 :]
        *predicted, end = mx.argmax(model.head(hidden), axis=-1).tolist()
        assert predicted == answer
        assert end in model.config.eos_token_ids
