"""The benchmark command: its numbers agree with each other, in the table, as JSON and drawn."""

import json
import sys
from dataclasses import asdict, fields
from pathlib import Path
from textwrap import dedent

import pytest
from conftest import PUBLISHED_MODELS, golden
from drafters import DRAFTERS, make_target
from light_work import lighten
from pictures import make_picture
from PIL import Image, ImageColor
from processes import modules_after

from mlx_lfm2vl import load
from mlx_lfm2vl.arrays import named_arrays
from mlx_lfm2vl.checkpoint.image_config import load_image_config
from mlx_lfm2vl.commands.benchmark import ROWS, build_parser, main
from mlx_lfm2vl.drawing import LIGHT
from mlx_lfm2vl.images.geometry import plan_image
from mlx_lfm2vl.speed import peer, stages
from mlx_lfm2vl.speed.peer import Peer, PeerImage

TINY = golden("new_names").folder
TOKENS = 5
PEER_IMAGE = PeerImage(
    views=3,
    prompt_tokens=271,
    prepare_seconds=0.5,
    encode_seconds=1.5,
    first_token_seconds=2.5,
    tokens_per_second=45.5,
    peak_memory_bytes=678_000_000,
)
PEER = Peer("9.8.7", "float16", 0.25, [PEER_IMAGE, PEER_IMAGE])


@pytest.fixture(autouse=True)
def _light(monkeypatch):
    lighten(monkeypatch)


def benchmark(*arguments: str, model: Path = TINY) -> int:
    quick = ["--tokens", str(TOKENS), "--repeats", "1"]
    return main(["--model", str(model), "--dtype", "float32", *quick, *arguments])


def as_json(capsys, *arguments: str, model: Path = TINY) -> dict:
    assert benchmark("--json", *arguments, model=model) == 0
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    return json.loads(out)


@pytest.fixture
def python(tmp_path):
    """Makes a program that is called as a Python would be."""

    def make(script: str) -> str:
        path = tmp_path / "python"
        path.write_text(script)
        path.chmod(0o755)
        return str(path)

    return make


# -- the numbers --


def test_every_number_is_positive_and_agrees_with_the_others(capsys):
    report = as_json(capsys)
    assert [image["name"] for image in report["images"]] == ["small", "large"]
    device = report["device"]
    assert device["dtype"] == "float32"
    assert device["bytes_per_second"] > 0
    assert device["flops_per_second"] > 0
    assert report["load_seconds"] > 0
    for image in report["images"]:
        numbers = [value for value in image.values() if isinstance(value, (int, float))]
        assert len(numbers) == len(fields(stages.ImageSpeed))  # a size less, a percentage more
        assert min(numbers) > 0
        read = image["bytes_per_token"] * image["tokens_per_second"]
        share = 100 * read / device["bytes_per_second"]
        assert image["bandwidth_percent"] == pytest.approx(share)
        assert image["image_tokens"] < image["prompt_tokens"]
        assert image["peak_memory_bytes"] > image["bytes_per_token"]


@pytest.mark.parametrize("name", ["new_names", "untied_sharded_bf16"])
def test_a_token_reads_the_decoder_its_head_and_the_rows_before_it(name, capsys):
    folder = golden(name).folder
    model, _ = load(folder, dtype="float32")
    config = model.config.text
    arrays = named_arrays(model.parameters())
    unread = "language_model.embed_tokens" if "lm_head.weight" in arrays else "nothing"
    weights = sum(
        array.nbytes
        for name, array in arrays.items()
        if name.startswith(("language_model.", "lm_head.")) and not name.startswith(unread)
    )
    attentions = config.layer_types.count("full_attention")
    row = attentions * 2 * config.num_key_value_heads * config.head_dim * 4
    for image in as_json(capsys, model=folder)["images"]:
        rows = image["prompt_tokens"] + 1 + TOKENS - TOKENS // 2
        assert image["bytes_per_token"] == weights + rows * row


def test_an_image_of_ones_own_is_measured_alone(tmp_path, capsys):
    make_picture(45, 44, 2).save(tmp_path / "mine.png")
    (image,) = as_json(capsys, "--image", str(tmp_path / "mine.png"))["images"]
    assert (image["name"], image["size"], image["views"]) == ("mine.png", [45, 44], 5)


