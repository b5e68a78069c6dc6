"""Answers with quantized keys and values: alone, continued, as a batch, and refused."""

import pytest
from conftest import golden
from pictures import make_picture

from mlx_lfm2vl.commands.generate import main
from mlx_lfm2vl.errors import InputError
from mlx_lfm2vl.generation.conversation import Conversation
from mlx_lfm2vl.generation.engine import Engine
from mlx_lfm2vl.generation.prefix_store import PrefixStore
from mlx_lfm2vl.generation.session import load_session, save_session
from mlx_lfm2vl.loading import load
from mlx_lfm2vl.options import AnswerOptions, ImageOptions

PICTURE = make_picture(40, 60, 3)
QUESTIONS = ["What is it?", "Which color?"]
SECRET = b"s" * 32
GREEDY = {
    "temperature": 0.0,
    "repetition_penalty": 1.0,
    "max_tokens": 6,
    "image_options": ImageOptions(min_image_tokens=4, max_image_tokens=16),
}


@pytest.fixture(scope="module")
def loaded():
    return load("demo", dtype="float32")


def test_other_bits_never_continue_what_was_read(loaded):
    engine = Engine(*loaded, store=PrefixStore())
    question, is_read = "Hello there. " * 12, []
    for bits in (0, 8, 4, 8, 0):
        result = engine.generate(question, kv_bits=bits, **GREEDY)
        is_read.append(result.cached_tokens > 0)
        expected = Engine(*loaded).generate(question, kv_bits=bits, **GREEDY)
        assert result.token_ids == expected.token_ids
    assert is_read == [False, False, False, True, True]
    assert sorted(branch.cache.kv_bits for branch in engine.store.branches) == [0, 4, 8]


def test_another_process_continues_files_of_the_same_bits_only(loaded, tmp_path):
    def answered(question: str, bits: int):
        engine = Engine(*loaded, store=PrefixStore(folder=tmp_path))
        options = {**GREEDY, "image": PICTURE, "kv_bits": bits, "logprobs": True}
        result = engine.generate(question, **options)
        fresh = Engine(*loaded).generate(question, **options)
        assert (result.token_ids, result.logprobs) == (fresh.token_ids, fresh.logprobs)
        return result

    for bits in (8, 0):
        assert answered(QUESTIONS[0], bits).cached_tokens == 0
    for bits in (8, 0):
        result = answered(QUESTIONS[1], bits)
        assert result.cached_tokens >= result.image_tokens


@pytest.mark.parametrize("opened", [8, 0])
def test_a_saved_chat_opens_without_reading_if_the_bits_are_the_same(loaded, tmp_path, opened):
    def start(bits: int) -> Conversation:
        return Conversation(Engine(*loaded), AnswerOptions(**GREEDY, kv_bits=bits), None)

    talk = start(8)
    PICTURE.save(tmp_path / "a.png")
    talk.add_image(tmp_path / "a.png")
    list(talk.ask(QUESTIONS[0]))
    save_session(talk, tmp_path / "saved", model="demo", secret=SECRET)
    other = start(opened)
    is_read = load_session(other, tmp_path / "saved", secret=SECRET).is_read
    assert is_read == (opened == 8)
    *_, last = other.ask(QUESTIONS[1])
    assert last.result is not None
    assert (last.result.cached_tokens > last.result.image_tokens) == is_read
    messages = [*talk.messages, {"role": "user", "content": QUESTIONS[1]}]
    expected = Engine(*loaded).generate(messages, other.options)
    assert last.result.token_ids == expected.token_ids


def test_images_that_were_seen_are_asked_about_alone_and_as_a_batch(loaded):
    seen = Engine(*loaded).see(PICTURE, kv_bits=8, **GREEDY)
    together = seen.ask_all(QUESTIONS)
    for question, result in zip(QUESTIONS, together, strict=True):
        fresh = Engine(*loaded).generate(seen.messages(question), kv_bits=8, **GREEDY)
        assert result.cached_tokens >= seen.tokens
        assert result.token_ids == seen.ask(question).token_ids == fresh.token_ids


def test_lookup_copies_the_same_tokens(loaded):
    options = {**GREEDY, "max_tokens": 60, "kv_bits": 8, "image_options": ImageOptions()}
    engine = Engine(*loaded)
    question = "Detect all shapes. Answer as JSON."
    plain = engine.generate(question, image=PICTURE, **options)
    copied = engine.generate(question, image=PICTURE, lookup=4, **options)
    assert copied.token_ids == plain.token_ids
    assert copied.accepted_tokens > 0


def test_heads_that_cannot_be_quantized_are_refused_before_an_image_is_decoded(monkeypatch):
    engine = Engine(*load(golden("new_names").folder))
    monkeypatch.setattr(
        "mlx_lfm2vl.prompt.processor.process_image", lambda *_: pytest.fail("decoded")
    )
    conversation = [{"role": "user", "content": "Hi"}]
    for ask in (
        lambda: engine.generate("Hi", image=PICTURE, kv_bits=8),
        lambda: engine.see(PICTURE, kv_bits=8),
        lambda: list(engine.stream_batch([conversation], kv_bits=8)),
    ):
        with pytest.raises(InputError, match="kv_bits needs heads whose size is a multiple of 32"):
            ask()


def test_the_command_quantizes_and_says_in_one_line_why_it_cannot(capsys):
    folder = str(golden("new_names").folder)
    assert main(["--model", folder, "--prompt", "Hi", "--kv-bits", "4"]) == 2
    error = capsys.readouterr().err
    assert "kv_bits needs heads" in error
    assert error.count("\n") == 1
