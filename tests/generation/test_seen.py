"""Images that are seen once: every question about them is answered as if it were the only one."""

import pytest
from conftest import golden
from pictures import make_picture

from mlx_lfm2vl.errors import InputError
from mlx_lfm2vl.generation.engine import Engine
from mlx_lfm2vl.loading import load
from mlx_lfm2vl.options import ImageOptions

GREEDY = {"temperature": 0.0, "max_tokens": 6}
QUESTIONS = ["What is it?", "Which color?", "What is it for?"]


@pytest.fixture(scope="module")
def loaded():
    return load(golden("new_names").folder, dtype="float32")


@pytest.fixture
def engine(loaded) -> Engine:
    return Engine(*loaded)


@pytest.fixture
def path(tmp_path):
    make_picture(40, 60, 3).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


@pytest.mark.parametrize("system", [None, "Be brief."])
def test_every_question_is_answered_as_if_alone(engine, loaded, path, system):
    seen = engine.see(path, system=system, **GREEDY)
    for question in QUESTIONS:
        result = seen.ask(question)
        messages = seen.messages(question)
        assert result.token_ids == Engine(*loaded).generate(messages, **GREEDY).token_ids
        assert result.cached_tokens == pytest.approx(seen.tokens, abs=20)


def test_questions_at_a_time_equal_those_one_by_one(engine, path):
    seen = engine.see([path, make_picture(20, 30, 1)], **GREEDY)
    together = seen.ask_all(QUESTIONS)
    assert [r.token_ids for r in together] == [seen.ask(q).token_ids for q in QUESTIONS]
    assert all(result.cached_tokens >= seen.tokens for result in together)


def test_neither_file_nor_encoder_is_used_again(engine, path, monkeypatch):
    seen = engine.see(path, **GREEDY)
    path.unlink()
    monkeypatch.setattr(type(engine.model), "encode_batches", lambda *_: pytest.fail("encoded"))
    monkeypatch.setattr(
        "mlx_lfm2vl.prompt.processor.process_image", lambda *_: pytest.fail("decoded")
    )
    assert seen.ask("What is it?").cached_tokens >= seen.tokens
    assert len(seen.ask_all(QUESTIONS)) == 3


def test_images_that_were_pushed_out_are_read_again(engine, loaded, path):
    seen = engine.see(path, **GREEDY)
    engine.store.clear()
    path.unlink()
    result = seen.ask("What is it?")
    assert result.cached_tokens == 0
    expected = Engine(*loaded).generate(seen.messages("What is it?"), **GREEDY)
    assert result.token_ids == expected.token_ids


def test_an_answer_is_streamed(engine, path):
    seen = engine.see(path, **GREEDY)
    pieces = list(seen.stream("What is it?", max_tokens=9))
    assert "".join(piece.text for piece in pieces) == pieces[-1].result.text
    assert len(pieces[-1].result.token_ids) <= 9


def test_there_must_be_an_image(engine):
    with pytest.raises(InputError, match="there are no images to see"):
        engine.see([])


def test_a_bad_image_is_said_when_it_is_seen(engine, tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        engine.see(tmp_path / "none.png")


def test_other_image_options_are_other_views(engine, loaded, tmp_path):
    make_picture(300, 400, 1).save(tmp_path / "large.png")
    seen = engine.see(tmp_path / "large.png", **GREEDY)
    small = ImageOptions(max_image_tokens=4, do_image_splitting=False)
    messages = seen.messages("What is it?")
    expected = Engine(*loaded).generate(messages, **GREEDY, image_options=small)
    result = seen.ask("What is it?", image_options=small)
    assert result.image_tokens == expected.image_tokens < seen.ask("What is it?").image_tokens
    assert result.token_ids == expected.token_ids
    assert seen.ask_all(["What is it?"], image_options=small)[0].token_ids == expected.token_ids
