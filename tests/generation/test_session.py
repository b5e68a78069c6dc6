"""A saved conversation opens as it was, or a line says why not. Strange caches are not used."""

import json
import os
import shutil

import pytest
from conftest import golden
from pictures import make_picture

from mlx_lfm2vl.errors import InputError, Lfm2VLError
from mlx_lfm2vl.generation import session_cache
from mlx_lfm2vl.generation.conversation import Conversation
from mlx_lfm2vl.generation.engine import Engine
from mlx_lfm2vl.generation.prefix import SHORT
from mlx_lfm2vl.generation.session import load_session, save_session
from mlx_lfm2vl.loading import load
from mlx_lfm2vl.options import AnswerOptions, ImageOptions

OPTIONS = AnswerOptions(
    temperature=0.0, max_tokens=6, stop=["zzz"], image_options=ImageOptions(max_tiles=4)
)
SECRET = b"s" * 32


@pytest.fixture(scope="module")
def loaded():
    return load(golden("new_names").folder, dtype="float32")


def start(loaded) -> Conversation:
    return Conversation(Engine(*loaded), OPTIONS, "Be kind.")


def done(pieces):
    *_, last = pieces
    return last.result


@pytest.fixture(scope="module")
def saved_once(loaded, tmp_path_factory):
    folder = tmp_path_factory.mktemp("chat")
    talk = start(loaded)
    for number in range(2):
        make_picture(40, 60, number).save(folder / f"{number}.png")
        talk.add_image(folder / f"{number}.png")
        done(talk.ask(f"What is {number}?"))
    done(talk.ask("This will be undone, a secret."))
    talk.undo()
    talk.add_image(folder / "1.png")
    save_session(talk, folder / "saved", model="tiny", secret=SECRET)
    return talk, folder / "saved"


@pytest.fixture
def saved(saved_once, tmp_path):
    talk, folder = saved_once
    return talk, shutil.copytree(folder, tmp_path / "saved")


def test_it_opens_as_it_was_and_reads_nothing_again(saved, loaded, monkeypatch):
    talk, folder = saved
    other = Conversation(Engine(*loaded))
    restored = load_session(other, folder, secret=SECRET)
    assert (restored.model, restored.is_read) == ("tiny", True)
    assert other.messages == talk.messages
    assert other.waiting == talk.waiting
    assert (other.system, other.options) == (talk.system, talk.options)
    monkeypatch.setattr(type(other.engine.model), "encode_batches", lambda *_: pytest.fail("read"))
    monkeypatch.setattr(other.engine.processor, "_decode", lambda *_: pytest.fail("decoded"))
    other.waiting = []
    result = done(other.edit("What else?"))  # goes back into what was loaded
    assert result.cached_tokens > result.image_tokens * 2 // 3
    monkeypatch.undo()
    load_session(other, folder, secret=SECRET)
    expected = Engine(*loaded).generate([*talk.messages, ask("Why?")], OPTIONS)
    other.waiting = []
    result = done(other.ask("Why?"))
    assert result.token_ids == expected.token_ids
    assert result.prompt_tokens - result.cached_tokens < 25 + SHORT


def ask(text):
    return {"role": "user", "content": text}


def test_images_that_wait_are_saved_and_keys_are_those_of_the_options(loaded, tmp_path):
    talk = start(loaded)
    for number in range(2):
        make_picture(40, 60, number).save(tmp_path / f"{number}.png")
    talk.add_image(tmp_path / "0.png")
    done(talk.ask("What is it?"))
    talk.add_image(tmp_path / "1.png")
    keys = dict(talk.keys)
    ((digest, _),) = keys
    talk.keys[digest, ImageOptions(max_tiles=3)] = b"as it was shown before"
    save_session(talk, tmp_path / "saved", model="tiny", secret=SECRET)
    other = start(loaded)
    assert load_session(other, tmp_path / "saved", secret=SECRET).is_read
    assert other.waiting == talk.waiting
    assert other.keys == keys


