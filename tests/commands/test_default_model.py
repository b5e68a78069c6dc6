"""The model of a command that names none."""

from pathlib import Path

import pytest

from mlx_lfm2vl.commands.default_model import chosen_model
from mlx_lfm2vl.errors import InputError


@pytest.fixture
def settings(tmp_path, monkeypatch) -> Path:
    """The settings file of a user, not written yet; the current folder is empty."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    (tmp_path / "config" / "mlx_lfm2vl").mkdir(parents=True)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "config" / "mlx_lfm2vl" / "config.toml"


def test_the_option_comes_before_the_environment_and_that_before_the_file(settings, monkeypatch):
    settings.write_text('model = "1.6b"\n')
    assert chosen_model(None) == "LiquidAI/LFM2.5-VL-1.6B"
    monkeypatch.setenv("LFM2VL_MODEL", "me/mine")
    assert chosen_model(None) == "me/mine"
    assert chosen_model("450M") == "LiquidAI/LFM2.5-VL-450M"


def test_a_folder_comes_before_an_alias(settings):
    assert chosen_model("450m") == "LiquidAI/LFM2.5-VL-450M"
    assert settings.parent.is_dir()
    Path("450m").mkdir()
    assert chosen_model("450m") == "450m"


def test_no_model_is_refused_with_every_way_to_name_one(settings, monkeypatch):
    monkeypatch.setenv("LFM2VL_MODEL", "")
    with pytest.raises(InputError, match=r"--model 450m, or set LFM2VL_MODEL .*config\.toml"):
        chosen_model(None)
    assert not settings.exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('modle = "demo"', "unknown key 'modle', expected model"),
        ("model = 3", "model is 3, expected a string"),
        ("model =", "cannot be read"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, text, message):
    settings.write_text(text)
    with pytest.raises(InputError, match=message):
        chosen_model(None)
    assert chosen_model("demo") == "demo"
