"""Weights in every layout, each tensor used once; what does not fit is named."""

import json
import shutil
import struct

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from conftest import CASES, edit_json, golden, relative_error
from mlx.utils import tree_flatten

from mlx_lfm2vl.checkpoint.config import ModelConfig, VisionConfig, read_model_config
from mlx_lfm2vl.checkpoint.find import find_checkpoint
from mlx_lfm2vl.checkpoint.image_config import read_image_config
from mlx_lfm2vl.checkpoint.names import mlx_name, our_name
from mlx_lfm2vl.checkpoint.tensors import detect_layout, read_header, weight_files
from mlx_lfm2vl.errors import CheckpointError, InputError, NetworkError
from mlx_lfm2vl.loading import load
from mlx_lfm2vl.model.lfm2vl import Lfm2VL
from mlx_lfm2vl.model.vision import VisionTower
from mlx_lfm2vl.prompt.messages import user_message


def hub_name(name: str, vision_model: bool = True) -> str:
    """Our parameter name as the Hub writes it."""
    if name.startswith("lm_head."):
        return name
    if vision_model and name.startswith("vision_tower."):
        name = name.replace("vision_tower.", "vision_tower.vision_model.", 1)
    return f"model.{name}"


def shapes_of(config: ModelConfig, folder) -> dict[str, list[int]]:
    model = Lfm2VL(config, read_image_config(folder))
    shapes = {}
    for name, value in tree_flatten(model.parameters()):
        shape = list(value.shape)
        # The Hub keeps depthwise weights as (C, 1, taps).
        shapes[hub_name(name)] = (
            [shape[0], 1, shape[1]] if name.endswith("conv.conv.weight") else shape
        )
    return shapes


# What the published configuration tables say about the two checkpoints whose config is not at
# hand, as changes to LFM2.5-VL-1.6B.
TYPES_30 = ["full_attention" if i in (2, 5, 9, 13, 17, 21, 24, 27) else "conv" for i in range(30)]
DERIVED = {
    "LFM2-VL-1.6B": {
        "vision_config__num_hidden_layers": 26,
        "projector_hidden_size": 2560,
        "projector_use_layernorm": True,
    },
    "LFM2.5-VL-3B": {
        "text_config__num_hidden_layers": 30,
        "text_config__layer_types": TYPES_30,
        "text_config__block_ff_dim": 10752,
        "text_config__block_auto_adjust_ff_dim": False,
        "text_config__vocab_size": 128000,
    },
}


@pytest.mark.parametrize(
    "name",
    ["LFM2-VL-450M", "LFM2-VL-1.6B", "LFM2.5-VL-450M", "LFM2.5-VL-1.6B", "LFM2.5-VL-3B"],
)
def test_the_parameters_are_exactly_the_published_tensors(assets, published, name):
    folder = published("LFM2.5-VL-1.6B" if name in DERIVED else name)
    if name in DERIVED:
        edit_json(folder / "config.json", **DERIVED[name])
    inventory = json.loads((assets / name / "tensor_inventory.json").read_text())
    assert shapes_of(read_model_config(folder), folder) == inventory["tensors"]


def test_dropping_a_layer_by_vision_feature_layer_gives_the_same_parameters(published):
    folder = published("LFM2.5-VL-1.6B")
    edit_json(folder / "config.json", vision_feature_layer=-2)
    by_feature_layer = shapes_of(read_model_config(folder), folder)
    edit_json(folder / "config.json", vision_feature_layer=-1)
    edit_json(folder / "config.json", vision_config__num_hidden_layers=26)
    assert by_feature_layer == shapes_of(read_model_config(folder), folder)


# -- layouts --


def logits_of(folder, **options) -> np.ndarray:
    model, processor = load(folder, **options)
    inputs = processor(golden("new_names").messages("two_images"))
    logits = model(inputs.input_ids, inputs.pixel_values, inputs.spatial_shapes)
    return np.array(logits[0, -1].astype(mx.float32))


def rewrite(folder, rename, *, transpose=False, metadata=None, dtype=None):
    """Write the weights of a golden checkpoint again, under other names."""
    weights = {}
    for path in weight_files(folder):
        for name, value in mx.load(str(path)).items():
            value = value.astype(dtype) if dtype else value
            if transpose and name.endswith("conv.conv.weight"):
                value = value.transpose(0, 2, 1)
            weights[rename(our_name(name))] = value
        path.unlink()
    (folder / "model.safetensors.index.json").unlink(missing_ok=True)
    mx.save_safetensors(str(folder / "model.safetensors"), weights, metadata or {"format": "pt"})
    return weights


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