@pytest.mark.parametrize("name", PUBLISHED_MODELS)
def test_the_pictures_are_one_full_view_and_six_tiles(name, published):
    config = load_image_config(published(name))
    sizes = stages.sample_sizes(config)
    small, large = (plan_image(*size, config) for size in sizes.values())
    assert small.view_tokens == [config.max_image_tokens]
    assert large.grid == (2, 3)


# -- what is shown --


def test_the_table_has_a_column_per_image(capsys):
    assert benchmark() == 0
    out, err = capsys.readouterr()
    assert "GB/s" in out
    assert "TFLOP/s" in out
    header, *rows = out.splitlines()[-len(ROWS) - 1 :]
    assert header.split() == ["small", "large"]
    assert tuple(row[: len(max(ROWS, key=len))].rstrip() for row in rows) == ROWS
    assert len({len(line) for line in (header, *rows)}) == 1
    assert rows[0].endswith("24 x 24   72 x 48")
    note = "note: decoding exceeds the measured bandwidth: a cache holds these weights\n"
    assert err in ("", note)


def test_the_plot_is_a_png_with_a_bar_per_stage(tmp_path, capsys):
    path = tmp_path / "stages"
    assert benchmark("--plot", str(path)) == 0
    assert capsys.readouterr().err.endswith(f"wrote {path} and {path}-dark\n")
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        width, height = picture.size
        assert width == 1800
        assert 600 < height < 1200
        colors = {color for _, color in picture.getcolors(width * height) or []}
        assert ImageColor.getrgb(LIGHT.blue) in colors
        assert ImageColor.getrgb(LIGHT.orange) not in colors  # mlx-vlm's


def test_help_loads_nothing_heavy():
    code = "from mlx_lfm2vl.commands.benchmark import main; assert main(['--help']) == 0"
    assert modules_after(code) == set()


def test_every_option_is_explained():
    for action in build_parser()._actions:
        assert action.help, action.dest


# -- against mlx-vlm --


def test_the_peer_gets_columns_and_bars_of_its_own(python, tmp_path, capsys):
    program = python(f"#!/bin/sh\necho '{json.dumps(asdict(PEER))}'\n")
    assert benchmark("--compare", program, "--plot", str(tmp_path / "stages.png")) == 0
    out, _ = capsys.readouterr()
    assert "mlx-vlm 9.8.7 in float16, loaded in 0.25 s" in out
    header, *rows = out.splitlines()[-len(ROWS) - 1 :]
    assert header.split() == ["small", "mlx-vlm", "large", "mlx-vlm"]
    column = dict(zip(ROWS, (row.split()[-1] for row in rows), strict=True))
    assert column["prompt tokens"] == "271"
    assert column["first token, ms"] == "2,500"
    assert column["decode, tokens/s"] == "46"
    assert column["peak memory, MB"] == "678"
    with Image.open(tmp_path / "stages.png") as picture:
        colors = picture.getcolors(picture.width * picture.height) or []
        assert ImageColor.getrgb(LIGHT.orange) in [color for _, color in colors]
    assert as_json(capsys, "--compare", program)["mlx_vlm"] == asdict(PEER)


FAKE = {
    "__init__.py": """
        import mlx.core as mx
        from types import SimpleNamespace

        __version__ = "1.2.3"


        class Model:
            def parameters(self):
                return {"weight": mx.zeros((2, 2), mx.float16), "ids": mx.zeros(2, mx.int32)}

            def encode_images(self, pixel_values, spatial_shapes, pixel_attention_mask):
                return [pixel_values + pixel_attention_mask]


        def load(checkpoint):
            return Model(), SimpleNamespace(tokenizer=SimpleNamespace())


        def stream_generate(model, processor, prompt, image, max_tokens, temperature):
            for token in range(max_tokens):
                assert not processor.tokenizer.stopping_criteria(token)
                yield SimpleNamespace(prompt_tokens=len(prompt))
    """,
    "prompt_utils.py": """
        def apply_chat_template(processor, config, prompt, num_images):
            return "<image>" * num_images + prompt
    """,
    "utils.py": """
        import mlx.core as mx


        def load_config(checkpoint):
            return {}


        def prepare_inputs(processor, images, prompts):
            names = ("pixel_values", "spatial_shapes", "pixel_attention_mask")
            return {name: mx.ones((4, 2)) for name in names}
    """,
}


