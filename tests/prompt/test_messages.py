"""Every spelling of a message gives the canonical prompt; what is unknown is refused by name."""

import base64
import io

import pytest
from pictures import make_picture

from mlx_lfm2vl.errors import InputError
from mlx_lfm2vl.prompt.messages import read_messages, split_images, user_message
from mlx_lfm2vl.prompt.processor import Processor
from mlx_lfm2vl.prompt.template import ChatTemplate

PICTURE = make_picture(13, 21, 1)
FILE = io.BytesIO()
PICTURE.save(FILE, "png")
DATA = FILE.getvalue()
BASE64 = base64.b64encode(DATA).decode()
URI = f"data:image/png;base64,{BASE64}"
TEXT = {"type": "text", "text": "What is it?"}
CANONICAL = user_message("What is it?", [PICTURE])


def user(*parts) -> list[dict]:
    return [{"role": "user", "content": list(parts)}]


IMAGE_PARTS = {
    "transformers, a PIL image": {"type": "image", "image": PICTURE},
    "transformers, a URL": {"type": "image", "url": URI},
    "transformers, base64": {"type": "image", "base64": BASE64},
    "OpenAI, an object": {"type": "image_url", "image_url": {"url": URI, "detail": "high"}},
    "OpenAI, a string": {"type": "image_url", "image_url": URI},
    "OpenAI, Responses": {"type": "input_image", "image_url": URI, "detail": "auto"},
    "Anthropic, base64": {
        "type": "image",
        "source": {"type": "base64", "media_type": "image/png", "data": BASE64},
        "cache_control": {"type": "ephemeral"},
    },
    "Anthropic, a URL": {"type": "image", "source": {"type": "url", "url": URI}},
    "LangChain": {
        "type": "image",
        "source_type": "base64",
        "data": BASE64,
        "mime_type": "image/png",
    },
    "no type": {"image": PICTURE},
    "no type, OpenAI": {"image_url": {"url": URI}},
    "no type, None": {"type": None, "image_url": URI},
    "a data set's image": {"type": "image", "image": {"bytes": DATA, "path": "a.png"}},
    "a table's row": {"type": "image", "image": PICTURE, "text": None, "video": None, "tags": []},
}


@pytest.mark.parametrize("part", IMAGE_PARTS.values(), ids=IMAGE_PARTS)
def test_every_spelling_of_an_image_gives_the_canonical_prompt(tiny, part):
    _, processor = tiny
    expected, found = processor(CANONICAL), processor(user(part, TEXT))
    assert found.input_ids == expected.input_ids
    for ours, theirs in zip(found.pixel_values, expected.pixel_values, strict=True):
        assert (ours == theirs).all()


@pytest.mark.parametrize(
    "part",
    [
        "What is it?",
        {"text": "What is it?"},
        {"type": "input_text", "text": "What is it?"},
        {"type": "output_text", "text": "What is it?", "annotations": []},
        {"type": "text", "text": "What is it?", "image": None, "index": None},
    ],
)
def test_every_spelling_of_text_gives_the_canonical_prompt(tiny, part):
    _, processor = tiny
    image = {"type": "image", "image": PICTURE}
    assert processor(user(image, part)).input_ids == processor(CANONICAL).input_ids


MESSAGES = {
    "Ollama, base64": {"role": "user", "content": "What is it?", "images": [BASE64]},
    "Ollama, bytes": {"role": "user", "content": "What is it?", "images": [DATA]},
    "Ollama, a data URI": {"role": "user", "content": "What is it?", "images": [URI]},
    "Ollama, parts": {"role": "user", "content": [TEXT], "images": [PICTURE]},
    "Responses": {
        "type": "message",
        "id": "m1",
        "status": "completed",
        "role": "user",
        "content": [
            {"type": "input_image", "image_url": URI},
            {"type": "input_text", "text": "What is it?"},
        ],
    },
    "empty values": {
        "role": "user",
        "content": CANONICAL[0]["content"],
        "name": "me",
        "weight": 1,
        "refusal": None,
        "annotations": [],
        "images": [],
        "tool_calls": None,
    },
}


