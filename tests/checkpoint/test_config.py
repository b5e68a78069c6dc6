"""Configuration files in all their spellings; what is missing or not implemented is refused."""

import pytest
from conftest import edit_json, golden

from mlx_lfm2vl.checkpoint.config import read_model_config
from mlx_lfm2vl.errors import CheckpointError
from mlx_lfm2vl.options import Sampling

ATTENTION_16 = (2, 5, 8, 10, 12, 14)


def attention_layers(config):
    return tuple(i for i, kind in enumerate(config.text.layer_types) if kind == "full_attention")


@pytest.mark.parametrize(
    ("name", "text", "vision", "projector"),
    [
        ("LFM2-VL-450M", (1024, 16, 4608), (768, 3072, 12, 12), (2560, True)),
        ("LFM2.5-VL-450M", (1024, 16, 4608), (768, 3072, 12, 12), (2048, False)),
        ("LFM2.5-VL-1.6B", (2048, 32, 8192), (1152, 4304, 27, 16), (2048, False)),
    ],
)
def test_published_configs_read_as_published(published, name, text, vision, projector):
    config = read_model_config(published(name))
    t, v, p = config.text, config.vision, config.projector
    assert (t.hidden_size, t.num_attention_heads, t.feed_forward_size) == text
    assert (
        v.hidden_size,
        v.intermediate_size,
        v.num_hidden_layers,
        v.num_attention_heads,
    ) == vision
    assert (p.hidden_size, p.use_layernorm) == projector
    assert attention_layers(config) == ATTENTION_16
    assert (t.head_dim, t.num_key_value_heads, t.vocab_size, t.rope_theta) == (64, 8, 65536, 1e6)
    assert t.tie_word_embeddings
    assert config.image_token_id == 396
    assert config.eos_token_ids == (7,)


def test_old_and_new_names_mean_the_same():
    config = read_model_config(golden("old_names").folder)
    assert config.projector.use_layernorm  # the key is absent
    assert config.image_token_id == 5  # from image_token_index
    assert attention_layers(config)
    assert config.text.rope_theta > 0


@pytest.mark.parametrize(
    ("raw", "adjust", "multiplier", "multiple", "width"),
    [
        (6656, True, 1.0, 256, 4608),
        (12288, True, 1.0, 256, 8192),
        (10752, False, 1.0, 256, 10752),
        (120, True, 1.0, 32, 96),
        (120, True, 1.3, 32, 128),
    ],
)
def test_feed_forward_width(checkpoint, raw, adjust, multiplier, multiple, width):
    edit_json(
        checkpoint / "config.json",
        text_config__intermediate_size=raw,
        text_config__block_auto_adjust_ff_dim=adjust,
        text_config__block_ffn_dim_multiplier=multiplier,
        text_config__block_multiple_of=multiple,
    )
    assert read_model_config(checkpoint).text.feed_forward_size == width
    edit_json(checkpoint / "config.json", text_config__intermediate_size=7)
    edit_json(checkpoint / "config.json", text_config__block_ff_dim=raw)
    assert read_model_config(checkpoint).text.feed_forward_size == width


def test_vision_feature_layer_counts_from_the_end(checkpoint):
    layers = read_model_config(checkpoint).vision.num_hidden_layers
    edit_json(checkpoint / "config.json", vision_feature_layer=-2)
    assert read_model_config(checkpoint).vision.num_hidden_layers == layers - 1
    edit_json(checkpoint / "config.json", vision_feature_layer=3)
    with pytest.raises(CheckpointError, match="vision_feature_layer 3"):
        read_model_config(checkpoint)


REQUIRED = [
    "text_config__hidden_size",
    "text_config__vocab_size",
    "text_config__num_attention_heads",
    "text_config__num_key_value_heads",
    "text_config__intermediate_size",
    "text_config__block_auto_adjust_ff_dim",
    "text_config__layer_types",
    "text_config__conv_L_cache",
    "text_config__norm_eps",
    "vision_config__hidden_size",
    "vision_config__intermediate_size",
    "vision_config__num_hidden_layers",
    "vision_config__num_patches",
    "vision_config__patch_size",
    "vision_config__layer_norm_eps",
    "projector_hidden_size",
    "downsample_factor",
]