@pytest.mark.parametrize("name", CASES)
def test_every_tensor_of_a_file_is_used_exactly_once(name):
    folder = golden(name).folder
    names = [our_name(n) for path in weight_files(folder) for n in read_header(path)[0]]
    model, _ = load(folder)
    parameters = [name for name, _ in tree_flatten(model.parameters())]
    assert sorted(names) == sorted(parameters)


# -- quantized repositories --


def quantized(folder, quantize, mode="affine", overrides=None) -> None:
    """Turn a folder into a quantized MLX repository, and keep dense what `quantize` refuses."""
    weights = rewrite(folder, mlx_name, transpose=True, dtype=mx.float32)
    packed = {}
    for name, value in weights.items():
        path = name.removesuffix(".weight")
        bits = quantize(path) if value.ndim == 2 and name.endswith(".weight") else None
        if not bits or value.shape[-1] % 32:
            packed[name] = value
            continue
        parts = mx.quantize(value, group_size=32, bits=bits, mode=mode)
        keys = ("weight", "scales", "biases")
        packed.update({f"{path}.{key}": part for key, part in zip(keys, parts, strict=False)})
    mx.save_safetensors(str(folder / "model.safetensors"), packed, {"format": "mlx"})
    values = {"group_size": 32, "bits": 4, "mode": mode, **(overrides or {})}
    edit_json(folder / "config.json", quantization=values, quantization_config=values)


@pytest.fixture
def wide(tmp_path):
    """A tiny checkpoint whose text tower is wide enough to quantize."""
    folder = golden("untied_sharded_bf16").folder
    return shutil.copytree(folder, tmp_path / "wide")


@pytest.mark.parametrize("mode", ["affine", "mxfp4"])
def test_a_quantized_repository_equals_its_dequantized_weights(wide, mode):
    plain, _ = load(wide, dtype="float32")
    nn.quantize(
        plain,
        class_predicate=lambda path, module: (
            {"group_size": 32, "bits": 4, "mode": mode}
            if path.startswith("language_model") and "linear" in type(module).__name__.lower()
            else False
        ),
    )
    quantized(wide, lambda path: 4 if "language_model.model.layers" in path else None, mode)
    model, processor = load(wide, dtype="float32")
    kinds = {type(m).__name__ for _, m in model.named_modules()}
    assert "QuantizedLinear" in kinds
    inputs = processor(user_message("Hello", []))
    ours, theirs = model(inputs.input_ids), plain(inputs.input_ids)
    assert relative_error(ours, np.array(theirs)) < 1e-6


def test_mixed_bits_are_found_by_full_path(wide):
    head = "language_model.model.embed_tokens"
    overrides = {head: {"group_size": 32, "bits": 8}, "language_model.lm_head": False}

    def bits(path):
        if "lm_head" in path or "vision" in path or "projector" in path:
            return None
        return 8 if path == head else 4

    quantized(wide, bits, overrides=overrides)
    model, _ = load(wide)
    assert model.language_model.embed_tokens.bits == 8
    assert model.language_model.layers[0].feed_forward.w1.bits == 4
    assert isinstance(model.lm_head, nn.Linear)


def test_quantization_that_does_not_fit_the_config_is_named(wide):
    quantized(wide, lambda path: 8 if "layers" in path and "language" in path else None)
    with pytest.raises(CheckpointError, match="4 bits in groups of 32 do not fit"):
        load(wide)


# -- what does not fit --


def edit_weights(folder, change) -> None:
    path = folder / "model.safetensors"
    weights = dict(mx.load(str(path)))
    mx.eval(weights)
    change(weights)
    mx.save_safetensors(str(path), weights, {"format": "pt"})


EMBEDDING = "model.language_model.embed_tokens.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop(EMBEDDING), "1 missing: language_model.embed_tokens.weight"),
        (lambda w: w.update({"model.extra.weight": mx.zeros(3)}), "1 unknown: extra.weight"),
        (
            lambda w: w.update({EMBEDDING: w[EMBEDDING][:, :8]}),
            r"1 wrong shape: language_model.embed_tokens.weight \[365, 8\] instead of \[365, 16\]",
        ),
        (
            lambda w: w.update({"language_model.model.embed_tokens.weight": w[EMBEDDING]}),
            "language_model.embed_tokens.weight twice",
        ),
    ],
)
def test_tensors_that_do_not_fit_are_reported_by_name(checkpoint, change, message):
    edit_weights(checkpoint, change)
    with pytest.raises(CheckpointError, match=message):
        load(checkpoint)


