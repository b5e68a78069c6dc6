"""Skills for a kind of checkpoint: what is asked, and how the answer is read."""

import json

import pytest

from mlx_lfm2vl.errors import AnswerError, InputError
from mlx_lfm2vl.skills import schemas
from mlx_lfm2vl.skills.tasks import TASKS, make_skill, make_task

SIZE = [(100, 200)]  # (height, width)
BOXES = (
    '[{"label": "red star", "bbox": [0.1, 0.2, 0.3, 0.4]}, {"label": "ring", "bbox": [0, 0, 1, 1]}]'
)


def test_a_skill_is_what_a_folder_run_needs():
    skill = make_skill("caption", "450m", length="alt")
    (message,) = skill.messages(["a.jpg"], {"name": "a.jpg"})
    assert [part["type"] for part in message["content"]] == ["image", "text"]
    text = "A dog runs over the wet grass of a park. " * 4
    assert skill.read(text, SIZE) == {
        "text": f"{text[:40]} {text[:40]} {text[:40]}",
        "length": "alt",
    }
    assert skill.options.max_tokens == 64


@pytest.mark.parametrize("kind", ["450m", "3b", "demo"])
def test_answers_hold_only_what_json_holds(kind):
    for name, options, text in [
        ("keywords", {"count": 100}, "Dog, beach"),
        ("ocr", {"form": "markdown"}, "```\n# A\n```"),
        ("detect", {"target": "star"}, BOXES),
        ("point", {"target": "star"}, BOXES),
        ("point", {"target": "star"}, "[]"),
        ("classify", {"labels": ["star", "ring"]}, "The shape is a ring."),
        ("compare", {}, "Nothing."),
        ("ask", {"question": "Why?"}, " So. "),
    ]:
        values = make_skill(name, kind, **options).read(text, SIZE)
        assert json.loads(json.dumps(values)) == values


def test_a_point_is_the_middle_of_the_first_box():
    task = make_task("point", "450m", target="star")
    found = task.parse(BOXES, SIZE)
    assert (found.x, found.y) == found.box.center == (39, 29)
    assert task.parse("[]", SIZE).to_dict() == {"x": None, "y": None, "box": None}


def test_several_labels_are_named_in_one_sentence():
    task = make_task("detect", "3b", target=["cats", "the dogs", "birds"])
    assert task.values["target"] == "cats, the dogs and birds"
    # Where the prompt has the article, the target has it no more.
    assert make_task("detect", "450m", target="the ships").values["target"] == "ships"


def test_the_demo_model_is_asked_about_everything_and_its_boxes_are_chosen_among():
    task = make_task("detect", "demo", target=["star", "cross"])
    assert task.prompt.user == "Detect all objects."
    assert [box.label for box in task.parse(BOXES, SIZE).boxes] == ["red star"]


@pytest.mark.parametrize(
    ("name", "kind", "options", "message"),
    [
        ("captoin", "450m", {}, "there is no skill 'captoin', expected caption, keywords"),
        ("caption", "7b", {}, "kind is '7b', expected 450m, 1.6b"),
        ("caption", "450m", {"size": 3}, "caption has no option 'size', expected length, prompt"),
        ("caption", "450m", {"length": "long"}, "length is 'long', expected short, normal"),
        ("keywords", "450m", {"count": 0}, "count is 0, expected 1 to 100"),
        ("ocr", "450m", {"form": "html"}, "form is 'html', expected text, markdown"),
        ("layout", "450m", {}, "only LFM2.5-VL-3B was taught to read the layout"),
        ("point", "450m", {"target": " "}, "a target is empty"),
        ("classify", "450m", {"labels": ["a"]}, "there is one label, 'a'"),
        ("classify", "demo", {"labels": ["cat", "dog"]}, "only labels of one of these lists"),
        ("extract", "demo", {"fields": ["a"]}, "the demo model was not taught to write fields"),
        ("extract", "450m", {}, "either fields or a schema"),
        ("extract", "450m", {"fields": ["a", "a: b"]}, "the field 'a' is there twice"),
        ("extract", "450m", {"fields": [*map(str, range(101))]}, "there are 101 fields"),
        ("extract", "450m", {"schema": {"type": "array"}}, 'has no "properties"'),
        ("ask", "450m", {"question": " "}, "the question is empty"),
    ],
)
def test_a_wrong_option_is_named(name, kind, options, message):
    with pytest.raises(InputError, match=message):
        make_skill(name, kind, **options)


