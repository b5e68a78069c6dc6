"""Conversion: saved equals quantized in memory, nothing is half written, what was lost is said."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from conftest import edit_json, golden, relative_error
from pictures import make_picture

from mlx_lfm2vl.arrays import named_arrays
from mlx_lfm2vl.checkpoint.packing import MODES, Scheme, quantization_config
from mlx_lfm2vl.checkpoint.tensors import read_header, weight_files
from mlx_lfm2vl.commands.convert import build_parser, default_name, main, parse_size
from mlx_lfm2vl.errors import CheckpointError, InputError
from mlx_lfm2vl.loading import load
from mlx_lfm2vl.prompt.messages import user_message
from mlx_lfm2vl.prompt.samples import SampleMaker
from mlx_lfm2vl.quantize import conversion
from mlx_lfm2vl.quantize.choice import QuantizeOptions
from mlx_lfm2vl.quantize.conversion import Conversion, ConvertOptions
from mlx_lfm2vl.quantize.loss_report import (
    Observation,
    compare,
    observe,
    warnings,
    with_answer,
)
from mlx_lfm2vl.quantize.model_card import write_model_card

ALL_MODES = [(bits, mode) for mode, (choices, _) in MODES.items() for bits in choices]


def convert(source, target, *, report=lambda *_: None, **options) -> Conversion:
    """Convert with the options of both dataclasses."""
    known = {
        name: options.pop(name) for name in list(options) if name in ConvertOptions.__match_args__
    }
    settings = ConvertOptions(quantize=QuantizeOptions(**options), **known)
    conversion = Conversion(Path(source), settings)
    conversion.write(Path(target), report=report)
    return conversion


def logits_of(folder) -> np.ndarray:
    """Of a prompt with an image."""
    model, processor = load(folder, dtype="float32")
    inputs = processor(user_message("What is this?", [make_picture(60, 90, 1)]))
    return np.array(model(inputs.input_ids, inputs.pixel_values, inputs.spatial_shapes))


# -- the numbers --


@pytest.mark.parametrize(("bits", "mode"), ALL_MODES)
def test_a_written_checkpoint_equals_the_model_quantized_in_memory(wide, bits, mode, tmp_path):
    every = dict.fromkeys(("bits", "vision_bits", "connector_bits"), bits)
    convert(wide, tmp_path / "q", mode=mode, **every)
    model, processor = load(wide, dtype="float16")
    options = QuantizeOptions(mode=mode, **every)

    def scheme(path, module):
        if not isinstance(module, (nn.Linear, nn.Embedding)):
            return False
        found = options.scheme(path, module.weight.shape[-1], 5)
        return vars(found) if found else False

    nn.quantize(model, class_predicate=scheme)
    loaded, _ = load(tmp_path / "q", dtype="float16")
    ours, expected = (named_arrays(m.parameters()) for m in (loaded, model))
    assert sorted(ours) == sorted(expected)
    for name, value in expected.items():
        assert ours[name].dtype == value.dtype, name
        assert mx.array_equal(ours[name], value), name


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
def test_dequantizing_is_within_a_step_of_the_source(wide, bits, tmp_path):
    convert(wide, tmp_path / "q", dtype="float32", bits=bits, vision_bits=bits)
    convert(tmp_path / "q", tmp_path / "plain", dequantize=True)
    assert "quantization" not in json.loads((tmp_path / "plain" / "config.json").read_text())
    source, plain = (load(f, dtype="float32")[0] for f in (wide, tmp_path / "plain"))
    packed, _ = load(tmp_path / "q", dtype="float32")
    scales = named_arrays(packed.parameters())
    before, after = (named_arrays(m.parameters()) for m in (source, plain))
    for name, value in before.items():
        step = scales.get(name.replace(".weight", ".scales"))
        if step is None or not name.endswith(".weight"):
            assert mx.array_equal(after[name], value), name
            continue
        step = np.abs(np.array(step))[..., None]
        error = np.abs(np.array(after[name] - value)).reshape(*step.shape[:2], -1)
        # MLX moves the step so that the group's largest value is met: the other end may clip.
        assert (error <= 1.01 * step + 1e-6).all(), name
        assert (error / step).mean() < 0.35, name  # of even rounding: a quarter


def test_more_bits_lose_less(wide, tmp_path):
    exact = logits_of(wide)
    errors = []
    for bits in (8, 6, 4, 3):
        convert(wide, tmp_path / f"q{bits}", bits=bits, vision_bits=bits)
        errors.append(relative_error(logits_of(tmp_path / f"q{bits}"), exact))
    assert errors == sorted(errors)
    assert errors[0] < 0.05


def test_without_options_a_checkpoint_is_only_rewritten(tmp_path):
    for name in ("new_names", "old_names", "untied_sharded_bf16"):
        source = golden(name).folder
        convert(source, tmp_path / name)
        np.testing.assert_array_equal(logits_of(tmp_path / name), logits_of(source))


def test_a_quantized_source_is_kept_packed_or_packed_anew(wide, tmp_path):
    convert(wide, tmp_path / "q8", bits=8)
    convert(tmp_path / "q8", tmp_path / "same", vision_bits=8)
    kept, _ = load(tmp_path / "same")
    assert kept.language_model.layers[0].feed_forward.w1.bits == 8
    assert kept.vision_tower.encoder.layers[0].mlp.fc1.bits == 8
    convert(tmp_path / "q8", tmp_path / "q4", bits=4)
    again, _ = load(tmp_path / "q4")
    assert again.language_model.layers[0].feed_forward.w1.bits == 4


def test_the_decoder_alone_is_a_checkpoint_for_mlx_lm(wide, tmp_path):
    utils = pytest.importorskip("mlx_lm.utils")
    for bits in (None, 4):
        target = tmp_path / f"text{bits}"
        convert(wide, target, text_only=True, bits=bits, dtype="float32")
        full = tmp_path / f"full{bits}"
        convert(wide, full, bits=bits, dtype="float32")
        theirs, _ = utils.load_model(target)
        ours, processor = load(full, dtype="float32")
        ids = processor(user_message("What is this?")).input_ids
        expected = np.array(theirs(mx.array(ids)[None]))
        assert relative_error(ours(ids), expected) < 1e-5
        assert not (target / "processor_config.json").exists()


# -- which matrices --


def test_parts_are_quantized_as_asked_and_others_left(wide, tmp_path):
    options = {"bits": 4, "embed_bits": 6, "connector_bits": 8, "group_size": 32}
    model, _ = load(convert(wide, tmp_path / "q", **options) and tmp_path / "q")
    layer = model.language_model.layers[0]
    assert (layer.feed_forward.w2.bits, layer.feed_forward.w2.group_size) == (4, 32)
    assert model.language_model.embed_tokens.bits == 6
    assert model.multi_modal_projector.linear_1.bits == 8
    assert isinstance(model.vision_tower.encoder.layers[0].mlp.fc1, nn.Linear)
    assert isinstance(model.vision_tower.embeddings.patch_embedding, nn.Linear)


def test_the_group_is_the_largest_that_divides_a_row():
    options = QuantizeOptions(bits=4, vision_bits=8)
    path = "vision_tower.encoder.layers.0.mlp.fc2"
    sizes = {columns: options.scheme(path, columns, 16) for columns in (3072, 192, 96, 4304)}
    assert [s and s.group_size for s in sizes.values()] == [128, 64, 32, None]
    wanted = replace(options, group_size=64).scheme(
        "language_model.layers.0.conv.in_proj", 1024, 16
    )
    assert wanted == Scheme(4, 64)


def test_a_width_that_no_group_divides_stays_and_is_named(tmp_path, capsys):
    source = golden("head_72").folder  # its vision MLP is 53 wide
    target = tmp_path / "q"
    assert main([*command(source, target), "--bits", "4", "--vision-bits", "8"]) == 0
    report = json.loads((target / "quantization_report.json").read_text())
    assert "a row of" in next(iter(report["kept"].values()))
    path = next(iter(report["kept"]))
    assert path in capsys.readouterr().err
    assert path in (target / "README.md").read_text()
    load(target)


@pytest.mark.parametrize(("recipe", "low", "high"), [("mixed_3_6", 3, 6), ("mixed_4_8", 4, 8)])
def test_recipes_spend_bits_where_it_matters(recipe, low, high):
    options = QuantizeOptions(recipe=recipe)

    def bits(path):
        scheme = options.scheme(path, 1024, 16)
        assert scheme is not None
        return scheme.bits

    layer = "language_model.layers.{}.feed_forward.w2"
    assert [i for i in range(16) if bits(layer.format(i)) == high] == [0, 1, 4, 7, 10, 13, 14, 15]
    assert bits("language_model.layers.2.self_attn.v_proj") == low
    assert bits("language_model.layers.0.feed_forward.w1") == low
    assert bits("language_model.embed_tokens") == high


def test_a_mode_without_the_bits_asked_for_gives_way_to_affine():
    options = QuantizeOptions(bits=4, mode="mxfp4", vision_bits=8)
    assert options.scheme("language_model.layers.0.conv.in_proj", 1024, 16) == Scheme(
        4, 32, "mxfp4"
    )
    vision = options.scheme("vision_tower.encoder.layers.0.mlp.fc1", 1024, 16)
    assert vision is not None
    assert (vision.bits, vision.mode) == (8, "affine")


def test_the_config_names_the_common_scheme_and_the_others():
    schemes = {"a": Scheme(4, 64), "b": Scheme(4, 64), "c": Scheme(8, 32)}
    assert quantization_config(schemes) == {
        "bits": 4,
        "group_size": 64,
        "mode": "affine",
        "c": {"bits": 8, "group_size": 32, "mode": "affine"},
    }


# -- files --


def test_small_shards_hold_the_same(wide, tmp_path):
    convert(wide, tmp_path / "one", bits=4)
    convert(wide, tmp_path / "many", bits=4, max_shard_bytes=10**5)
    files = weight_files(tmp_path / "many")
    assert len(files) > 3
    assert files[0].name == f"model-00001-of-{len(files):05d}.safetensors"
    assert all(path.stat().st_size < 1.2e5 for path in files)
    np.testing.assert_array_equal(logits_of(tmp_path / "many"), logits_of(tmp_path / "one"))


def test_files_are_those_that_safetensors_reads(wide, tmp_path):
    from safetensors.numpy import load_file

    convert(wide, tmp_path / "q", bits=4, dtype="float32")
    (path,) = weight_files(tmp_path / "q")
    tensors, metadata = read_header(path)
    read = load_file(path)
    assert {name: value.shape for name, value in read.items()} == {
        name: info.shape for name, info in tensors.items()
    }
    assert metadata["format"] == "mlx"
    ours = dict(mx.load(str(path)))
    for name, value in read.items():
        np.testing.assert_array_equal(value, np.array(ours[name]))


def test_memory_is_that_of_a_layer_and_not_of_the_model(wide, tmp_path):
    source = tmp_path / "source"
    convert(wide, source, dtype="float32")
    sizes = [value.nbytes for value in named_arrays(load(source)[0].parameters()).values()]
    mx.synchronize()
    mx.clear_cache()
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    convert(source, tmp_path / "q", bits=4)
    assert mx.get_peak_memory() - before < 3 * max(sizes) < sum(sizes) / 2


def test_known_mistakes_are_repaired_in_the_files(wide, tmp_path, caplog):
    convert(wide, tmp_path / "mlx")
    path = tmp_path / "mlx" / "model.safetensors"
    weights = dict(mx.load(str(path)))
    mx.eval(weights)
    mx.save_safetensors(str(path), weights, {"format": "mlx"})  # as another program writes it
    (tmp_path / "mlx" / "model.safetensors.index.json").unlink()
    edit_json(tmp_path / "mlx" / "processor_config.json", image_processor__do_image_splitting=False)
    convert(tmp_path / "mlx", tmp_path / "q", bits=4)
    assert "switches off tiling" in caplog.text
    values = json.loads((tmp_path / "q" / "processor_config.json").read_text())
    assert values["image_processor"]["do_image_splitting"] is True


def test_licence_and_card_of_the_source_are_kept(tmp_path):
    source = shutil.copytree(golden("new_names").folder, tmp_path / "source")
    (source / "LICENSE").write_text("LFM Open License v1.0")
    front = "license: other\nlicense_name: lfm1.0\nlanguage:\n- en\n- ja\ntags:\n- liquid"
    (source / "README.md").write_text(f"---\n{front}\n---\n# Old card\n")
    assert main([*command(source, tmp_path / "q"), "--dtype", "bfloat16"]) == 0
    card = (tmp_path / "q" / "README.md").read_text()
    assert card.startswith("---\nlicense: other\nlicense_name: lfm1.0\nlanguage:\n- en\n- ja\nlib")
    assert "liquid" not in card.partition("\n---\n")[0].replace("lfm", "")
    assert "Old card" not in card
    assert (tmp_path / "q" / "LICENSE").read_text() == "LFM Open License v1.0"


# -- what goes wrong --


def test_an_existing_target_is_kept_unless_overwriting(wide, tmp_path, capsys):
    target = tmp_path / "q"
    target.mkdir()
    (target / "mine.txt").write_text("precious")
    assert main([*command(wide, target), "--bits", "4", "--overwrite"]) == 2
    assert "is no checkpoint folder: it is not replaced" in capsys.readouterr().err
    (target / "config.json").write_text("{}")
    assert main([*command(wide, target), "--bits", "4"]) == 2
    assert "exists already" in capsys.readouterr().err
    assert (target / "mine.txt").exists()
    assert main([*command(wide, target), "--bits", "4", "--overwrite"]) == 0
    assert not (target / "mine.txt").exists()


@pytest.mark.parametrize("target", ["models/source", "models", "."])
def test_a_target_never_takes_the_source_or_the_images_with_it(
    wide, tmp_path, monkeypatch, capsys, target
):
    monkeypatch.chdir(tmp_path)
    source = shutil.copytree(wide, tmp_path / "models" / "source")
    for arguments in (
        command(source, target),
        [*command(wide, target), "--calibration", str(source)],
    ):
        assert main([*arguments, "--bits", "4", "--overwrite"]) == 2
        message = capsys.readouterr().err
        assert "which is needed: choose another --output" in message or "not replaced" in message
    assert (source / "model.safetensors").exists()


def test_a_rename_that_fails_puts_the_old_target_back(wide, tmp_path, monkeypatch):
    target = tmp_path / "q"
    convert(wide, target, bits=8)
    rename = Path.rename

    def fails(path, new):
        if path.name.endswith(".partial"):
            raise OSError(5, "Input/output error")
        return rename(path, new)

    monkeypatch.setattr(Path, "rename", fails)
    with pytest.raises(InputError, match="Input/output error"):
        convert(wide, target, bits=4, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["q"]
    load(target)


def test_too_little_space_is_said_before_anything_is_written(wide, tmp_path, monkeypatch, capsys):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(
        "mlx_lfm2vl.quantize.loss_report.observe", None
    )  # nothing is computed before, either
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(0, 0, 10**6))
    assert main([*command(wide, tmp_path / "q"), "--bits", "4"]) == 2
    assert "but only 0.00 GB are free" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_an_interrupt_or_a_full_disk_leaves_the_old_target(wide, tmp_path, error):
    target = tmp_path / "q"
    convert(wide, target, bits=8)
    before = logits_of(target)

    def stop(done, total):
        if done > total / 2:
            raise error

    with pytest.raises((KeyboardInterrupt, InputError)):
        convert(wide, target, bits=4, overwrite=True, report=stop)
    assert [path.name for path in tmp_path.iterdir()] == ["q"]
    np.testing.assert_array_equal(logits_of(target), before)


KILLED = """
import os, signal, sys
from pathlib import Path
from mlx_lfm2vl.quantize.choice import QuantizeOptions
from mlx_lfm2vl.quantize.conversion import Conversion, ConvertOptions

