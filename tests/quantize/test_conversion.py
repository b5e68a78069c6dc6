"""Conversion: saved equals quantized in memory, and nothing is half written."""

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from conftest import edit_json, golden, relative_error
from conversions import convert, logits_of

from mlx_lfm2vl.arrays import named_arrays
from mlx_lfm2vl.checkpoint.packing import MODES
from mlx_lfm2vl.errors import InputError
from mlx_lfm2vl.loading import load
from mlx_lfm2vl.prompt.messages import user_message
from mlx_lfm2vl.quantize.choice import QuantizeOptions
from mlx_lfm2vl.quantize.conversion import Conversion, ConvertOptions


@pytest.fixture(scope="module")
def eight(wide, tmp_path_factory) -> tuple[Path, np.ndarray]:
    """The wide checkpoint in 8 bits, and its logits."""
    folder = tmp_path_factory.mktemp("eight") / "q"
    convert(wide, folder, bits=8)
    return folder, logits_of(folder)


ALL_MODES = [(bits, mode) for mode, (choices, _) in MODES.items() for bits in choices]


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
    assert sum(name.endswith(".scales") for name in scales) > len(before) / 4
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


def test_a_quantized_source_is_kept_packed_or_packed_anew(eight, tmp_path):
    convert(eight[0], tmp_path / "same", vision_bits=8)
    kept, _ = load(tmp_path / "same")
    assert kept.language_model.layers[0].feed_forward.w1.bits == 8
    assert kept.vision_tower.encoder.layers[0].mlp.fc1.bits == 8
    convert(eight[0], tmp_path / "q4", bits=4)
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


def test_mlx_lm_does_not_adjust_the_feed_forward_width_again(tmp_path):
    utils = pytest.importorskip("mlx_lm.utils")
    source = golden("new_names").folder  # 40 is written, and adjusted to 32
    convert(source, tmp_path / "text", text_only=True)
    config = json.loads((tmp_path / "text" / "config.json").read_text())
    assert config["block_auto_adjust_ff_dim"] is False
    theirs, _ = utils.load_model(tmp_path / "text")
    assert theirs.model.layers[0].feed_forward.w1.weight.shape == (32, 16)


def test_parts_are_quantized_as_asked_and_others_left(wide, tmp_path):
    options = {"bits": 4, "embed_bits": 6, "connector_bits": 8, "group_size": 32}
    model, _ = load(convert(wide, tmp_path / "q", **options) and tmp_path / "q")
    layer = model.language_model.layers[0]
    assert (layer.feed_forward.w2.bits, layer.feed_forward.w2.group_size) == (4, 32)
    assert model.language_model.embed_tokens.bits == 6
    assert model.multi_modal_projector.linear_1.bits == 8
    assert isinstance(model.vision_tower.encoder.layers[0].mlp.fc1, nn.Linear)
    assert isinstance(model.vision_tower.embeddings.patch_embedding, nn.Linear)


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


def test_a_rename_that_fails_puts_the_old_target_back(wide, eight, tmp_path, monkeypatch):
    target = shutil.copytree(eight[0], tmp_path / "q")
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


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_an_interrupt_or_a_full_disk_leaves_the_old_target(wide, eight, tmp_path, error):
    target = shutil.copytree(eight[0], tmp_path / "q")

    def stop(done, total):
        if done > total / 2:
            raise error

    with pytest.raises((KeyboardInterrupt, InputError)):
        convert(wide, target, bits=4, overwrite=True, report=stop)
    assert [path.name for path in tmp_path.iterdir()] == ["q"]
    np.testing.assert_array_equal(logits_of(target), eight[1])


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


@pytest.mark.parametrize("moment", ["7", "finish", "rename"])
def test_a_killed_conversion_leaves_nothing_broken(wide, eight, tmp_path, moment):
    target = shutil.copytree(eight[0], tmp_path / "q")
    command = [sys.executable, "-c", KILLED, str(wide), str(target), moment]
    assert subprocess.run(command).returncode == -signal.SIGKILL
    if moment == "rename":  # the old one had been moved away, and the next run puts it back
        assert not target.exists()
        with pytest.raises(InputError, match="exists already"):
            convert(wide, target, bits=4)
    np.testing.assert_array_equal(logits_of(target), eight[1])
    convert(wide, target, bits=4, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["q"]
    assert load(target)[0].language_model.layers[0].conv.in_proj.bits == 4


def test_there_must_be_room_for_the_tensors_and_64_mib_more(wide, tmp_path, monkeypatch):
    conversion = Conversion(wide, ConvertOptions(dtype="float32"))
    needed = conversion.plan.nbytes + 64 * 2**20
    disk = SimpleNamespace(free=needed)
    monkeypatch.setattr("shutil.disk_usage", lambda _: disk)
    conversion.check_space(tmp_path / "new" / "folder")
    disk.free = needed - 1
    with pytest.raises(InputError, match="are free there"):
        conversion.check_space(tmp_path / "new" / "folder")
