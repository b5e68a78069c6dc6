"""Drafters that are loaded, and those that are refused: by name, before a round can go wrong."""

import json
import re
import shutil

import mlx.core as mx
import pytest
from conftest import edit_json
from drafters import DRAFTERS, make_target
from weights import edit_weights

from mlx_lfm2vl import CheckpointError
from mlx_lfm2vl.drafter_loading import load_drafter
from mlx_lfm2vl.loading import load


@pytest.fixture(scope="module")
def target(tmp_path_factory):
    model, _ = load(make_target(tmp_path_factory.mktemp("target"), "tied"), dtype="float32")
    return model


@pytest.fixture
def folder(tmp_path):
    """A copy of a golden drafter, to be changed."""
    return shutil.copytree(DRAFTERS / "tied", tmp_path / "drafter")


DFLASH = json.loads((DRAFTERS / "tied" / "config.json").read_text())["dflash_config"]
REFUSED = {
    "a DFlash drafter": ({"markov_rank": 0}, "DFlash drafter without a Markov head"),
    "a gated head": ({"markov_head_type": "gated"}, "markov_head_type 'gated'"),
    "another head": ({"markov_head_type": "rnn"}, "markov_head_type 'rnn'"),
    "DeepSpec's layout": ({"target_layer_ids": [1, 3]}, "of DeepSpec"),
    "SpecForge's layout": ({"projector_type": "dspark"}, "of SpecForge"),
    "vLLM's layout": ({"speculators_config": {}}, "speculators library"),
    "a reduced vocabulary": ({"draft_vocab_size": 100}, "vocabulary of its own"),
    "causal blocks": ({"dflash_config": {**DFLASH, "causal": True}}, "causal True"),
    "sliding attention": ({"layer_types": ["sliding_attention"] * 2}, "sliding_attention"),
    "blocks without anchor": ({"sample_from_anchor": False}, "sample_from_anchor False"),
    "biases": ({"attention_bias": True}, "attention_bias True"),
    "stretched RoPE": ({"rope_scaling": {"type": "yarn"}}, "rope_scaling"),
    "YaRN": ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e6}}, "rope_type 'yarn'"),
    "the last layer": (
        {"dflash_config": {**DFLASH, "target_layer_ids": [1, 3, 5]}},
        "expected ascending numbers from 0 to 4",
    ),
    "layers out of order": (
        {"dflash_config": {**DFLASH, "target_layer_ids": [3, 1, 4]}},
        "expected ascending",
    ),
    "a mask outside the table": (
        {"dflash_config": {**DFLASH, "mask_token_id": 365}},
        "mask_token_id is 365, expected 0 to 364",
    ),
    "another target's width": ({"hidden_size": 64}, "hidden_size is 64, expected 32"),
    "another target's words": ({"vocab_size": 366}, "vocab_size is 366, expected 365"),
    "another target's depth": (
        {"dflash_config": {**DFLASH, "num_target_layers": 7}},
        "num_target_layers is 7, expected 6",
    ),
    "too many proposals": ({"block_size": 32}, "block_size is 32, expected 1 to 31"),
}


@pytest.mark.parametrize(("change", "said"), REFUSED.values(), ids=REFUSED)
def test_what_is_not_implemented_is_refused_by_its_name(folder, target, change, said):
    edit_json(folder / "config.json", **change)
    with pytest.raises(CheckpointError, match=re.escape(said)) as found:
        load_drafter(folder, target)
    assert "\n" not in str(found.value)


def test_a_model_is_not_taken_for_a_drafter(target, tmp_path):
    with pytest.raises(CheckpointError, match="is a model, not a drafter"):
        load_drafter(make_target(tmp_path, "tied"), target)


def test_a_table_that_is_too_short_is_found_before_it_is_read(folder, target):
    name = "markov_head.markov_w1.weight"
    edit_weights(folder, lambda weights: weights.update({name: weights[name][:100]}))
    with pytest.raises(
        CheckpointError, match=r"markov_w1.weight \[100, 16\], expected \[365, 16\]"
    ):
        load_drafter(folder, target)


def test_copies_of_the_target_s_tables_are_not_loaded(folder, target):
    copies = {"model.embed_tokens.weight": mx.zeros((3, 3)), "lm_head.weight": mx.zeros((3, 3))}
    edit_weights(folder, lambda weights: weights.update(copies))
    assert load_drafter(folder, target).config.block_size == 5


def test_theta_is_found_under_either_key(folder, target):
    edit_json(folder / "config.json", rope_theta=None, rope_parameters={"rope_theta": 123.0})
    assert load_drafter(folder, target).layers[0].self_attn.rope_theta == 123
