"""Prompts: as they were published, in the words that the chat template gives the model."""

import hashlib

import pytest

from mlx_lfm2vl.errors import InputError
from mlx_lfm2vl.options import AnswerOptions
from mlx_lfm2vl.prompt.template import ChatTemplate
from mlx_lfm2vl.skills.kinds import KINDS
from mlx_lfm2vl.skills.prompts import Prompt, _table, find_prompt, is_taught, read_prompt
from mlx_lfm2vl.skills.tasks import TASKS, make_task

TEMPLATES = {"450m": "LFM2.5-VL-450M", "1.6b": "LFM2.5-VL-1.6B", "3b": "LFM2.5-VL-3B"}
FIELDS = ["texture: select from smooth, rough, or grainy", "color: main color"]
# SHA-256 of what the model reads, written down when it was compared with the publications.
PUBLISHED = [
    (
        "detect",
        "3b",
        "3b",
        {"target": "the two cats and the two remote controls"},
        1,
        "8a4e7b6d5915caed",
    ),
    ("detect", "450m", "450m", {"target": "the ships"}, 1, "dd3efcb321c6f066"),
    ("detect", "1.6b", "1.6b", {"target": "ships"}, 1, "dd3efcb321c6f066"),
    (
        "point",
        "3b",
        "3b",
        {"target": "the cat on the right", "surface": "photo"},
        1,
        "111c6e3e5aa77210",
    ),
    ("point", "3b", "3b", {"target": "close the window", "surface": "web"}, 1, "06bbd6bb009022d2"),
    ("point", "3b", "3b", {"target": "close the window", "surface": "app"}, 1, "49665aea33d490b2"),
    ("layout", "3b", "3b", {}, 2, "7fd21d2c984f2fa8"),
    ("ocr", "1.6b", "1.6b", {}, 1, "d1b8868d32edadcf"),
    ("extract", "extract", "450m", {"fields": FIELDS}, 1, "05d4d8c0d653d279"),
    ("extract", "extract", "1.6b", {"fields": FIELDS}, 1, "05d4d8c0d653d279"),
    ("compare", "3b", "3b", {}, 2, "2f1134d74ef5225e"),
]


def rendered(assets, skill, kind, template, options, images) -> str:
    task = make_task(skill, kind, **options)
    messages = task.messages(["a.jpg", "b.jpg"][:images])
    source = ChatTemplate.from_folder(assets / TEMPLATES[template], "<s>", "</s>")
    return source.render(messages)


@pytest.mark.parametrize(("skill", "kind", "template", "options", "images", "digest"), PUBLISHED)
def test_what_the_model_reads_is_pinned(assets, skill, kind, template, options, images, digest):
    text = rendered(assets, skill, kind, template, options, images)
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == digest, text


