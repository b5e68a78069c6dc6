"""Hostile configurations and weights load or are refused by a documented error, quickly."""

import contextlib
import json
import os
import random
import time
from itertools import product
from pathlib import Path

import pytest
from conftest import edit_json, golden
from mutations import HOSTILE, damage_bytes, damage_json, places, seeds

from mlx_lfm2vl.checkpoint.config import read_model_config
from mlx_lfm2vl.checkpoint.image_config import read_image_config
from mlx_lfm2vl.checkpoint.json_file import MAX_JSON_BYTES, read_json, shown
from mlx_lfm2vl.errors import CheckpointError, InputError
from mlx_lfm2vl.loading import load
from mlx_lfm2vl.saving import save_checkpoint

CONFIGS = ("config.json", "processor_config.json", "generation_config.json")
SOURCE = golden("new_names").folder


@pytest.mark.parametrize("step", [7, pytest.param(1, marks=pytest.mark.slow)])
def test_every_number_of_a_configuration_is_read_or_refused(checkpoint, step):
    """All keys that are used, each with every step-th of all kinds of hostile values."""
    edit_json(
        checkpoint / "config.json",
        text_config__block_auto_adjust_ff_dim=True,
        text_config__block_ffn_dim_multiplier=1.0,
        text_config__block_multiple_of=8,
        text_config__head_dim=8,
        vision_feature_layer=-1,
    )
    edit_json(checkpoint / "generation_config.json", do_sample=True, temperature=0.5, top_k=50)
    edit_json(checkpoint / "processor_config.json", image_processor__image_std=[0.5, 0.5, 0.5])
    refused = 0
    for name in CONFIGS:
        path = checkpoint / name
        text = path.read_text()
        values = json.loads(text)
        for number, (container, key) in enumerate(places(values)):
            usual = container[key]
            for value in HOSTILE[number % step :: step]:
                container[key] = value
                path.write_text(json.dumps(values))
                try:
                    read_model_config(checkpoint)
                    read_image_config(checkpoint)
                except CheckpointError as error:
                    refused += len(str(error)) < 1000
            container[key] = usual
        path.write_text(text)
    assert refused > 500 / step


@pytest.mark.parametrize(
    "changes",
    [
        {"vision_config__num_hidden_layers": 10**6},
        {"vision_config__num_hidden_layers": 1000, "vision_config__hidden_size": 2**20},
        {"vision_config__hidden_size": 2**30},
        {"text_config__vocab_size": 2**24, "text_config__hidden_size": 2**20},
        {"downsample_factor": 2**30},
        {"projector_hidden_size": 2**31 - 1},
        {"text_config__conv_L_cache": 2**31 - 1},
        {"vision_config__num_patches": 2**20, "vision_config__hidden_size": 2**20},
    ],
    ids=str,
)
def test_huge_sizes_are_refused_before_they_take_time_or_memory(checkpoint, changes):
    edit_json(checkpoint / "config.json", **changes)
    begun = time.process_time()
    with pytest.raises(CheckpointError):
        load(checkpoint)
    assert time.process_time() - begun < 10


@pytest.mark.parametrize(
    "changes",
    [
        {"min_image_tokens": 10**9, "max_image_tokens": 10**9},
        {"min_image_tokens": 10**6, "max_image_tokens": 10**6},
        {"tile_size": 2**24},
        {"tile_size": 2**12, "max_tiles": 100},
    ],
    ids=str,
)
def test_image_settings_that_take_up_memory_are_refused(checkpoint, changes):
    names = {f"image_processor__{name}": value for name, value in changes.items()}
    edit_json(checkpoint / "processor_config.json", **names)
    with pytest.raises(CheckpointError, match="allow images of more than"):
        read_image_config(checkpoint)


def test_the_largest_integer_of_transformers_is_no_error(checkpoint):
    edit_json(checkpoint / "tokenizer_config.json", model_max_length=int(1e30))
    load(checkpoint)


def test_nested_and_huge_json_is_refused(tmp_path):
    path = tmp_path / "config.json"
    path.write_bytes(b"[" * 100_000 + b"]" * 100_000)
    with pytest.raises(CheckpointError, match="cannot be read as JSON"):
        read_json(path)
    with path.open("wb") as file:
        file.truncate(MAX_JSON_BYTES + 1)
    with pytest.raises(CheckpointError, match="is too large"):
        read_json(path)


def test_half_a_character_is_refused_where_it_is_read(checkpoint):
    edit_json(checkpoint / "tokenizer_config.json", image_end_token="\ud800")
    with pytest.raises(CheckpointError, match=r"tokenizer_config\.json cannot be read as JSON"):
        load(checkpoint)


