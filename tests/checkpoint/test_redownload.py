"""Files that are missing or cut off: the error holds the command that fetches them again."""

import re
import shlex
import shutil
from pathlib import Path

import pytest
from conftest import golden
from hub_caches import put

from mlx_lfm2vl.checkpoint.find import DEMO_FOLDER
from mlx_lfm2vl.checkpoint.redownload import download_again
from mlx_lfm2vl.errors import CheckpointError
from mlx_lfm2vl.loading import load


def command(text: str) -> list[str]:
    found = re.search(r"to download it again: (hf download .*?)( \(REPO|$)", text)
    assert found, text
    return shlex.split(found[1])


@pytest.fixture
def snapshot(tmp_path) -> Path:
    cache = put(tmp_path, "LiquidAI/LFM2.5-VL-450M", "lfm2_vl", 9)
    return next((cache / "snapshots").iterdir())


def test_a_snapshot_of_the_cache_names_its_repository(snapshot):
    text = download_again(snapshot, "model.safetensors")
    expected = "hf download LiquidAI/LFM2.5-VL-450M model.safetensors --force-download"
    assert command(text) == expected.split()
    assert "REPO" not in text


def test_another_revision_than_main_is_named(snapshot):
    (snapshot.parents[1] / "refs" / "main").write_text("another")
    assert f"--revision {snapshot.name} --force" in download_again(snapshot, "a.json")
    (snapshot.parents[1] / "refs" / "main").unlink()
    assert f"--revision {snapshot.name} --force" in download_again(snapshot, "a.json")


def test_a_folder_is_filled_where_it_is(tmp_path):
    folder = tmp_path / "my model"
    text = download_again(folder, "a b.json")
    assert text.endswith("(REPO is its name on the Hub)")
    expected = ["hf", "download", "REPO", "a b.json", "--local-dir", str(folder)]
    assert command(text) == [*expected, "--force-download"]


def test_many_files_are_fetched_with_the_whole_repository(snapshot):
    text = download_again(snapshot, *(f"{number}.safetensors" for number in range(9)))
    assert "safetensors" not in text


def test_the_built_in_model_is_installed_again():
    assert download_again(DEMO_FOLDER, "config.json") == "install mlx-lfm2vl again"


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("model.safetensors", 60_000),
        ("model.safetensors", 5),
        ("model.safetensors", None),
        ("processor_config.json", None),
        ("tokenizer.json", None),
        ("chat_template.jinja", None),
    ],
)
def test_every_file_that_is_missing_or_cut_off_is_named_in_the_command(tmp_path, name, kept):
    folder = shutil.copytree(golden("new_names").folder, tmp_path / "model")
    whole = (folder / name).read_bytes()
    (folder / name).unlink()
    if kept is not None:
        (folder / name).write_bytes(whole[:kept])
    with pytest.raises(CheckpointError) as error:
        load(str(folder))
    words = command(str(error.value))
    assert words[:3] == ["hf", "download", "REPO"]
    assert (name in words) != (name == "model.safetensors" and kept is None)
    assert words[-3:] == ["--local-dir", str(folder), "--force-download"]


def test_a_missing_shard_is_named_in_the_command(tmp_path):
    folder = shutil.copytree(golden("untied_sharded_bf16").folder, tmp_path / "model")
    shard = sorted(folder.glob("model-*.safetensors"))[1]
    shard.unlink()
    with pytest.raises(CheckpointError) as error:
        load(str(folder))
    assert shard.name in command(str(error.value))