def test_grounding_of_the_3b_reads_as_published(assets):
    text = rendered(assets, "detect", "3b", "3b", {"target": "the ships"}, 1)
    assert text == (
        "<s><|im_start|>system\n"
        "When asked for bounding boxes for objects, return a valid JSON array.\n"
        "Each array item must be an object with:\n"
        "- image_id: the 0-based index of the image\n"
        "- bbox_2d: [xmin, ymin, xmax, ymax] normalized integer coordinates in [0, 1000]\n"
        "- label: a concise label you choose for the predicted object or region\n\n"
        "Return one item per visible matching object or region. Return [] if none are visible."
        "<|im_end|>\n<|im_start|>user\n<image>Provide bounding boxes for the ships.<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_an_extract_model_gets_the_fields_as_system_message_and_the_image_alone(assets):
    text = rendered(assets, "extract", "extract", "450m", {"fields": FIELDS}, 1)
    assert text == (
        "<s><|im_start|>system\nExtract the following from the image:\n\n"
        "texture: select from smooth, rough, or grainy\ncolor: main color\n\n"
        "Respond with only a JSON object. Do not include any text outside the JSON.<|im_end|>\n"
        "<|im_start|>user\n<image><|im_end|>\n<|im_start|>assistant\n"
    )


def test_the_3b_is_shown_several_images_by_number():
    (message,) = make_task("compare", "3b").messages(["a.jpg", "b.jpg"])
    parts = [part.get("text", part["type"]) for part in message["content"]]
    assert parts[:4] == ["Media-1\n", "image", "\nMedia-2\n", "image"]
    assert parts[4].startswith("\n")


def test_every_prompt_of_the_table_is_sound_and_says_where_it_is_from():
    assert _table().keys() == TASKS.keys()
    for skill, forms in _table().items():
        for variant in ("", *(forms.keys() - {*KINDS, "any"})):
            for kind in KINDS:
                try:
                    prompt = find_prompt(skill, kind, variant)
                except (InputError, KeyError):
                    continue
                assert prompt.source, (skill, kind)
                assert AnswerOptions(**prompt.settings).max_tokens >= 32


@pytest.mark.parametrize("skill", ["caption", "detect", "extract", "layout", "compare"])
def test_a_prompt_written_to_a_file_is_read_as_it_was(tmp_path, skill):
    path = tmp_path / "own.toml"
    prompt = find_prompt(skill, "3b", "short")
    path.write_text(prompt.to_toml())
    assert read_prompt(path).settings == prompt.settings
    assert read_prompt(path).messages(["a"], VALUES, {}) == prompt.messages(["a"], VALUES, {})


VALUES = {"target": "cats", "fields": "a: b"}


@pytest.mark.parametrize("text", ["'''quotes'''\nand lines", 'tab\tand \\ and "', "a\nb'", "é\x7f"])
def test_any_text_survives_a_prompt_file(tmp_path, text):
    path = tmp_path / "own.toml"
    path.write_text(Prompt(text).to_toml())
    assert read_prompt(path).user == text


def test_a_text_file_replaces_the_whole_prompt(tmp_path):
    path = tmp_path / "own.txt"
    path.write_text("\ufeffFind {target} in {name}.\r\n")
    task = make_task("detect", "3b", target="cats", prompt=read_prompt(path))
    (message,) = task.messages(["a.jpg"], {"name": "a.jpg"})
    assert message["content"][-1]["text"] == "Find cats in a.jpg."


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("p.toml", "user = 3", "user is 3, expected a text"),
        ("p.toml", "max_tokens = 1.5", "max_tokens is 1.5, expected a number"),
        ("p.toml", "usr = 'x'", "unknown key 'usr', expected user, system"),
        ("p.toml", "user =", "is not TOML"),
        ("p.txt", " \n", "is empty, expected a prompt"),
        ("p.txt", None, "cannot be read: No such file"),
    ],
)
def test_a_broken_prompt_file_is_named(tmp_path, name, text, message):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=message):
        read_prompt(tmp_path / name)


def test_facts_of_a_photo_go_into_a_question():
    task = make_task("ask", "450m", question='{name}, {place} ({exif.date}): {{place}} {"a": 1}}')
    facts = {"name": "a.jpg", "place": "{name}", "keywords": "x"}
    (message,) = task.messages(["a.jpg"], facts)
    # What a fact says is not read again, and a fact that the photo lacks is said to be unknown.
    assert message["content"][-1]["text"] == 'a.jpg, {name} (unknown): {place} {"a": 1}}'


def test_an_unknown_name_in_a_question_is_an_error_that_lists_the_known_ones():
    with pytest.raises(InputError, match=r"\{date\}, which is unknown; known are \{name\}, \{exif"):
        make_task("ask", "450m", question="Taken on {date}?")


@pytest.mark.parametrize(
    ("kind", "missing"),
    [("450m", {"layout"}), ("3b", set()), ("demo", {"layout", "extract"}), ("other", {"layout"})],
)
def test_a_kind_is_taught_every_skill_but_those_that_are_refused(kind, missing):
    assert {name for name in TASKS if not is_taught(name, kind)} == missing