@pytest.mark.parametrize("message", MESSAGES.values(), ids=MESSAGES)
def test_every_spelling_of_a_message_gives_the_canonical_prompt(tiny, message):
    _, processor = tiny
    assert processor([message]).input_ids == processor(CANONICAL).input_ids


def test_a_lone_part_is_a_content(tiny):
    _, processor = tiny
    alone = [{"role": "user", "content": {"type": "image", "image": PICTURE}}]
    listed = user({"type": "image", "image": PICTURE})
    assert processor(alone).input_ids == processor(listed).input_ids


def test_images_beside_a_message_are_paths_when_they_look_like_paths(tmp_path):
    path = tmp_path / f"iVBORw0KGgo{'a' * 90}.png"
    PICTURE.save(path)
    _, sources = split_images([{"role": "user", "content": "", "images": [str(path), path]}])
    assert sources == [str(path), path]


WRONG_PARTS = {
    "a video": ({"type": "video", "video": "a.mp4"}, "unknown type 'video'; expected text, "),
    "a sound": ({"type": "input_audio", "input_audio": {}}, "unknown type 'input_audio'"),
    "a typo of the type": ({"type": "img", "img": "a.png"}, "type 'img'; did you mean 'image'"),
    "a typo of the key": ({"type": "image", "imgae": "a.png"}, "'imgae'; did you mean 'image'"),
    "a file": ({"type": "image", "file": "a.png"}, "'image' has an unknown key 'file'; expected"),
    "a file id": ({"type": "input_image", "file_id": "f1"}, "unknown key 'file_id'"),
    "a resolution": ({"type": "image", "image": "a.png", "max_pixels": 9}, "key 'max_pixels'"),
    "no type, a typo": ({"imag": "a.png"}, "unknown key 'imag'; did you mean 'image'"),
    "an image in a text": ({"type": "text", "text": "x", "image": "a.png"}, "key 'image'"),
    "a text in an image": ({"type": "image", "image": "a.png", "text": "x"}, "key 'text'"),
    "no type, both": ({"text": "x", "image": "a.png"}, "unknown key 'image'"),
    "two images": ({"type": "image", "image": "a.png", "url": "b"}, "holds image and url"),
    "an unknown object": ({"type": "image", "image": {"uri": "b"}}, "unknown key 'uri'"),
    "an empty object": ({"type": "image_url", "image_url": {}}, "is empty; expected one of url"),
    "no base64": ({"type": "image", "base64": "no!"}, "not valid base64"),
    "no text": ({"type": "text"}, "'text' holds no text"),
    "a number for text": ({"type": "text", "text": 7}, "'text' holds no text"),
    "nothing": ({}, "a content part is empty"),
    "a number": (7, "a content part is 7"),
    "no image": ({"type": "image"}, "holds no image, expected a path, URL"),
    "a place": ({"type": "image", "index": 0}, "holds no image"),
}


@pytest.mark.parametrize(("part", "why"), WRONG_PARTS.values(), ids=WRONG_PARTS)
def test_an_unknown_part_is_refused_by_name(tiny, part, why):
    with pytest.raises(InputError) as error:
        tiny[1](user(part, TEXT))
    assert why in str(error.value)
    assert len(str(error.value)) < 250


WRONG_MESSAGES = {
    "a typo": ({"role": "user", "content": "x", "imags": ["a"]}, "'imags'; did you mean 'images'"),
    "a video": ({"role": "user", "content": "x", "videos": ["a"]}, "unknown key 'videos'"),
    "a weight": ({"role": "user", "content": "x", "weight": 0}, "weight 0, expected 1"),
    "a type": ({"role": "user", "content": "x", "type": "reasoning"}, "type 'reasoning'"),
    "no content": ({"role": "user"}, "role 'user' has no content"),
    "null": ({"role": "user", "content": None}, "role 'user' has no content"),
    "a number": ({"role": "user", "content": 7}, "of type int, expected text or a list"),
    "no list": ({"role": "user", "content": "x", "images": "a.png"}, "images of type str"),
}


