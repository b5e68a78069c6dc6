"""A cache that other clients of the Hub have filled, wholly or in part."""

import json
import shutil

import pytest
from conftest import golden
from hub_server import REPO, filled, serving, use_hub

from mlx_lfm2vl.checkpoint.cached_copy import repo_folder
from mlx_lfm2vl.checkpoint.find import find_checkpoint
from mlx_lfm2vl.errors import CheckpointError, NetworkError


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with serving(golden("new_names").folder) as server:
        use_hub(monkeypatch, server.url, tmp_path)
        yield server


@pytest.fixture
def sharded(monkeypatch, tmp_path):
    with serving(golden("untied_sharded_bf16").folder) as server:
        use_hub(monkeypatch, server.url, tmp_path)
        yield server


@pytest.mark.parametrize("listed", [False, True])
def test_what_another_client_downloaded_is_used_without_a_request(hub, listed):
    # Such a client keeps the list of all files, of which it fetched those that it wanted.
    tree = sorted(hub.files) if listed else None
    copy = filled(golden("new_names").folder, tree=tree)
    assert find_checkpoint(REPO) == copy
    assert hub.requests == []


@pytest.mark.parametrize("offline", [True, False])
def test_a_missing_shard_is_named(sharded, monkeypatch, offline):
    shard = "model-00002-of-00004.safetensors"
    filled(golden("untied_sharded_bf16").folder, without=[shard])
    assert find_checkpoint(REPO, with_weights=False).is_dir()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", offline)
    if offline:
        with pytest.raises(NetworkError, match=f"in the local cache, but lacks {shard}, .*OFFLINE"):
            find_checkpoint(REPO)
        return
    sharded.commit = "b" * 40  # a newer commit, from which the shard must not come
    with pytest.raises(CheckpointError, match=f"lacks {shard}"):
        find_checkpoint(REPO)
    sharded.commit = "a" * 40
    sharded.forget()
    find_checkpoint(REPO)
    assert sharded.paths() == ["README.md", shard]


@pytest.mark.parametrize("name", ["chat_template.jinja", "tokenizer_config.json"])
def test_a_small_file_that_another_client_left_out_is_fetched(hub, monkeypatch, name):
    filled(golden("new_names").folder, without=[name])
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(NetworkError, match=f"lacks {name}, which cannot be fetched"):
        find_checkpoint(REPO, with_weights=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    assert (find_checkpoint(REPO) / name).read_bytes() == hub.files[name]
    hub.forget()
    find_checkpoint(REPO)
    assert hub.requests == []


def test_a_listed_file_that_another_client_left_out_is_fetched(hub):
    source, name = golden("new_names").folder, "generation_config.json"
    filled(source, without=[name], tree=sorted(hub.files))
    assert (find_checkpoint(REPO) / name).exists()


def test_a_template_in_the_tokenizers_settings_is_enough(hub):
    copy = filled(golden("new_names").folder, without=["chat_template.jinja"])
    settings = json.loads((copy / "tokenizer_config.json").read_text())
    settings["chat_template"] = "{{ messages }}"
    (copy / "tokenizer_config.json").write_text(json.dumps(settings))
    assert find_checkpoint(REPO) == copy
    assert hub.requests == []


def test_a_file_that_the_repository_does_not_have_is_asked_for_once(hub):
    filled(golden("new_names").folder, without=["tokenizer_config.json"])
    del hub.files["tokenizer_config.json"]
    find_checkpoint(REPO)
    assert hub.requests
    hub.forget()
    find_checkpoint(REPO)
    assert hub.requests == []


def test_the_hubs_own_client_and_this_package_share_a_cache(hub):
    import huggingface_hub

    folder = find_checkpoint(REPO)
    assert huggingface_hub.snapshot_download(REPO, local_files_only=True) == str(folder)
    found = huggingface_hub.scan_cache_dir(repo_folder(REPO).parent)
    assert found.warnings == []
    assert [repo.repo_id for repo in found.repos] == [REPO]
    shutil.rmtree(repo_folder(REPO))

    patterns = ["*.json", "*.jinja", "*.safetensors"]
    folder = huggingface_hub.snapshot_download(REPO, allow_patterns=patterns)
    assert (repo_folder(REPO) / "trees").is_dir()
    hub.forget()
    assert str(find_checkpoint(REPO)) == folder
    assert hub.requests == []
