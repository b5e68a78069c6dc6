"""Rows: the forms that are read, what they become, and what is refused by name and place."""

import base64
import io

import pytest
from pictures import make_picture
from training_runs import dialogue, write_rows

from mlx_lfm2vl.commands.train import main as train
from mlx_lfm2vl.errors import InputError
from mlx_lfm2vl.prompt.rows import read_rows

FILE = io.BytesIO()
make_picture(13, 21, 1).save(FILE, "png")
BASE64 = base64.b64encode(FILE.getvalue()).decode()
URI = f"data:image/png;base64,{BASE64}"


@pytest.fixture
def folder(tmp_path):
    for name in ("a", "b"):
        (tmp_path / f"{name}.png").write_bytes(FILE.getvalue())
    return tmp_path


def only_row(folder, row) -> list[dict]:
    (messages,) = read_rows(write_rows(folder / "d.jsonl", [row]))
    return messages


def flat(messages) -> list[tuple]:
    """Role, and text or image, of every part in order."""
    found = []
    for message in messages:
        content = message["content"]
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        found += [(message["role"], part.get("text", part.get("image"))) for part in parts]
    return found


def turns(content) -> list[dict]:
    return [{"role": "user", "content": content}, {"role": "assistant", "content": "A fern."}]


def sharegpt(text: str) -> list[dict]:
    return [{"from": "human", "value": text}, {"from": "gpt", "value": "A fern."}]


TEXT = {"type": "text", "text": "What?"}
ONE = {
    "TRL, text": {"messages": turns("<image>What?"), "images": ["a.png"]},
    "TRL, places": {"messages": turns([{"type": "image"}, TEXT]), "images": ["a.png"]},
    "TRL, nulls": {
        "messages": turns(
            [{"type": "image", "text": None, "index": 0}, {**TEXT, "image": None, "index": None}]
        ),
        "images": ["a.png"],
    },
    "TRL, prompt and completion": {
        "prompt": turns("What?")[:1],
        "completion": turns("What?")[1:],
        "images": ["a.png"],
    },
    "no mark": {"messages": turns("What?"), "images": ["a.png"]},
    "one image": {"messages": turns("<image>What?"), "image": "a.png"},
    "LLaMA-Factory": {
        "conversations": sharegpt("<image>What?"),
        "images": ["a.png"],
        "system": "",
        "tools": "",
        "videos": [],
    },
    "LLaVA": {"id": "0", "image": "a.png", "conversations": sharegpt("<image>What?")},
    "mlx-vlm": {"question": "What?", "answer": "A fern.", "image": "a.png"},
    "ms-swift": {"query": "<image>What?", "response": "A fern.", "images": ["a.png"]},
    "prompt and completion": {"prompt": "What?", "completion": "A fern.", "image": "a.png"},
    "Alpaca": {"instruction": "What?", "input": "", "output": "A fern.", "images": ["a.png"]},
    "Windows": {"prompt": "What?", "answer": "A fern.", "image": ".\\a.png"},
    "InternVL": {
        "image": "a.png",
        "width": 21,
        "height": 13,
        "conversations": sharegpt("<image>What?"),
    },
    "plain, images": {"images": ["a.png"], "prompt": "What?", "answer": "A fern."},
    "plain, a mark": {"image": "a.png", "prompt": "<image>What?", "answer": "A fern."},
    "an image folder": {"file_name": "a.png", "question": "What?", "answer": "A fern."},
    "a data set's image": {
        "image": {"bytes": None, "path": "a.png"},
        "prompt": "What?",
        "answer": "A fern.",
    },
    "input_image": {
        "messages": turns(
            [{"type": "input_image", "image_url": "a.png"}, {**TEXT, "type": "input_text"}]
        )
    },
    "no type": {"messages": turns([{"image": "a.png"}, {"text": "What?"}])},
    "Ollama": {"messages": [{**turns("What?")[0], "images": ["a.png"]}, turns("")[1]]},
    "empty beside": {
        "messages": turns([{"image": "a.png"}, TEXT]),
        "image": None,
        "images": [],
        "system": None,
        "source": "web",
    },
    "one of two columns": {"messages": turns("<image>What?"), "image": "a.png", "images": []},
    "an empty column": {
        "messages": turns([{"image": "a.png"}, TEXT]),
        "prompt": "",
        "text": "",
    },
    "system null": {
        "messages": [{"role": "system", "content": None}, *turns([{"image": "a.png"}, TEXT])]
    },
}


