"""Files and weights of other tools are named, with what to do about them."""

import mlx.core as mx
import pytest
from conftest import edit_json
from weights import EMBEDDING, edit_weights

from mlx_lfm2vl.errors import CheckpointError
from mlx_lfm2vl.loading import load

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"a" * 64 + b"\nsize 9\n"
NAMES = ["config.json", "processor_config.json", "tokenizer.json", "chat_template.jinja"]


@pytest.mark.parametrize("name", [*NAMES, "model.safetensors"])
@pytest.mark.parametrize(
    ("data", "message"),
    [
        (POINTER, "is a Git LFS pointer.*run git lfs pull"),
        (b"", "is empty: download it again"),
        (b"\n<!DOCTYPE html><html>" + b"x" * 9999, "is a web page"),
        (b"PK\3\4" + b"x" * 9999, "is a zip archive"),
        (b"GGUF\3" + b"x" * 9999, "is a GGUF file"),
    ],
)
def test_a_file_of_another_kind_is_named(checkpoint, name, data, message):
    (checkpoint / name).write_bytes(data)
    with pytest.raises(CheckpointError, match=f"{name} {message}") as error:
        load(checkpoint)
    assert "\n" not in str(error.value)


LAYER = "model.language_model.layers.0.conv.in_proj"
INTEGERS = mx.zeros((48, 2), mx.int32)
BYTES = mx.zeros((48, 16), mx.uint8)
PACKED = {
    "gptq": {"qweight": INTEGERS, "qzeros": INTEGERS, "scales": mx.ones(3), "g_idx": INTEGERS},
    "awq": {"qweight": INTEGERS, "qzeros": INTEGERS, "scales": mx.ones((2, 24))},
    "bitsandbytes": {"weight": BYTES, "weight.absmax": mx.zeros(3)},
    "bitsandbytes 8": {"weight": BYTES.astype(mx.int8), "SCB": mx.zeros(48)},
    "fp8": {"weight": BYTES, "weight_scale_inv": mx.ones((1, 1))},
    "bare fp8": {"weight": BYTES},
    "compressed-tensors": {"weight_packed": INTEGERS, "weight_scale": mx.ones((48, 1))},
    "hqq": {"W_q": BYTES},
}


@pytest.mark.parametrize("tool", PACKED)
def test_weights_that_others_packed_are_refused_with_the_way_out(checkpoint, tool):
    def pack(weights):
        del weights[f"{LAYER}.weight"]
        weights.update({f"{LAYER}.{name}": value for name, value in PACKED[tool].items()})

    edit_weights(checkpoint, pack)
    way_out = "which is not read: take the 16-bit model"
    with pytest.raises(CheckpointError, match=f"the weights are packed by .*{way_out}"):
        load(checkpoint)
    edit_json(checkpoint / "config.json", quantization_config={"quant_method": tool, "bits": 4})
    with pytest.raises(CheckpointError, match=f"packed by '{tool}', {way_out}"):
        load(checkpoint)


@pytest.mark.parametrize("method", ["bitsandbytes", "fp8", "gptq", "awq", "compressed-tensors"])
def test_the_tensors_decide_whether_weights_are_packed(checkpoint, method, caplog):
    edit_json(checkpoint / "config.json", quantization_config={"quant_method": method, "bits": 4})
    load(checkpoint)
    assert caplog.messages == [f"config.json says quantized by '{method}', but the weights are not"]


def test_scales_without_a_weight_are_refused(checkpoint):
    edit_weights(checkpoint, lambda w: w.update({"lm_head.scales": mx.ones((2, 2))}))
    with pytest.raises(CheckpointError, match=r"lm_head has scales but no weight"):
        load(checkpoint)
    edit_weights(checkpoint, lambda w: (w.pop("lm_head.scales"), w.pop(EMBEDDING)))
    with pytest.raises(CheckpointError, match=r"1 missing: language_model.embed_tokens.weight$"):
        load(checkpoint)
