"""Decoding with a drafter: the same tokens at every setting, in rounds that read the host once."""

from dataclasses import replace
from itertools import cycle

import mlx.core as mx
import numpy as np
import pytest
from drafters import DRAFTERS, TARGETS, expected, make_target
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_lfm2vl import AnswerOptions, Engine, Sampling
from mlx_lfm2vl.drafter_loading import load_drafter
from mlx_lfm2vl.generation.drafted import drafted_step
from mlx_lfm2vl.generation.drafting import ModelDrafter
from mlx_lfm2vl.generation.loop import Drafts, generate_step
from mlx_lfm2vl.generation.prefix_store import PrefixStore
from mlx_lfm2vl.generation.sampling import Sampler
from mlx_lfm2vl.generation.verifying import VerifyingSampler
from mlx_lfm2vl.loading import load
from mlx_lfm2vl.speed.host_syncs import HostSyncs

GREEDY = Sampling()
PROMPT = [7, 9, 11, 13, 15, 17, 11, 13]
SAMPLINGS = [
    GREEDY,
    Sampling(temperature=0.7, top_k=20),
    Sampling(temperature=1.2, top_p=0.8, min_p=0.05, repetition_penalty=1.2),
    Sampling(repetition_penalty=1.3),
]


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """Targets with their golden drafters, by name."""

    def make(name):
        if name not in made:
            model, processor = load(make_target(tmp_path_factory.mktemp(name), name))
            made[name] = model, processor, load_drafter(DRAFTERS / name, model)
        return made[name]

    made = {}
    return make


class Script:
    """A drafter whose drafts are given."""

    taps = ()
    rests = False

    def __init__(self, drafts):
        self.drafts = cycle(drafts)

    def add(self, token):
        pass

    def queue(self, _anchor, _outputs, _verified):
        return None

    def draft(self, most):
        return next(self.drafts)[:most]


def plain(model, sampling, seed, count, **options):
    sampler = Sampler(sampling, [PROMPT], [seed], **options)
    steps = generate_step(model, model.embed(PROMPT), model.make_cache(), sampler, count)
    return [token.id for token in steps]


def drafted(model, drafter, sampling, seed, count, drafts=None, **options):
    sampler = VerifyingSampler(sampling, [PROMPT], [seed], **options)
    cache, drafts = model.make_cache(), drafts or Drafts()
    embeds = model.embed(PROMPT)
    steps = drafted_step(model, embeds, cache, sampler, count, drafter(sampler), drafts)
    return [token.id for token in steps]


@pytest.mark.parametrize("loop", range(2))
@pytest.mark.parametrize("name", TARGETS)
def test_rounds_are_those_of_mlx_vlm(loaded, name, loop):
    model, _, draft_model = loaded(name)
    golden, key = expected(name), f"loop.{loop}."
    prompt, tokens = golden[key + "prompt"][0].tolist(), golden[key + "tokens"].tolist()
    rounds = []

    class Recorded(ModelDrafter):
        def draft(self, most):
            rounds.append(super().draft(most))
            return rounds[-1]

    sampler = VerifyingSampler(GREEDY, [prompt], [0])
    block = draft_model.config.block_size
    drafter = Recorded(draft_model, model, sampler, draft_model.make_cache(), None, block)
    embeds, drafts = model.embed(prompt), Drafts()
    steps = drafted_step(model, embeds, model.make_cache(), sampler, len(tokens), drafter, drafts)
    assert [token.id for token in steps] == tokens
    theirs = golden[key + "drafts"].tolist()
    assert len(rounds) == len(theirs) > 5
    # Near the end mlx-vlm drafts fewer tokens with a shorter block, which is another draft.
    whole = [pair for pair in zip(rounds, theirs, strict=True) if -1 not in pair[1]]
    for ours, draft in whole:
        assert ours == draft[: len(ours)]


