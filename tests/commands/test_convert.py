"""The `convert` command: its options, its targets and its report."""

import json
import os
import shutil
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
from conftest import golden
from conversions import convert_command
from light_work import lighten
from pictures import make_picture

from mlx_lfm2vl.checkpoint.tensors import read_header, weight_files
from mlx_lfm2vl.commands.convert import build_parser, default_name, main, parse_size
from mlx_lfm2vl.loading import load
from mlx_lfm2vl.quantize.choice import QuantizeOptions


@pytest.fixture(autouse=True)
def _light(monkeypatch):
    lighten(monkeypatch)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--bits", "7"], "affine has no bits 7, only 2, 3, 4, 5, 6, 8"),
        (["--bits", "8", "--mode", "mxfp4"], "mxfp4 has no bits 8, only 4"),
        (["--bits", "4", "--group-size", "48"], "affine has no group size 48, only 32, 64, 128"),
        (["--bits", "4", "--dequantize"], "remove one of the two"),
        (["--dequantize"], "the checkpoint is not quantized"),
        (["--recipe", "mixed_4_6", "--bits", "4"], "remove --bits and --mode"),
        (["--learned"], "--learned needs something to quantize"),
        (["--group-size", "64"], "--group-size needs something to quantize"),
        (
            ["--bits", "4", "--text-only", "--vision-bits", "8"],
            "--text-only drops the vision tower",
        ),
        (["--bits", "4", "--no-report", "--calibration", "."], "--calibration has no effect"),
        (["--max-shard-size", "many"], "expected a size such as"),
        (["--bits", "4", "--calibration", "nowhere"], "is not a folder"),
    ],
)
def test_wrong_use_is_one_line(wide, arguments, message, tmp_path, capsys):
    assert main([*convert_command(wide, tmp_path / "q"), *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not (tmp_path / "q").exists()


def test_an_existing_target_is_kept_unless_overwriting(wide, tmp_path, capsys):
    target = tmp_path / "q"
    target.mkdir()
    (target / "mine.txt").write_text("precious")
    assert main([*convert_command(wide, target), "--bits", "4", "--overwrite"]) == 2
    assert "is no checkpoint folder: it is not replaced" in capsys.readouterr().err
    (target / "config.json").write_text("{}")
    assert main([*convert_command(wide, target), "--bits", "4"]) == 2
    assert "exists already" in capsys.readouterr().err
    assert (target / "mine.txt").exists()
    assert main([*convert_command(wide, target), "--bits", "4", "--overwrite", "--no-report"]) == 0
    assert not (target / "mine.txt").exists()


@pytest.mark.parametrize("target", ["models/source", "models", "."])
def test_a_target_never_takes_the_source_or_the_images_with_it(
    wide, tmp_path, monkeypatch, capsys, target
):
    monkeypatch.chdir(tmp_path)
    source = shutil.copytree(wide, tmp_path / "models" / "source")
    for arguments in (
        convert_command(source, target),
        [*convert_command(wide, target), "--calibration", str(source)],
    ):
        assert main([*arguments, "--bits", "4", "--overwrite"]) == 2
        message = capsys.readouterr().err
        assert "which is needed: choose another --output" in message or "not replaced" in message
    assert (source / "model.safetensors").exists()


def test_too_little_space_is_said_before_anything_is_written(wide, tmp_path, monkeypatch, capsys):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(
        "mlx_lfm2vl.quantize.loss_report.observe", None
    )  # nothing is computed before, either
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(0, 0, 10**6))
    assert main([*convert_command(wide, tmp_path / "q"), "--bits", "4"]) == 2
    assert "but only 1 MB are free there" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_width_that_no_group_divides_stays_and_is_named(tmp_path, capsys):
    source = golden("head_72").folder  # its vision MLP is 53 wide
    target = tmp_path / "q"
    assert main([*convert_command(source, target), "--bits", "4", "--vision-bits", "8"]) == 0
    report = json.loads((target / "quantization_report.json").read_text())
    assert "a row of" in next(iter(report["kept"].values()))
    assert report["output"] == "q"  # published, so without the private path to it
    path = next(iter(report["kept"]))
    assert path in capsys.readouterr().err
    assert path in (target / "README.md").read_text()
    load(target)


def test_the_names_of_mlx_lm_mean_the_same():
    theirs = "--hf-path a --mlx-path b -q --q-bits 4 --q-group-size 64 --q-mode affine"
    ours = "--model a --output b -q --bits 4 --group-size 64 --mode affine"
    parser = build_parser()
    assert parser.parse_args(theirs.split()) == parser.parse_args(ours.split())


@pytest.mark.parametrize(
    ("arguments", "settings"),
    [
        ("-q", "embedding and head 4 bits in groups of 64"),
        ("--mode mxfp8", "embedding and head 8 bits in groups of 32 (mxfp8)"),
        ("-q --recipe mixed_3_6", "embedding and head 6 bits"),
    ],
)
def test_what_is_not_said_has_the_default_of_the_mode(wide, arguments, settings, tmp_path):
    target = tmp_path / "q"
    assert main([*convert_command(wide, target), *arguments.split(), "--no-report"]) == 0
    report = json.loads((target / "quantization_report.json").read_text())
    assert settings in report["settings"]


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ("--bits 4", "LFM2-VL-1.6B-4bit"),
        ("--mode mxfp4 --bits 4", "LFM2-VL-1.6B-mxfp4"),
        ("--recipe mixed_4_6", "LFM2-VL-1.6B-mixed_4_6"),
        ("--dtype float16", "LFM2-VL-1.6B-float16"),
        ("--bits 4 --text-only", "LFM2-VL-1.6B-text-4bit"),
    ],
)
def test_the_target_is_named_after_the_model(arguments, name):
    options = build_parser().parse_args(["--model", "LiquidAI/LFM2-VL-1.6B", *arguments.split()])
    asked = QuantizeOptions(bits=options.bits, recipe=options.recipe, mode=options.mode)
    assert default_name(options, asked) == name