@pytest.mark.parametrize(("message", "why"), WRONG_MESSAGES.values(), ids=WRONG_MESSAGES)
def test_an_unknown_key_of_a_message_is_refused_by_name(tiny, message, why):
    with pytest.raises(InputError) as error:
        tiny[1]([message])
    assert why in str(error.value)


@pytest.mark.parametrize("messages", [{"role": "user", "content": "x"}, "Hi", 7, []])
def test_messages_are_a_list(messages):
    with pytest.raises(InputError, match="messages"):
        read_messages(messages)


def test_a_system_message_without_content_is_left_out():
    assert read_messages([{"role": "system", "content": None}, *user(TEXT)]) == user(TEXT)


CALLS = [{"type": "function", "function": {"name": "look", "arguments": {"at": "x"}}}]
HISTORY = [
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": None, "tool_calls": CALLS},
    {"role": "tool", "content": {"seen": "é"}, "tool_call_id": "1", "name": "look"},
]


@pytest.mark.parametrize("name", ["LFM2.5-VL-3B", "LFM2.5-VL-1.6B"])
def test_tool_calls_reach_templates_that_use_them_and_only_those(assets, published_processor, name):
    tokenizer = published_processor.tokenizer
    template = ChatTemplate.from_folder(assets / name, tokenizer.bos_token, tokenizer.eos_token)
    processor = Processor(tokenizer, template, published_processor.image_config)
    if "tool_calls" not in template.source:
        with pytest.raises(InputError, match="does not use the 'tool_calls' of a message"):
            processor(HISTORY)
        return
    text, guard, *_ = processor.render(HISTORY, None, True)
    assert "[look(at='x')]" in text.replace(guard, "")
    assert 'tool\n{"seen": "é"}<|im_end|>' in text.replace(guard, "")


WRONG_CALLS = {
    "no list": ({"name": "f"}, "tool_calls of type dict, expected a list"),
    "no call": (["f"], "'f' is not a call"),
    "no name": ([{"function": {"arguments": {}}}], "names no function"),
    "no object": ([{"name": "f", "arguments": "[1]"}], "expected an object"),
    "no JSON": ([{"name": "f", "arguments": "x=1"}], "cannot be read"),
    "unknown": ([{"name": "f", "args": {"x": 1}}], "the key 'args' is unknown"),
}


@pytest.mark.parametrize(("calls", "why"), WRONG_CALLS.values(), ids=WRONG_CALLS)
def test_a_tool_call_that_says_something_else_is_refused(calls, why):
    with pytest.raises(InputError) as error:
        read_messages([{"role": "assistant", "content": "", "tool_calls": calls}])
    assert why in str(error.value)


@pytest.mark.parametrize("calls", [None, []])
def test_no_calls_are_no_key(calls):
    (read,) = read_messages([{"role": "assistant", "content": "Hi", "tool_calls": calls}])
    assert read == {"role": "assistant", "content": "Hi"}


@pytest.mark.parametrize("key", ["thinking", "reasoning", "reasoning_content"])
def test_a_key_is_refused_unless_the_template_names_it(tiny, key):
    _, processor = tiny
    body = "{% for message in messages %}{{ message.content }}{{ KEY }}{% endfor %}"
    messages = [{"role": "assistant", "content": "Hi", key: "hm"}]
    for source, uses in ((body.replace("KEY", f"message.{key}"), True), (body, False)):
        template = ChatTemplate(source.replace("KEY", f"keep_past_{key}"), "", "")
        mine = Processor(processor.tokenizer, template, processor.image_config)
        if uses:
            assert mine.render(messages, None, False).text == "Hihm"
        else:
            with pytest.raises(InputError, match=f"does not use the '{key}'"):
                mine.render(messages, None, False)


def test_reading_twice_changes_nothing():
    read = read_messages(user(IMAGE_PARTS["OpenAI, Responses"], TEXT))
    assert read_messages(read) == read
    assert read[0]["content"] == [{"type": "image", "image": URI}, TEXT]
