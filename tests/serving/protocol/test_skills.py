"""The typed skills over JSON: the answers of `skills.functions`, with what they cost."""

import base64
from dataclasses import replace
from inspect import Parameter, signature

import pytest
from client_shapes import DOT
from drawn_files import pdf
from exchanges import MODEL, TERMS, body_of

from mlx_lfm2vl.checkpoint.find import find_image
from mlx_lfm2vl.errors import AnswerError, InputError
from mlx_lfm2vl.serving.exchange import Terms
from mlx_lfm2vl.serving.protocol.fields import BadField
from mlx_lfm2vl.serving.protocol.skills import OPTIONS, REQUIRED, read_skill
from mlx_lfm2vl.skills import functions
from mlx_lfm2vl.skills.tasks import TASKS

with open(find_image("demo"), "rb") as file:
    PICTURE = file.read()
URI = "data:image/png;base64," + base64.b64encode(PICTURE).decode()
INFO = replace(MODEL.info, kind="3b")  # which was taught all skills
LARGE = Terms(lambda _: replace(MODEL, look=lambda: INFO))


def answers(core, name, **body):
    return body_of(read_skill(name, {"image": URI, **body}, TERMS), core)["answers"]


@pytest.mark.parametrize(
    ("name", "own"),
    [
        ("caption", {"length": "short"}),
        ("detect", {"target": ["circle", "triangle"]}),
        ("point", {"target": "circle", "surface": "photo"}),
        ("ask", {"question": "What color is the circle?"}),
    ],
)
def test_a_typed_answer_is_that_of_the_function(core, engine, name, own):
    (answer,) = answers(core, name, **own)
    expected = getattr(functions, name)(engine, PICTURE, **own).to_dict()
    assert answer == {
        **expected,
        "images": [{"name": "image 1", "width": 79, "height": 94}],
        "finish_reason": "stop",
    }


def test_classify_tells_how_likely_each_label_is(core, engine):
    (answer,) = answers(core, "classify", labels=["circle ", "star"])
    expected = functions.classify(engine, PICTURE, ["circle", "star"]).to_dict()
    told = expected["answers"]["label"]
    assert answer["choice"] == told["choice"]
    assert answer["probabilities"] == pytest.approx(told["probabilities"], abs=1e-3)


def test_each_picture_has_an_answer_and_a_pdf_one_for_each_page(core):
    page = ("/MediaBox [0 0 200 100]", "")
    document = base64.b64encode(pdf(page, page)).decode()
    images = [URI, {"data": document, "filename": "a.pdf"}]
    whole = body_of(read_skill("caption", {"images": images, "max_tokens": 3}, TERMS), core)
    names = [answer["images"][0]["name"] for answer in whole["answers"]]
    assert names == ["image 1", "a.pdf, page 1", "a.pdf, page 2"]
    assert whole["usage"]["completion_tokens"] == 9
    assert whole["answers"][0]["finish_reason"] == "length"


def test_pictures_are_asked_about_one_by_one_unless_they_belong_together():
    def counts(name: str, **body) -> list[int]:
        requests = read_skill(name, {"images": [URI, DOT], **body}, LARGE).requests
        return [
            sum(part["type"] == "image" for part in request.messages[-1]["content"])
            for request in requests
        ]

    assert counts("caption") == counts("point", target="x") == [1, 1]
    assert counts("layout") == counts("compare") == [2]
    assert counts("detect") == counts("extract", fields=["total"]) == [1, 1]
    assert counts("detect", together=True) == counts("ask", question="?", together=True) == [2]
    (request,) = read_skill("detect", {"images": [URI, DOT], "together": True}, LARGE).requests
    assert '"maximum": 1' in request.options.constraint.text  # the number of the last image


def test_an_answer_in_another_form_is_an_error_in_its_place(core):
    cut = {"target": "circle", "max_tokens": 5, "stop": "["}
    with pytest.raises(AnswerError):
        answers(core, "detect", **cut)
    both = body_of(read_skill("detect", {"images": [URI, URI], **cut}, TERMS), core)["answers"]
    assert [set(answer) for answer in both] == [{"error", "images"}] * 2


def test_the_options_of_every_skill_can_be_sent():
    assert OPTIONS.keys() == TASKS.keys()
    for name, options in OPTIONS.items():
        parameters = signature(TASKS[name]).parameters
        own = {option for option in parameters if option not in ("kind", "prompt", "images")}
        assert own == set(options), name
        required = [each for each in own if parameters[each].default is Parameter.empty]
        assert required == [REQUIRED[name]] if name in REQUIRED else not required


@pytest.mark.parametrize(
    ("name", "body", "message"),
    [
        ("captions", {}, "there is no skill 'captions'"),
        ("caption", {"image": None}, "image is missing, expected a data URI"),
        ("caption", {"images": [URI]}, "image and images are both given"),
        ("caption", {"image": {"data": None}}, "image.data is missing"),
        ("caption", {"image": "/etc/passwd"}, "image is '/etc/passwd', expected a data URI"),
        ("caption", {"lenght": "short"}, "did you mean 'length'"),
        ("caption", {"length": "huge"}, "length is 'huge', expected short"),
        ("caption", {"together": True}, "unknown field 'together'"),
        ("caption", {"stream": True}, "comes whole"),
        ("keywords", {"count": "3"}, "count is a text, expected a whole number"),
        ("keywords", {"count": 101}, "count is 101, expected 1 to 100"),
        ("point", {}, "target is missing; point needs it"),
        ("point", {"target": ["a"]}, "target is a list, expected a text"),
        ("classify", {"labels": ["a"]}, "there is one label, 'a', expected 2"),
        ("extract", {"fields": ["a"], "schema": {}}, "either fields or a schema"),
        ("extract", {"fields": {"a": 5}}, "fields.a is a number, expected a text"),
        ("compare", {}, "compare takes 2 or more images, and 1 was given"),
        ("ask", {"question": "In {city}?"}, "the prompt names {city}, which is unknown"),
    ],
)
def test_a_question_that_is_wrong_is_refused(name, body, message):
    with pytest.raises(InputError, match=message.replace("{", r"\{")):
        read_skill(name, {"image": URI, **body}, LARGE)


def test_the_field_that_is_wrong_is_named():
    with pytest.raises(BadField) as caught:
        read_skill("extract", {"image": URI, "fields": {"a": 5}}, LARGE)
    assert caught.value.param == "fields.a"
