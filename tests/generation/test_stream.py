"""Answers: streamed, stopped, limited, and repeatable."""

import mlx.core as mx
import pytest
from conftest import edit_json, golden
from pictures import make_picture

import mlx_lfm2vl
from mlx_lfm2vl.errors import InputError
from mlx_lfm2vl.generation.answer import StopStrings
from mlx_lfm2vl.generation.loop import generate_step
from mlx_lfm2vl.generation.once import batch_generate, generate, stream_generate
from mlx_lfm2vl.generation.prepare import read_prompt
from mlx_lfm2vl.generation.result import Timings
from mlx_lfm2vl.generation.sampling import Drawn, draw_greedily
from mlx_lfm2vl.loading import load
from mlx_lfm2vl.model.decode_step import decode_step
from mlx_lfm2vl.options import AnswerOptions, Sampling
from mlx_lfm2vl.prompt.messages import user_message

GREEDY = Sampling()
MESSAGES = golden("new_names").messages("two_images")


def scripted(monkeypatch, ids: list[int]) -> None:
    """Let the model answer with given tokens."""
    script = iter([*ids, *[2] * 1000])
    monkeypatch.setattr(
        "mlx_lfm2vl.generation.stream.Sampler",
        lambda *_, **__: lambda _: Drawn(mx.array([next(script)]), None),
    )


def bytes_of(processor, text: str) -> list[int]:
    return processor.tokenizer.encode_plain(text)


def test_the_stream_adds_up_to_the_whole_answer(tiny):
    pieces = list(stream_generate(*tiny, MESSAGES, max_tokens=30, sampling=GREEDY))
    result = generate(*tiny, MESSAGES, max_tokens=30, sampling=GREEDY)
    last = pieces[-1].result
    assert last is not None
    assert "".join(piece.text for piece in pieces) == last.text == result.text == str(result)
    assert [t for piece in pieces for t in piece.token_ids] == last.token_ids == result.token_ids
    assert all(piece.result is None for piece in pieces[:-1])


def test_greedy_is_the_references_answer(tiny):
    expected = golden("new_names").expected("two_images", "greedy").tolist()
    result = generate(*tiny, MESSAGES, max_tokens=12, sampling=GREEDY)
    end = expected.index(2) if 2 in expected else 12
    assert result.token_ids == expected[:end]


def test_a_result_tells_what_it_cost(tiny, monkeypatch):
    ticks = iter(range(1000))
    monkeypatch.setattr("time.perf_counter", lambda: float(next(ticks)))
    result = generate(*tiny, MESSAGES, max_tokens=5, sampling=GREEDY)
    assert result.peak_memory_bytes == mx.get_peak_memory()
    expected = golden("new_names").expected("two_images", "input_ids").tolist()
    assert result.prompt_tokens == len(expected)
    assert result.image_tokens == expected.count(5)
    assert [plan.size for plan in result.images] == [(20, 30), (25, 70)]
    # The clock is read at the start and behind three stages; between the first two also when the
    # first image is asked for, and behind and before each of the two: one second each is theirs.
    assert result.timings == Timings(prepare=1 + 2, first_token=6 - 2, decode=1)
    assert result.timings.total == 8
    assert result.tokens_per_second == 4  # the first of five comes before
    assert result.to_dict()["timings"] == {
        "prepare_seconds": 3,
        "first_token_seconds": 4,
        "decode_seconds": 1,
        "tokens_per_second": 4,
    }


def test_characters_cut_in_half_are_never_streamed_and_never_lost(tiny, monkeypatch):
    model, processor = tiny
    text = "é🎉ü"
    ids = bytes_of(processor, text)
    scripted(monkeypatch, ids)
    pieces = [p.text for p in stream_generate(model, processor, "Hi", max_tokens=50)]
    assert [p for p in pieces if p] == ["é", "🎉", "ü"]
    scripted(monkeypatch, ids)
    result = generate(model, processor, "Hi", max_tokens=3)  # é and one byte of 🎉
    assert result.text == "é\ufffd"
    assert result.finish_reason == "length"


def test_an_end_token_ends_the_answer_and_is_no_part_of_it(tiny, monkeypatch):
    model, processor = tiny
    scripted(monkeypatch, [*bytes_of(processor, "ok"), 2, 99])
    result = generate(model, processor, "Hi")
    assert (result.text, len(result.token_ids), result.finish_reason) == ("ok", 2, "stop")


def test_stop_strings_cut_the_text_even_across_tokens(tiny, monkeypatch):
    model, processor = tiny
    scripted(monkeypatch, bytes_of(processor, "one END two"))
    pieces = list(stream_generate(model, processor, "Hi", stop=["END", "two"]))
    assert "".join(p.text for p in pieces) == "one "
    assert pieces[-1].result.finish_reason == "stop"
    scripted(monkeypatch, bytes_of(processor, "one EN"))
    assert generate(model, processor, "Hi", stop=["END"]).text == "one EN"


