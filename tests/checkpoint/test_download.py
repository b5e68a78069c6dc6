"""The Hub, as a small server on the loopback plays it: what is fetched, and what goes wrong."""

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from conftest import golden
from filelock import FileLock
from hub_server import REPO, SILENCE, filled, serving, silence, use_hub
from huggingface_hub.utils import close_session

from mlx_lfm2vl.checkpoint.cached_copy import repo_folder
from mlx_lfm2vl.checkpoint.find import find_checkpoint
from mlx_lfm2vl.checkpoint.hub_cache import describe_hub
from mlx_lfm2vl.checkpoint.publish import publish
from mlx_lfm2vl.errors import CheckpointError, InputError, NetworkError
from mlx_lfm2vl.loading import load

SMALL = ["chat_template.jinja", "config.json", "generation_config.json", "processor_config.json"]
SMALL += ["tokenizer.json", "tokenizer_config.json"]


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with serving(golden("new_names").folder) as server:
        use_hub(monkeypatch, server.url, tmp_path)
        yield server


def test_the_first_start_fetches_only_what_is_needed(hub, caplog):
    folder = find_checkpoint(REPO)
    assert hub.paths() == sorted([*SMALL, "README.md", "model.safetensors"])
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        name: hub.files[name] for name in hub.paths()
    }
    assert caplog.messages == ["downloading me/tiny from the Hub (88.5 kB)"]
    assert load(REPO)[0].config.image_token_id == 5


def test_the_second_start_asks_nothing(hub):
    find_checkpoint(REPO, with_weights=False)
    assert "model.safetensors" not in hub.paths()
    folder = find_checkpoint(REPO)
    hub.forget()
    hub.commit = "b" * 40  # and a newer commit is not taken unasked
    assert find_checkpoint(REPO) == find_checkpoint(REPO, with_weights=False) == folder
    assert hub.requests == []


def test_a_stalled_network_does_not_delay_a_complete_copy(monkeypatch, tmp_path):
    with silence() as url:
        use_hub(monkeypatch, url, tmp_path)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DOWNLOAD_TIMEOUT", 600)
        copy = filled(golden("new_names").folder, tree=[".gitattributes", "config.json"])
        assert find_checkpoint(REPO) == copy


def test_an_update_takes_the_new_commit_and_nothing_that_is_there(hub, caplog):
    old = find_checkpoint(REPO)
    hub.commit = "b" * 40
    hub.files["generation_config.json"] = b"{}"
    hub.forget()
    new = find_checkpoint(REPO, update=True)
    assert new != old
    assert (new / "generation_config.json").read_text() == "{}"
    assert hub.paths() == ["generation_config.json"]
    assert find_checkpoint(REPO) == new
    caplog.clear()
    find_checkpoint(REPO, update=True)
    assert caplog.messages == ["me/tiny has no newer revision"]


def test_a_failed_update_leaves_the_old_commit_in_use(hub):
    old = find_checkpoint(REPO)
    hub.commit = "b" * 40
    hub.files["model.safetensors"] += b"more"
    hub.left = 100
    with pytest.raises(NetworkError, match=r"cannot be updated: .* was lost.*local copy is used"):
        find_checkpoint(REPO, update=True)
    assert find_checkpoint(REPO) == old


@pytest.mark.parametrize("model", ["demo", "folder"])
def test_only_repositories_are_updated(model):
    model = str(golden("new_names").folder) if model == "folder" else model
    with pytest.raises(InputError, match="--update is for repositories of the Hub"):
        find_checkpoint(model, update=True)


def test_a_dropped_download_continues_on_the_next_run(hub):
    whole = len(hub.files["model.safetensors"])
    hub.left = 60_000
    with pytest.raises(NetworkError, match="connection to .* was lost; run it again: it continues"):
        find_checkpoint(REPO)
    hub.left = None
    hub.forget()
    folder = find_checkpoint(REPO)
    assert hub.paths() == ["model.safetensors"]
    assert hub.sent == {"model.safetensors": whole - 60_000 + 19_389}
    assert (folder / "model.safetensors").read_bytes() == hub.files["model.safetensors"]