@settings(max_examples=8, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 364), max_size=12), min_size=1, max_size=5),
    st.sampled_from(SAMPLINGS),
    st.integers(0, 5),
    st.integers(1, 24),
)
def test_no_draft_changes_a_token(loaded, drafts, sampling, seed, count):
    model, *_ = loaded("tied")
    said = plain(model, sampling, seed, count)
    assert drafted(model, lambda _: Script(drafts), sampling, seed, count) == said


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_right_drafts_are_accepted_at_every_setting(loaded, sampling):
    model, *_ = loaded("tied")
    said = plain(model, sampling, 3, 24)

    class Prophet(Script):
        def __init__(self):
            self.said = []

        def add(self, token):
            self.said.append(token)

        def draft(self, most):
            begin = len(self.said)
            return said[begin : begin + min(most, 5)]

    drafts = Drafts()
    assert drafted(model, lambda _: Prophet(), sampling, 3, 24, drafts) == said
    assert drafts.tried == drafts.accepted == 19
    assert drafts.rounds == {5: 3, 4: 1}


def test_processors_see_what_was_said_before_each_token_of_a_draft(loaded):
    model, *_ = loaded("tied")

    def forbid(tokens, logits):
        mask = (mx.arange(logits.shape[-1])[None] == tokens[:, None]).any(axis=0)
        return mx.where(mask, -1e9, logits)

    options = {"processors": [forbid]}
    said = plain(model, GREEDY, 0, 20, **options)
    assert len(set(said)) == 20
    drafts = [said[i : i + 4] for i in range(1, 20, 5)]
    count = Drafts()
    assert drafted(model, lambda _: Script(drafts), GREEDY, 0, 20, count, **options) == said
    assert count.accepted == count.tried


@pytest.mark.parametrize(("name", "sampling"), [*zip(TARGETS, [*SAMPLINGS, GREEDY], strict=True)])
def test_a_draft_model_leaves_the_answer_as_it_is(loaded, name, sampling):
    model, processor, drafter = loaded(name)
    options = AnswerOptions(max_tokens=10, sampling=sampling, seed=4, logprobs=True)
    expected = Engine(model, processor).generate("Hello there", options)
    engine = Engine(model, processor, drafter=drafter)
    for changes in ({}, {"draft_tokens": 2}, {"lookup": 3}, {"draft_tokens": 3, "lookup": 3}):
        found = engine.generate("Hello there", options, **changes)
        assert found.token_ids == expected.token_ids
        assert found.text == expected.text
        np.testing.assert_allclose(found.logprobs, expected.logprobs, atol=1e-4)
        assert found.drafted_tokens > 0 or "draft_tokens" not in changes


def test_a_round_reads_the_host_once(loaded):
    model, _, drafter = loaded("tied")
    sampler = VerifyingSampler(Sampling(temperature=0.8), [PROMPT], [1])
    run = ModelDrafter(drafter, model, sampler, drafter.make_cache(), None, 5)
    drafts, embeds = Drafts(), model.embed(PROMPT)
    with HostSyncs() as syncs:
        steps = drafted_step(model, embeds, model.make_cache(), sampler, 30, run, drafts)
        assert len(list(steps)) == 30
    assert (
        sum(syncs.count.values()) == sum(drafts.rounds.values()) + 1
    )  # and one for the first token


def test_the_drafter_s_context_is_that_of_the_committed_tokens(loaded):
    model, _, drafter = loaded("own_head")
    sampler = VerifyingSampler(Sampling(temperature=0.9), [PROMPT], [2])
    run = ModelDrafter(drafter, model, sampler, drafter.make_cache(), None, 7)
    embeds, drafts = model.embed(PROMPT), Drafts()
    steps = drafted_step(model, embeds, model.make_cache(), sampler, 30, run, drafts)
    said = [token.id for token in steps]
    assert run.context.length == len(PROMPT) + 29
    embeds = model.embed([*PROMPT, *said[:-1]])
    _, outputs = model.language_model.tapped(embeds, None, drafter.config.target_layer_ids)
    fresh = drafter.make_cache()
    drafter.append(mx.concatenate(outputs, axis=-1), fresh)
    for own, other in zip(run.context.layers, fresh.layers, strict=True):
        for ours, theirs in zip(own.arrays, other.arrays, strict=True):
            length = fresh.length
            np.testing.assert_allclose(
                ours[:, :, :length], theirs[:, :, :length], atol=1e-4, rtol=1e-4
            )