@pytest.mark.parametrize("key", REQUIRED)
def test_a_missing_key_is_an_error_that_names_it(checkpoint, key):
    edit_json(checkpoint / "config.json", **{key: None})
    with pytest.raises(CheckpointError, match=key.split("__")[-1]):
        read_model_config(checkpoint)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "lfm3_vl"}, "model_type 'lfm3_vl'"),
        ({"model_type": "llava"}, "another architecture"),
        ({"architectures": ["D1Model"]}, "D1Model"),
        ({"projector_hidden_act": "relu"}, "projector_hidden_act 'relu'"),
        ({"vision_config__hidden_act": "gelu"}, "hidden_act 'gelu'"),
        ({"vision_config__vision_use_head": True}, "vision_use_head True"),
        ({"vision_config__num_patches": 17}, "not a square"),
        ({"vision_config__num_attention_heads": 7}, "is not divisible"),
        ({"text_config__conv_bias": True}, "conv_bias True"),
        ({"text_config__num_key_value_heads": 3}, "num_key_value_heads 3"),
        ({"text_config__layer_types": ["conv", "sliding_attention", "conv"]}, "sliding_attention"),
        ({"text_config__layer_types": ["conv"]}, "1 entries for 3 layers"),
        ({"text_config__rope_parameters": {"rope_type": "yarn", "rope_theta": 1e6}}, "yarn"),
        ({"text_config__hidden_size": "64"}, "hidden_size is '64', expected int"),
        ({"text_config__vocab_size": 0}, "vocab_size is 0, expected 1 to"),
        ({"text_config__hidden_size": -64}, "hidden_size is -64, expected 1 to"),
        ({"vision_config": 3}, "vision_config is missing or not a JSON object"),
    ],
)
def test_what_is_not_implemented_is_refused(checkpoint, changes, message):
    edit_json(checkpoint / "config.json", **changes)
    with pytest.raises(CheckpointError, match=message):
        read_model_config(checkpoint)


@pytest.mark.parametrize("text", ["{", "[]", "\xff", "nul", '{"a": ' * 100000])
def test_broken_json_is_one_line(checkpoint, text):
    (checkpoint / "config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(CheckpointError, match=r"config\.json") as error:
        read_model_config(checkpoint)
    assert "\n" not in str(error.value)


def test_a_folder_without_config_is_no_checkpoint(tmp_path):
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        read_model_config(tmp_path)


@pytest.mark.parametrize(
    ("name", "sampling"),
    [
        ("LFM2-VL-450M", Sampling(temperature=0.1, min_p=0.15, repetition_penalty=1.05)),
        ("LFM2.5-VL-1.6B", Sampling(temperature=0.1, min_p=0.15, repetition_penalty=1.05)),
        ("LFM2.5-VL-450M", Sampling(temperature=0.1, min_p=0.15, repetition_penalty=1.05)),
    ],
)
def test_recommended_sampling(published, name, sampling):
    folder = published(name)
    assert read_model_config(folder).sampling == sampling
    assert read_model_config(folder, f"LiquidAI/{name}-Extract").sampling == Sampling()


def test_the_3b_of_the_second_generation_has_its_own_sampling(checkpoint):
    types = ["conv", "full_attention"] * 15
    edit_json(checkpoint / "config.json", text_config__layer_types=types)
    edit_json(checkpoint / "config.json", text_config__num_hidden_layers=30)
    assert read_model_config(checkpoint).sampling == Sampling(temperature=0.2, top_k=50)


def test_the_generation_config_decides_if_it_says_something(checkpoint):
    path = checkpoint / "generation_config.json"
    edit_json(path, do_sample=True, temperature=0.7, top_k=20)
    assert read_model_config(checkpoint).sampling == Sampling(temperature=0.7, top_k=20)
    edit_json(path, do_sample=False)
    assert read_model_config(checkpoint).sampling == Sampling()
    edit_json(path, do_sample=True, temperature=-1)
    with pytest.raises(CheckpointError, match="temperature -1"):
        read_model_config(checkpoint)


def test_all_end_ids_are_read(checkpoint):
    edit_json(checkpoint / "generation_config.json", eos_token_id=[2, 7])
    assert read_model_config(checkpoint).eos_token_ids == (2, 7)


ADJUSTED = {
    "text_config__block_auto_adjust_ff_dim": True,
    "text_config__block_ffn_dim_multiplier": 1024,
    "text_config__block_multiple_of": 1,
}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text_config__layer_types": 3}, "not a list of strings"),
        ({"text_config__layer_types": [["conv"]] * 3}, "not a list of strings"),
        ({"text_config__layer_types": None, "text_config__full_attn_idxs": 3}, "expected a list"),
        ({"architectures": 3}, "architectures 3"),
        ({"text_config__vocab_size": 10**12}, "vocab_size is 1000000000000, expected"),
        ({"text_config__norm_eps": float("nan")}, "norm_eps is nan"),
        ({"image_token_id": "5"}, "image_token_id is '5'"),
        ({"quantization": "4bit"}, "quantization is not a JSON object"),
        (
            {"text_config__rope_parameters": {"type": "yarn", "rope_theta": 1e6}},
            "type 'yarn' is not supported",
        ),
        (
            {"text_config__rope_parameters": {"partial_rotary_factor": 0.5, "rope_theta": 1e6}},
            "partial_rotary_factor 0.5",
        ),
        ({"tie_word_embeddings": "false"}, "tie_word_embeddings is 'false', expected bool"),
        ({"text_config__tie_embedding": [False]}, "tie_embedding is .False., expected bool"),
        ({**ADJUSTED, "text_config__block_ff_dim": 1}, "have 0 rows"),
        ({**ADJUSTED, "text_config__block_ffn_dim_multiplier": 1e-30}, "have 0 rows"),
        ({**ADJUSTED, "text_config__block_ff_dim": 2**20}, "rows, expected 1 to"),
    ],
)
def test_values_of_a_wrong_kind_are_named(checkpoint, changes, message):
    edit_json(checkpoint / "config.json", **changes)
    with pytest.raises(CheckpointError, match=message):
        read_model_config(checkpoint)


