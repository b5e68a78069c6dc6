"""What is under way side by side: every request gets the answer that it gets alone."""

import gc
import weakref

import mlx.core as mx
import pytest
from drafters import DRAFTERS, make_target
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import make_picture

from mlx_lfm2vl import AnswerOptions, Engine, InputError, Sampling, json_schema, regex
from mlx_lfm2vl.drafter_loading import load_drafter
from mlx_lfm2vl.errors import Lfm2VLError
from mlx_lfm2vl.generation.batch import DRAFTED, Batch
from mlx_lfm2vl.generation.guide import Guide
from mlx_lfm2vl.generation.prefix_store import PrefixStore
from mlx_lfm2vl.generation.result import Piece
from mlx_lfm2vl.generation.row import Row
from mlx_lfm2vl.generation.score import Scores
from mlx_lfm2vl.loading import load
from mlx_lfm2vl.model.lfm2vl import Lfm2VL
from mlx_lfm2vl.prompt.messages import user_message
from mlx_lfm2vl.serving.preparing import prepare
from mlx_lfm2vl.serving.request import Failed, Request
from mlx_lfm2vl.serving.under_way import UnderWay

GREEDY = Sampling()
WARM = Sampling(temperature=1.2, top_p=0.8, min_p=0.05, repetition_penalty=1.2)
OPTIONS = [
    AnswerOptions(max_tokens=9, sampling=GREEDY),
    AnswerOptions(max_tokens=7, sampling=WARM, seed=5, logprobs=True),
    AnswerOptions(max_tokens=12, sampling=GREEDY, stop=["e"], logprobs=True),
    AnswerOptions(max_tokens=12, sampling=GREEDY, constraint=regex("[a-z]{3} (yes|no)!")),
    AnswerOptions(max_tokens=11, sampling=WARM, seed=2, constraint=json_schema({"type": "string"})),
    AnswerOptions(max_tokens=9, sampling=GREEDY, lookup=4),
    AnswerOptions(max_tokens=9, sampling=WARM, seed=1, draft_tokens=3),
    AnswerOptions(max_tokens=8, sampling=GREEDY, answer_start="So"),
    # The budget puts several tokens in the place of those that are drawn.
    AnswerOptions(
        max_tokens=9, sampling=GREEDY, constraint=regex("[a-z]{2,60};end"), logprobs=True
    ),
]
PICTURES = [make_picture(40, 90, 1), make_picture(60, 50, 2)]


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    model, processor = load(make_target(tmp_path_factory.mktemp("target"), "tied"))
    return model, processor, load_drafter(DRAFTERS / "tied", model)


@pytest.fixture(scope="module")
def requests():
    """A request for each of `OPTIONS`, every third one with a picture."""
    return [
        Request(
            user_message("What is it?", [PICTURES[i % 2]]) if i % 3 == 0 else "Hi " + "there" * i,
            options,
        )
        for i, options in enumerate(OPTIONS)
    ]


@pytest.fixture(scope="module")
def alone(loaded, requests):
    """What each request gets from an engine that answers nothing else."""
    return [Engine(*loaded[:2]).generate(each.messages, each.options) for each in requests]


@pytest.fixture
def engine(loaded):
    return Engine(*loaded[:2], store=PrefixStore(), drafter=loaded[2])


def run(work, begins, leaves=()):
    """Take turns until nothing is under way; give the events of each request.

    Args:
        work: what is under way.
        begins: (turn, number, prepared request).
        leaves: (turn, number).
    """
    events, turn, begins = {}, 0, sorted(begins, key=lambda begin: begin[:2])
    while begins or work.numbers:
        while begins and begins[0][0] <= turn:
            work.begin(*begins.pop(0)[1:])
        for _, number in (leave for leave in leaves if leave[0] == turn):
            work.drop(number)
        for number, event in work.turn():
            events.setdefault(number, []).append(event)
        turn += 1
        assert turn < 1000
    return events


def assert_same(events, expected):
    *_, last = events
    pieces = [event for event in events if isinstance(event, Piece)]
    assert isinstance(last, Piece), last
    assert last.result.token_ids == expected.token_ids
    assert "".join(piece.text for piece in pieces) == last.result.text == expected.text
    assert [i for piece in pieces for i in piece.token_ids] == expected.token_ids
    assert last.result.finish_reason == expected.finish_reason
    assert (last.result.logprobs is None) == (expected.logprobs is None)
    if expected.logprobs is not None:
        assert last.result.logprobs == pytest.approx(expected.logprobs, abs=1e-3)


@pytest.mark.parametrize("apart", [0, 2], ids=["at once", "one after another"])
def test_requests_with_options_of_their_own_are_answered_as_alone(engine, requests, alone, apart):
    begins = [(apart * i, i, prepare(engine, each)) for i, each in enumerate(requests)]
    events = run(UnderWay(engine, 0), begins)
    for number, expected in enumerate(alone):
        assert_same(events[number], expected)