def test_known_surplus_is_dropped_with_a_note(checkpoint, caplog, expected_logits):
    def add(weights):
        weights["lm_head.weight"] = weights[EMBEDDING]
        weights["model.multi_modal_projector.layer_norm.weight"] = mx.ones(64)
        weights["model.multi_modal_projector.layer_norm.bias"] = mx.zeros(64)

    edit_weights(checkpoint, add)
    np.testing.assert_array_equal(logits_of(checkpoint), expected_logits)
    assert len(caplog.records) == 1
    assert "dropped: lm_head.weight, multi_modal_projector.layer_norm.bias" in caplog.text


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


def cut_off(path):
    path.write_bytes(path.read_bytes()[:-1000])


def nonsense(path):
    path.write_bytes(b"hello" * 100)


def empty(path):
    path.write_bytes(b"")


def long_header(path):
    path.write_bytes(struct.pack("<Q", 2**60) + b"{}")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut_off, "is cut off"),
        (nonsense, "not a safetensors file"),
        (empty, "not a safetensors file"),
        (long_header, "not a safetensors file"),
    ],
)
def test_damaged_files_are_named(checkpoint, damage, message):
    damage(checkpoint / "model.safetensors")
    with pytest.raises(CheckpointError, match=f"model.safetensors.*{message}"):
        load(checkpoint)


def test_missing_weights_and_shards_are_named(checkpoint, tmp_path):
    (checkpoint / "model.safetensors").rename(checkpoint / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"no weights.*pytorch_model\.bin is not read"):
        load(checkpoint)
    folder = shutil.copytree(golden("untied_sharded_bf16").folder, tmp_path / "shards")
    shard = weight_files(folder)[1]
    shard.unlink()
    with pytest.raises(CheckpointError, match=f"lacks {shard.name}"):
        load(folder)


@pytest.mark.parametrize("name", ["../outside.safetensors", "/etc/passwd", "weights.bin", 3])
def test_an_index_cannot_point_elsewhere(checkpoint, name):
    index = {"weight_map": {"model.a": name}}
    (checkpoint / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="expected a file in the folder"):
        load(checkpoint)


def test_special_ids_of_config_and_tokenizer_must_agree(checkpoint):
    edit_json(checkpoint / "config.json", image_token_id=9)
    with pytest.raises(CheckpointError, match="image_token_id 9, but the tokenizer's <image> is 5"):
        load(checkpoint)
    edit_json(checkpoint / "config.json", image_token_id=None)
    model, _ = load(checkpoint)
    assert model.config.image_token_id == 5


def test_model_and_processor_must_cut_the_same_patches(checkpoint):
    edit_json(checkpoint / "processor_config.json", image_processor__encoder_patch_size=8)
    edit_json(checkpoint / "processor_config.json", image_processor__tile_size=32)
    with pytest.raises(
        CheckpointError, match="patch size: the model's is 4, the image processor's 8"
    ):
        load(checkpoint)


# -- finding checkpoints --