def test_a_connection_that_drops_once_is_taken_up_again(hub, monkeypatch):
    pauses = []

    def sleep(seconds):
        pauses.append(seconds)
        hub.left = None

    monkeypatch.setattr("time.sleep", sleep)
    hub.left = 60_000
    folder = find_checkpoint(REPO)
    assert pauses == [0.0]
    assert (folder / "model.safetensors").read_bytes() == hub.files["model.safetensors"]


def test_a_server_that_only_sends_whole_files_is_asked_again(hub):
    hub.left, hub.honours_range = 60_000, False
    with pytest.raises(NetworkError, match="was lost"):
        find_checkpoint(REPO)
    hub.left = None
    folder = find_checkpoint(REPO)
    assert (folder / "model.safetensors").read_bytes() == hub.files["model.safetensors"]


def test_a_damaged_part_is_not_continued(hub):
    hub.left = 60_000
    with pytest.raises(NetworkError, match="was lost"):
        find_checkpoint(REPO)
    (partial,) = repo_folder(REPO).rglob("*.incomplete")
    partial.write_bytes(b"\1" * partial.stat().st_size)
    hub.left = None
    with pytest.raises(NetworkError, match="of model.safetensors is damaged; run it again"):
        find_checkpoint(REPO)
    folder = find_checkpoint(REPO)
    assert (folder / "model.safetensors").read_bytes() == hub.files["model.safetensors"]


def refusal(status, **headers):
    return status, {name.replace("_", "-"): value for name, value in headers.items()}


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        (refusal(401), CheckpointError, r"no repo of this name, or it is private \(401\)"),
        (refusal(403, X_Error_Code="GatedRepo"), CheckpointError, "gated .403.: accept its lic"),
        (refusal(401, X_Error_Code="GatedRepo"), CheckpointError, "hf auth login"),
        (refusal(403), CheckpointError, "forbidden .403.: it is private or gated"),
        (
            refusal(403, X_Error_Message="Access to this resource is disabled."),
            CheckpointError,
            "the Hub has disabled it .403.",
        ),
        (
            refusal(404, X_Error_Code="RepoNotFound"),
            CheckpointError,
            "no repo of this name.*spelling",
        ),
        (refusal(404), CheckpointError, "no repo of this name.*spelling"),
        (refusal(404, X_Error_Code="RevisionNotFound"), CheckpointError, "has no branch main; n"),
        (refusal(429, Retry_After="17"), NetworkError, "too many requests .429.: wait 17 seconds"),
        (refusal(429), NetworkError, "too many requests .429.: wait some minutes"),
        (refusal(500), NetworkError, "a fault of its own .500.: try again later"),
        (refusal(503), NetworkError, "a fault of its own .503.: try again later"),
        (refusal(418), NetworkError, "the Hub answers 418: "),
        (refusal(200), NetworkError, "did not answer as the Hub does"),
    ],
)
def test_a_refusal_says_what_it_was_and_what_to_do(hub, answer, kind, words):
    hub.refusal = answer
    with pytest.raises(kind, match=words) as caught:
        find_checkpoint(REPO)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("status", [403, 429, 503])
@pytest.mark.parametrize("where", ["/resolve/.*tensors", "/cdn/.*tensors"])
def test_a_refusal_in_the_middle_leaves_what_is_there(hub, status, where):
    hub.refusal, hub.refuses = refusal(status), where
    find_checkpoint(REPO, with_weights=False)
    with pytest.raises((CheckpointError, NetworkError), match=f"lacks model.*{status}"):
        find_checkpoint(REPO)
    hub.refusal = None
    hub.forget()
    find_checkpoint(REPO)
    assert hub.paths() == ["model.safetensors"]