DRAWN = st.lists(
    st.tuples(st.integers(0, 12), st.integers(0, len(OPTIONS) - 1), st.integers(0, 30)),
    min_size=1,
    max_size=6,
)


def check_any_order(loaded, requests, alone, drawn):
    engine = Engine(*loaded[:2], store=PrefixStore(), drafter=loaded[2])
    work = UnderWay(engine, 0)
    begins = [(at, i, prepare(engine, requests[n])) for i, (at, n, _) in enumerate(drawn)]
    leaves = [(at + stays, i) for i, (at, _, stays) in enumerate(drawn) if stays < 20]
    events = run(work, begins, leaves)
    gone = {number for _, number in leaves}
    for number, (_, which, _) in enumerate(drawn):
        found = events.get(number, [])
        if number not in gone or (found and getattr(found[-1], "result", None)):
            assert_same(found, alone[which])
        else:
            text = "".join(event.text for event in found if isinstance(event, Piece))
            assert alone[which].text.startswith(text)
    assert work._batch.rows == []
    assert work._readings == []


@settings(max_examples=5, deadline=None)
@given(DRAWN)
def test_requests_may_come_and_go_at_any_token(loaded, requests, alone, drawn):
    check_any_order(loaded, requests, alone, drawn)


@pytest.mark.fuzz
@pytest.mark.timeout(3600)
@settings(max_examples=1000, deadline=None)
@given(DRAWN)
def test_requests_may_come_and_go_in_many_ways(loaded, requests, alone, drawn):
    check_any_order(loaded, requests, alone, drawn)


def test_answers_are_scored_beside_others(engine, requests, alone):
    question = Request("Which?", answers=("yes", "no"))
    begins = [(0, 0, prepare(engine, requests[0])), (3, 1, prepare(engine, question))]
    events = run(UnderWay(engine, 0), begins)
    assert_same(events[0], alone[0])
    scores = events[1][-1]
    expected = engine.score("Which?", ("yes", "no"))
    assert isinstance(scores, Scores)
    for found, own in zip(scores.answers, expected.answers, strict=True):
        assert found.total == pytest.approx(own.total, abs=1e-3)


@pytest.mark.parametrize(
    ("which", "name", "number"),
    [((0, 3, 1, 2), "take", 3), ((0, 3), "along", 1)],
    ids=["plain", "with drafts"],
)
def test_a_constraint_that_fails_on_the_way_ends_its_own_answer(
    engine, requests, alone, monkeypatch, which, name, number
):
    go_on, calls = getattr(Guide, name), []

    def fails(guide, *given):
        calls.append(given)
        if len(calls) == number:
            raise Lfm2VLError("the regular expression cannot be followed: too large")
        return go_on(guide, *given)

    monkeypatch.setattr(Guide, name, fails)
    begins = [(0, i, prepare(engine, requests[n])) for i, n in enumerate(which)]
    events = run(UnderWay(engine, 0), begins)
    assert "too large" in str(events[1][-1])
    for place, asked in enumerate(which):
        if asked != 3:
            assert_same(events[place], alone[asked])


def test_a_step_that_fails_ends_those_in_it_and_no_later_one(engine, requests, alone, monkeypatch):
    step, count = Batch.step, []

    def fails(batch):
        count.append(len(batch.rows))
        if len(count) == 2:
            raise MemoryError
        step(batch)

    monkeypatch.setattr(Batch, "step", fails)
    work = UnderWay(engine, 0)
    events = run(work, [(0, 0, prepare(engine, requests[1])), (9, 1, prepare(engine, requests[2]))])
    assert isinstance(events[0][-1], Failed)
    assert "MemoryError" in str(events[0][-1])
    assert_same(events[1], alone[2])


def test_an_answer_that_cannot_be_kept_harms_nobody(loaded, requests, alone, monkeypatch, caplog):
    def fails(*_):
        raise MemoryError("no memory")

    engine = Engine(*loaded[:2], store=PrefixStore())
    monkeypatch.setattr(Row, "read", fails)
    begins = [(0, i, prepare(engine, requests[i])) for i in (0, 1, 2)]
    events = run(UnderWay(engine, 0), begins)
    for number in range(3):
        assert_same(events[number], alone[number])
    assert engine.store.branches == []
    assert "what was read before is forgotten: MemoryError: no memory" in caplog.text


def test_a_step_that_fails_tells_nothing_to_those_who_have_their_answers(engine, monkeypatch):
    def fails(_):
        raise MemoryError

    work, ended = UnderWay(engine, 0), list[int]()
    for number, options in enumerate((OPTIONS[0].changed({"max_tokens": 2}), OPTIONS[0])):
        work.begin(number, prepare(engine, Request("Hi", options)))
    while not ended:
        ended = [number for number, event in work.turn() if getattr(event, "result", None)]
    monkeypatch.setattr(Batch, "step", fails)
    assert ended == [0]
    assert [(number, type(event)) for number, event in work.turn()] == [(1, Failed)]


