"""Batches: every row gets the tokens that it gets alone, whoever is beside it."""

import pytest
from conftest import golden
from pictures import make_picture

from mlx_lfm2vl import InputError, Sampling, batch_generate, generate, regex, stream_batch
from mlx_lfm2vl.model.decode_step import prefill_passes
from mlx_lfm2vl.prompt.messages import user_message

CASE = golden("new_names")
CONVERSATIONS = [
    CASE.messages("two_images"),
    "Hi",
    user_message("What is this?", [make_picture(40, 90, 1)]),
    user_message("What is that?", [make_picture(40, 90, 2)]),  # as long as the one before
    user_message("A longer question about a larger picture.", [make_picture(200, 150, 3)]),
]
SAMPLINGS = {
    "greedy": Sampling(),
    "drawn": Sampling(temperature=0.8, min_p=0.05, repetition_penalty=1.1),
}


@pytest.mark.parametrize("name", SAMPLINGS)
def test_every_row_is_as_it_is_alone(tiny, name):
    settings = {"max_tokens": 8, "sampling": SAMPLINGS[name], "seed": 3}
    alone = [generate(*tiny, conversation, **settings) for conversation in CONVERSATIONS]
    for batch_size in (1, 3, 8):
        together = batch_generate(*tiny, CONVERSATIONS, batch_size=batch_size, **settings)
        assert [r.token_ids for r in together] == [r.token_ids for r in alone], batch_size
        assert [r.text for r in together] == [r.text for r in alone]
        assert [r.finish_reason for r in together] == [r.finish_reason for r in alone]
        assert [r.prompt_tokens for r in together] == [r.prompt_tokens for r in alone]


def test_rows_that_end_at_different_times_make_room(tiny):
    settings = {
        "max_tokens": 30,
        "sampling": Sampling(temperature=3),
        "seed": 1,
        "stop": ["2", "5\x04", ":"],
    }
    alone = [generate(*tiny, "?" * i, **settings) for i in range(7)]
    assert len({len(result.token_ids) for result in alone}) > 2  # they do
    together = batch_generate(*tiny, ("?" * i for i in range(7)), batch_size=3, **settings)
    assert [r.token_ids for r in together] == [r.token_ids for r in alone]


def test_what_cannot_be_answered_does_not_stop_the_others(tiny):
    conversations = ["One", user_message("Two", ["/nowhere.png"]), "Three"]
    found = dict(stream_batch(*tiny, conversations, batch_size=2, max_tokens=3, seed=0))
    assert isinstance(found[1], InputError)
    assert found[0].token_ids == generate(*tiny, "One", max_tokens=3, seed=0).token_ids
    assert found[2].token_ids == generate(*tiny, "Three", max_tokens=3, seed=0).token_ids
    with pytest.raises(InputError, match="nowhere"):
        batch_generate(*tiny, conversations, max_tokens=3)


def test_a_form_that_does_not_fit_is_an_error_of_each_conversation(tiny):
    found = dict(stream_batch(*tiny, ["One", "Two"], constraint=regex("a{99}"), max_tokens=3))
    assert ["too few" in str(found[number]) for number in (0, 1)] == [True, True]


def test_conversations_are_read_when_there_is_room(tiny):
    read = []

    def endless():
        for number in range(10**9):
            read.append(number)
            yield f"Question {number}"

    answers = stream_batch(*tiny, endless(), batch_size=2, max_tokens=2, sampling=Sampling())
    for _ in range(3):
        next(answers)
    assert len(read) <= 6


def test_those_under_way_go_on_while_the_next_is_not_there(tiny):
    answered = []

    def slowly():
        for number, question in enumerate(["One", "Two"]):
            while len(answered) < number:  # would wait for ever if the first did not go on
                yield None
            yield question
        yield None

    for number, result in stream_batch(*tiny, slowly(), batch_size=4, max_tokens=3, seed=0):
        answered.append((number, result.token_ids))
    alone = [generate(*tiny, text, max_tokens=3, seed=0).token_ids for text in ("One", "Two")]
    assert answered == [*enumerate(alone)]


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"batch_size": 0}, "batch_size is 0"), ({"max_tokens": 0}, "max_tokens is 0")],
)
def test_settings_that_fit_no_conversation_are_refused(tiny, settings, message):
    with pytest.raises(InputError, match=message):
        batch_generate(*tiny, ["Hi"], **settings)


def test_no_conversations_are_no_answers(tiny):
    assert batch_generate(*tiny, []) == []


def test_rows_without_a_seed_draw_differently(tiny):
    settings = {"max_tokens": 12, "sampling": Sampling(temperature=3)}
    results = batch_generate(*tiny, ["Tell me"] * 4, **settings)
    assert len({tuple(result.token_ids) for result in results}) > 1
    again = generate(*tiny, "Tell me", seed=results[2].seed, **settings)
    assert again.token_ids == results[2].token_ids


def test_a_row_is_timed_as_an_answer_alone(tiny, monkeypatch):
    def ticking():
        ticks = iter(range(1000))
        monkeypatch.setattr("time.perf_counter", lambda: float(next(ticks)))

    settings = {"max_tokens": 5, "sampling": Sampling()}
    ticking()
    alone = generate(*tiny, CONVERSATIONS[0], **settings)
    ticking()
    (row,) = batch_generate(*tiny, CONVERSATIONS[:1], **settings)
    assert row.timings == alone.timings


def test_equally_long_prompts_are_read_in_one_pass(tiny, monkeypatch):
    shapes = []

    def reading(model, embeds, *others):
        shapes.append(embeds.shape[:2])
        return prefill_passes(model, embeds, *others)

    monkeypatch.setattr("mlx_lfm2vl.generation.arrival.prefill_passes", reading)
    results = batch_generate(*tiny, ["aaa", "b", "ccc"], max_tokens=1, sampling=Sampling())
    long, short = results[0].prompt_tokens, results[1].prompt_tokens
    assert shapes == [(1, short), (2, long)]