@pytest.mark.parametrize("row", ONE.values(), ids=ONE)
def test_every_form_of_a_row_is_the_canonical_conversation(folder, row):
    assert flat(only_row(folder, row)) == [
        ("user", str(folder / "a.png")),
        ("user", "What?"),
        ("assistant", "A fern."),
    ]


@pytest.mark.parametrize("row", ONE.values(), ids=ONE)
def test_every_form_of_a_row_gives_the_canonical_prompt(tiny, folder, row):
    _, processor = tiny
    canonical = dialogue("What?", "A fern.", folder / "a.png")
    assert processor(only_row(folder, row)).input_ids == processor(canonical).input_ids


@pytest.mark.parametrize(
    "image",
    [URI, BASE64, {"bytes": BASE64, "path": "gone.png"}, {"url": URI}, "file://FOLDER/a.png"],
)
def test_an_image_may_stand_in_the_row_itself(tiny, folder, image):
    _, processor = tiny
    if isinstance(image, str):
        image = image.replace("FOLDER", str(folder))
    messages = only_row(folder, {"image": image, "prompt": "What?", "answer": "A fern."})
    canonical = dialogue("What?", "A fern.", folder / "a.png")
    assert processor(messages).input_ids == processor(canonical).input_ids


PLACES = {
    "marks": (
        {"messages": turns("A <image> and <image>?")},
        ["A ", "a.png", " and ", "b.png", "?"],
    ),
    "two turns": (
        {"messages": [*turns("<image>One?"), *turns("<image>Two?")]},
        ["a.png", "One?", "A fern.", "b.png", "Two?"],
    ),
    "places": (
        {"messages": turns([TEXT, {"type": "image"}, {"type": "image"}])},
        ["What?", "a.png", "b.png"],
    ),
    "none": ({"messages": [*turns("One?"), *turns("Two?")]}, ["a.png", "b.png", "One?", "A fern."]),
    "behind a system message": ({"conversations": sharegpt("One?"), "system": "S"}, ["S", "a.png"]),
    "a new line": ({"messages": turns("<image><image>\nOne?")}, ["a.png", "b.png", "\nOne?"]),
}


@pytest.mark.parametrize(("row", "expected"), PLACES.values(), ids=PLACES)
def test_images_take_their_places_in_order(folder, row, expected):
    found = [value for _, value in flat(only_row(folder, {**row, "images": ["a.png", "b.png"]}))]
    paths = {name: str(folder / name) for name in ("a.png", "b.png")}
    assert found[: len(expected)] == [paths.get(value, value) for value in expected]


def test_a_mark_in_an_answer_is_text(folder):
    row = {"prompt": "Which mark?", "answer": "It is <image>."}
    assert flat(only_row(folder, row))[-1] == ("assistant", "It is <image>.")


def test_a_caption_is_the_answer_to_an_image_without_a_question(folder):
    for key in ("text", "caption"):
        messages = only_row(folder, {"file_name": "a.png", key: "A fern."})
        assert flat(messages) == [("user", str(folder / "a.png")), ("assistant", "A fern.")]


WRONG = {
    "a typo": ({"img": "a.png"}, "unknown key 'img'; did you mean 'image'?"),
    "a typo of images": ({"imags": ["a.png"]}, "unknown key 'imags'; did you mean 'images'?"),
    "a path": ({"image_path": "a.png"}, "unknown key 'image_path'"),
    "videos": ({"videos": ["a.mp4"]}, "unknown key 'videos'"),
    "tools": ({"tools": [{"name": "f"}]}, "unknown key 'tools'"),
    "two columns": ({"image": "a.png", "images": ["b.png"]}, "both image and images; expected one"),
    "a number": ({"image": 7}, "an image is of type int, expected a path"),
    "too few": (
        {"images": ["a.png"], "prompt": "<image><image>"},
        "<image> marks in the text: 2, images: 1",
    ),
    "too many": ({"images": ["a.png"] * 2, "prompt": "<image>"}, "marks in the text: 1, images: 2"),
    "a mark alone": ({"prompt": "<image>What?"}, "marks in the text: 1, images: 0"),
    "a mark of Qwen": (
        {"image": "a.png", "prompt": "<|vision_start|><|image_pad|><|vision_end|>What?"},
        "the text has '<|vision_start|>', which marks an image for another model",
    ),
    "a path in the text": ({"prompt": "<img>a.png</img>What?"}, "'<img>a.png</img>', which marks"),
    "a mark of Phi": ({"image": "a.png", "prompt": "<|image_1|>What?"}, "'<|image_1|>', which"),
    "an input beside messages": ({"prompt": turns("x")[:1], "input": "y"}, "is not text"),
    "two questions": ({"question": "x"}, "holds both prompt and question"),
    "two answers": ({"response": "x"}, "holds both answer and response"),
    "messages too": ({"messages": turns("x")}, "more than one of messages, a prompt and a caption"),
    "a caption too": ({"text": "x"}, "more than one of messages, a prompt and a caption"),
    "a number to ask": ({"prompt": 7}, "the text of the user is 7, expected text"),
    "no prompt": ({"prompt": None}, "neither messages nor prompt"),
}