def test_the_script_that_is_sent_measures_what_is_read_back(tmp_path, monkeypatch, capsys):
    package = tmp_path / "mlx_vlm"
    package.mkdir()
    for name, code in FAKE.items():
        (package / name).write_text(dedent(code))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    measured = as_json(capsys, "--compare", sys.executable)["mlx_vlm"]
    assert (measured["version"], measured["dtype"]) == ("1.2.3", "float16")
    assert len(measured["images"]) == 2
    for image in measured["images"]:
        assert (image["views"], image["prompt_tokens"]) == (4, 7 + len(stages.PROMPT))
        assert set(image) == {field.name for field in fields(PeerImage)}
        assert image["first_token_seconds"] > 0


BROKEN = {
    "no mlx_vlm": ("#!/bin/sh\necho no module >&2; exit 1", 2, "cannot import mlx_vlm: no module"),
    "no program": ("\x7f", 2, "cannot be started: "),
    "too slow": ("#!/bin/sh\nexec sleep 9", 1, "took more than 0.2 s and was stopped"),
    "fails": ('#!/bin/sh\n[ "$1" = -c ] || { echo oops >&2; exit 3; }', 1, "mlx-vlm failed: oops"),
    "is silent": ("#!/bin/sh\n", 1, "printed no measurement of mlx-vlm"),
    "is another": ("#!/bin/sh\necho '{\"images\": []}'", 1, "printed no measurement of mlx-vlm"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_peer_that_does_not_work_is_one_line(name, python, monkeypatch, capsys):
    script, code, message = BROKEN[name]
    monkeypatch.setattr(peer, "START_SECONDS", 0.2 if name == "too slow" else 60)
    assert benchmark("--compare", python(script)) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert err.count("\n") == 1


WRONG = {
    "no such peer": (["--compare", "no/such/python"], "no/such/python: there is no such program"),
    "tokens": (["--tokens", "0"], "--tokens is 0, expected 1 or more"),
    "repeats": (["--repeats", "-1"], "--repeats is -1, expected 1 or more"),
    "plot": (["--plot", "no/such/folder/a.png"], "there is no folder no/such/folder"),
    "kind of plot": (["--plot", "a.jpg"], "--plot a.jpg: expected a name that ends in .png"),
    "image": (["--image", "gone.png"], "'gone.png' does not exist"),
}


@pytest.mark.parametrize("name", WRONG)
def test_mistakes_are_one_line_before_a_checkpoint_is_loaded(name, checkpoint, capsys):
    (checkpoint / "model.safetensors").unlink()
    arguments, message = WRONG[name]
    assert benchmark(*arguments, model=checkpoint) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert err.count("\n") == 1


def test_a_draft_model_is_measured_against_plain_decoding(capsys, tmp_path):
    target, drafter = make_target(tmp_path / "target", "tied"), str(DRAFTERS / "tied")
    photo = tmp_path / "photo.png"
    make_picture(44, 45, 1).save(photo)
    drafting = ("--draft-model", drafter, "--draft-tokens", "3", "--image", str(photo))
    (drafts,) = as_json(capsys, *drafting, model=target)["drafts"]
    assert drafts["name"] == "photo.png"
    assert drafts["same_tokens"]
    assert drafts["proposals"] == 3
    assert 1 <= drafts["tokens_per_round"] <= 4
    assert drafts["gain"] == drafts["tokens_per_second"] / drafts["plain_tokens_per_second"]
    seconds = [value for key, value in drafts.items() if key.endswith("seconds")]
    assert len(seconds) == 3
    assert min(seconds) > 0
    assert benchmark(*drafting, model=target) == 0
    out = capsys.readouterr().out
    assert "tokens per round" in out
    assert "to draft 3 tokens" in out
