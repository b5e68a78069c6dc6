"""Weights in every layout give the same model; contradictions between the files are named."""

import json
import shutil
import struct

import mlx.core as mx
import numpy as np
import pytest
from conftest import edit_json, golden, relative_error
from mlx.utils import tree_flatten
from weights import EMBEDDING, edit_weights, hub_name, rewrite

from mlx_lfm2vl.checkpoint.config import read_model_config
from mlx_lfm2vl.checkpoint.names import mlx_name
from mlx_lfm2vl.checkpoint.tensors import detect_layout
from mlx_lfm2vl.commands.convert import main as convert
from mlx_lfm2vl.errors import CheckpointError, InputError
from mlx_lfm2vl.loading import load
from mlx_lfm2vl.saving import save_checkpoint


def logits_of(folder, **options) -> np.ndarray:
    model, processor = load(folder, **options)
    inputs = processor(golden("new_names").messages("two_images"))
    logits = model(inputs.input_ids, inputs.pixel_values, inputs.spatial_shapes)
    return np.array(logits[0, -1].astype(mx.float32))


@pytest.fixture(scope="module")
def expected_logits():
    return logits_of(golden("new_names").folder)


@pytest.mark.parametrize(
    ("rename", "transpose"),
    [
        (lambda name: hub_name(name, True), False),
        (lambda name: hub_name(name, False), False),
        (mlx_name, True),
    ],
    ids=["hub", "transformers 5", "mlx"],
)
def test_every_layout_gives_the_same_logits(checkpoint, expected_logits, rename, transpose):
    rewrite(checkpoint, rename, transpose=transpose)
    assert detect_layout(checkpoint).is_mlx == transpose
    np.testing.assert_array_equal(logits_of(checkpoint), expected_logits)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_near_float32(expected_logits, dtype):
    logits = logits_of(golden("new_names").folder, dtype=dtype)
    assert relative_error(logits, expected_logits) < (0.01 if dtype == "float16" else 0.08)
    model, _ = load(golden("new_names").folder, dtype=dtype)
    kinds = {value.dtype for _, value in tree_flatten(model.parameters())}
    assert kinds == {getattr(mx, dtype)}


def test_a_cpu_takes_float32_unless_told_otherwise():
    model, _ = load(golden("untied_sharded_bf16").folder)
    dtype = model.language_model.embedding_norm.weight.dtype
    assert dtype == (mx.bfloat16 if mx.metal.is_available() else mx.float32)


def test_known_surplus_is_dropped_with_a_note(checkpoint, caplog, expected_logits):
    def add(weights):
        weights["lm_head.weight"] = weights[EMBEDDING].astype(mx.float32)
        weights["model.multi_modal_projector.layer_norm.weight"] = mx.ones(64)
        weights["model.multi_modal_projector.layer_norm.bias"] = mx.zeros(64)

    edit_weights(checkpoint, add)
    np.testing.assert_array_equal(logits_of(checkpoint), expected_logits)
    assert len(caplog.records) == 1
    assert "dropped: lm_head.weight, multi_modal_projector.layer_norm.bias" in caplog.text


def add_own_head(folder, change=lambda value: value[::-1]):
    edit_weights(folder, lambda w: w.update({"lm_head.weight": change(w[EMBEDDING])}))


def test_a_head_that_differs_from_the_embedding_is_used_whatever_the_config_says(
    checkpoint, expected_logits, caplog
):
    assert read_model_config(checkpoint).text.tie_word_embeddings
    add_own_head(checkpoint)
    np.testing.assert_allclose(logits_of(checkpoint), expected_logits[::-1], rtol=1e-4, atol=1e-5)
    assert "lm_head of their own" in caplog.text


def test_what_is_saved_says_that_its_head_is_not_tied(checkpoint, tmp_path):
    add_own_head(checkpoint, lambda value: value * 1.5)
    model, _ = load(checkpoint)
    save_checkpoint(model, checkpoint, tmp_path / "saved")
    options = ["--bits", "8", "--no-report", "--output", str(tmp_path / "c")]
    assert convert(["--model", str(checkpoint), *options]) == 0
    for folder in (tmp_path / "saved", tmp_path / "c"):
        assert not read_model_config(folder).text.tie_word_embeddings
        assert "lm_head" in load(folder)[0]