@pytest.mark.parametrize(
    ("name", "options", "count", "message"),
    [
        ("compare", {}, 1, "compare takes 2 or more images, and 1 was given"),
        ("caption", {}, 2, "caption takes 1 image, and 2 were given"),
        ("ask", {"question": "Why?"}, 0, "ask takes 1 or more images, and 0 were given"),
    ],
)
def test_a_wrong_number_of_images_is_refused(name, options, count, message):
    with pytest.raises(InputError, match=message):
        make_task(name, "450m", **options).messages(["a.jpg"] * count)


@pytest.mark.parametrize(
    ("text", "choice"),
    [
        ("Cat.", "cat"),
        ("It is a cat", "cat"),
        ("a Car park", "car park"),
        ("**dog**", "dog"),
        ("cats", None),
        ("a cat and a dog", None),
        ("", None),
    ],
)
def test_a_written_label_must_be_one_of_those_given(text, choice):
    task = make_task("classify", "450m", labels=["cat", "dog", "car", "car park"])
    if choice:
        assert task.parse(text, SIZE).choice == choice
        return
    with pytest.raises(AnswerError, match="expected one of cat, dog, car"):
        task.parse(text, SIZE)


def test_fields_are_found_under_other_spellings_and_missing_ones_are_null():
    task = make_task("extract", "450m", fields=["Invoice number", "total_amount: sum", "date"])
    text = '```json\n{"invoice_number": "A1", "Total Amount": 3.5, "more": 1}\n```'
    values = {"Invoice number": "A1", "total_amount": 3.5, "date": None}
    assert task.parse(text, SIZE).values == values
    with pytest.raises(AnswerError, match="the answer has more, expected the fields Invoice"):
        task.parse('{"more": 1}', SIZE)
    exact = make_task("extract", "450m", fields=["Total", *map(str, range(99))])
    assert exact.parse('{"total": 1, "Total": 2}', SIZE).values["Total"] == 2


def test_a_schema_becomes_lines_and_says_what_must_be_there():
    properties = {
        "texture": {"enum": ["smooth", "rough", "grainy"]},
        "total": {"type": "number", "description": "amount paid."},
        "items": {"type": "array", "items": {"type": "object", "properties": {"a": {}, "b": {}}}},
        "note": {},
    }
    schema = {"type": "object", "properties": properties, "required": ["total"]}
    task = make_task("extract", "extract", schema=schema)
    assert task.values["fields"].splitlines() == [
        "texture: select from smooth, rough, or grainy",
        "total: amount paid, a number",
        "items: a list of objects with a, b",
        "note",
    ]
    assert task.parse('{"total": 1, "own": 2}', SIZE).values == {"total": 1, "own": 2}
    with pytest.raises(AnswerError, match="lacks total, which the schema requires"):
        task.parse('{"note": 1}', SIZE)


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        ({"enum": []}, r"property 'n' has the choices \[\], expected a list of some"),
        ({"enum": 3}, "property 'n' has the choices 3, expected a list of some"),
        ({"type": "object", "properties": 5}, "the JSON schema cannot be used"),
        ({"type": "array", "items": {"properties": 7}}, "the JSON schema cannot be used"),
    ],
)
def test_a_schema_that_is_wrong_inside_is_refused_in_a_line(wrong, expected):
    with pytest.raises(InputError, match=expected):
        make_task("extract", "450m", schema={"type": "object", "properties": {"n": wrong}})


def schema_of(name, kind, **options):
    constraint = make_task(name, kind, **options).options.constraint
    return json.loads(constraint.text)


def test_a_constraint_follows_the_form_that_a_checkpoint_was_taught():
    item = schema_of("detect", "450m")["items"]["properties"]
    assert list(item) == ["label", "bbox"]
    assert item["bbox"]["items"]["maximum"] == 1
    item = schema_of("detect", "3b", images=2)["items"]["properties"]
    assert list(item) == ["image_id", "bbox_2d", "label"]
    assert (item["image_id"]["maximum"], item["bbox_2d"]["items"]["maximum"]) == (1, 1000)
    fields = ["kind: select from cat, dog, or bird", "name", "one: select from cats"]
    properties = schema_of("extract", "extract", fields=fields)["properties"]
    assert properties["kind"] == {"enum": ["cat", "dog", "bird"]}
    assert "enum" not in properties["one"]


def test_without_the_extra_no_skill_has_a_constraint(monkeypatch):
    monkeypatch.setattr(schemas, "find_spec", lambda _: None)
    examples = {
        "detect": {},
        "point": {"target": "x"},
        "classify": {"labels": ["a", "b"]},
        "extract": {"fields": ["a"]},
    }
    for name, options in examples.items():
        assert make_task(name, "450m", **options).options.constraint is None
    assert TASKS.keys() > examples.keys()