def test_a_bad_token_is_named(hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_old")
    hub.refusal = refusal(401, X_Error_Message="Invalid credentials in Authorization header")
    with pytest.raises(
        NetworkError, match=r"token as wrong or expired \(401\): set HF_TOKEN .*hf a"
    ):
        find_checkpoint(REPO)
    assert hub.tokens == {"Bearer hf_old"}


@pytest.mark.usefixtures("hub")
def test_a_revision_that_does_not_exist_is_named():
    with pytest.raises(CheckpointError, match="it has no revision v9"):
        find_checkpoint(REPO, "v9")


def test_a_silent_server_is_said_after_the_time_limit(monkeypatch, tmp_path):
    with silence() as url:
        use_hub(monkeypatch, url, tmp_path)
        with pytest.raises(NetworkError, match=f"has sent nothing for {SILENCE} seconds"):
            find_checkpoint(REPO)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://127.0.0.1:1", "cannot be reached .*refused"),
        ("http://nowhere.invalid", "nowhere.invalid has no address here: check the network"),
        ("nowhere", "HF_ENDPOINT is nowhere, expected https"),
    ],
)
def test_a_hub_that_cannot_be_reached_is_one_line(monkeypatch, tmp_path, url, words):
    use_hub(monkeypatch, url, tmp_path)
    with pytest.raises(NetworkError, match=words) as caught:
        find_checkpoint(REPO)
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("hub")
def test_a_proxy_that_refuses_is_named(monkeypatch):
    monkeypatch.setenv("http_proxy", "http://me:secret@127.0.0.1:1")
    monkeypatch.setenv("no_proxy", "")
    close_session()  # proxies are read once
    try:
        with pytest.raises(NetworkError, match="through the proxy 127.0.0.1:1 .*refused"):
            find_checkpoint(REPO)
    finally:
        close_session()


def test_a_repository_without_weights_is_said(hub):
    del hub.files["model.safetensors"]
    with pytest.raises(CheckpointError, match="it has no weights"):
        find_checkpoint(REPO)


def test_too_little_space_is_said_before_the_download(hub, monkeypatch):
    find_checkpoint(REPO, with_weights=False)
    hub.forget()
    monkeypatch.setattr("mlx_lfm2vl.checkpoint.download.free_bytes", lambda _: 50_000)
    with pytest.raises(NetworkError, match="needs 88.5 kB in .*hub, where only 50 kB are free"):
        find_checkpoint(REPO)
    assert hub.sent == {}


def test_a_disk_without_links_holds_files(hub, monkeypatch):
    def symlink_to(*_):
        raise OSError("no links here")

    monkeypatch.setattr(Path, "symlink_to", symlink_to)
    folder = find_checkpoint(REPO)
    assert not (folder / "config.json").is_symlink()
    hub.forget()
    assert find_checkpoint(REPO) == folder
    assert hub.requests == []


def test_a_listing_does_not_lead_out_of_the_cache(hub, tmp_path):
    hub.files["../../../../evil.json"] = b"{}"
    hub.files["..json"] = b"{}"
    find_checkpoint(REPO)
    assert not list(tmp_path.rglob("evil.json"))


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize("revision", ["..", "../../x", "a/../..", "."])
def test_a_revision_does_not_lead_out_of_the_cache(revision):
    filled(golden("new_names").folder)
    with pytest.raises(CheckpointError, match="404|has no revision"):
        find_checkpoint(REPO, revision)


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "nowhere"])
def test_a_hub_out_of_reach_is_a_line_of_the_doctor_and_of_uploads(monkeypatch, tmp_path, url):
    use_hub(monkeypatch, url, tmp_path)
    words = "127.0.0.1:1 cannot be reached|HF_ENDPOINT is nowhere"
    assert re.match(f"not reached: ({words})", describe_hub())
    with pytest.raises(NetworkError, match=f"is written but .* uploaded to me/new: ({words})"):
        publish(tmp_path, "me/new")


def test_two_programs_do_not_write_the_same_file(hub, caplog):
    place = repo_folder(REPO)
    lock = FileLock(place.parent / ".locks" / place.name / "mlx_lfm2vl.lock")
    Path(lock.lock_file).parent.mkdir(parents=True)
    lock.acquire()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(find_checkpoint, REPO)
        while not caplog.messages:
            assert not waiting.done()
        assert caplog.messages == ["another program is downloading me/tiny: waiting for it"]
        assert hub.sent == {}
        lock.release()
        assert waiting.result().is_dir()