def test_a_seal_is_of_one_model(saved):
    _, folder = saved
    model, processor = load(golden("new_names").folder, dtype="float32")
    model.language_model.embedding_norm.weight *= 1.5
    other = Conversation(Engine(model, processor))
    load_session(other, folder, secret=SECRET)
    forged = session_cache._fingerprint(other)
    edit(folder, lambda values: values["cache"].update(fingerprint=forged))
    assert not load_session(other, folder, secret=SECRET).is_read


@pytest.mark.parametrize("how", ["user", "weights", "dtype", "options", "damaged", "gone", "link"])
def test_a_cache_that_may_be_wrong_is_not_used(saved, loaded, how, tmp_path):
    talk, folder = saved
    engine, secret = Engine(*loaded), SECRET
    if how in ("weights", "dtype"):
        model, processor = load(
            golden("new_names").folder, dtype="float16" if how == "dtype" else "float32"
        )
        norm = model.language_model.embedding_norm
        norm.weight = norm.weight * (1.5 if how == "weights" else 1)
        engine = Engine(model, processor)
    cache = folder / "cache.safetensors"
    if how == "user":
        secret = b"t" * 32
    elif how == "options":
        edit(folder, lambda values: values["image_options"].update(max_tiles=3))
    elif how == "damaged":
        data = bytearray(cache.read_bytes())
        data[len(data) // 2] ^= 1
        cache.write_bytes(data)
    elif how == "gone":
        cache.unlink()
    elif how == "link":
        cache.rename(tmp_path / "elsewhere")
        cache.symlink_to(tmp_path / "elsewhere")
    other = Conversation(engine)
    assert not load_session(other, folder, secret=secret).is_read
    other.waiting = []
    result = done(other.ask("Why?"))
    assert result.cached_tokens == 0
    expected = Engine(engine.model, engine.processor).generate(
        [*talk.messages, ask("Why?")], other.options
    )
    assert result.token_ids == expected.token_ids


def test_a_setting_that_is_no_weight_makes_another_model(saved, loaded, monkeypatch):
    """As the factor of an adapter does: its arrays stay as they are."""
    _, folder = saved
    model, _ = loaded
    layer = next(layer for layer in model.layers if layer.is_attention)
    monkeypatch.setattr(layer.self_attn, "scale", 2 * layer.self_attn.scale)
    assert not load_session(start(loaded), folder, secret=SECRET).is_read


def test_what_was_undone_is_not_saved(saved, loaded):
    _, folder = saved
    whole = b"".join(path.read_bytes() for path in folder.iterdir())
    ids = loaded[1].tokenizer.encode_rendered("secret", "\0")
    assert b"secret" not in whole.replace(b"secret.", b"secret")
    assert json.dumps(ids)[1:-1].encode() not in whole
    values = json.loads((folder / "session.json").read_text())
    assert [turn["images"][0]["name"] for turn in values["turns"]] == ["0.png", "1.png"]
    names = sorted(path.name.partition("-")[0] for path in folder.iterdir())
    assert names == ["cache.safetensors", "image", "image", "session.json"]
    assert folder.stat().st_mode & 0o077 == 0


def edit(folder, change) -> None:
    path = folder / "session.json"
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


WRONG = {
    "format is": lambda v: v.update(format=2),
    "turns is": lambda v: v.update(turns=3),
    "a turn is missing": lambda v: v.update(turns=["hi"]),
    "question is": lambda v: v["turns"][0].update(question=["hi"]),
    "seed is": lambda v: v["turns"][0].update(seed=-1),
    "ended is": lambda v: v["turns"][0].update(ended={}),
    "images is": lambda v: v["turns"][0].update(images={"a": 1}),
    "an image is missing": lambda v: v["turns"][0].update(images=["../x.png"]),
    "file is '../x.png'": lambda v: v["turns"][0]["images"][0].update(file="../x.png"),
    "file is '/etc/passwd'": lambda v: v["turns"][0]["images"][0].update(file="/etc/passwd"),
    "has no image-000": lambda v: v["turns"][0]["images"][0].update(file="image-" + "0" * 64),
    "name is": lambda v: v["turns"][0]["images"][0].update(name=7),
    "system is": lambda v: v.update(system=[1]),
    "model is": lambda v: v.update(model=7),
    "settings is missing": lambda v: v.update(settings=[]),
    "stop is": lambda v: v["settings"].update(stop=5),
    "max_tokens is": lambda v: v["settings"].update(max_tokens="many"),
    "temperature": lambda v: v["settings"].update(temperature=float("nan")),
    "image_options is missing": lambda v: v.update(image_options=None),
    "max_tiles is": lambda v: v["image_options"].update(max_tiles=True),
    "use_thumbnail is": lambda v: v["image_options"].update(use_thumbnail=[1]),
    "has 40 images": lambda v: v.update(waiting=v["waiting"] * 38),
}


@pytest.mark.parametrize("message", WRONG)
def test_a_session_that_is_wrong_is_refused_and_changes_nothing(saved, loaded, message):
    _, folder = saved
    edit(folder, WRONG[message])
    other = start(loaded)
    done(other.ask("Hello"))
    before = dict(vars(other))
    with pytest.raises(Lfm2VLError, match=message) as error:
        load_session(other, folder, secret=SECRET)
    assert "\n" not in str(error.value)
    assert vars(other) == before


@pytest.mark.parametrize("seal", [7, "x", {}, {"fingerprint": 1, "digest": None}])
def test_a_seal_of_any_kind_is_borne(saved, loaded, seal):
    _, folder = saved
    edit(folder, lambda values: values.update(cache=seal))
    assert not load_session(start(loaded), folder, secret=SECRET).is_read


def test_a_file_that_leads_out_of_the_folder_is_not_read(saved, loaded, tmp_path):
    _, folder = saved
    (image, *_) = sorted(folder.glob("image-*"))
    image.rename(tmp_path / "image.png")
    image.symlink_to(tmp_path / "image.png")
    with pytest.raises(Lfm2VLError, match="is a link to a file outside of its folder"):
        load_session(start(loaded), folder, secret=SECRET)
    image.unlink()
    os.mkfifo(image)
    with pytest.raises(Lfm2VLError, match="is not a regular file"):
        load_session(start(loaded), folder, secret=SECRET)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("[1]", "holds a list"),
        ("[" * 100_000, "cannot be read as JSON"),
        (" " * (8 * 2**20 + 1), "is too large"),
        ('{"format": 1, "model": "\\ud800"}', "cannot be read as JSON"),
    ],
    ids=["empty", "list", "deep", "huge", "half a character"],
)
def test_a_session_that_is_no_json_is_refused(saved, loaded, text, message):
    _, folder = saved
    (folder / "session.json").write_text(text)
    with pytest.raises(Lfm2VLError, match=message):
        load_session(start(loaded), folder, secret=SECRET)