def test_a_message_shows_the_beginning_of_a_value():
    assert shown("a" * 1000).endswith("aaa...")
    assert len(shown([10**400])) < 80
    assert "\n" not in shown("a\nb")


NAMES = ("config.json", "tokenizer.json", "chat_template.jinja")
KINDS = ("device", "pipe", "folder", "loop")
CASES = [*product(NAMES, (*KINDS, "link")), *product(["model.safetensors"], KINDS)]


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_only_plain_files_in_the_folder_are_opened(checkpoint, tmp_path, name, kind):
    path = checkpoint / name
    outside = tmp_path / "outside"
    path.rename(outside)
    make = {
        "device": lambda: path.symlink_to("/dev/zero"),
        "pipe": lambda: os.mkfifo(path),
        "folder": path.mkdir,
        "link": lambda: path.symlink_to(outside),
        "loop": lambda: path.symlink_to(path),
    }
    make[kind]()
    with pytest.raises(CheckpointError) as error:
        load(checkpoint)
    assert name.partition(".")[2] in str(error.value)


def test_weights_may_be_links_to_another_disk_and_stay_there(checkpoint, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    (checkpoint / "model.safetensors").rename(disk / "weights")
    (checkpoint / "model.safetensors").symlink_to(disk / "weights")
    model, _ = load(checkpoint)
    save_checkpoint(model, checkpoint, tmp_path / "new")
    assert not (tmp_path / "new" / "model.safetensors").is_symlink()
    assert (checkpoint / "model.safetensors").is_symlink()


def test_the_hub_caches_links_are_followed_and_so_are_links_within_a_folder(tmp_path):
    snapshot, blobs = tmp_path / "models--a--b/snapshots/1234", tmp_path / "models--a--b/blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for i, path in enumerate(SOURCE.iterdir()):
        (blobs / str(i)).write_bytes(path.read_bytes())
        (snapshot / path.name).symlink_to(Path("../../blobs") / str(i))
    load(snapshot)
    (snapshot / "copy.json").write_bytes((SOURCE / "config.json").read_bytes())
    (snapshot / "config.json").unlink()
    (snapshot / "config.json").symlink_to("copy.json")
    load(snapshot)


def shared_blob(folder: Path, name: str) -> None:
    """Put a cached file among the blobs of all repositories, as the Hub's client does by default.

    The repository's own blob is then a link.
    """
    blob = (folder / name).resolve()
    cache = blob.parents[2]
    place = cache / "blobs" / "c4" / "c4b1"
    place.parent.mkdir(parents=True)
    blob.rename(place)
    blob.symlink_to(Path("../../blobs/c4/c4b1"))


def test_the_hub_caches_shared_blobs_are_followed_and_nothing_else_beside_it(tmp_path):
    cache = tmp_path / "hub"
    snapshot, blobs = cache / "models--a--b/snapshots/1234", cache / "models--a--b/blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for i, path in enumerate(SOURCE.iterdir()):
        (blobs / str(i)).write_bytes(path.read_bytes())
        (snapshot / path.name).symlink_to(Path("../../blobs") / str(i))
    shared_blob(snapshot, "model.safetensors")
    load(snapshot)
    for outside in (cache / "private.json", cache / "blobs" / "private.json"):
        outside.write_bytes((SOURCE / "config.json").read_bytes())
        (snapshot / "config.json").unlink()
        (snapshot / "config.json").symlink_to(outside)
        with pytest.raises(CheckpointError, match="outside of its folder"):
            load(snapshot)


@pytest.mark.parametrize("name", ["a" * 5000 + ".safetensors", "a\0.safetensors", "\n.safetensors"])
def test_impossible_names_in_an_index_are_refused(checkpoint, name):
    (checkpoint / "model.safetensors").unlink()
    index = {"weight_map": {"model.a": name}}
    (checkpoint / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="expected a file in the folder") as error:
        load(checkpoint)
    assert len(str(error.value)) < 500


@seeds(60, 10_000)
def test_damaged_checkpoints_load_or_are_refused(checkpoint, bounds, cases):
    for case in range(cases):
        draw = random.Random(case)
        name = draw.choice((*CONFIGS, "tokenizer_config.json", "model.safetensors"))
        path, whole = checkpoint / name, (SOURCE / name).read_bytes()
        if name.endswith(".json") and draw.random() < 0.8:
            values = json.loads(whole)
            damage_json(values, draw)
            path.write_text(json.dumps(values))
        else:
            at = 6000 if name.endswith(".safetensors") else len(whole)  # the header matters
            path.write_bytes(damage_bytes(whole[:at], draw) + whole[at:])
        with bounds.case(f"{case}: {name}"), contextlib.suppress(CheckpointError, InputError):
            _, processor = load(checkpoint)
            processor([{"role": "user", "content": "Hello"}])
        path.write_bytes(whole)