@pytest.mark.parametrize("count", [DRAFTED, DRAFTED + 1])
def test_only_a_small_batch_drafts(engine, count):
    asked = prepare(engine, Request("to and " * 20, OPTIONS[5].changed({"max_tokens": 24})))
    events = run(UnderWay(engine, 0), [(0, number, asked) for number in range(count)])
    drafted = [events[number][-1].result.drafted_tokens > 0 for number in range(count)]
    assert drafted == [count == DRAFTED] * count


def test_a_prompt_that_cannot_be_read_ends_its_own_request(engine, requests, alone, monkeypatch):
    begins = [(0, 0, prepare(engine, requests[0])), (0, 1, prepare(engine, requests[1]))]

    def fails(*_):
        raise RuntimeError("[malloc] Unable to allocate 4294967296 bytes.")

    monkeypatch.setattr(Lfm2VL, "encode_batches", fails)
    events = run(UnderWay(engine, 0), begins)
    assert "RuntimeError: [malloc] Unable to allocate" in str(events[0][-1])
    assert_same(events[1], alone[1])


def test_an_error_of_a_prompt_holds_nothing_of_its_request(engine, requests, monkeypatch):
    def fails(*_):
        raise InputError("the image is damaged")

    monkeypatch.setattr(Lfm2VL, "encode_batches", fails)
    begins = [(0, 0, prepare(engine, requests[0]))]
    held = weakref.ref(begins[0][2])
    gc.collect()
    gc.disable()
    try:
        events = run(UnderWay(engine, 0), begins)
        begins.clear()
        assert isinstance(events[0][-1], InputError)
        assert held() is None
    finally:
        gc.enable()


def test_a_first_token_is_told_before_the_next_is_begun(engine, requests, monkeypatch):
    step, steps, told = Batch.step, [], []
    monkeypatch.setattr(Batch, "step", lambda batch: steps.append(batch) or step(batch))
    work = UnderWay(engine, 0)
    work.begin(0, prepare(engine, requests[8]))
    while not told:
        told = [event for _, event in work.turn() if isinstance(event, Piece)]
    assert (len(told[0].token_ids), steps) == (1, [])


def test_the_memory_of_an_answer_is_not_that_of_earlier_work(engine, requests):
    held = mx.get_active_memory()
    mx.eval(mx.zeros(25_000_000))
    events = run(UnderWay(engine, 0), [(0, 0, prepare(engine, requests[1]))])
    assert events[0][-1].result.peak_memory_bytes < held + 50_000_000


def test_a_later_request_does_not_hide_the_memory_that_an_answer_took(engine, requests):
    held = mx.get_active_memory()
    work = UnderWay(engine, 0)
    work.begin(0, prepare(engine, requests[1]))
    mx.eval(mx.zeros(25_000_000))
    events = run(work, [(0, 1, prepare(engine, requests[2]))])
    assert events[0][-1].result.peak_memory_bytes > held + 50_000_000


def test_questions_about_one_image_encode_it_once(engine, alone, monkeypatch):
    monkeypatch.setattr("mlx_lfm2vl.serving.under_way.PART", 1)
    monkeypatch.setattr("mlx_lfm2vl.model.lfm2vl.MAX_PATCHES", 1)  # one view at a time
    encode, encoded = Lfm2VL.encode_batches, []

    def counted(model, pixel_values, shapes):
        encoded.append(len(shapes))
        return encode(model, pixel_values, shapes)

    monkeypatch.setattr(Lfm2VL, "encode_batches", counted)
    questions = ["Which color is it? " * 5, "What is it?", "Where?"]  # later ones are shorter
    begins = [
        (0, i, prepare(engine, Request(user_message(text, [PICTURES[0]]), OPTIONS[0])))
        for i, text in enumerate(questions)
    ]
    events = run(UnderWay(engine, 0), begins)
    assert len(encoded) == 1
    results = [events[i][-1].result for i in range(3)]
    assert results[1].text == alone[0].text
    assert [result.cached_tokens >= result.image_tokens for result in results] == [
        False,
        True,
        True,
    ]


def test_hooks_of_a_request_are_not_used(engine, requests, alone):
    def never(*_):
        raise AssertionError

    hooks = {"on_prefill": never, "on_encode": never, "logits_processors": [never]}
    asked = Request(requests[0].messages, requests[0].options.changed(hooks))
    assert_same(run(UnderWay(engine, 0), [(0, 0, prepare(engine, asked))])[0], alone[0])


def test_what_the_host_refuses_is_said_before_the_device_works(engine):
    for request, message in (
        (Request(user_message("Hi", ["/nowhere.png"])), "does not exist"),
        (Request("Hi", AnswerOptions(max_tokens=2, constraint=regex("[a-z]{30}"))), "too few for"),
        (Request("Hi", answers=("",)), "no answer to score"),
    ):
        with pytest.raises(InputError, match=message):
            prepare(engine, request)
