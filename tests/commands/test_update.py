"""`--update`, and what the commands say when the Hub fails."""

import importlib

import pytest
from conftest import golden
from hub_server import REPO, serving, use_hub

from mlx_lfm2vl.checkpoint.find import find_checkpoint
from mlx_lfm2vl.commands.generate import main

ASK = ["--model", REPO, "--prompt", "Hi", "--max-tokens", "1"]


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with serving(golden("new_names").folder) as server:
        use_hub(monkeypatch, server.url, tmp_path / "home")
        yield server


@pytest.mark.parametrize("name", ["benchmark", "convert", "fuse", "generate", "train"])
def test_every_command_that_takes_a_model_can_update_it(name):
    parser = importlib.import_module(f"mlx_lfm2vl.commands.{name}").build_parser()
    help_text = parser.format_help()
    assert ("--update" in help_text) == ("--model" in help_text) is True


def test_a_newer_model_is_used_only_when_asked_for(hub, capsys):
    assert main(ASK) == 0
    first = find_checkpoint(REPO)
    hub.commit = "b" * 40
    hub.forget()
    assert main(ASK) == 0
    assert hub.requests == []
    assert find_checkpoint(REPO) == first
    assert main([*ASK, "--update"]) == 0
    assert find_checkpoint(REPO).name == "b" * 40
    assert main([*ASK, "--update"]) == 0
    assert capsys.readouterr().err.splitlines()[-1] == "note: me/tiny has no newer revision"


def test_convert_updates_too(hub, tmp_path):
    from mlx_lfm2vl.commands.convert import main as convert

    find_checkpoint(REPO)
    hub.commit = "b" * 40
    arguments = ["--model", REPO, "--output", str(tmp_path / "q"), "--dtype", "float16"]
    assert convert([*arguments, "--no-report", "--update"]) == 0
    assert find_checkpoint(REPO).name == "b" * 40


@pytest.mark.parametrize("status", [401, 403, 404, 429, 500])
def test_a_refusal_is_one_line_and_exit_code_1(hub, capsys, status):
    hub.refusal = status, {}
    assert main(ASK) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: me/tiny is not a folder, not in the local cache, and cannot be")
    assert f"({status})" in line


def test_a_dropped_connection_is_one_line_and_exit_code_1(hub, capsys):
    find_checkpoint(REPO, with_weights=False)
    hub.left = 60_000
    assert main(ASK) == 1
    note, line = capsys.readouterr().err.splitlines()
    assert note == "note: downloading me/tiny from the Hub (88.5 kB)"
    assert line.endswith("was lost; run it again: it continues where it stopped")
    hub.left = None
    hub.forget()
    assert main(ASK) == 0
    assert hub.sent == {"model.safetensors": 28_488}


def test_a_folder_cannot_be_updated(checkpoint, capsys):
    assert main(["--model", str(checkpoint), "--prompt", "Hi", "--update"]) == 2
    assert "--update is for repositories of the Hub" in capsys.readouterr().err
