"""What was read before is continued: the same answer as a fresh run's, whatever was kept."""

import numpy as np
import pytest
from conftest import golden
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pictures import make_picture
from training_runs import perturb

from mlx_lfm2vl.generation.engine import Engine
from mlx_lfm2vl.generation.prefix import SHORT, Prefix, cuts, image_key, segment_ends
from mlx_lfm2vl.generation.prefix_store import PrefixStore
from mlx_lfm2vl.loading import load
from mlx_lfm2vl.model.language import LanguageModel
from mlx_lfm2vl.options import ImageOptions
from mlx_lfm2vl.prompt.messages import user_message
from mlx_lfm2vl.training.adapters import adapted_paths, add_adapter

PICTURES = [make_picture(40, 60, seed) for seed in range(3)]
GREEDY = {"temperature": 0.0, "max_tokens": 6}


@pytest.fixture(scope="module")
def loaded():
    return load(golden("new_names").folder, dtype="float32")


@pytest.fixture
def engine(loaded) -> Engine:
    return Engine(*loaded, store=PrefixStore())


def said(text: str) -> dict:
    return {"role": "assistant", "content": text}


def asked(text: str, *pictures) -> dict:
    return user_message(text, pictures)[0]


def fresh(loaded, messages, **options):
    return Engine(*loaded).generate(messages, **{**GREEDY, **options})


def encoded(monkeypatch, engine) -> list[int]:
    """Count the views that the vision tower sees."""
    views: list[int] = []
    true = type(engine.model).encode_patches

    def counting(self, patches, grid):
        views.append(patches.shape[0])
        return true(self, patches, grid)

    monkeypatch.setattr(type(engine.model), "encode_patches", counting)
    return views


def test_a_second_question_reads_only_what_is_new(engine, loaded, monkeypatch):
    first = engine.generate([asked("What is it?", PICTURES[0])], **GREEDY)
    views = encoded(monkeypatch, engine)
    second = engine.generate([asked("Which color?", PICTURES[0])], **GREEDY)
    assert views == []
    assert first.cached_tokens == 0
    assert second.cached_tokens >= second.image_tokens
    monkeypatch.undo()
    expected = fresh(loaded, [asked("Which color?", PICTURES[0])])
    assert second.token_ids == expected.token_ids


def test_a_conversation_continues_after_its_last_answer(engine, loaded):
    messages = [asked("What is it?", PICTURES[0])]
    answer = engine.generate(messages, **GREEDY)
    messages += [said(answer.text), asked("Sure?")]
    again = engine.generate(messages, **GREEDY)
    assert again.cached_tokens >= answer.prompt_tokens
    assert again.token_ids == fresh(loaded, messages).token_ids


def test_an_image_with_as_many_tokens_is_never_taken_for_another(engine, loaded):
    for picture in (*PICTURES, *PICTURES):
        messages = [asked("What is it?", picture)]
        assert engine.generate(messages, **GREEDY).token_ids == fresh(loaded, messages).token_ids


def test_a_file_that_was_replaced_is_seen(engine, loaded, tmp_path):
    path = tmp_path / "picture.png"
    for picture in PICTURES:
        picture.save(path)
        messages = [asked("What is it?", path)]
        result = engine.generate(messages, **GREEDY)
        assert result.token_ids == fresh(loaded, messages).token_ids
        assert result.cached_tokens < result.image_tokens


def test_other_image_options_are_another_image(engine, loaded):
    messages = [asked("What is it?", make_picture(300, 400, 1))]
    for most in (4, 16, 4):
        options = {"max_image_tokens": most, "do_image_splitting": False}
        chosen = ImageOptions(**options)
        result = engine.generate(messages, **GREEDY, image_options=chosen)
        assert result.token_ids == fresh(loaded, messages, image_options=chosen).token_ids


def test_an_image_elsewhere_in_another_prompt_skips_the_encoder(engine, loaded, monkeypatch):
    views = encoded(monkeypatch, engine)
    engine.generate([asked("What is it?", PICTURES[0])], **GREEDY)
    alone = sum(views)
    messages = [asked("Compare them.", PICTURES[1], PICTURES[0])]
    result = engine.generate(messages, **GREEDY)
    assert sum(views) == 2 * alone  # only the other image is new
    monkeypatch.undo()
    assert result.token_ids == fresh(loaded, messages).token_ids


