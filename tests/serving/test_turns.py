"""Turns of what is under way: a long prompt is read in parts, and others go on beside it."""

from itertools import pairwise

import pytest
from pictures import make_picture

from mlx_lfm2vl import AnswerOptions, Engine, Sampling, regex
from mlx_lfm2vl.generation.prefix_store import PrefixStore
from mlx_lfm2vl.generation.result import Piece
from mlx_lfm2vl.prompt.messages import user_message
from mlx_lfm2vl.serving.preparing import prepare
from mlx_lfm2vl.serving.request import Progress, Request
from mlx_lfm2vl.serving.under_way import UnderWay, _Reading

GREEDY = Sampling()
NINE = AnswerOptions(max_tokens=9, sampling=GREEDY)
PICTURES = [make_picture(40, 90, 1), make_picture(60, 50, 2)]


@pytest.fixture
def engine(tiny):
    return Engine(*tiny, store=PrefixStore())


def test_an_answer_goes_on_while_the_image_of_another_request_is_read(engine, monkeypatch):
    monkeypatch.setattr("mlx_lfm2vl.serving.under_way.PART", 1)
    monkeypatch.setattr("mlx_lfm2vl.model.lfm2vl.MAX_PATCHES", 1)  # one view at a time
    monkeypatch.setattr("mlx_lfm2vl.model.decode_step.PREFILL_CHUNK", 16)
    text = AnswerOptions(max_tokens=60, sampling=GREEDY, constraint=regex("[a-z]{60}"))
    large = Request(user_message("What is it?", PICTURES), NINE)
    work, order = UnderWay(engine, 0), []
    begins = [(0, 0, prepare(engine, Request("Hi", text))), (6, 1, prepare(engine, large))]
    for turn in range(200):
        for _, number, prepared in (begin for begin in begins if begin[0] == turn):
            work.begin(number, prepared)
        order += [(turn, number, type(event)) for number, event in work.turn()]
        if (1, Piece) in {entry[1:] for entry in order}:
            break
    parts = [turn for turn, number, kind in order if number == 1 and kind is Progress]
    tokens = [turn for turn, number, kind in order if number == 0 and kind is Piece]
    assert len(parts) >= 5
    beside = [turn for turn in tokens if parts[0] <= turn <= parts[-1]]
    assert max(later - turn for turn, later in pairwise(beside)) <= 2
    assert len(beside) > len(parts) / 2


def test_what_is_read_in_one_turn_beside_a_part_is_short(engine, monkeypatch):
    monkeypatch.setattr("mlx_lfm2vl.serving.under_way.PART", 40)
    turns, step = [], _Reading.step

    def counted(reading):
        before = reading.left
        found = step(reading)
        if reading.left < before:
            turns[-1].append(before - reading.left)
        return found

    monkeypatch.setattr(_Reading, "step", counted)
    work, options = UnderWay(engine, 0), AnswerOptions(max_tokens=2, sampling=GREEDY)
    short = ["Hi", "Who?", "Why?"]
    for asked in ([user_message("long " * 60, [PICTURES[0]]), *short], short * 2):
        for number, messages in enumerate(asked):
            work.begin(number, prepare(engine, Request(messages, options)))
        while work.numbers:
            turns.append([])
            work.turn()
    assert max(map(sum, turns)) > 40
    assert all(sum(parts[1:]) <= 40 for parts in turns)


def test_a_short_question_is_answered_before_a_large_image_is_read(engine, monkeypatch):
    monkeypatch.setattr("mlx_lfm2vl.serving.under_way.PART", 1)
    monkeypatch.setattr("mlx_lfm2vl.model.lfm2vl.MAX_PATCHES", 1)
    monkeypatch.setattr("mlx_lfm2vl.model.decode_step.PREFILL_CHUNK", 8)
    many = user_message("What is it?", [make_picture(40, 90, seed) for seed in range(4)])
    begins = [
        (0, 0, prepare(engine, Request(many, NINE))),
        (0, 1, prepare(engine, Request("Hi", NINE))),
    ]
    work, ends = UnderWay(engine, 0), []
    for begin in begins:
        work.begin(*begin[1:])
    while work.numbers:
        ends += [number for number, event in work.turn() if getattr(event, "result", None)]
    assert ends == [1, 0]


def test_a_large_image_is_read_though_short_questions_keep_coming(engine, monkeypatch):
    monkeypatch.setattr("mlx_lfm2vl.serving.under_way.PART", 1)
    monkeypatch.setattr("mlx_lfm2vl.model.lfm2vl.MAX_PATCHES", 1)
    large = prepare(engine, Request(user_message("What is it?", PICTURES), NINE))
    short = prepare(engine, Request("Hi", AnswerOptions(max_tokens=1, sampling=GREEDY)))
    work, told = UnderWay(engine, 0), list[int]()
    work.begin(0, large)
    for number in range(1, 40):
        work.begin(number, short)
        told += [number for number, event in work.turn() if isinstance(event, Piece)]
    assert 0 in told[2:], told
