"""A store continues any prompt at any position, and the logits are those of a fresh run."""

from typing import NamedTuple

import mlx.core as mx
import numpy as np
import pytest
from conftest import golden, relative_error
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pictures import make_picture

from mlx_lfm2vl.generation import prefix, prefix_store
from mlx_lfm2vl.generation.prefix import Prefix, segment_ends
from mlx_lfm2vl.generation.prefix_store import Branch, PrefixStore
from mlx_lfm2vl.generation.prepare import embed_prompt, read_prompt
from mlx_lfm2vl.loading import load
from mlx_lfm2vl.model.decode_step import Passes, prefill
from mlx_lfm2vl.model.rewind import reach
from mlx_lfm2vl.options import AnswerOptions
from mlx_lfm2vl.prompt.messages import user_message

MESSAGES = [
    *user_message("What is it?", [make_picture(40, 60, 0)]),
    {"role": "assistant", "content": "A picture of a house."},
    *user_message("And this one, and that?", [make_picture(40, 60, s) for s in (1, 2)]),
]


@pytest.fixture(autouse=True, scope="module")
def cut_after_every_message():
    """A store goes back to any position, also to those near a cut."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (prefix, prefix_store):
            patch.setattr(module, "SHORT", 0)
        yield


class Text(NamedTuple):
    """A prompt with what the decoder reads for it."""

    prefix: Prefix
    embeds: mx.array  # (1, L, C)

    def until(self, to: int, ids: list[int], model) -> "Text":
        """Return the positions before `to`, then these tokens."""
        kept = self.prefix.until(to)
        whole = Prefix([*kept.ids, *ids], kept.spans, kept.keys)
        return Text(whole, mx.concatenate([self.embeds[:, :to], model.embed(ids)], axis=1))


@pytest.fixture(scope="module")
def model():
    return load(golden("new_names").folder, dtype="float32")[0]


@pytest.fixture(scope="module")
def conversation(model) -> tuple[Text, dict[bytes, mx.array]]:
    """Three images in two turns, and their features by key."""
    processor = load(golden("new_names").folder, dtype="float32")[1]
    store = PrefixStore()
    options = AnswerOptions(max_tokens=1)
    ready = embed_prompt(model, read_prompt(model, processor, MESSAGES, options), store)
    return Text(ready.prefix, ready.taken()), dict(store.features)


def read(model, store: PrefixStore, text: Text) -> tuple[mx.array, int]:
    """Continue a prompt as the engine does; return its logits, and the positions not read."""
    branch = store.continued(model, text.prefix)
    begin = len(branch.prefix)
    ends = segment_ends(text.prefix.ids, text.prefix.spans, model.config.eos_token_ids)
    # Prompts hold whole images. These may end inside one.
    cuts = sorted({min(end, len(text.prefix)) - begin for end in ends if end > begin})

    def reached() -> None:
        branch.snapshots[branch.cache.offset] = branch.cache.windows

    logits = prefill(model, text.embeds[:, begin:], branch.cache, Passes(None, cuts, reached))
    store.keep(Branch(text.prefix, branch.cache, branch.snapshots))
    return logits, begin


def assert_fresh(model, logits: mx.array, text: Text) -> None:
    """Logits within 1e-5 of a fresh run's, and the same best token unless two are that close."""
    expected = prefill(model, text.embeds, model.make_cache())
    assert relative_error(logits, expected) < 1e-5
    second, first = np.sort(np.array(expected[0]))[-2:]
    if first - second > 2e-5 * np.abs(np.array(expected)).max():
        assert mx.argmax(logits).item() == mx.argmax(expected).item()


def filled(conversation, features: bool = True) -> PrefixStore:
    store = PrefixStore()
    if features:
        store.features.update(conversation[1])
    return store


def test_every_position_of_a_prompt_with_images_comes_back(model, conversation):
    """At 0, inside images and messages, at their ends, and at the end of everything."""
    text, _ = conversation
    length = len(text.prefix)
    ends = segment_ends(text.prefix.ids, text.prefix.spans, model.config.eos_token_ids)
    near = {end + step for end in ends for step in (-1, 0, 1)}
    for to in sorted({*range(0, length, 23), *near} - {length + 1}):
        store = filled(conversation)
        read(model, store, text)
        changed = text.until(to, [150, 151], model)
        logits, kept = read(model, store, changed)
        assert to - reach(model.language_model) <= kept <= to
        assert_fresh(model, logits, changed)


def test_without_features_a_position_in_an_image_goes_back_to_a_snapshot(model, conversation):
    text, _ = conversation
    begin, end = text.prefix.spans[1]
    ends = segment_ends(text.prefix.ids, text.prefix.spans, model.config.eos_token_ids)
    for to in range(begin + 2, end, 9):
        store = filled(conversation, features=False)
        read(model, store, text)
        changed = text.until(to, [150], model)
        logits, kept = read(model, store, changed)
        assert kept == max(snapshot for snapshot in ends if snapshot < to)
        assert_fresh(model, logits, changed)


def test_a_question_asked_again_reads_one_token(model, conversation):
    text, _ = conversation
    store = filled(conversation)
    read(model, store, text)
    for _ in range(2):
        logits, kept = read(model, store, text)
        assert kept == len(text.prefix) - 1
        assert_fresh(model, logits, text)


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_any_sequence_of_prompts_trims_and_evictions_equals_fresh_runs(model, conversation, data):
    """Prompts that leave earlier ones anywhere, with several branches and losses in between."""
    text, features = conversation
    store = filled(conversation)
    texts = [text]
    for turn in range(data.draw(st.integers(2, 6))):
        base = texts[data.draw(st.integers(0, len(texts) - 1))]
        to = data.draw(st.integers(0, len(base.prefix)))
        ids = data.draw(st.lists(st.integers(150, 200), min_size=1, max_size=12))
        chosen = base.until(to, ids, model) if turn else text
        logits, _ = read(model, store, chosen)
        assert_fresh(model, logits, chosen)
        texts.append(chosen)
        lost = data.draw(st.sampled_from(["nothing", "features", "snapshots", "a branch"]))
        number = data.draw(st.integers(0, 2))
        if lost == "features":
            store.features.pop(sorted(features)[number], None)
        if lost == "snapshots":
            store.branches[number % len(store.branches)].snapshots.clear()
        if lost == "a branch":
            store.branches.pop(number % len(store.branches))