def test_weights_that_were_replaced_forget_everything():
    model, processor = load(golden("new_names").folder, dtype="float32")
    engine = Engine(model, processor, store=PrefixStore())
    engine.generate("Hello there", **GREEDY)
    norm = model.language_model.embedding_norm
    norm.weight = norm.weight * 1.5
    assert engine.generate("Hello there", **GREEDY).cached_tokens == 0


def test_an_adapters_scale_that_was_changed_forgets_everything():
    model, processor = load(golden("new_names").folder, dtype="float32")
    paths = adapted_paths(model, ("language",))
    add_adapter(model, paths, dora=False, rank=2, scale=1.0, dropout=0.0)
    perturb(model)
    engine = Engine(model, processor, store=PrefixStore())
    engine.generate("Hello there", **GREEDY)
    for layer in model.modules():
        if "lora_a" in layer:
            layer.scale = 20.0
    again = engine.generate("Hello there", **GREEDY)
    assert again.cached_tokens == 0
    assert again.token_ids == fresh((model, processor), "Hello there").token_ids


def test_an_answer_that_was_stopped_leaves_what_it_has_read(engine, loaded):
    messages = [asked("What is it?", PICTURES[0])]
    stream = engine.stream(messages, **{**GREEDY, "max_tokens": 50})
    text = next(stream).text
    stream.close()
    length = len(engine.store.branches[0].prefix)
    messages += [said(text), asked("Sure?")]
    result = engine.generate(messages, **GREEDY)
    assert result.cached_tokens > length - SHORT
    assert result.token_ids == fresh(loaded, messages).token_ids


def test_an_image_and_a_short_question_are_two_passes_and_the_next_question_is_one(
    engine, loaded, monkeypatch
):
    passes = []
    true = LanguageModel.tapped

    def counting(self, inputs, *arguments, **options):
        passes.append(inputs.shape[1])
        return true(self, inputs, *arguments, **options)

    monkeypatch.setattr(LanguageModel, "tapped", counting)
    system = {"role": "system", "content": "Be brief."}
    first = engine.generate([system, asked("What is it?", PICTURES[0])], **GREEDY)
    assert len(passes) == 2
    assert sum(passes) == first.prompt_tokens
    messages = [system, asked("Which?", PICTURES[0])]
    passes.clear()
    second = engine.generate(messages, **GREEDY, logprobs=True)
    assert passes == [second.prompt_tokens - second.cached_tokens]
    expected = fresh(loaded, messages, logprobs=True)
    assert second.logprobs == expected.logprobs  # bit by bit: the calls are the same


def test_the_branch_unused_for_longest_goes_first(engine):
    engine.generate([asked("What is it?", PICTURES[0])], **GREEDY)
    engine.store.prefix_bytes = int(2.5 * engine.store.branches[0].nbytes)
    for text in ("one", "two", "three", "four"):
        engine.generate(text, **GREEDY)
        engine.generate([asked("What is it?", PICTURES[0])], **GREEDY)  # stays in use
    kept = sum(branch.nbytes for branch in engine.store.branches)
    assert kept <= engine.store.prefix_bytes
    assert engine.generate([asked("What?", PICTURES[0])], **GREEDY).cached_tokens > 20


def test_memory_is_flat_over_many_questions(engine):
    sizes = []
    engine.store.prefix_bytes = 100_000
    for number in range(16):
        engine.generate([asked(f"Question {number}?", PICTURES[0])], **GREEDY)
        sizes.append(engine.store.nbytes)
    features = sum(rows.nbytes for rows in engine.store.features.values())
    assert len(engine.store.branches) > 1
    assert max(sizes[8:]) <= max(sizes[:8]) <= 100_000 + features