def test_sizes_are_read_as_people_write_them():
    sizes = {"500MB": 5 * 10**8, "5GB": 5 * 10**9, "1.5 gb": 15 * 10**8, "1000": 1000}
    assert {text: parse_size(text) for text in sizes} == sizes


def test_the_result_is_published_on_request(wide, tmp_path, monkeypatch, capsys):
    import huggingface_hub

    calls = []

    class Api:
        def create_repo(self, repo, exist_ok):
            calls.append((repo, exist_ok))

        def upload_folder(self, repo_id, folder_path):
            calls.append((repo_id, sorted(path.name for path in folder_path.iterdir())))

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    target = tmp_path / "q"
    assert main([*convert_command(wide, target), "--no-report", "--upload-repo", "me/q"]) == 0
    assert calls[0] == ("me/q", True)
    assert {"README.md", "config.json", "model.safetensors"} <= set(calls[1][1])
    assert "https://huggingface.co/me/q" in capsys.readouterr().err


@pytest.mark.parametrize(("arguments", "said"), [([], True), (["--dtype", "bfloat16"], False)])
def test_a_conversion_without_anything_to_do_says_so(wide, arguments, said, tmp_path, capsys):
    target = tmp_path / "q"
    assert main([*convert_command(wide, target), "--no-report", *arguments]) == 0
    err = capsys.readouterr().err
    assert ("nothing to quantize or cast: this writes a copy; --bits 4 makes" in err) == said


def test_convert_py_is_the_command():
    script = Path(__file__).parents[2] / "convert.py"
    environment = {**os.environ, "PYTHONPATH": str(script.parent)}
    shown = subprocess.run(
        [sys.executable, script, "--help"], capture_output=True, text=True, env=environment
    )
    assert shown.returncode == 0
    assert "--vision-bits" in shown.stdout


