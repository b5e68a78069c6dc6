"""What survives the process gives the answer of a fresh run, whatever has happened to the files."""

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import golden
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pictures import make_picture

from mlx_lfm2vl.generation import disk_store
from mlx_lfm2vl.generation.engine import Engine
from mlx_lfm2vl.generation.prefix import SHORT, Prefix
from mlx_lfm2vl.generation.prefix_store import PrefixStore
from mlx_lfm2vl.generation.saved_prefix import SavedPrefixes
from mlx_lfm2vl.generation.seen import Seen
from mlx_lfm2vl.loading import load
from mlx_lfm2vl.prompt.messages import user_message

PICTURES = [make_picture(40, 60, seed) for seed in range(3)]
QUESTION = "What is it, and what else is there to be seen?"  # long enough for a file of its own
GREEDY = {"temperature": 0.0, "max_tokens": 6}


@pytest.fixture(scope="module")
def loaded():
    return load(golden("new_names").folder, dtype="float32")


@pytest.fixture
def folder(tmp_path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def full(loaded, folder) -> Path:
    """A folder that holds a picture and a question."""
    answered(loaded, folder, [asked(QUESTION, PICTURES[0])])
    return folder


def asked(text: str, *pictures) -> dict:
    return user_message(text, pictures)[0]


def said(text: str) -> dict:
    return {"role": "assistant", "content": text}


def answered(loaded, folder, messages, **options):
    """Answer as a new process would: nothing is in memory."""
    engine = Engine(*loaded, store=PrefixStore(folder=folder))
    return engine.generate(messages, logprobs=True, **GREEDY, **options)


def assert_as_fresh(loaded, result, messages):
    assert_same(result, Engine(*loaded).generate(messages, logprobs=True, **GREEDY))


def assert_same(result, expected):
    assert result.token_ids == expected.token_ids
    np.testing.assert_allclose(result.logprobs, expected.logprobs, atol=1e-5)


def no_encoder(monkeypatch, engine_model) -> None:
    monkeypatch.setattr(type(engine_model), "encode_batches", lambda *_: pytest.fail("encoded"))


def test_another_process_reads_only_the_new_question(loaded, full, monkeypatch):
    messages = [asked("Which color?", PICTURES[0])]
    written = {path: path.stat().st_ino for path in full.glob("*.safetensors")}
    with monkeypatch.context() as patch:
        no_encoder(patch, loaded[0])
        result = answered(loaded, full, messages)
    assert {path: path.stat().st_ino for path in written} == written
    assert result.cached_tokens >= result.image_tokens
    expected = Engine(*loaded).generate(messages, logprobs=True, **GREEDY)
    assert result.token_ids == expected.token_ids
    assert result.logprobs == expected.logprobs  # bit by bit: the calls are the same


def test_a_chat_continues_and_writes_every_token_once(loaded, folder):
    messages, sizes = [], []
    for turn in range(4):
        messages.append(asked("And now? " * 20, *PICTURES[: turn == 0]))
        result = answered(loaded, folder, messages)
        assert_as_fresh(loaded, result, messages)
        assert (result.cached_tokens > 0.6 * result.prompt_tokens) == (turn > 1)
        messages.append(said(result.text))
        sizes.append(sum(path.stat().st_size for path in folder.iterdir()))
    assert sizes[3] - sizes[2] == pytest.approx(sizes[2] - sizes[1], rel=0.1)


def test_an_image_elsewhere_skips_the_encoder(loaded, full, monkeypatch):
    messages = [{"role": "system", "content": "Be brief."}, asked("What is it?", PICTURES[0])]
    with monkeypatch.context() as patch:
        no_encoder(patch, loaded[0])
        result = answered(loaded, full, messages)
    assert result.cached_tokens == 0
    assert_as_fresh(loaded, result, messages)


def test_two_images_of_one_prompt_come_back(loaded, folder, monkeypatch):
    messages = [asked("Compare them.", *PICTURES[:2])]
    answered(loaded, folder, messages)
    with monkeypatch.context() as patch:
        no_encoder(patch, loaded[0])
        again = answered(loaded, folder, messages)
    assert again.cached_tokens >= again.image_tokens
    swapped = [asked("Compare them.", PICTURES[1], PICTURES[0])]
    assert_as_fresh(loaded, answered(loaded, folder, swapped), swapped)


def test_images_are_seen_without_the_encoder(loaded, folder, monkeypatch):
    def see() -> Seen:
        return Engine(*loaded, store=PrefixStore(folder=folder)).see(PICTURES[0], **GREEDY)

    expected = see().ask("What is it?")
    no_encoder(monkeypatch, loaded[0])
    again = see().ask("What is it?")
    assert again.token_ids == expected.token_ids
    assert again.cached_tokens >= again.image_tokens


def test_images_that_only_files_hold_are_not_decoded(loaded, folder, monkeypatch):
    engine = Engine(*loaded, store=PrefixStore(folder=folder))
    seen = engine.see(PICTURES[0], **GREEDY)
    expected = seen.ask("What is it?")
    engine.store.clear()
    monkeypatch.setattr(
        "mlx_lfm2vl.prompt.processor.process_image", lambda *_: pytest.fail("decoded")
    )
    assert seen.ask("What is it?").token_ids == expected.token_ids


def test_images_whose_files_were_damaged_meanwhile_are_read_again(loaded, folder):
    engine = Engine(*loaded, store=PrefixStore(folder=folder))
    seen = engine.see(PICTURES[0], **GREEDY)
    expected = seen.ask("What is it?")
    engine.store.clear()
    for path in folder.glob("*.safetensors"):
        path.write_bytes(path.read_bytes()[:-1])
    result = seen.ask("What is it?")
    assert (result.token_ids, result.cached_tokens) == (expected.token_ids, 0)


def test_an_image_with_as_many_tokens_is_another(loaded, folder):
    for picture in (*PICTURES, *PICTURES):
        messages = [asked("What is it?", picture)]
        assert_as_fresh(loaded, answered(loaded, folder, messages), messages)


@pytest.mark.parametrize("change", ["weights", "adapter", "dtype", "model"])
def test_another_model_uses_nothing(full, checkpoint, change):
    if change == "model":
        other = load(golden("old_names").folder, dtype="float32")
    elif change == "dtype":
        other = load(golden("new_names").folder, dtype="float16")
    else:
        other = load(checkpoint, dtype="float32")
        if change == "adapter":
            other[0].files += "an adapter"
    messages = [asked("What is it?", PICTURES[0])]
    result = answered(other, full, messages)
    assert result.cached_tokens == 0
    assert result.token_ids == Engine(*other).generate(messages, **GREEDY).token_ids
    assert answered(other, full, messages).cached_tokens > 0


def test_weights_changed_while_running_have_files_of_their_own(full):
    model, processor = load(golden("new_names").folder, dtype="float32")
    engine = Engine(model, processor, store=PrefixStore(folder=full))
    messages = [asked("What is it?", PICTURES[0])]
    assert engine.generate(messages, **GREEDY).cached_tokens > 0
    norm = model.language_model.embedding_norm
    norm.weight = norm.weight * 1.5
    assert engine.generate(messages, **GREEDY).cached_tokens == 0


def places(size: int) -> list[int]:
    """A byte of each region of a file: length, checksum, header, arrays, end."""
    return [0, 7, 8, 12, 40, 100, 180, 300, size // 2, size - 1]


def test_a_damaged_file_is_replaced_and_changes_no_answer(loaded, full, caplog):
    messages = [asked(QUESTION, PICTURES[0])]
    files = {path: path.read_bytes() for path in sorted(full.glob("keys-*"))}
    assert len(files) == 2
    expected = Engine(*loaded).generate(messages, logprobs=True, **GREEDY)
    for number in range(10):
        for path, data in files.items():
            path.write_bytes(damaged(data, number))
        caplog.clear()
        assert_same(answered(loaded, full, messages), expected)
        assert len(caplog.records) == 1
        assert answered(loaded, full, messages).cached_tokens > 0
        assert len(caplog.records) == 1


def test_damaged_features_are_replaced_and_change_no_answer(loaded, full, caplog):
    (path,) = full.glob("image-*")
    data = path.read_bytes()
    for number in range(10):
        messages = [{"role": "system", "content": f"Be {number}."}, asked("What?", PICTURES[0])]
        path.write_bytes(damaged(data, number))
        caplog.clear()
        assert_as_fresh(loaded, answered(loaded, full, messages), messages)
        assert len(caplog.records) == 1
        assert path.read_bytes() == data


def damaged(data: bytes, number: int) -> bytes:
    """The bytes of a file with another bit in one region, or cut off there."""
    place = places(len(data))[number]
    if number % 3 == 0:
        return data[:place]
    broken = bytearray(data)
    broken[place] ^= 1 << number % 8
    return bytes(broken)


def test_a_lost_file_is_written_again(loaded, full):
    messages = [asked(QUESTION, PICTURES[0])]
    for path in sorted(full.glob("keys-*")):
        data = path.read_bytes()
        path.unlink()
        assert_as_fresh(loaded, answered(loaded, full, messages), messages)
        assert len(path.read_bytes()) == len(data)


def test_arrays_that_do_not_fit_are_not_used(loaded, full, caplog):
    """Nobody but somebody who knows the format writes such a file."""
    store = disk_store.DiskStore(full)
    for path in full.glob("keys-*"):
        arrays = store.read(path.name)
        shorter = {k: v[:, :, :3] if "window" not in k else v for k, v in arrays.items()}
        store.write(path.name, shorter, {})
    messages = [asked(QUESTION, PICTURES[0])]
    assert_as_fresh(loaded, answered(loaded, full, messages), messages)
    assert "not used" in caplog.text


def test_a_folder_that_cannot_be_written_is_still_read(loaded, full, monkeypatch, caplog):
    def fail(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "utime", fail)
    monkeypatch.setattr(Path, "replace", fail)
    messages = [asked("But " + QUESTION, PICTURES[0])]
    result = answered(loaded, full, messages)
    assert result.cached_tokens >= result.image_tokens
    assert_as_fresh(loaded, result, messages)
    assert len(caplog.records) == 1


def test_the_folder_stays_within_its_limit(loaded, full):
    size = sum(path.stat().st_size for path in full.glob("*.safetensors"))
    store = PrefixStore(folder=full, folder_bytes=2 * size)
    engine = Engine(*loaded, store=store)
    for number in range(6):
        messages = [asked("What is it?", make_picture(40, 60, 10 + number))]
        engine.generate(messages, **GREEDY)
        assert sum(path.stat().st_size for path in full.glob("*.safetensors")) <= 2 * size
    assert answered(loaded, full, messages).cached_tokens > 0


def test_names_depend_on_all_that_was_read_before(loaded, folder):
    saved = SavedPrefixes(disk_store.DiskStore(folder), loaded[0])
    end = loaded[0].config.eos_token_ids[0]

    def last(ids, spans=(), keys=()) -> str:
        return saved._names(Prefix(ids, spans, keys), 0)[-1][1]

    long = [3] * SHORT
    found = [
        last([8, *long, end, *long, end]),
        last([9, *long, end, *long, end]),
        last([8, *long, *long, end]),
        last([1, 5, 5, *long, end], [(1, 3)], [b"a" * 32]),
        last([1, 5, 5, *long, end], [(1, 3)], [b"b" * 32]),
        last([1, 5, 5, *long, end], [(0, 3)], [b"a" * 32]),
    ]
    assert len(set(found)) == 6
    assert saved._names(Prefix([1, 8]), 0) == []
    ids = Prefix([*long, end])
    assert len({saved._names(ids, bits)[0][1] for bits in (0, 4, 8)}) == 3


@settings(
    max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_any_conversation_over_processes_equals_fresh_runs(loaded, tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("cache")
    messages: list[dict] = []
    for _ in range(data.draw(st.integers(2, 4))):
        action = data.draw(st.sampled_from(["ask", "ask with a picture", "undo", "lose a file"]))
        files = sorted(folder.glob("*.safetensors"))
        if action == "lose a file" and files:
            data.draw(st.sampled_from(files)).unlink()
        if action == "undo":
            messages = messages[:-2]
        pictures = [data.draw(st.sampled_from(PICTURES))] if "picture" in action else []
        messages = [*messages, asked(data.draw(st.sampled_from(["Hi", "What is it?"])), *pictures)]
        result = answered(loaded, folder, messages)
        assert_as_fresh(loaded, result, messages)
        messages = [*messages, said(result.text)]


# -- other processes --

SCRIPT = f"""
import os, resource, signal, sys
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
from pictures import make_picture
from mlx_lfm2vl.generation.engine import Engine
from mlx_lfm2vl.generation.prefix_store import PrefixStore
from mlx_lfm2vl.loading import load
def answer(folder, question, seed=0, limit=10**9):
    loaded = load({str(golden("new_names").folder)!r}, dtype="float32")
    engine = Engine(*loaded, store=PrefixStore(folder=folder, folder_bytes=limit))
    picture = make_picture(40, 60, seed)
    return engine.generate(question, image=picture, temperature=0.0, max_tokens=6)
def forked(number, work):  # MLX has done nothing so far, so that forks may use it
    child = os.fork()
    if not child:
        try:
            work(number)
        finally:
            os._exit(0)
    return child
"""
KILLED = """
def killed(number):
    folder = f"{sys.argv[1]}/{number}"
    if number < 10:
        left = [number + 1]
        def hook(event, arguments):
            if arguments and str(arguments[0]).startswith(folder):
                left[0] -= 1
                if not left[0]:
                    os.kill(os.getpid(), signal.SIGKILL)
        sys.addaudithook(hook)
    else:
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # dies in the middle of a write
        size = [0, 1, 20, 50, 500, 2000][number - 10]
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    answer(folder, "What is it?")
print([os.waitpid(forked(number, killed), 0)[1] for number in range(16)])
"""
TEN = """
def busy(number):
    for turn in range(4):
        seed = (number + turn) % 3
        found = answer(sys.argv[1], "What is it?", seed, limit=int(sys.argv[2]))
        os.write(1, f"{seed} {found.token_ids}\\n".encode())
for child in [forked(number, busy) for number in range(10)]:
    assert os.waitpid(child, 0)[1] == 0
"""


def run(code: str, *arguments: object) -> str:
    given = [sys.executable, "-c", SCRIPT + code, *map(str, arguments)]
    done = subprocess.run(given, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout


@pytest.mark.slow
def test_killed_anywhere_it_leaves_nothing_that_changes_an_answer(loaded, tmp_path):
    codes = [int(code) for code in re.findall(r"\d+", run(KILLED, tmp_path))]
    assert codes == [signal.SIGKILL] * 10 + [signal.SIGXFSZ] * 6
    messages = [asked("What is it?", PICTURES[0])]
    for number in range(16):
        folder = tmp_path / str(number)
        assert_as_fresh(loaded, answered(loaded, folder, messages), messages)
        assert answered(loaded, folder, messages).cached_tokens > 0


@pytest.mark.slow
def test_ten_processes_share_a_folder(loaded, full):
    size = sum(path.stat().st_size for path in full.glob("*.safetensors"))
    shutil.rmtree(full)
    questions = [[asked("What is it?", picture)] for picture in PICTURES]
    fresh = [Engine(*loaded).generate(messages, **GREEDY) for messages in questions]
    lines = run(TEN, full, 2 * size).splitlines()
    assert len(lines) == 40
    for line in lines:
        seed, _, tokens = line.partition(" ")
        assert tokens == str(fresh[int(seed)].token_ids)
    assert list(full.glob("*.partial")) == []