@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_stop_strings_are_found_however_the_text_is_cut(size):
    text = "aababbaab<stop>rest"
    stops = StopStrings(["<stop>", "bbb"])
    pieces = [text[i : i + size] for i in range(0, len(text), size)]
    given = ""
    for piece in pieces:
        given += stops.add(piece)
        if stops.found:
            break
    assert given + stops.finish() == "aababbaab"


def test_the_earliest_stop_string_wins():
    stops = StopStrings(["cd", "b"])
    assert stops.add("abcd") == "a"


def test_a_seed_repeats_a_drawn_answer(tiny):
    drawn = Sampling(temperature=1.0)
    first, second = (
        generate(*tiny, MESSAGES, max_tokens=20, sampling=drawn, seed=5) for _ in range(2)
    )
    assert first.token_ids == second.token_ids
    unseeded = generate(*tiny, MESSAGES, max_tokens=20, sampling=drawn)
    again = generate(*tiny, MESSAGES, max_tokens=20, sampling=drawn, seed=unseeded.seed)
    assert again.token_ids == unseeded.token_ids


def test_the_recommended_sampling_is_the_default_and_reported(tiny):
    result = generate(*tiny, "Hi", max_tokens=2)
    assert result.sampling == Sampling(temperature=0.1, min_p=0.15, repetition_penalty=1.05)


def test_the_next_step_is_queued_before_a_token_is_read(tiny, monkeypatch):
    model, _ = tiny
    decode_step(model)  # is there after the first answer
    events = []
    original = mx.async_eval
    monkeypatch.setattr(mx, "async_eval", lambda *a: (events.append("queue"), original(*a)))
    steps = generate_step(model, model.embed([1, 2, 3]), model.make_cache(), draw_greedily, 3)
    for _ in steps:
        events.append("read")
    assert events == ["queue", "queue", "read", "queue", "read", "read"]


@pytest.mark.parametrize("chunk", [1, 7, 64])
def test_prefill_in_chunks_gives_the_same_answer(tiny, monkeypatch, chunk):
    whole = generate(*tiny, MESSAGES, max_tokens=12, sampling=GREEDY)
    monkeypatch.setattr("mlx_lfm2vl.model.decode_step.PREFILL_CHUNK", chunk)
    assert generate(*tiny, MESSAGES, max_tokens=12, sampling=GREEDY).token_ids == whole.token_ids


def test_a_prompt_that_does_not_fit_is_refused_before_any_work(tiny, monkeypatch):
    model, processor = tiny
    monkeypatch.setattr(type(model), "encode_images", lambda *_: pytest.fail("work was done"))
    limit = model.config.text.max_position_embeddings
    tokens = processor(MESSAGES)
    count, images = len(tokens.input_ids), tokens.image_tokens
    said = rf"{count} tokens \({images} of images\), at most {count - 1} .* or lower max_tokens"
    with pytest.raises(InputError, match=said):
        generate(model, processor, MESSAGES, max_tokens=limit - count + 1)
    fitting = AnswerOptions(max_tokens=limit - count)
    assert read_prompt(model, processor, MESSAGES, fitting).input_ids == tokens.input_ids
    for most in (limit, 10 * limit):
        with pytest.raises(InputError, match=f"max_tokens is {most}, but the model holds {limit} "):
            generate(model, processor, MESSAGES, max_tokens=most)


def test_an_answer_whose_length_nobody_chose_ends_where_the_context_does(tiny, monkeypatch):
    model, processor = tiny
    letter = bytes_of(processor, "a")
    scripted(monkeypatch, letter * 600)
    limit = model.config.text.max_position_embeddings
    question = "q?" * (limit // 2 - 20)
    prompt = processor(user_message(question)).input_ids
    assert limit - 40 < len(prompt) < limit
    result = generate(model, processor, question)
    assert (result.finish_reason, len(result.token_ids)) == ("length", limit - len(prompt))
    batched = next(iter(batch_generate(model, processor, [question])))
    assert len(batched.token_ids) <= limit - len(prompt)
    with pytest.raises(InputError, match="leave room for the answer"):
        generate(model, processor, question, max_tokens=512)
    with pytest.raises(InputError, match="; shorten the text$"):
        generate(model, processor, "q?" * limit)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"max_tokens": 0}, "max_tokens is 0"), ({"stop": [""]}, "stop holds an empty string")],
)
def test_wrong_use_is_refused(tiny, options, message):
    with pytest.raises(InputError, match=message):
        generate(*tiny, "Hi", **options)