def test_the_report_says_size_loss_and_speed(wide, tmp_path):
    target = tmp_path / "q"
    assert main([*convert_command(wide, target), "--bits", "4", "--vision-bits", "8"]) == 0
    report = json.loads((target / "quantization_report.json").read_text())
    nbytes = sum(
        np.prod(info.shape) * {"U32": 4, "F16": 2}[info.dtype]
        for path in weight_files(target)
        for info in read_header(path)[0].values()
    )
    assert report["sizes"]["all"]["bytes"] == nbytes
    vision = report["sizes"]["vision"]
    assert vision["bits_per_weight"] == round(8 * vision["bytes"] / vision["parameters"], 3)
    assert vision["bits_per_weight"] == pytest.approx(8.9, abs=0.6)  # scales, and dense biases
    assert 0 < report["quality"]["text"]["kl"] < 1
    assert report["quality"]["features"]["tower"] < 0.1
    per_token = report["sizes"]["language"]["bytes"] + report["sizes"]["embed"]["bytes"]
    assert report["decode_ceiling"]["M4 Pro"] == round(273e9 / per_token, 1)
    card = (target / "README.md").read_text()
    assert f"{report['quality']['text']['kl']:.4f}" in card


def test_a_comparison_that_runs_out_of_memory_leaves_the_weights(
    wide, tmp_path, monkeypatch, capsys
):
    def fails(*_):
        raise RuntimeError("[malloc] Unable to allocate")

    monkeypatch.setattr("mlx_lfm2vl.quantize.loss_report.compare", fails)
    assert main([*convert_command(wide, tmp_path / "q"), "--bits", "4"]) == 0
    assert "not compared with the source: [malloc]" in capsys.readouterr().err
    assert "What was lost" not in (tmp_path / "q" / "README.md").read_text()
    load(tmp_path / "q")


def test_own_images_and_own_conversations_are_compared_on(wide, tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(2):
        make_picture(50, 60, number).save(photos / f"{number}.png")
    arguments = ["--bits", "8", "--calibration", str(photos)]
    assert main([*convert_command(wide, tmp_path / "a"), *arguments]) == 0
    report = json.loads((tmp_path / "a" / "quantization_report.json").read_text())
    assert report["samples"] == "2 prompts about the images in photos"
    row = {"image": "0.png", "prompt": "Which?", "answer": "The first."}
    (photos / "rows.jsonl").write_text(json.dumps(row))
    assert main([*convert_command(wide, tmp_path / "b"), *arguments]) == 0
    report = json.loads((tmp_path / "b" / "quantization_report.json").read_text())
    assert report["samples"].startswith("1 prompts")


def test_calibration_refuses_rows_and_files_that_it_would_not_use(wide, tmp_path, capsys):
    photos = tmp_path / "photos"
    photos.mkdir()
    make_picture(50, 60, 1).save(photos / "0.png")
    arguments = ["--bits", "8", "--calibration", str(photos)]
    row = {"messages": [{"role": "user", "content": "Which?"}], "img": "0.png"}
    for name, text, why in (
        ("notes.xlsx", "a,b", "notes.xlsx is of the unknown kind '.xlsx'"),
        ("rows.jsonl", json.dumps(row), "line 1: the row has an unknown key 'img'"),
        ("photo.dng", "II*", "photo.dng is of the unknown kind '.dng'"),
    ):
        (photos / name).write_text(text)
        assert main([*convert_command(wide, tmp_path / "q"), *arguments]) == 2
        assert why in capsys.readouterr().err
        (photos / name).unlink()


def test_calibration_reads_the_rows_of_an_image_folder(wide, tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    make_picture(50, 60, 1).save(photos / "0.png")
    row = {"file_name": "0.png", "text": "A disc."}
    (photos / "metadata.jsonl").write_text(f"{json.dumps(row)}\n" * 3)
    arguments = ["--bits", "8", "--calibration", str(photos)]
    assert main([*convert_command(wide, tmp_path / "q"), *arguments]) == 0
    report = json.loads((tmp_path / "q" / "quantization_report.json").read_text())
    assert report["samples"].startswith("3 prompts")