@pytest.mark.parametrize(("changes", "why"), WRONG.values(), ids=WRONG)
def test_what_a_row_holds_and_nobody_reads_is_refused_by_name(folder, changes, why):
    with pytest.raises(InputError) as error:
        only_row(folder, {"prompt": "What?", "answer": "A fern.", **changes})
    _, line = str(error.value).splitlines()
    assert line.strip().startswith("line 1: ")
    assert why in line


IMAGE = {"type": "image", "image": "a.png"}
WRONG_MESSAGES = {
    "a place alone": ({"messages": turns([{"type": "image"}])}, "without an image: 1, images: 0"),
    "within and beside": ({"messages": turns([IMAGE]), "image": "b.png"}, "both in the messages"),
    "a part and a mark": ({"messages": turns([IMAGE, "<image>"])}, "both image parts and <image>"),
    "a part's type": ({"messages": turns([{"type": "video", "video": "a"}])}, "type 'video'"),
    "a message's key": ({"messages": [{**turns("x")[0], "imgs": ["a"]}]}, "unknown key 'imgs'"),
    "a weight": ({"messages": [turns("x")[0], {**turns("x")[1], "weight": 0}]}, "the weight 0"),
    "an order": (
        {"messages": turns([{"type": "image", "index": 1}]), "images": ["a.png"]},
        "do not count from 0",
    ),
    "no user": ({"messages": turns("x")[1:], "images": ["a.png"]}, "no message of the user"),
    "a role": ({"conversations": [{"from": "humans", "value": "x"}]}, "did you mean 'human'?"),
    "a turn's key": (
        {"conversations": [{"from": "human", "value": "x", "loss": True}]},
        "a turn has an unknown key 'loss'",
    ),
    "two systems": (
        {"messages": [{"role": "system", "content": "S"}, *turns("x")], "system": "T"},
        "both system and a system message",
    ),
    "a caption of nothing": ({"text": "A fern."}, "a caption without an image"),
    "nothing": ({}, "neither messages nor prompt and answer"),
    "messages as text": ({"messages": "x"}, "messages is not a list of messages"),
}


@pytest.mark.parametrize(("row", "why"), WRONG_MESSAGES.values(), ids=WRONG_MESSAGES)
def test_messages_of_a_row_that_are_unclear_are_refused(folder, row, why):
    with pytest.raises(InputError) as error:
        only_row(folder, row)
    _, line = str(error.value).splitlines()
    assert why in line


def test_training_refuses_rows_whose_image_it_would_not_see(folder, capsys):
    path = write_rows(folder / "d.jsonl", [{"img": "a.png", "prompt": "x", "answer": "y"}])
    assert train(["--model", "demo", "--data", str(path), "--show", "1"]) == 2
    assert "line 1: the row has an unknown key 'img'" in capsys.readouterr().err


def test_the_input_of_an_instruction_follows_on_a_line_of_its_own(folder):
    alpaca = only_row(folder, {"instruction": "Translate.", "input": "Farn", "output": "Fern"})
    plain = only_row(folder, {"prompt": "Translate.\nFarn", "answer": "Fern"})
    assert alpaca == plain
    assert only_row(folder, {"input": "Farn", "output": "Fern"}) == only_row(
        folder, {"prompt": "Farn", "answer": "Fern"}
    )


def test_a_web_page_in_a_question_is_no_mark(folder):
    text = 'What is <img src="a.png"> for, and <image/>, and a[IMG_0]?'
    assert only_row(folder, {"prompt": text, "answer": "x"})[0]["content"][0]["text"] == text