@pytest.mark.parametrize(
    ("model", "error", "message"),
    [
        ("no/such/folder", InputError, "neither a folder nor a repo id"),
        ("nowhere", InputError, "neither a folder nor a repo id"),
        ("./missing", InputError, "neither a folder nor a repo id"),
        (__file__, InputError, "is a file"),
        ("nobody/nothing-at-all", NetworkError, "not in the local cache"),
    ],
)
def test_what_is_no_model_is_said(model, error, message, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    with pytest.raises(error, match=message):
        load(model)


def test_a_repo_is_downloaded_with_only_the_files_needed(monkeypatch, tmp_path):
    import huggingface_hub

    calls = []

    def snapshot_download(repo, **options):
        if options.pop("local_files_only", False):
            raise huggingface_hub.errors.LocalEntryNotFoundError("nothing here")
        calls.append((repo, options))
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    (tmp_path / "model.safetensors").touch()
    assert find_checkpoint("LiquidAI/LFM2-VL-450M", "main") == tmp_path
    find_checkpoint("LiquidAI/LFM2-VL-450M", with_weights=False)
    (repo, all_files), (_, small) = calls
    assert (repo, all_files["revision"]) == ("LiquidAI/LFM2-VL-450M", "main")
    wanted = {"*.json", "*.jinja", "LICENSE*", "README.md", "*.safetensors"}
    assert set(all_files["allow_patterns"]) == wanted
    assert "*.safetensors" not in small["allow_patterns"]


def cached_repo(home, source, *, without=()) -> str:
    """Put a folder into a Hub cache as a finished download would be."""
    snapshot = home / "hub" / "models--me--tiny" / "snapshots" / "abc"
    shutil.copytree(source, snapshot, ignore=lambda *_: list(without))
    refs = home / "hub" / "models--me--tiny" / "refs"
    refs.mkdir()
    (refs / "main").write_text("abc")
    return "me/tiny"


def test_a_complete_local_copy_is_used_without_asking_the_hub(monkeypatch, tmp_path):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    source = golden("new_names").folder
    repo = cached_repo(tmp_path, source)
    assert find_checkpoint(repo).name == "abc"
    assert load(repo)[0].config.image_token_id == 5


def test_an_incomplete_local_copy_is_completed(monkeypatch, tmp_path):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    source = golden("new_names").folder
    repo = cached_repo(tmp_path, source, without=["model.safetensors"])
    assert find_checkpoint(repo, with_weights=False).name == "abc"
    with pytest.raises(NetworkError, match="the local cache has no weights"):
        find_checkpoint(repo)


def test_a_folder_has_no_revision(checkpoint):
    with pytest.raises(InputError, match="has no revision"):
        load(checkpoint, revision="main")


def test_an_unknown_dtype_is_refused(checkpoint):
    with pytest.raises(InputError, match="'int8' is not one of float32"):
        load(checkpoint, dtype="int8")


def test_overrides_are_found_by_the_end_of_a_path_and_have_defaults_of_their_own(wide):
    # As mlx-vlm writes an untied head of 8 bits in a repository of another mode.
    overrides = {"language_model.lm_head": {"group_size": 32, "bits": 8}, "w2": {"bits": 8}}
    overrides["w2"]["group_size"] = 32

    def bits(path):
        if path.endswith("lm_head") or path.endswith("w2"):
            return 8
        return 4 if "language_model.model.layers" in path else None

    quantized(wide, bits, overrides=overrides)
    edit_json(wide / "config.json", quantization__mode="affine")
    model, _ = load(wide)
    assert model.lm_head.bits == 8
    assert model.language_model.layers[0].feed_forward.w2.bits == 8
    assert model.language_model.layers[0].feed_forward.w1.bits == 4


@pytest.mark.parametrize(
    "changes", [{"mode": "foo"}, {"group_size": 16}, {"bits": "four"}, {"bits": 3}]
)
def test_impossible_quantization_settings_are_one_line(wide, changes):
    quantized(wide, lambda path: 4 if "language_model.model.layers" in path else None)
    edit_json(wide / "config.json", **{f"quantization__{k}": v for k, v in changes.items()})
    with pytest.raises(CheckpointError, match="do not fit|the quantization settings of"):
        load(wide)


def test_other_quantization_methods_are_refused_by_name(checkpoint):
    settings = {"quant_method": "bitsandbytes"}
    edit_json(checkpoint / "config.json", quantization_config=settings)
    with pytest.raises(CheckpointError, match="'bitsandbytes' is not supported"):
        load(checkpoint)


def test_a_quantized_position_table_works():
    config = VisionConfig(
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_channels=3,
        num_patches=16,
        patch_size=4,
        layer_norm_eps=1e-6,
    )
    embeddings = VisionTower(config).eval().embeddings
    dense = embeddings.positions((3, 5))
    nn.quantize(embeddings, 32, 8, class_predicate=lambda path, _: "position" in path)
    assert type(embeddings.position_embedding) is nn.QuantizedEmbedding
    assert relative_error(embeddings.positions((3, 5)), np.array(dense)) < 0.02


def test_integers_in_place_of_numbers_are_refused(checkpoint):
    norm = "model.language_model.embedding_norm.weight"
    edit_weights(checkpoint, lambda w: w.update({norm: w[norm].view(mx.int32)}))
    with pytest.raises(CheckpointError, match=r"embedding_norm.weight holds .*int32"):
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


def test_messages_about_a_repo_name_the_repo(monkeypatch, tmp_path):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    repo = cached_repo(tmp_path, golden("new_names").folder)
    (tmp_path / "hub/models--me--tiny/snapshots/abc/model.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match="^me/tiny/model.safetensors is not"):
        load(repo)


def test_a_cache_that_another_program_filled_partly_is_not_taken_as_complete(monkeypatch, tmp_path):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    asked = []
    real = huggingface_hub.snapshot_download

    def snapshot_download(*args, **options):
        asked.append(bool(options.get("local_files_only")))
        return real(*args, **options)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    without = ["processor_config.json", "tokenizer.json"]
    repo = cached_repo(tmp_path, golden("new_names").folder, without=without)
    find_checkpoint(repo)
    assert asked == [True, False]


@pytest.mark.parametrize("model", ["x" * 5000, "~nosuchuser/x", "a\0b"])
def test_unusable_paths_are_one_line(model):
    with pytest.raises(InputError, match="no usable path|neither a folder"):
        load(model)
