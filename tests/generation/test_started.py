"""An answer may continue what the assistant, or the caller, has begun to say."""

import mlx.core as mx
import pytest
from conftest import golden
from pictures import make_picture

from mlx_lfm2vl.errors import InputError
from mlx_lfm2vl.generation.engine import Engine
from mlx_lfm2vl.generation.sampling import Drawn
from mlx_lfm2vl.options import AnswerOptions
from mlx_lfm2vl.prompt.messages import user_message
from mlx_lfm2vl.prompt.processor import Processor
from mlx_lfm2vl.prompt.samples import SampleMaker
from mlx_lfm2vl.prompt.template import ChatTemplate

GREEDY = AnswerOptions(temperature=0, repetition_penalty=1, max_tokens=5)
MESSAGES = golden("new_names").messages("two_images")
STARTS = ["{", "It is ", "é🎉", "<|im_end|>\n<|im_start|>user\n", "<|im_", "\n"]


@pytest.fixture
def engine(tiny) -> Engine:
    return Engine(*tiny)


def scripted(monkeypatch, engine: Engine, text: str) -> None:
    """Let the model write a text."""
    script = iter([*engine.processor.tokenizer.encode_plain(text), *[2] * 1000])
    monkeypatch.setattr(
        "mlx_lfm2vl.generation.stream.Sampler",
        lambda *_, **__: lambda _: Drawn(mx.array([next(script)]), None),
    )


@pytest.mark.parametrize("start", STARTS)
def test_the_prompt_ends_with_the_start_as_plain_text(engine, start):
    processor = engine.processor
    inputs = processor([*MESSAGES, {"role": "assistant", "content": start}])
    plain = processor.tokenizer.encode_plain(start)
    assert inputs.input_ids == [*processor(MESSAGES).input_ids, *plain]
    assert inputs.start == start


@pytest.mark.parametrize("start", STARTS)
def test_the_text_begins_with_the_start_and_the_ids_are_new(engine, start):
    started = engine.generate(MESSAGES, GREEDY, answer_start=start)
    said = [*MESSAGES, {"role": "assistant", "content": [{"type": "text", "text": start}]}]
    assert started.token_ids == engine.generate(said, GREEDY).token_ids
    assert started.text == start + engine.processor.tokenizer.decode(started.token_ids)
    plain = engine.generate(MESSAGES, GREEDY)
    length = len(engine.processor.tokenizer.encode_plain(start))
    assert started.prompt_tokens == plain.prompt_tokens + length
    assert len(started.token_ids) <= 5


def test_the_stream_begins_with_the_start(engine):
    pieces = list(engine.stream("Hi", GREEDY, answer_start="{"))
    assert pieces[0].text.startswith("{")
    assert "".join(piece.text for piece in pieces) == pieces[-1].result.text


def test_an_answer_that_ends_at_once_is_its_start(engine, monkeypatch):
    scripted(monkeypatch, engine, "")
    result = engine.generate("Hi", answer_start="Yes")
    assert (result.text, result.token_ids, result.finish_reason) == ("Yes", [], "stop")


def test_a_stop_string_counts_in_what_the_model_writes(engine, monkeypatch):
    scripted(monkeypatch, engine, "{}\n```\nmore")
    result = engine.generate("Hi", answer_start="```json\n", stop="```")
    assert (result.text, result.finish_reason) == ("```json\n{}\n", "stop")


@pytest.mark.parametrize("start", ["{", "It is "])
def test_batches_and_questions_about_seen_images_start_alike(engine, start):
    picture = make_picture(40, 60, 3)
    alone = engine.generate("What?", GREEDY, image=picture, answer_start=start)
    messages = user_message("What?", [picture])
    ((_, together),) = engine.stream_batch([messages], GREEDY, answer_start=start)
    seen = engine.see(picture, GREEDY).ask("What?", answer_start=start)
    assert together.token_ids == alone.token_ids == seen.token_ids
    assert together.text == alone.text == seen.text


CALL = [{"name": "f", "arguments": {}}]
WRONG = {
    "image": ([{"type": "image", "image": "a.png"}], {}, "does not end with text"),
    "nothing": ([], {}, "does not end with text"),
    "calls": ("", {"tool_calls": CALL}, "the last message calls tools; add their results"),
}


@pytest.mark.parametrize(("content", "keys", "message"), WRONG.values(), ids=WRONG)
def test_an_answer_that_cannot_go_on_is_refused(tiny, content, keys, message):
    _, processor = tiny
    template = ChatTemplate(processor.template.source + "{# tool_calls #}", "", "")
    knowing = Processor(processor.tokenizer, template, processor.image_config)
    with pytest.raises(InputError, match=message):
        knowing([{"role": "assistant", "content": content, **keys}])


def test_a_start_is_given_once(engine):
    with pytest.raises(InputError, match="answer_start cannot follow a message of the assistant"):
        engine.generate([{"role": "assistant", "content": "I"}], GREEDY, answer_start="It")
    with pytest.raises(InputError, match="messages"):
        engine.generate({"role": "user"}, GREEDY, answer_start="It")
    with pytest.raises(InputError, match="answer_start is 3, expected str"):
        AnswerOptions(answer_start=3)


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages[0].content }}",
        "{% for m in messages %}{{ m.content.split('.')[-1] }}{% endfor %}",
    ],
)
def test_a_template_that_drops_the_start_is_named(tiny, source):
    _, processor = tiny
    dropping = Processor(processor.tokenizer, ChatTemplate(source, "", ""), processor.image_config)
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "One. Two"}]
    with pytest.raises(InputError, match="does not keep the start of the answer"):
        dropping(messages)


def test_a_template_that_trims_leaves_no_space_at_the_end(tiny):
    _, processor = tiny
    source = "{% for m in messages %}{{ m.content | trim }}<|im_end|>{% endfor %}"
    trimming = Processor(processor.tokenizer, ChatTemplate(source, "", ""), processor.image_config)
    ids = trimming([{"role": "assistant", "content": " It is  "}]).input_ids
    assert ids == processor.tokenizer.encode_plain("It is")


def test_rows_for_training_are_whole_messages(tiny):
    model, processor = tiny
    row = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "There"}]
    sample = SampleMaker(processor, set(model.config.eos_token_ids))(row)
    learned = [
        i for i, is_answer in zip(sample.input_ids, sample.is_answer, strict=True) if is_answer
    ]
    assert learned == [*processor.tokenizer.encode_plain("There"), 2]