@pytest.mark.parametrize(
    "question",
    [
        {"image": "a.png", "prompt": "What?"},
        {"image": "a.png", "prompt": "What?", "answer": ""},
        {"messages": [{"role": "user", "content": "<image>What?"}], "images": ["a.png"]},
        {"image": "a.png", "conversations": [{"from": "human", "value": "<image>What?"}]},
    ],
)
def test_where_answers_are_made_a_row_needs_none(folder, question):
    path = write_rows(folder / "d.jsonl", [question])
    (messages,) = read_rows(path, answered=False)
    image = str(folder / "a.png")
    assert flat(messages) == [("user", image), ("user", "What?"), ("assistant", "")]
    with pytest.raises(InputError, match="nothing to learn|neither messages nor answer"):
        read_rows(path)


def test_all_bad_rows_are_reported_with_their_lines(tmp_path):
    make_picture(8, 8, 1).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_text("no image")
    rows = [
        {"image": "a.png", "prompt": "x", "answer": "y"},
        {"prompt": "x"},
        {"messages": []},
        {"messages": dialogue("x", "")},
        {"image": "gone.png", "prompt": "x", "answer": "y"},
        {"image": "b.png", "prompt": "x", "answer": "y"},
        {"messages": [{"content": "x"}]},
        [1],
    ]
    path = write_rows(tmp_path / "data.jsonl", rows)
    path.write_text(path.read_text() + "{broken\n")
    with pytest.raises(InputError) as error:
        read_rows(path)
    lines = str(error.value).splitlines()
    assert lines[0].endswith("has 8 bad rows:")
    assert [line.split(":")[0].strip() for line in lines[1:]] == [f"line {n}" for n in range(2, 10)]


def test_both_row_forms_mean_the_same(tmp_path):
    make_picture(8, 8, 1).save(tmp_path / "a.png")
    plain = {"image": "a.png", "system": "S", "prompt": "x", "answer": "y"}
    system = {"role": "system", "content": "S"}
    full = {"messages": [system, *dialogue("x", "y", "a.png")]}
    first, second = read_rows(write_rows(tmp_path / "d.jsonl", [plain, full]))
    assert first == second
    assert first[1]["content"][0]["image"] == str(tmp_path / "a.png")


def test_line_ends_inside_strings_do_not_end_a_row(tmp_path):
    row = {"prompt": "a\u2028b\u0085c", "answer": "y"}
    (messages,) = read_rows(write_rows(tmp_path / "d.jsonl", [row]))
    assert messages[0]["content"][0]["text"] == row["prompt"]


@pytest.mark.parametrize(
    ("name", "why"),
    [
        (
            "https://example.com/a.png",
            "https://example.com/a.png is not a path, and training",
        ),
        ("data:image/png;base64," + 5000 * "A", "data URI is a file of zeros, not an image"),
        (300 * "b" + ".png", "no such image: " + 100 * "b" + "..."),
        ("~nobody-of-that-name/a.png", "no such image: ~nobody-of-that-name/a.png"),
    ],
)
def test_an_image_that_is_no_file_is_named_by_its_line(name, why, tmp_path):
    rows = [{"image": name, "prompt": "x", "answer": "y"}]
    with pytest.raises(InputError) as error:
        read_rows(write_rows(tmp_path / "d.jsonl", rows))
    _, line = str(error.value).splitlines()
    assert line.strip().startswith("line 1: ")
    assert why in line
    assert len(line) < 200


def test_an_image_whose_name_begins_with_a_tilde_is_beside_the_file_or_at_home(
    tmp_path, monkeypatch
):
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("~a.png", "home/b.png"):
        make_picture(8, 8, 1).save(tmp_path / name)
    for name, path in (("~a.png", "~a.png"), ("~/b.png", "home/b.png")):
        row = {"image": name, "prompt": "x", "answer": "y"}
        ((user, _),) = read_rows(write_rows(tmp_path / "d.jsonl", [row]))
        assert user["content"][0]["image"] == str(tmp_path / path)


def test_an_image_url_item_is_a_path_beside_the_file(tmp_path):
    make_picture(8, 8, 1).save(tmp_path / "a.png")
    item = {"type": "image_url", "image_url": {"url": "a.png"}}
    user = {"role": "user", "content": [item, {"type": "text", "text": "x"}]}
    row = {"messages": [user, {"role": "assistant", "content": "y"}]}
    (messages,) = read_rows(write_rows(tmp_path / "d.jsonl", [row]))
    assert messages[0]["content"][0] == {"type": "image", "image": str(tmp_path / "a.png")}
    item["image_url"]["url"] = "gone.png"
    with pytest.raises(InputError, match="no such image: gone.png"):
        read_rows(write_rows(tmp_path / "d.jsonl", [row]))
