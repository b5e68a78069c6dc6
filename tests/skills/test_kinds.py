"""Which checkpoint is meant: told by its configuration."""

import pytest
from conftest import edit_json, golden

from mlx_lfm2vl.checkpoint.config import read_model_config
from mlx_lfm2vl.checkpoint.find import find_checkpoint
from mlx_lfm2vl.skills.kinds import checkpoint_kind


@pytest.mark.parametrize(
    ("folder", "name", "kind"),
    [
        ("LFM2.5-VL-450M", "any/name", "450m"),
        ("LFM2.5-VL-450M", "LiquidAI/LFM2.5-VL-450M-Extract", "extract"),
        ("LFM2.5-VL-450M", "models-extract/vl", "450m"),
        ("LFM2.5-VL-1.6B", "any/name", "1.6b"),
        ("LFM2.5-VL-1.6B", "me/LFM2.5-VL-1.6B-Extract-4bit", "extract"),
        ("LFM2-VL-450M", "any/name", "other"),
    ],
)
def test_published_configurations_tell_their_kind(published, folder, name, kind):
    assert checkpoint_kind(read_model_config(published(folder), name)) == kind


def test_a_copy_of_an_extract_model_is_known_by_the_name_in_its_configuration(published):
    folder = published("LFM2.5-VL-450M")
    edit_json(folder / "config.json", _name_or_path="LiquidAI/LFM2.5-VL-450M-Extract")
    assert checkpoint_kind(read_model_config(folder, "copy")) == "extract"


def test_the_3b_is_told_by_its_layers(published):
    folder = published("LFM2.5-VL-1.6B")
    attention = (2, 5, 9, 13, 17, 21, 24, 27)
    types = ["full_attention" if i in attention else "conv" for i in range(30)]
    edit_json(
        folder / "config.json", text_config__layer_types=types, text_config__num_hidden_layers=30
    )
    assert checkpoint_kind(read_model_config(folder)) == "3b"


def test_the_demo_model_and_unknown_sizes_have_their_kinds():
    assert checkpoint_kind(read_model_config(find_checkpoint("demo"))) == "demo"
    assert checkpoint_kind(read_model_config(golden("new_names").folder, "x-Extract")) == "other"
