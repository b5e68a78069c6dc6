"""MCP: the tools answer as the skills do, with data that fits what they promise."""

import json
import threading
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest
from mcp_client import McpClient
from pictures import make_picture
from PIL import Image

from mlx_lfm2vl import Engine, load
from mlx_lfm2vl.images.limits import ImageLimits
from mlx_lfm2vl.serving.core import Core
from mlx_lfm2vl.serving.mcp import calls as mcp_calls
from mlx_lfm2vl.serving.mcp.images import Allowed, AllowedFolder
from mlx_lfm2vl.serving.mcp.toolbox import Toolbox
from mlx_lfm2vl.serving.mcp.tools import TOOLS
from mlx_lfm2vl.serving.request import Progress
from mlx_lfm2vl.serving.served import served_model
from mlx_lfm2vl.skills.functions import caption

EXAMPLES = Path(__file__).parents[3] / "examples" / "images"
LIMITS = ImageLimits(max_pixels=100_000)


@pytest.fixture(scope="module")
def core():
    core = Core([served_model("demo", dtype="float32", limits=LIMITS)])
    yield core
    core.stop()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder of images: two pictures, a PDF of two pages, and one that is too large."""
    folder = tmp_path_factory.mktemp("pictures")
    one, two = (Image.open(EXAMPLES / name) for name in ("shapes.png", "mixed.png"))
    one.save(folder / "one.png")
    two.save(folder / "two.png")
    one.convert("RGB").save(folder / "both.pdf", save_all=True, append_images=[two])
    make_picture(400, 400, 3).save(folder / "large.png")
    return folder


@pytest.fixture
def client(core, folder):
    client = McpClient(Toolbox(lambda: core, Allowed([AllowedFolder(folder)]), LIMITS, 30))
    yield client
    client.end()


@pytest.fixture
def taught(core, monkeypatch):
    """The demo model passes for one that was taught every skill."""
    served = core.model()
    monkeypatch.setitem(vars(served), "info", replace(served.info, kind="450m"))


def text(answer) -> str:
    return answer["content"][0]["text"]


def test_the_tools_are_described_by_valid_schemas(client):
    tools = client.ask("tools/list")["tools"]
    assert [tool["name"] for tool in tools] == [
        *("describe", "read_text", "detect", "extract", "compare")
    ]
    for tool in tools:
        for schema in (tool["inputSchema"], tool["outputSchema"]):
            jsonschema.Draft202012Validator.check_schema(schema)
        assert tool["annotations"]["readOnlyHint"] is True
        first, *_ = tool["inputSchema"]["properties"].values()
        assert "the whole path of an image or PDF in /" in first["description"]


def test_describe_says_what_the_skill_says(client, folder):
    image = folder / "one.png"
    expected = caption(Engine(*load("demo", dtype="float32")), image, max_tokens=30).text
    assert text(client.call("describe", image=str(image))) == expected


def test_a_question_is_asked_as_it_is_with_braces_in_it(client, folder, core, monkeypatch):
    asked = []
    submit = core.submit
    monkeypatch.setattr(
        core, "submit", lambda request, deliver: asked.append(request) or submit(request, deliver)
    )
    client.call(
        "describe", image=str(folder / "one.png"), question="What is {this} {{and}} {name}?"
    )
    assert asked[0].messages[-1]["content"][-1]["text"] == "What is {this} {{and}} {name}?"


@pytest.mark.parametrize(
    ("tool", "arguments"),
    [
        ("describe", {"length": "short"}),
        ("describe", {"question": "Which shapes are there?"}),
        ("read_text", {"form": "markdown"}),
        ("detect", {}),
        ("detect", {"what": ["star"]}),
        ("extract", {"fields": ["color: select from red, or blue"]}),
        ("extract", {"schema": {"type": "object", "properties": {"n": {"type": "integer"}}}}),
        ("compare", {}),
    ],
)
@pytest.mark.usefixtures("taught")
def test_the_data_of_an_answer_fit_the_schema_that_was_promised(client, folder, tool, arguments):
    (found,) = [each for each in TOOLS if each.name == tool]
    names = [str(folder / "one.png"), str(folder / "two.png")]
    images = {"images": names} if found.takes_many else {"image": names[0]}
    answer = client.call(tool, **images, **arguments)
    jsonschema.validate(answer["structuredContent"], found.listed("")["outputSchema"])
    data = {k: v for k, v in answer["structuredContent"].items() if k != "finish_reason"}
    assert text(answer) == data["text"] if "text" in data else json.loads(text(answer)) == data
    if tool == "detect":
        with Image.open(folder / "one.png") as image:
            assert (data["width"], data["height"]) == image.size


def test_an_answer_that_was_cut_off_says_so(core, folder):
    client = McpClient(Toolbox(lambda: core, Allowed([AllowedFolder(folder)]), LIMITS, 2))
    answer = client.call("describe", image=str(folder / "one.png"))
    assert answer["structuredContent"]["finish_reason"] == "length"
    assert "cut off" in answer["content"][1]["text"]
    client.end()


def test_a_page_of_a_pdf_is_chosen_by_its_number(client, folder):
    second = client.call("describe", image=str(folder / "both.pdf"), page=2)
    assert "orange triangle" in text(second)
    third = client.call("describe", image=str(folder / "both.pdf"), page=3)
    assert "has 2 pages: there is no page 3" in text(third)
    other = client.call("describe", image=str(folder / "one.png"), page=2)
    assert "is no PDF and has no page 2" in text(other)


@pytest.mark.parametrize(
    ("tool", "arguments", "expected"),
    [
        ("describe", {}, "the argument 'image' is missing"),
        ("describe", {"image": 3}, "image is 3, expected string"),
        (
            "describe",
            {"image": "x", "size": 1},
            "there is no argument 'size', expected image, page",
        ),
        ("describe", {"image": "x", "length": "long"}, "length is 'long', expected short or"),
        ("describe", {"image": "x", "page": 0}, "page is 0, expected 1 or more"),
        ("describe", {"image": "x", "page": True}, "page is True, expected integer"),
        ("describe", {"image": "x", "question": " "}, "the question is empty"),
        ("detect", {"image": "x", "what": "star"}, "what is 'star', expected array"),
        ("detect", {"image": "x", "what": [1]}, "a value of what is 1, expected string"),
        ("compare", {"images": ["x"]}, "images has 1, expected 2 or more"),
        ("extract", {"image": "x"}, "extract needs either fields or a schema"),
        ("extract", {"image": "x", "schema": {}}, 'the schema has no "properties"'),
        (
            "extract",
            {"image": "x", "schema": {"properties": {"a": {"enum": []}}}},
            "property 'a' has the choices [], expected a list of some",
        ),
        ("describe", {"image": "/etc/hostname"}, "is not in a folder that is allowed"),
        ("describe", {"image": "clipboard"}, "the clipboard is not allowed"),
        ("describe", {"image": "{folder}/large.png"}, "megapixels"),
        ("describe", {"image": "{folder}/none.png"}, "does not exist"),
    ],
)
def test_what_is_wrong_is_told_to_the_agent_in_a_line(client, folder, tool, arguments, expected):
    named = {
        key: value.format(folder=folder) if key == "image" and isinstance(value, str) else value
        for key, value in arguments.items()
    }
    answer = client.call(tool, **named)
    assert answer["isError"]
    assert expected in text(answer)
    assert "\n" not in text(answer)


def test_a_cancelled_answer_is_given_up_and_the_next_one_comes(client, folder, core, monkeypatch):
    submitted, tickets = threading.Event(), []
    submit = core.submit

    def hold(request, _deliver):
        tickets.append(submit(request, list().append))  # nothing ever comes
        submitted.set()
        return tickets[0]

    monkeypatch.setattr(core, "submit", hold)
    params = {"name": "describe", "arguments": {"image": str(folder / "one.png")}}
    number = client.send("tools/call", params)
    assert submitted.wait(60)
    monkeypatch.setattr(core, "submit", submit)
    client.notify("notifications/cancelled", {"requestId": number})
    assert text(client.call("describe", image=str(folder / "one.png")))
    assert tickets[0].is_cancelled


def test_progress_tells_what_is_being_done(client, folder, core, monkeypatch):
    monkeypatch.setattr(mcp_calls, "REPORT_SECONDS", 0)
    submit = core.submit

    def slowly(request, deliver):
        for event in (Progress("queue", 0, 2), Progress("load", 0, 1), Progress("encode", 6, 48)):
            deliver(event)
        return submit(request, deliver)

    monkeypatch.setattr(core, "submit", slowly)
    arguments = {"image": str(folder / "one.png")}
    params = {"name": "describe", "arguments": arguments, "_meta": {"progressToken": 1}}
    number = client.send("tools/call", params)
    told = []
    while (message := client.read()).get("id") != number:
        told.append(message["params"])
    assert [params["message"] for params in told[:4]] == [
        "reading the image",
        "waiting, 2 before this",
        "loading the model",
        "looking at the image, 6 of 48 tokens",
    ]
    assert told[-1]["message"].startswith("answering, ")
    progress = [params["progress"] for params in told]
    assert progress == sorted(set(progress))