def test_a_head_of_another_size_is_refused(checkpoint):
    add_own_head(checkpoint, lambda value: value[:7])
    with pytest.raises(CheckpointError, match=r"wrong shape: lm_head\.weight \[7, "):
        load(checkpoint)


def optiq_name(name: str) -> str:
    """Our name as in OptiQ's conversions, whose decoder has no name of its own."""
    if name.startswith("language_model."):
        return name.replace("language_model.", "model.", 1)
    return name


def test_a_decoder_without_a_name_of_its_own_is_read(checkpoint, expected_logits):
    rewrite(checkpoint, optiq_name, transpose=True)
    assert detect_layout(checkpoint).is_mlx
    np.testing.assert_array_equal(logits_of(checkpoint), expected_logits)


def test_a_single_file_is_read_before_the_shards_of_an_index(tmp_path, caplog):
    folder = shutil.copytree(golden("untied_sharded_bf16").folder, tmp_path / "both")
    newer = dict(load(folder, dtype="float32")[0].parameters())
    norm = newer["language_model"]["embedding_norm"]["weight"] * 0 + 7
    index = (folder / "model.safetensors.index.json").read_text()
    rewrite(folder, hub_name)  # removes the index, which other tools leave behind
    edit_weights(folder, lambda w: w.update({"model.language_model.embedding_norm.weight": norm}))
    (folder / "model.safetensors.index.json").write_text(index)
    model, _ = load(folder, dtype="float32")
    assert (np.array(model.language_model.embedding_norm.weight) == 7).all()
    assert "model.safetensors is read, not the files that" in caplog.text
    assert not detect_layout(folder).is_mlx


def test_what_an_untied_head_has_too_much_is_not_dropped(tmp_path):
    folder = tmp_path / "untied"
    shutil.copytree(golden("untied_sharded_bf16").folder, folder)
    (folder / "model.safetensors.index.json").unlink()
    mx.save_safetensors(str(folder / "model-more.safetensors"), {"lm_head.bias": mx.zeros(3)})
    with pytest.raises(CheckpointError, match=r"1 unknown: lm_head\.bias"):
        load(folder)


def test_layers_behind_the_feature_layer_are_dropped_with_a_note(checkpoint, caplog):
    layers = read_model_config(checkpoint).vision.num_hidden_layers
    edit_json(checkpoint / "config.json", vision_feature_layer=-2)
    model, _ = load(checkpoint)
    assert len(model.vision_tower.encoder.layers) == layers - 1
    assert f"vision_tower.encoder.layers.{layers - 1}." in caplog.text


def test_projector_layer_norm_missing_is_an_error(checkpoint):
    edit_json(checkpoint / "config.json", projector_use_layernorm=True)
    with pytest.raises(CheckpointError, match="missing: multi_modal_projector.layer_norm.bias"):
        load(checkpoint)


def test_special_ids_of_config_and_tokenizer_must_agree(checkpoint):
    edit_json(checkpoint / "config.json", image_token_id=9)
    with pytest.raises(CheckpointError, match="image_token_id 9, but the tokenizer's <image> is 5"):
        load(checkpoint)
    edit_json(checkpoint / "config.json", image_token_id=None)
    model, _ = load(checkpoint)
    assert model.config.image_token_id == 5


def test_the_tokenizers_end_id_is_added_to_those_of_the_files(checkpoint):
    edit_json(checkpoint / "generation_config.json", eos_token_id=[3])
    model, processor = load(checkpoint)
    assert processor.tokenizer.eos_token == "<|im_end|>"
    assert model.config.eos_token_ids == (3, 2)


def test_model_and_processor_must_cut_the_same_patches(checkpoint):
    edit_json(checkpoint / "processor_config.json", image_processor__encoder_patch_size=8)
    edit_json(checkpoint / "processor_config.json", image_processor__tile_size=32)
    with pytest.raises(
        CheckpointError, match="patch size: the model's is 4, the image processor's 8"
    ):
        load(checkpoint)


