"""The card of a converted checkpoint."""

import shutil

import pytest
from conftest import golden
from conversions import convert_command
from light_work import lighten

from mlx_lfm2vl.commands.convert import main
from mlx_lfm2vl.quantize.model_card import two_digits, write_model_card


def test_licence_and_card_of_the_source_are_kept(tmp_path, monkeypatch):
    lighten(monkeypatch)
    source = shutil.copytree(golden("new_names").folder, tmp_path / "source")
    (source / "LICENSE").write_text("LFM Open License v1.0")
    front = "license: other\nlicense_name: lfm1.0\nlanguage:\n- en\n- ja\ntags:\n- liquid"
    (source / "README.md").write_text(f"---\n{front}\n---\n# Old card\n")
    assert main([*convert_command(source, tmp_path / "q"), "--dtype", "bfloat16"]) == 0
    card = (tmp_path / "q" / "README.md").read_text()
    assert card.startswith("---\nlicense: other\nlicense_name: lfm1.0\nlanguage:\n- en\n- ja\nlib")
    assert "liquid" not in card.partition("\n---\n")[0].replace("lfm", "")
    assert "Old card" not in card
    assert (tmp_path / "q" / "LICENSE").read_text() == "LFM Open License v1.0"


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


@pytest.mark.parametrize(
    ("value", "shown"),
    [(709518.5, "710,000"), (68.04, "68"), (99.6, "100"), (5, "5.0"), (0.0123, "0.012"), (0, "0")],
)
def test_speeds_have_two_digits(value, shown):
    assert two_digits(value) == shown


@pytest.mark.parametrize(("fastest", "said"), [(1638.4, True), (709518.5, False)])
def test_a_speed_that_means_nothing_is_left_out(fastest, said, tmp_path):
    report = {
        "version": "1", "source": "demo", "output": "out/q", "upload": None,
        "settings": "4 bits", "text_only": False, "kept": {}, "warnings": [],
        "sizes": {"all": {"parameters": 8, "bytes": 4, "bits_per_weight": 4.0}},
        "decode_ceiling": {"M1": fastest / 12, "M3 Ultra": fastest},
    }  # fmt: skip
    write_model_card(tmp_path, tmp_path, report)
    card = (tmp_path / "README.md").read_text()
    assert ("## Speed" in card) == said
    assert ("M1 140, M3 Ultra 1,600." in card) == said