def test_a_prompt_larger_than_the_store_pushes_nothing_out(engine):
    engine.generate([asked("What is it?", PICTURES[0])], **GREEDY)
    engine.store.prefix_bytes = engine.store.branches[0].nbytes
    engine.generate("What is it? " * 60, **GREEDY)
    (branch,) = engine.store.branches
    assert branch.prefix.keys


def test_a_batch_continues_what_single_answers_have_read(engine, loaded):
    engine.generate([asked("What is it?", PICTURES[0])], **GREEDY)
    # Not `SHORT`; two of them are of equal length.
    questions = [f"{word} is there beside the thing in it?" for word in ("What", "Whom", "Where")]
    conversations = [[asked(text, PICTURES[0])] for text in questions]
    results = dict(engine.stream_batch(conversations, **GREEDY))
    for number, messages in enumerate(conversations):
        assert results[number].cached_tokens >= results[number].image_tokens
        assert results[number].token_ids == fresh(loaded, messages).token_ids
    for number, again in engine.stream_batch(conversations, **GREEDY):  # what it has read is kept
        assert again.cached_tokens > results[number].cached_tokens
        assert again.cached_tokens > again.prompt_tokens - SHORT


@settings(
    max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_any_conversation_with_edits_equals_fresh_runs(loaded, data):
    model, processor = loaded
    engine = Engine(model, processor, store=PrefixStore(prefix_bytes=4_000_000))
    messages: list[dict] = []
    for _ in range(data.draw(st.integers(2, 5))):
        action = data.draw(st.sampled_from(["ask", "ask with a picture", "undo", "edit", "evict"]))
        if action == "evict" and engine.store and engine.store.branches:
            engine.store.branches.pop(data.draw(st.integers(0, len(engine.store.branches) - 1)))
        if action == "undo":
            messages = messages[:-2]
        if action == "edit" and messages:
            messages = messages[: data.draw(st.integers(0, len(messages) // 2 - 1)) * 2]
        pictures = [data.draw(st.sampled_from(PICTURES))] if "picture" in action else []
        text = data.draw(st.sampled_from(["Hi", "What is it?", "Hi there"]))
        messages = [*messages, asked(text, *pictures)]
        result = engine.generate(messages, **GREEDY, logprobs=True)
        expected = Engine(model, processor).generate(messages, **GREEDY, logprobs=True)
        assert result.token_ids == expected.token_ids
        np.testing.assert_allclose(result.logprobs, expected.logprobs, atol=1e-4)
        messages = [*messages, said(result.text)]


def test_prefixes_end_where_ids_or_images_differ():
    one = Prefix([1, 5, 9, 9, 6, 2], [(1, 5)], [b"a"])
    assert one.common(one) == 6
    assert one.common(Prefix([1, 5, 9, 9, 6, 3], [(1, 5)], [b"a"])) == 5
    assert one.common(Prefix([1, 5, 9, 9, 6, 2], [(1, 5)], [b"b"])) == 1
    assert one.common(Prefix([7])) == 0
    assert one.until(3).spans == [(1, 5)]
    assert one.until(1).keys == []
    assert one.common(one.until(3)) == 3


def test_an_image_key_covers_pixels_and_grid():
    patches = np.arange(48, dtype=np.uint8).reshape(4, 12)
    other = patches.copy()
    other[3, 11] += 1
    keys = {
        image_key([patches], [(2, 2)]),
        image_key([patches], [(1, 4)]),
        image_key([other], [(2, 2)]),
        image_key([patches, other], [(2, 2), (2, 2)]),
    }
    assert len(keys) == 4


def test_prompts_are_cut_after_images_and_messages():
    message = [*[3] * SHORT, 2]
    ids = [1, *message, 5, 9, 6, *message, 4, 4]
    begin = len(message) + 1
    image = (begin, begin + 3)
    assert segment_ends(ids, [image], {2}) == [begin, image[1], len(ids) - 2, len(ids)]
    assert segment_ends([1, 2], [], {2}) == [2]


def test_a_short_message_is_read_with_what_follows():
    short = [3, 2]
    assert cuts([*short, 5, 9, 6, *short], [(2, 5)], {2}) == [5]
    assert cuts(short * SHORT, [], {2}) == [SHORT, 2 * SHORT]