def test_an_unknown_dtype_is_refused(checkpoint):
    with pytest.raises(InputError, match="'int8' is not one of float32"):
        load(checkpoint, dtype="int8")


def test_integers_in_place_of_numbers_are_refused(checkpoint):
    norm = "model.language_model.embedding_norm.weight"
    edit_weights(checkpoint, lambda w: w.update({norm: w[norm].view(mx.int32)}))
    with pytest.raises(CheckpointError, match=r"embedding_norm.weight holds .*int32"):
        load(checkpoint)


def test_weights_in_double_precision_are_refused(checkpoint):
    entry = {"dtype": "F64", "shape": [1], "data_offsets": [0, 8]}
    header = json.dumps({"model.extra": entry}).encode()
    (checkpoint / "model.safetensors").rename(checkpoint / "model-1.safetensors")
    path = checkpoint / "model-more.safetensors"  # by hand: MLX writes no doubles
    path.write_bytes(struct.pack("<Q", len(header)) + header + struct.pack("<d", 1.0))
    with pytest.raises(CheckpointError, match=r"more\.safetensors cannot be read: .*F64"):
        load(checkpoint)


def test_a_tokenizer_with_more_ids_than_embeddings_is_refused(checkpoint):
    tokenizer = json.loads((checkpoint / "tokenizer.json").read_text())
    added = dict(tokenizer["added_tokens"][0], id=2999, content="newtok", special=False)
    tokenizer["added_tokens"].append(added)
    (checkpoint / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(CheckpointError, match="the model only 365 embedding rows"):
        load(checkpoint)


def test_stray_names_and_companion_files_are_handled(checkpoint):
    (checkpoint / "._model.safetensors").write_bytes(b"macOS wrote this")
    load(checkpoint)
    edit_weights(checkpoint, lambda w: w.update({"vision_tower.encoder.layers.x.w": mx.ones(1)}))
    with pytest.raises(CheckpointError, match="unknown: vision_tower.encoder.layers.x.w"):
        load(checkpoint)


DERIVED = {
    "model.language_model.rotary_emb.inv_freq": (4,),
    "model.vision_tower.vision_model.embeddings.position_ids": (1, 4),
    "model.vision_tower.vision_model.head.probe": (1, 1, 4),
}


@pytest.mark.parametrize("name", DERIVED)
def test_tensors_that_older_libraries_save_beside_the_weights_are_left_out_with_a_note(
    checkpoint, expected_logits, name, caplog
):
    edit_weights(checkpoint, lambda weights: weights.update({name: mx.zeros(DERIVED[name])}))
    np.testing.assert_array_equal(logits_of(checkpoint), expected_logits)
    assert "tensors not used by this model, dropped: " in caplog.text


def test_an_adapter_that_was_saved_within_the_model_is_called_so(checkpoint):
    def change(weights):
        name = next(name for name in weights if name.endswith("q_proj.weight"))
        weights[name.replace(".weight", ".base_layer.weight")] = weights.pop(name)

    edit_weights(checkpoint, change)
    with pytest.raises(CheckpointError, match="they hold layers of PEFT: merge_and_unload"):
        load(checkpoint)


def test_names_of_tokens_are_read_from_an_older_file_and_never_missed_in_silence(
    checkpoint, expected_logits
):
    settings = checkpoint / "tokenizer_config.json"
    names = {"bos_token": json.loads(settings.read_text())["bos_token"]}
    settings.unlink()
    with pytest.raises(CheckpointError, match="has no tokenizer_config.json; to download it"):
        load(checkpoint)
    (checkpoint / "special_tokens_map.json").write_text(json.dumps(names))
    np.testing.assert_array_equal(logits_of(checkpoint), expected_logits)


def test_processor_files_without_image_settings_are_not_filled_up_with_others(checkpoint):
    edit_json(checkpoint / "processor_config.json", image_processor=None)
    with pytest.raises(CheckpointError, match="has no image settings: neither"):
        load(checkpoint)