source, target, moment = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
calls = 0

def die(*_):
    global calls
    calls += 1
    if moment in (str(calls), "finish"):
        os.kill(os.getpid(), signal.SIGKILL)

if moment == "rename":
    rename = Path.rename
    Path.rename = lambda path, new: die() if path.name.endswith(".partial") else rename(path, new)
    moment = "1"
    report = finish = lambda *_: None
else:
    report, finish = (die, lambda *_: None) if moment.isdecimal() else (lambda *_: None, die)
options = ConvertOptions(quantize=QuantizeOptions(bits=4), overwrite=True)
Conversion(source, options).write(target, report=report, finish=finish)
"""


@pytest.mark.parametrize("moment", ["1", "7", "finish", "rename"])
def test_a_killed_conversion_leaves_nothing_broken(wide, tmp_path, moment):
    target = tmp_path / "q"
    convert(wide, target, bits=8)
    before = logits_of(target)
    command = [sys.executable, "-c", KILLED, str(wide), str(target), moment]
    assert subprocess.run(command).returncode == -signal.SIGKILL
    if moment == "rename":  # the old one had been moved away, and the next run puts it back
        assert not target.exists()
        with pytest.raises(InputError, match="exists already"):
            convert(wide, target, bits=4)
    np.testing.assert_array_equal(logits_of(target), before)
    convert(wide, target, bits=4, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["q"]
    assert load(target)[0].language_model.layers[0].conv.in_proj.bits == 4


def test_what_is_written_is_read_back(wide, tmp_path, monkeypatch):
    original = conversion.write_shards

    def flip_a_bit(folder, *arguments):
        checksums = original(folder, *arguments)
        with (folder / "model.safetensors").open("r+b") as file:
            file.seek(-1, 2)
            last = file.read(1)
            file.seek(-1, 2)
            file.write(bytes([last[0] ^ 1]))
        return checksums

    monkeypatch.setattr(conversion, "write_shards", flip_a_bit)
    with pytest.raises(CheckpointError, match="is not what was written"):
        convert(wide, tmp_path / "q")
    assert list(tmp_path.iterdir()) == []


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
        (["--learned", "--mode", "mxfp4"], "--learned works only in affine mode"),
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
    assert main([*command(wide, tmp_path / "q"), *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not (tmp_path / "q").exists()


# -- the command --


def command(source, target) -> list[str]:
    return ["--model", str(source), "--output", str(target)]


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
    assert main([*command(wide, target), *arguments.split(), "--no-report"]) == 0
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
    assert main([*command(wide, target), "--dtype", "float32", "--upload-repo", "me/q"]) == 0
    assert calls[0] == ("me/q", True)
    assert {"README.md", "config.json", "model.safetensors"} <= set(calls[1][1])
    assert "https://huggingface.co/me/q" in capsys.readouterr().err


def test_convert_py_is_the_command():
    script = Path(__file__).parents[2] / "convert.py"
    environment = {**os.environ, "PYTHONPATH": str(script.parent)}
    shown = subprocess.run(
        [sys.executable, script, "--help"], capture_output=True, text=True, env=environment
    )
    assert shown.returncode == 0
    assert "--vision-bits" in shown.stdout


# -- the report --


@pytest.fixture(scope="module")
def demo(wide):
    return load(wide, dtype="float32")


def test_a_checkpoint_compared_with_itself_lost_nothing(demo):
    model, processor = demo
    inputs = processor(user_message("What is this?", [make_picture(90, 90, 1)]))
    sample = with_answer(model, inputs, {2})
    seen = [observe(model, sample)]
    quality = compare(seen, lambda _: observe(model, sample))
    assert quality["text"]["kl"] == pytest.approx(0, abs=1e-6)
    assert all(quality[kind]["agreement"] == 1 for kind in ("image", "text", "answer"))
    assert quality["perplexity"]["change"] == pytest.approx(0, abs=1e-6)
    assert "features" not in quality
    assert warnings(quality) == []


def test_divergence_and_perplexity_are_what_their_formulas_say():
    p, q = np.array([[0.7, 0.2, 0.1]]), np.array([[0.2, 0.5, 0.3]])
    features = np.array([[3.0, 4.0]])

    def seen(probabilities, answer, tower):
        logs = {"answer": np.log(probabilities)}
        return Observation(logs, np.log(np.array(answer)), tower, None)

    quality = compare(
        [seen(p, [0.5], features)], lambda _: seen(q, [0.25], features + [[0.3, 0.4]])
    )
    assert quality["answer"]["kl"] == pytest.approx((p * np.log(p / q)).sum())
    assert quality["answer"]["agreement"] == 0
    assert quality["perplexity"] == pytest.approx({"source": 2, "converted": 4, "change": 1})
    assert quality["features"] == {"tower": pytest.approx(0.1)}
    assert any("--embed-bits" in sentence for sentence in warnings(quality))


def test_only_what_the_assistant_says_counts_as_answer(demo):
    model, processor = demo
    turns = [
        {"role": "user", "content": [{"type": "image", "image": make_picture(60, 60, 1)}]},
        {"role": "assistant", "content": "A cat."},
        {"role": "user", "content": "Sure?"},
        {"role": "assistant", "content": "Yes."},
    ]
    sample = SampleMaker(processor, {2})(turns)
    seen = observe(model, sample)
    assert len(seen.answer) == sample.is_answer.sum() < len(sample.input_ids) / 2
    logits = model(sample.input_ids, sample.pixel_values, sample.spatial_shapes)[0]
    logprobs = np.array(logits - mx.logsumexp(logits, axis=-1, keepdims=True))
    places = np.flatnonzero(sample.is_answer)
    expected = [logprobs[i - 1, sample.input_ids[i]] for i in places]
    np.testing.assert_allclose(seen.answer, expected, rtol=1e-4, atol=1e-5)


def test_the_report_says_size_loss_and_speed(wide, tmp_path):
    target = tmp_path / "q"
    assert main([*command(wide, target), "--bits", "4", "--vision-bits", "8"]) == 0
    report = json.loads((target / "quantization_report.json").read_text())
    nbytes = sum(
        np.prod(info.shape) * {"U32": 4, "F16": 2}[info.dtype]
        for path in weight_files(target)
        for info in read_header(path)[0].values()
    )
    assert report["sizes"]["all"]["bytes"] == nbytes
    assert report["sizes"]["vision"]["bits_per_weight"] < 10
    assert 0 < report["quality"]["text"]["kl"] < 1
    assert report["quality"]["features"]["tower"] < 0.1
    assert report["decode_ceiling"]["M4 Pro"] > 1000
    card = (target / "README.md").read_text()
    assert f"{report['quality']['text']['kl']:.4f}" in card


def test_a_comparison_that_runs_out_of_memory_leaves_the_weights(
    wide, tmp_path, monkeypatch, capsys
):
    def fails(*_):
        raise RuntimeError("[malloc] Unable to allocate")

    monkeypatch.setattr("mlx_lfm2vl.quantize.loss_report.compare", fails)
    assert main([*command(wide, tmp_path / "q"), "--bits", "4"]) == 0
    assert "not compared with the source: [malloc]" in capsys.readouterr().err
    assert "What was lost" not in (tmp_path / "q" / "README.md").read_text()
    load(tmp_path / "q")


def test_own_images_and_own_conversations_are_compared_on(wide, tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(2):
        make_picture(50, 60, number).save(photos / f"{number}.png")
    arguments = ["--bits", "8", "--calibration", str(photos)]
    assert main([*command(wide, tmp_path / "a"), *arguments]) == 0
    report = json.loads((tmp_path / "a" / "quantization_report.json").read_text())
    assert report["samples"] == "2 prompts about the images in photos"
    row = {"image": "0.png", "prompt": "Which?", "answer": "The first."}
    (photos / "rows.jsonl").write_text(json.dumps(row))
    assert main([*command(wide, tmp_path / "b"), *arguments]) == 0
    report = json.loads((tmp_path / "b" / "quantization_report.json").read_text())
    assert report["samples"].startswith("1 prompts")


def test_a_card_names_its_base_model_on_the_hub(tmp_path):
    report = {
        "version": "1", "source": "LiquidAI/LFM2-VL-1.6B", "output": "out/LFM2-VL-1.6B-4bit",
        "upload": None, "settings": "4 bits", "text_only": True, "kept": {}, "warnings": [],
        "sizes": {"all": {"parameters": 8, "bytes": 4, "bits_per_weight": 4.0}},
        "decode_ceiling": {"M4": 5.0},
    }  # fmt: skip
    write_model_card(tmp_path, tmp_path, report)
    card = (tmp_path / "README.md").read_text()
    assert "base_model: LiquidAI/LFM2-VL-1.6B" in card
    assert "mlx_lm generate --model LFM2-VL-1.6B-4bit" in card
    assert "pipeline_tag: text-generation" in card
    assert "pip install mlx-lm\n" in card


@pytest.mark.parametrize(("upload", "named"), [(None, "q"), ("someone/small", "someone/small")])
def test_a_card_installs_the_package_from_its_source(upload, named, tmp_path):
    report = {
        "version": "1", "source": "demo", "output": "out/q", "upload": upload,
        "settings": "4 bits", "text_only": False, "kept": {}, "warnings": [],
        "sizes": {"all": {"parameters": 8, "bytes": 4, "bits_per_weight": 4.0}},
        "decode_ceiling": {"M4": 5.0},
    }  # fmt: skip
    write_model_card(tmp_path, tmp_path, report)
    card = (tmp_path / "README.md").read_text()
    assert "In the source folder of mlx_lfm2vl" in card
    assert "python3 -m venv .venv && . .venv/bin/activate\npip install .\n" in card
    assert f"python -m mlx_lfm2vl.generate --model {named} --image photo.jpg" in card
    assert ("stands for the path of this folder" in card) == (upload is None)