def test_what_is_implemented_may_be_said(checkpoint):
    theta = read_model_config(checkpoint).text.rope_theta
    edit_json(
        checkpoint / "config.json",
        projector_hidden_act="gelu",
        vision_config__hidden_act="gelu_pytorch_tanh",
        vision_config__vision_use_head=False,
        text_config__conv_bias=False,
        text_config__use_pos_enc=True,
        text_config__block_use_swiglu=True,
        text_config__rope_parameters={
            "rope_type": "default",
            "type": "default",
            "partial_rotary_factor": 1.0,
            "rope_theta": theta,
        },
    )
    assert read_model_config(checkpoint).text.rope_theta == theta


@pytest.mark.parametrize(
    "values", [{"top_k": 1.5}, {"do_sample": "yes"}, {"do_sample": []}, {"do_sample": 1}]
)
def test_sampling_settings_of_a_wrong_kind_are_named(checkpoint, values):
    edit_json(checkpoint / "generation_config.json", **{"temperature": 0.5, **values})
    with pytest.raises(CheckpointError, match=next(iter(values))):
        read_model_config(checkpoint)


@pytest.mark.parametrize("ids", ["7", [[7]], 7.5])
def test_end_ids_of_a_wrong_kind_are_named(checkpoint, ids):
    edit_json(checkpoint / "generation_config.json", eos_token_id=ids)
    with pytest.raises(CheckpointError, match="eos_token_id is"):
        read_model_config(checkpoint)


def test_end_id_zero_is_an_id(checkpoint):
    edit_json(checkpoint / "generation_config.json", eos_token_id=0)
    assert read_model_config(checkpoint).eos_token_ids == (0,)


def test_a_number_of_five_thousand_digits_is_broken_json(checkpoint):
    (checkpoint / "config.json").write_text('{"a": ' + "1" * 5000 + "}")
    with pytest.raises(CheckpointError, match="cannot be read as JSON"):
        read_model_config(checkpoint)


@pytest.mark.parametrize("name", ["/home/x/extracted/LFM2-VL-450M", "extract", "me/LFM2-VL"])
def test_only_the_models_own_name_tells_an_extract_model(checkpoint, name):
    assert read_model_config(checkpoint, name).sampling.temperature > 0
    assert read_model_config(checkpoint, f"{name}-Extract").sampling == Sampling()