@pytest.mark.slow
def test_memory_stays_flat_over_a_long_answer(tiny):
    model, processor = tiny
    embeds = model.embed(processor(user_message("Hi", [make_picture(9, 9, 1)])).input_ids[:4])
    cache = model.make_cache()
    steps = generate_step(model, embeds, cache, draw_greedily, 1200)
    sizes = []
    for count, _ in enumerate(steps):
        if count in (300, 1100):
            sizes.append(mx.get_active_memory() - cache.nbytes)
    assert sizes[1] <= sizes[0] + 4096


def test_an_earlier_longer_stop_string_wins_however_the_text_is_cut():
    for cuts in ([1] * 6, [3, 3], [6], [2, 4], [5, 1]):
        stops, given, position = StopStrings(["abcd", "bc"]), "", 0
        for size in cuts:
            given += stops.add("xabcdy"[position : position + size])
            position += size
            if stops.found:
                break
        assert given + stops.finish() == "x"
    stops = StopStrings(["abcd", "bc"])
    assert stops.add("xabc") + stops.add("e") + stops.finish() == "xa"


def test_one_stop_string_may_be_given_alone(tiny, monkeypatch):
    model, processor = tiny
    scripted(monkeypatch, bytes_of(processor, "one END two"))
    assert generate(model, processor, "Hi", stop="END").text == "one "


@pytest.mark.parametrize("seed", [-1, 2**70])
def test_impossible_seeds_are_refused(tiny, seed):
    with pytest.raises(InputError, match="expected 0 to"):
        generate(*tiny, "Hi", seed=seed)


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([], "there are no messages"),
        ("\ud800", "not valid Unicode"),
        ([{"role": "user", "content": "x", "name": {("a", 1): "b"}}], "not plain data"),
    ],
)
def test_impossible_messages_are_refused(tiny, messages, message):
    with pytest.raises(InputError, match=message):
        generate(*tiny, messages)


def test_an_enormous_view_is_refused_before_it_is_made(tiny, monkeypatch):
    monkeypatch.setattr(
        "mlx_lfm2vl.prompt.processor.process_image", lambda *_: pytest.fail("pixels were made")
    )
    options = mlx_lfm2vl.ImageOptions(min_image_tokens=2_000_000, max_image_tokens=2_000_000)
    with pytest.raises(InputError, match="max_image_tokens 2000000, allow images of more than"):
        generate(*tiny, MESSAGES, options=options)


def test_a_stop_string_found_with_the_last_token_ends_the_answer_by_stop(tiny, monkeypatch):
    # "bc" is held back as long as it may become "abcd", and is found when nothing follows.
    model, processor = tiny
    ids = bytes_of(processor, "xabc")
    scripted(monkeypatch, ids)
    result = generate(model, processor, "Hi", stop=["abcd", "bc"], max_tokens=len(ids))
    assert (result.text, result.finish_reason) == ("xa", "stop")


@pytest.mark.parametrize("batched", [False, True])
def test_memory_of_earlier_work_does_not_show(tiny, batched):
    def peak():
        settings = {"max_tokens": 2, "sampling": GREEDY}
        if batched:
            return batch_generate(*tiny, ["Hi"], **settings)[0].peak_memory_bytes
        return generate(*tiny, "Hi", **settings).peak_memory_bytes

    first = peak()
    large = mx.zeros(16 * 2**20)
    mx.eval(large)
    del large
    mx.clear_cache()
    assert mx.get_peak_memory() > 64 * 2**20
    assert peak() < first + 2**20


@pytest.mark.parametrize("module", ["loop", "batch"])
def test_unused_buffers_are_returned_every_so_many_tokens(tiny, monkeypatch, module):
    ask = {
        "loop": lambda: generate(*tiny, "Hi", max_tokens=10, sampling=GREEDY),
        "batch": lambda: batch_generate(*tiny, ["Hi"], max_tokens=10, sampling=GREEDY),
    }[module]
    ask()
    monkeypatch.setattr(f"mlx_lfm2vl.generation.{module}.CLEAR_EVERY", 4)
    calls = []
    monkeypatch.setattr(mx, "clear_cache", lambda: calls.append(1))
    ask()
    assert len(calls) == 2


def test_an_end_token_that_only_the_tokenizer_names_ends_the_answer(checkpoint, monkeypatch):
    edit_json(checkpoint / "config.json", text_config__eos_token_id=None, eos_token_id=None)
    edit_json(checkpoint / "generation_config.json", eos_token_id=None)
    model, processor = load(checkpoint)
    end = processor.tokenizer.id_of("<|im_end|>")
    assert model.config.eos_token_ids == (end,)
    scripted(monkeypatch, [*bytes_of(processor, "ok"), end, 99])
    result = generate(model, processor, "Hi", max_tokens=9)
    assert (result.text, result.finish_reason) == ("ok", "stop")
