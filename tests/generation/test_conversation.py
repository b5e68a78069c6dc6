"""A conversation is taken back exactly: answers are a fresh engine's, for the new tokens only."""

import pytest
from conftest import golden
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pictures import make_picture

from mlx_lfm2vl.errors import InputError
from mlx_lfm2vl.generation.conversation import Conversation
from mlx_lfm2vl.generation.engine import Engine
from mlx_lfm2vl.generation.prefix import SHORT
from mlx_lfm2vl.loading import load
from mlx_lfm2vl.options import AnswerOptions

DRAWN = AnswerOptions(temperature=1.0, max_tokens=6, seed=3)
# Tokens of a question. The tiny model says half characters, which become other tokens, so that the
# store goes back to a cut.
SPARE = 30 + SHORT


@pytest.fixture(scope="module")
def loaded():
    return load(golden("new_names").folder, dtype="float32")


@pytest.fixture
def talk(loaded) -> Conversation:
    return Conversation(Engine(*loaded), DRAWN)


@pytest.fixture
def paths(tmp_path):
    for number in range(3):
        make_picture(40, 60, number).save(tmp_path / f"{number}.png")
    return [tmp_path / f"{number}.png" for number in range(3)]


def done(pieces):
    *_, last = pieces
    return last.result


def fresh(loaded, talk):
    """The last answer as an engine that has read nothing gives it."""
    *_, last = talk.turns
    messages = talk.messages[:-1]
    options = talk.options.changed({"seed": last.seed})
    return Engine(*loaded).generate(messages, options)


def test_a_turn_costs_its_own_tokens(talk, loaded, paths):
    talk.add_image(paths[0])
    first = done(talk.ask("What is it?"))
    second = done(talk.ask("Which color?"))
    assert first.cached_tokens == 0
    assert second.cached_tokens >= first.prompt_tokens - 1
    assert second.token_ids == fresh(loaded, talk).token_ids
    assert [turn.question for turn in talk.turns] == ["What is it?", "Which color?"]


def test_undo_edit_and_retry_read_only_what_is_new(talk, loaded, paths):
    talk.add_image(paths[0])
    for question in ("What is it?", "Which color?", "Why?"):
        done(talk.ask(question))
    assert talk.undo().question == "Why?"
    seed = talk.turns[-1].seed
    for action, *words in [(talk.ask, "How many?"), (talk.edit, "How large?"), (talk.retry,)]:
        result = done(action(*words))
        assert result.prompt_tokens - result.cached_tokens < SPARE
        assert result.token_ids == fresh(loaded, talk).token_ids
    assert [turn.question for turn in talk.turns] == ["What is it?", "Which color?", "How large?"]
    assert talk.turns[-1].seed == seed + 1


def test_an_edited_question_keeps_its_images_and_gets_those_that_wait(talk, loaded, paths):
    talk.add_image(paths[0])
    done(talk.ask("What is it?"))
    talk.add_image(paths[1])
    result = done(talk.edit("What are they?"))
    assert [len(turn.images) for turn in talk.turns] == [2]
    assert talk.waiting == []
    assert result.token_ids == fresh(loaded, talk).token_ids


def test_an_image_stays_in_its_turn_and_is_decoded_once(talk, paths, monkeypatch):
    talk.add_image(paths[0])
    first = done(talk.ask("What is it?"))
    decoded = []
    true = talk.engine.processor._decode
    monkeypatch.setattr(talk.engine.processor, "_decode", lambda *a: decoded.append(a) or true(*a))
    talk.add_image(paths[1])
    result = done(talk.ask("And this?"))
    assert len(decoded) == 1  # the new one
    assert result.cached_tokens >= first.prompt_tokens - 1
    kinds = [[part["type"] for part in message["content"]] for message in talk.messages[::2]]
    assert kinds == [["image", "text"]] * 2


def test_another_image_of_a_known_one_s_size_is_never_taken_for_it(talk, loaded, paths):
    for path in paths:
        talk.add_image(path)
        done(talk.ask("What is it?"))
        assert done(talk.retry()).token_ids == fresh(loaded, talk).token_ids
        talk.undo()


def test_a_file_that_goes_away_changes_nothing(talk, loaded, paths):
    talk.add_image(paths[0])
    paths[0].unlink()
    done(talk.ask("What is it?"))
    talk.store.clear()
    assert done(talk.retry()).token_ids == fresh(loaded, talk).token_ids


