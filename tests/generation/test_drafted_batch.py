"""Batches with drafters: every row gets the tokens that it gets alone, whatever is drafted."""

import mlx.core as mx
import numpy as np
import pytest
from drafters import DRAFTERS, Script, make_target
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_lfm2vl import AnswerOptions, Engine, Sampling, choice
from mlx_lfm2vl.drafter_loading import load_drafter
from mlx_lfm2vl.generation.prefix_store import PrefixStore
from mlx_lfm2vl.generation.rounds import Rounds
from mlx_lfm2vl.loading import load
from mlx_lfm2vl.speed.host_syncs import HostSyncs

GREEDY = Sampling()
SAMPLINGS = [
    GREEDY,
    Sampling(temperature=0.7, top_k=20),
    Sampling(temperature=1.2, top_p=0.8, min_p=0.05, repetition_penalty=1.2),
]
QUESTIONS = ["Hello there", "Hi", "What is this?", "A longer question, of more tokens"]
TOKENS = 10


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    model, processor = load(make_target(tmp_path_factory.mktemp("target"), "tied"))
    return model, processor, load_drafter(DRAFTERS / "tied", model)


@pytest.fixture(scope="module")
def alone(loaded):
    """Answers without a drafter, one by one, and their tokens by the ids of the prompt."""

    def answers(options):
        if repr(options) not in made:
            engine = Engine(*loaded[:2])
            made[repr(options)] = [engine.generate(q, options) for q in QUESTIONS]
        return made[repr(options)]

    made = {}
    return answers


KIND = st.tuples(st.integers(0, 5), st.integers(0, 3))


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.lists(KIND, min_size=1, max_size=4), min_size=4, max_size=4),
    st.lists(st.booleans(), max_size=3),
    st.sampled_from(SAMPLINGS),
    st.sampled_from([(), ("e",)]),
    st.integers(1, 4),
)
def test_no_draft_changes_a_token_of_any_row(loaded, alone, kinds, rests, sampling, stop, size):
    options = AnswerOptions(
        max_tokens=TOKENS, sampling=sampling, seed=5, stop=stop, logprobs=True, lookup=1
    )
    expected = alone(options.changed({"lookup": 0}))
    scripts = iter(zip(expected, kinds, strict=True))  # in the order in which rows come

    def script(*_):
        answer, kind = next(scripts)
        return Script(answer.token_ids, kind, [*rests, False])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mlx_lfm2vl.generation.drafting.make_drafter", script)
        patch.setattr("mlx_lfm2vl.generation.stream_batch.groups_of", lambda r, _: [[x] for x in r])
        found = dict(Engine(*loaded[:2]).stream_batch(QUESTIONS, options, batch_size=size))
    for number, row in enumerate(expected):
        assert found[number].token_ids == row.token_ids
        assert (found[number].text, found[number].finish_reason) == (row.text, row.finish_reason)
        np.testing.assert_allclose(found[number].logprobs, row.logprobs, atol=1e-4)


def test_rows_accept_different_numbers(loaded, alone, monkeypatch):
    options = AnswerOptions(max_tokens=TOKENS, sampling=GREEDY, seed=0, lookup=1)
    expected = alone(options.changed({"lookup": 0}))
    kinds = iter([(5, 0), (0, 3), (2, 2), (0, 0)])
    answers = iter(expected)

    def script(*_):
        return Script(next(answers).token_ids, [next(kinds)])

    monkeypatch.setattr("mlx_lfm2vl.generation.drafting.make_drafter", script)
    monkeypatch.setattr(
        "mlx_lfm2vl.generation.stream_batch.groups_of", lambda rows, _: [[row] for row in rows]
    )
    found = dict(Engine(*loaded[:2]).stream_batch(QUESTIONS, options, batch_size=4))
    assert [found[n].token_ids for n in range(4)] == [row.token_ids for row in expected]
    counts = [(found[n].drafted_tokens, found[n].accepted_tokens) for n in range(4)]
    assert [accepted for _, accepted in counts] == [7, 0, 6, 0]
    assert counts[0] == (7, 7)
    assert counts[3] == (0, 0)