@pytest.mark.parametrize("sure", [-1, 2])
def test_a_draft_stops_at_an_end_token_and_the_answer_goes_on_as_without(loaded, monkeypatch, sure):
    model, _, drafter = loaded("tied")
    said = plain(model, GREEDY, 0, 40)
    ends = tuple(sorted(set(said))[::4])
    monkeypatch.setattr(model, "config", replace(model.config, eos_token_ids=ends))
    monkeypatch.setattr("mlx_lfm2vl.generation.drafting.SURE", sure)
    drafts = []

    class Recorded(ModelDrafter):
        def draft(self, most):
            drafts.append(super().draft(most))
            return drafts[-1]

    def make(sampler):
        runs.append(Recorded(drafter, model, sampler, drafter.make_cache(), None, 5))
        return runs[-1]

    runs = []
    assert drafted(model, make, GREEDY, 0, 40) == said
    cut = [draft for draft in drafts if set(draft) & set(ends)]
    assert len(cut) > 2
    assert all(set(draft[:-1]).isdisjoint(ends) for draft in drafts)
    # What follows a sure end that was none is verified alone.
    assert ([] in drafts[1:-1]) == (sure < 0)
    assert runs[0].context.length == len(PROMPT) + 39


def test_nothing_behind_an_end_token_is_counted_or_shown(loaded):
    model, processor, drafter = loaded("tied")
    whole = Engine(model, processor).generate("Hello there", max_tokens=40, sampling=GREEDY)
    stop = whole.text[len(whole.text) // 2 :][:3]
    engine = Engine(model, processor, drafter=drafter)
    options = AnswerOptions(max_tokens=40, sampling=GREEDY, stop=[stop])
    expected = Engine(model, processor).generate("Hello there", options)
    found = engine.generate("Hello there", options, draft_tokens=5)
    assert (found.text, found.token_ids) == (expected.text, expected.token_ids)
    assert found.accepted_tokens < len(found.token_ids)


@pytest.mark.parametrize("turns", [1, 3])
def test_a_prefix_that_comes_back_has_what_the_drafter_read(loaded, turns):
    model, processor, drafter = loaded("tied")
    options = AnswerOptions(max_tokens=12, sampling=GREEDY, draft_tokens=5)
    engine = Engine(model, processor, store=PrefixStore(), drafter=drafter)
    fresh = Engine(model, processor, drafter=drafter)
    messages = [{"role": "user", "content": "Hello there. " * 8}]
    for _ in range(turns):
        answer = engine.generate(messages, options).text
        messages += [{"role": "assistant", "content": answer}, {"role": "user", "content": "And?"}]
    again, first = engine.generate(messages, options), fresh.generate(messages, options)
    assert again.cached_tokens > 10
    assert again.token_ids == first.token_ids
    assert (again.drafted_tokens, again.accepted_tokens) == (
        first.drafted_tokens,
        first.accepted_tokens,
    )


def test_a_prefix_that_no_drafter_has_read_gives_the_same_answer(loaded):
    model, processor, drafter = loaded("tied")
    options = AnswerOptions(max_tokens=20, sampling=GREEDY)
    store = PrefixStore()
    expected = Engine(model, processor, store=store).generate("Hello there. " * 8, options)
    engine = Engine(model, processor, store=store, drafter=drafter)
    found = engine.generate("Hello there. " * 8, options, draft_tokens=4)
    assert found.cached_tokens > 0
    assert found.token_ids == expected.token_ids
