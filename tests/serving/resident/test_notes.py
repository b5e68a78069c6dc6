"""Whoever asks a process with other clients hears the notes about his question, and no others."""

import logging
import threading

import pytest

from mlx_lfm2vl import Engine
from mlx_lfm2vl.generation.prefix_store import PrefixStore
from mlx_lfm2vl.options import AnswerOptions, Sampling
from mlx_lfm2vl.serving.core import Core
from mlx_lfm2vl.serving.request import Request, is_last
from mlx_lfm2vl.serving.resident.batch import answer_together
from mlx_lfm2vl.serving.resident.notes import Notes
from mlx_lfm2vl.serving.served import Served

OPTIONS = AnswerOptions(max_tokens=8, sampling=Sampling(temperature=3), seed=1)
PACKAGE = logging.getLogger("mlx_lfm2vl")


@pytest.fixture
def notes():
    notes = Notes()
    yield notes
    PACKAGE.removeHandler(notes)
    PACKAGE.propagate = True


@pytest.fixture(scope="module")
def core(tiny):
    core = Core([Served("tiny", lambda: Engine(*tiny, store=PrefixStore()), lambda: None)])
    yield core
    core.stop(0)


def asked(core, notes, text):
    """Ask a question; returns the notes so far, and what waits for its answer."""
    heard, is_over = [], threading.Event()

    def hear(event):
        if is_last(event):
            is_over.set()

    with notes.to(lambda note: heard.append(note.text)):
        core.submit(Request(text, OPTIONS), hear)
    return heard, is_over


def test_a_note_about_one_question_reaches_who_asked_it_each_time(core, notes):
    questions = ["<image> what?", "Hi", "Who?", "<image> again?"]
    told = [asked(core, notes, text) for text in questions]
    for _, is_over in told:
        assert is_over.wait(20)
    note = "the text holds <image> as letters: images stand beside the text"
    assert [heard for heard, _ in told] == [[note], [], [], [note]]


def test_a_note_about_an_answer_reaches_who_asked_for_it(core, notes, monkeypatch):
    from mlx_lfm2vl.generation.answer_text import AnswerText

    finish = AnswerText.finish

    def finish_with_a_note(text):
        logging.getLogger("mlx_lfm2vl.test").warning("the answer has ended")
        return finish(text)

    monkeypatch.setattr(AnswerText, "finish", finish_with_a_note)
    told = [asked(core, notes, text) for text in ("Hi", "Who?", "Why?")]
    for _, is_over in told:
        assert is_over.wait(20)
    assert [heard for heard, _ in told] == [["the answer has ended"]] * 3


def test_what_the_device_logs_for_a_caller_is_told_to_that_caller(notes):
    from mlx_lfm2vl.device_thread import on_device

    heard: list[str] = []

    def load():
        with notes.to(lambda note: heard.append(note.text)):
            on_device(PACKAGE.warning, "a tensor was dropped")
        on_device(PACKAGE.warning, "of somebody else")

    thread = threading.Thread(target=load)
    thread.start()
    thread.join()
    assert heard == ["a tensor was dropped"]


def test_notes_about_the_items_of_a_batch_are_logged_in_their_order(caplog):
    last_was_heard = threading.Event()

    def ask(number, question):
        if number == 2:
            question.hear("about 2")
            question.hear("")
            last_was_heard.set()
        elif number == 0:
            assert last_was_heard.wait(5)
            question.hear("about 0")
        return number

    with caplog.at_level(logging.WARNING):
        answers = dict(answer_together(ask, range(3), 3))
    assert answers == {0: 0, 1: 1, 2: 2}
    assert [record.getMessage() for record in caplog.records] == ["about 0", "about 2"]