def test_what_stands_behind_a_stop_string_is_not_counted(loaded, alone, monkeypatch):
    options = AnswerOptions(max_tokens=TOKENS, sampling=GREEDY, seed=0, lookup=1)
    plain = alone(options.changed({"lookup": 0}))[0]
    stop = plain.text[len(plain.text) // 2 :][:1]
    script = Script(plain.token_ids, [(9, 0)], [False])
    monkeypatch.setattr("mlx_lfm2vl.generation.drafting.make_drafter", lambda *_: script)
    ((_, found),) = Engine(*loaded[:2]).stream_batch(QUESTIONS[:1], options, stop=[stop])
    assert found.accepted_tokens == len(found.token_ids) - 1 < TOKENS - 2


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_a_draft_model_leaves_every_row_as_it_is(loaded, alone, sampling):
    model, processor, drafter = loaded
    options = AnswerOptions(max_tokens=TOKENS, sampling=sampling, seed=4)
    engine = Engine(model, processor, drafter=drafter)
    changes = {"draft_tokens": 4} if sampling is GREEDY else {"draft_tokens": 2, "lookup": 3}
    found = dict(engine.stream_batch(QUESTIONS, options, batch_size=3, **changes))
    for number, row in enumerate(alone(options)):
        assert found[number].token_ids == row.token_ids
        assert found[number].drafted_tokens > 0


def test_a_round_reads_the_host_once_for_all_rows(loaded, monkeypatch):
    model, processor, drafter = loaded
    counts, whole = [], Rounds.round

    def counted(rounds, rows, cache):
        counts.append(len(rows))
        whole(rounds, rows, cache)

    monkeypatch.setattr(Rounds, "round", counted)
    engine = Engine(model, processor, drafter=drafter)
    options = AnswerOptions(max_tokens=6, sampling=SAMPLINGS[1], seed=0, draft_tokens=3)
    with HostSyncs() as syncs:
        assert len(list(engine.stream_batch(QUESTIONS[:3], options, batch_size=3))) == 3
    assert sum(syncs.count.values()) == 1 + len(counts) > 3  # the first tokens are read before
    assert counts[0] == 3


@pytest.mark.parametrize(
    ("size", "changes", "drafts"),
    [
        (3, {}, True),
        (4, {}, False),
        (4, {"draft_tokens": 2}, True),
        (2, {"draft_tokens": 0}, False),
    ],
)
def test_large_batches_draft_only_if_asked_to(loaded, monkeypatch, size, changes, drafts):
    made, init = [], Rounds.__init__

    def counted(rounds, model):
        made.append(rounds)
        init(rounds, model)

    monkeypatch.setattr(Rounds, "__init__", counted)
    engine = Engine(loaded[0], loaded[1], drafter=loaded[2])
    list(engine.stream_batch(["Hi"], batch_size=size, max_tokens=1, seed=0, **changes))
    assert bool(made) is drafts


def test_a_batch_leaves_what_the_drafter_read_to_the_store(loaded):
    model, processor, drafter = loaded
    options = AnswerOptions(max_tokens=TOKENS, sampling=GREEDY, draft_tokens=4)
    engine = Engine(model, processor, store=PrefixStore(), drafter=drafter)
    question = "Hello there. " * 8
    dict(engine.stream_batch([question, "Hi"], options, batch_size=2))
    again = engine.generate(question, options)
    first = Engine(model, processor, drafter=drafter).generate(question, options)
    assert again.cached_tokens > 0
    assert again.token_ids == first.token_ids
    assert (again.drafted_tokens, again.accepted_tokens) == (
        first.drafted_tokens,
        first.accepted_tokens,
    )


def test_tokens_that_come_without_choice_are_no_drafts(loaded, monkeypatch):
    monkeypatch.setattr(
        "mlx_lfm2vl.generation.drafting.make_drafter", lambda *_: Script([], [(0, 0)], [False])
    )
    only = choice(["nothing but this"])
    answers = Engine(*loaded[:2]).stream_batch(QUESTIONS[:2], constraint=only, lookup=4)
    for _, found in answers:
        assert found.text == "nothing but this"
        assert (found.drafted_tokens, found.accepted_tokens) == (0, 0)


def test_what_repeats_is_copied_in_batches_too(tiny):
    def in_a_circle(tokens, logits):
        return mx.where(mx.arange(logits.shape[-1]) == 60 + (tokens[-1] + 1) % 5, 100.0, logits)

    settings = {"max_tokens": 16, "sampling": GREEDY, "logits_processors": [in_a_circle]}
    engine = Engine(*tiny)
    alone = [engine.generate(text, **settings) for text in ("One", "Two three")]
    found = dict(engine.stream_batch(["One", "Two three"], lookup=4, batch_size=2, **settings))
    for number, row in enumerate(alone):
        assert found[number].token_ids == row.token_ids
        assert found[number].accepted_tokens >= 4