def test_an_image_that_was_changed_is_refused(saved, loaded):
    _, folder = saved
    (image, *_) = sorted(folder.glob("image-*"))
    image.write_bytes(image.read_bytes() + b"x")
    with pytest.raises(Lfm2VLError, match="it is not the image that was saved"):
        load_session(start(loaded), folder, secret=SECRET)


def test_only_a_saved_chat_is_replaced(saved, loaded, tmp_path):
    talk, folder = saved
    with pytest.raises(InputError, match="exists already; choose another name"):
        save_session(talk, folder, model="tiny", secret=SECRET)
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="holds 'notes.txt', which is not of a saved chat"):
        save_session(talk, folder, model="tiny", secret=SECRET, overwrite=True)
    (folder / "notes.txt").unlink()
    save_session(talk, folder, model="tiny", secret=SECRET, overwrite=True)
    assert load_session(start(loaded), folder, secret=SECRET).is_read
    with pytest.raises(InputError, match="it is no saved chat"):
        load_session(start(loaded), tmp_path, secret=SECRET)


def test_a_save_that_fails_leaves_what_was_there(saved, loaded, monkeypatch):
    talk, folder = saved

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mlx_lfm2vl.generation.session_cache.write_new", fail)
    with pytest.raises(InputError, match="cannot be written"):
        save_session(talk, folder, model="tiny", secret=SECRET, overwrite=True)
    assert load_session(start(loaded), folder, secret=SECRET).is_read
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