def test_an_answer_that_is_stopped_stays_as_it_is(talk, loaded):
    pieces = talk.ask("Tell me more.", max_tokens=40)
    said = next(pieces).text
    said += next(pieces).text
    pieces.close()
    (turn,) = talk.turns
    assert (turn.answer, turn.ended) == (said, "interrupted")
    result = done(talk.ask("Go on."))
    assert result.token_ids == fresh(loaded, talk).token_ids
    assert talk.messages[1]["content"] == said


def test_a_question_without_a_word_of_an_answer_changes_nothing(talk, paths):
    done(talk.ask("Hello"))
    talk.add_image(paths[0])
    before = (talk.turns, talk.waiting)

    def press_ctrl_c(_done: int, _all: int) -> None:
        raise KeyboardInterrupt

    for pieces in (talk.ask("What?", on_prefill=press_ctrl_c), talk.edit("Why?", max_tokens=10**6)):
        with pytest.raises((KeyboardInterrupt, InputError)):
            next(pieces)
        assert (talk.turns, talk.waiting) == before


@pytest.mark.parametrize("nth", [1, 3, 6])
def test_ctrl_c_in_the_middle_of_a_step_spoils_no_later_answer(talk, loaded, monkeypatch, nth):
    from mlx_lfm2vl.model.cache import KeyValueCache

    done(talk.ask("What is it?"))
    true, calls = KeyValueCache.update, []

    def update(self, *arguments):
        calls.append(self)
        if len(calls) == nth:
            raise KeyboardInterrupt  # after the cache's offset has moved
        return true(self, *arguments)

    monkeypatch.setattr(KeyValueCache, "update", update)
    with pytest.raises(KeyboardInterrupt):
        done(talk.ask("Tell me more."))
    monkeypatch.undo()
    assert done(talk.ask("Tell me more.")).token_ids == fresh(loaded, talk).token_ids


def test_the_system_message_counts_from_the_next_question_on(talk, loaded):
    done(talk.ask("Hello"))
    talk.system = "Be brief."
    assert done(talk.ask("Why?")).token_ids == fresh(loaded, talk).token_ids
    assert talk.messages[0] == {"role": "system", "content": "Be brief."}


def test_tokens_are_counted_without_decoding(talk, paths, monkeypatch):
    assert talk.count().tokens == 0
    plan = talk.add_image(paths[0])
    result = done(talk.ask("What is it?"))
    monkeypatch.setattr(talk.engine.processor, "_decode", lambda *_: pytest.fail("decoded"))
    count = talk.count()
    assert (count.images, count.image_tokens) == (1, plan.image_tokens)
    assert count.tokens > result.prompt_tokens
    assert count.tokens - SPARE < count.cached <= count.tokens
    assert count.left == count.context - count.tokens


def test_nothing_can_be_taken_back_at_the_beginning(talk, tmp_path):
    for action in (talk.undo, talk.retry, lambda: talk.edit("Why?")):
        with pytest.raises(InputError, match="nothing was asked yet"):
            action()
    with pytest.raises(InputError, match="does not exist"):
        talk.add_image(tmp_path / "none.png")
    assert talk.waiting == []


STEPS = st.lists(st.sampled_from(["ask", "image", "undo", "edit", "retry", "forget"]), max_size=8)


@settings(max_examples=5, deadline=None, suppress_health_check=list(HealthCheck))
@given(steps=STEPS)
def test_any_course_of_a_conversation_is_that_of_fresh_engines(loaded, steps):
    talk = Conversation(Engine(*loaded), DRAWN)
    for number, step in enumerate(steps):
        if step == "image":
            talk.add_image(_png(number % 2))
        elif step == "forget":
            talk.store.clear()
        elif step == "ask" or not talk.turns:
            done(talk.ask(f"Question {number % 3}?"))
        elif step == "undo":
            talk.undo()
        else:
            done(talk.retry() if step == "retry" else talk.edit(f"Edited {number % 2}?"))
        if talk.turns and step in ("ask", "edit", "retry"):
            assert talk.turns[-1].answer == fresh(loaded, talk).text


def _png(seed: int) -> bytes:
    import io

    data = io.BytesIO()
    make_picture(20, 30, seed).save(data, "png")
    return data.getvalue()
