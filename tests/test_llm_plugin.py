"""The plug-in of `llm`: the real program answers with our models as it does with others."""

import asyncio
import json
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import llm
import pillow_heif
import pytest
from click.testing import CliRunner
from conftest import golden
from hub_caches import PLACE
from llm.cli import cli
from llm.plugins import load_plugins, pm
from pictures import make_picture
from processes import modules_after
from residents import own_folder

from mlx_lfm2vl import Engine, ImageOptions, llm_plugin, load
from mlx_lfm2vl.generation.prefix import SHORT
from mlx_lfm2vl.generation.result import Piece
from mlx_lfm2vl.serving.llm import answers as llm_answers
from mlx_lfm2vl.serving.resident.place import Wanted

ROOT = Path(__file__).parent.parent
IMAGES = ROOT / "examples" / "images"
QUESTION = "Describe the picture."


@pytest.fixture(autouse=True)
def installed(tmp_path_factory, monkeypatch):
    """The plug-in is registered, llm has folders of its own, and the Hub's cache is empty."""
    load_plugins()
    if llm_plugin not in pm.get_plugins():  # else from the entry point
        pm.register(llm_plugin, "lfm2vl")
    monkeypatch.setenv("LLM_USER_PATH", str(tmp_path_factory.mktemp("llm")))
    cache = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(PLACE, str(cache))
    return cache


@pytest.fixture
def demo():
    return llm.get_model("lfm2vl-demo")


@pytest.fixture
def toolmaker(installed):
    """A tiny checkpoint in the Hub's cache whose template knows tools."""
    folder = installed / "models--me--tiny-LFM2-VL"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("abc")
    copy = shutil.copytree(golden("new_names").folder, folder / "snapshots" / "abc")
    template = copy / "chat_template.jinja"
    source = "{{ tools | tojson if tools }}{# tool_calls #}" + template.read_text()
    template.write_text(source)
    return llm.get_model("tiny-lfm2-vl")


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine(*load("demo"))


def attached(name: str) -> llm.Attachment:
    return llm.Attachment(path=str(IMAGES / name))


def written(engine: Engine, messages, **options) -> str:
    return engine.generate(messages, max_tokens=30, temperature=0, **options).text


def user(text: str, *names: str):
    images = [{"type": "image", "image": IMAGES / name} for name in names]
    return {"role": "user", "content": [*images, {"type": "text", "text": text}]}


GREEDY = {"max_tokens": 30, "temperature": 0}
FEWEST = {
    "max_tokens": 1,
    "min_image_tokens": 4,
    "max_image_tokens": 4,
    "do_image_splitting": False,
}


# -- what llm sees at its start --


def test_the_entry_point_names_the_plugin():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["llm"] == {"lfm2vl": llm_plugin.__name__}


def test_the_start_of_llm_loads_nothing_that_takes_time():
    code = (
        "import llm, sys; before = set(sys.modules); import mlx_lfm2vl.llm_plugin as plugin; "
        "plugin.register_models(lambda *models, aliases: None); new = set(sys.modules) - before; "
        "assert all(name.startswith('mlx_lfm2vl') for name in new) and len(new) <= 6, new"
    )
    modules_after(code)


def test_checkpoints_in_the_cache_are_models_with_short_names(installed):
    (installed / "models--LiquidAI--LFM2.5-VL-450M").mkdir()
    (installed / "models--me--my-LFM2-VL-4bit").mkdir()
    (installed / "models--me--other").mkdir()
    found = {
        each.model.model_id: each.aliases
        for each in llm.get_models_with_aliases()
        if isinstance(each.model, llm_plugin.LFM2VL)
    }
    assert found == {
        "lfm2vl-demo": [],
        "LiquidAI/LFM2.5-VL-450M": ["lfm2.5-vl-450m", "lfm2vl-450m"],
        "me/my-LFM2-VL-4bit": ["my-lfm2-vl-4bit"],
    }
    assert isinstance(llm.get_async_model("lfm2vl-450m"), llm_plugin.AsyncLFM2VL)


def test_tools_are_offered_where_the_template_knows_them(toolmaker, demo, installed):
    assert toolmaker.supports_tools
    assert not demo.supports_tools
    (installed / "models--me--empty-LFM2-VL").mkdir()
    assert not llm.get_model("empty-lfm2-vl").supports_tools
    with pytest.raises(ValueError, match="does not support tools"):
        demo.prompt("Hi", tools=[len])


def test_a_folder_in_the_environment_is_the_default_model(checkpoint, monkeypatch):
    with pytest.raises(llm.UnknownModelError):
        llm.get_model("lfm2vl")
    monkeypatch.setenv("LFM2VL_MODEL", str(checkpoint))
    model = llm.get_model("lfm2vl")
    assert not model.supports_tools
    response = model.prompt("Hi", max_tokens=3)
    response.text()
    assert response.usage().output <= 3
    monkeypatch.setenv("LFM2VL_MODEL", "450m")
    assert llm.get_model("lfm2vl").checkpoint == "LiquidAI/LFM2.5-VL-450M"


# -- answers --


def test_an_answer_about_an_image_is_that_of_the_engine(demo, engine):
    response = demo.prompt(QUESTION, attachments=[attached("shapes.png")], **GREEDY)
    pieces = list(response)
    assert len(pieces) > 5
    result = engine.generate([user(QUESTION, "shapes.png")], **GREEDY)
    assert "".join(pieces) == result.text
    usage = response.usage()
    assert (usage.input, usage.output) == (result.prompt_tokens, len(result.token_ids))
    assert usage.details["image_tokens"] == result.image_tokens
    assert response.response_json["finish_reason"] == result.finish_reason


def test_images_of_every_kind_pass_llms_check_of_types(demo, tmp_path):
    pillow_heif.register_heif_opener()
    given = []
    for kind in ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP", "HEIF", "AVIF"):
        path = tmp_path / f"image.{kind.lower()}"
        make_picture(32, 32, 1).save(path, kind)
        given += [llm.Attachment(path=str(path)), llm.Attachment(content=path.read_bytes())]
    response = demo.prompt(QUESTION, attachments=given, **FEWEST)
    response.text()
    assert len(response.response_json["images"]) == len(given) == 16


def test_a_pdf_stands_for_its_pages(demo, tmp_path):
    pages = [make_picture(60, 40, seed) for seed in (1, 2)]
    pages[0].save(tmp_path / "a.pdf", save_all=True, append_images=pages[1:])
    given = [llm.Attachment(path=str(tmp_path / "a.pdf"))]
    response = demo.prompt(QUESTION, attachments=given, **FEWEST)
    response.text()
    assert len(response.response_json["images"]) == 2


def test_a_conversation_keeps_its_images_in_their_turn_and_reads_only_what_is_new(demo, engine):
    talk = demo.conversation()
    first = talk.prompt(
        QUESTION, attachments=[attached("shapes.png")], system="Be brief.", **GREEDY
    )
    answer = first.text()
    second = talk.prompt("And this?", attachments=[attached("mixed.png")], **GREEDY)
    messages = [
        {"role": "system", "content": "Be brief."},
        user(QUESTION, "shapes.png"),
        {"role": "assistant", "content": answer},
        user("And this?", "mixed.png"),
    ]
    assert second.text() == written(engine, messages)
    assert second.usage().details["cached_tokens"] >= first.usage().input


def test_an_async_model_gives_the_same_answer_and_can_be_left(demo):
    model = llm.get_async_model("lfm2vl-demo")
    given = {"attachments": [attached("shapes.png")], **GREEDY}

    async def ask() -> str:
        async for _ in model.prompt(QUESTION, **given):
            break  # the reader leaves, and the next question is answered
        return await model.prompt(QUESTION, **given).text()

    assert asyncio.run(ask()) == demo.prompt(QUESTION, **given).text()


def test_options_are_those_of_the_engine(demo, engine):
    changes = {"temperature": 1.5, "top_k": 20, "seed": 3, "max_tokens": 12, "stop": "zzz"}
    given = [attached("shapes.png")]
    response = demo.prompt(QUESTION, attachments=given, min_image_tokens=16, **changes)
    expected = engine.generate(
        [user(QUESTION, "shapes.png")], ImageOptions(min_image_tokens=16), **changes
    )
    assert response.text() == expected.text
    assert response.response_json["sampling"]["seed"] == 3
    with pytest.raises(ValueError, match="Extra inputs are not permitted"):
        demo.prompt(QUESTION, temprature=1)


def test_a_draft_model_serves_the_same_answer(demo):
    given = {"attachments": [attached("shapes.png")], **GREEDY}
    expected = demo.prompt(QUESTION, **given).text()
    response = demo.prompt(QUESTION, draft_model="demo", **given)
    assert response.text() == expected
    assert response.response_json["drafts"]["rounds"] > 0


def test_an_answer_follows_a_schema(demo):
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    response = demo.prompt("How many?", schema=schema, attachments=[attached("shapes.png")])
    assert isinstance(json.loads(response.text())["n"], int)


@pytest.mark.parametrize(
    ("options", "attachment", "expected"),
    [
        ({"temperature": -1}, None, "temperature -1.0 is out of range, expected 0 to 100"),
        ({"draft_model": "missing/"}, None, "missing/ is neither a folder nor a repo id"),
        ({"draft_tokens": 4}, None, "draft_tokens needs draft_model"),
        ({}, {"path": "/missing.png", "type": "image/png"}, "'/missing.png' does not exist"),
        (
            {},
            {"content": b"no image", "type": "image/png"},
            "an attachment is a text file, not an image",
        ),
        ({}, {"url": "http://127.0.0.1:9/a", "type": "image/png"}, "9/a cannot be fetched"),
    ],
)
def test_what_is_wrong_is_an_error_of_llm_in_one_line(demo, options, attachment, expected):
    given = [llm.Attachment(**attachment)] if attachment else []
    with pytest.raises(llm.ModelError, match=expected) as raised:
        demo.prompt("Hi", attachments=given, **options).text()
    assert "\n" not in str(raised.value)

    async def ask() -> None:
        await llm.get_async_model("lfm2vl-demo").prompt("Hi", attachments=given, **options).text()

    with pytest.raises(llm.ModelError, match=expected):
        asyncio.run(ask())


# -- tools --


class Scripted:
    """An engine that first calls a tool, and then says what it was told."""

    def __init__(self, engine: Engine) -> None:
        self.processor, self._engine = engine.processor, engine
        self.asked = []

    def stream(self, messages, options):
        """Answer as `Engine.stream` does."""
        self.asked.append((messages, options))
        *_, last = self._engine.stream("Hi", max_tokens=1)
        calls = [{"name": "area", "arguments": {"height": 3, "width": 4}}]
        said = [message["content"][0]["text"] for message in messages if message["role"] == "tool"]
        vars(last.result)["tool_calls"] = [] if said else calls
        yield Piece("".join(said), [1], last.result)


def test_a_tool_is_called_and_its_result_is_read(toolmaker, engine, monkeypatch):
    scripted = Scripted(engine)
    monkeypatch.setattr(llm_answers.KEPT, "open", lambda *_, **__: scripted)

    def area(height: int, width: int) -> str:
        """Multiply."""
        return f"{height * width} cm²"

    assert toolmaker.chain("How large?", tools=[area]).text() == "12 cm²"
    (_, first), (messages, _) = scripted.asked
    assert (first.tools[0]["name"], first.tools[0]["description"]) == ("area", "Multiply.")
    assert first.tools[0]["parameters"]["required"] == ["height", "width"]
    assert [message["role"] for message in messages] == ["user", "assistant", "tool"]
    arguments = {"height": 3, "width": 4}
    assert messages[1]["tool_calls"] == [{"name": "area", "arguments": arguments}]


def test_messages_with_tools_are_what_a_template_takes(toolmaker):
    results = [llm.ToolResult(name="len", output="2", tool_call_id="a")]
    response = toolmaker.prompt("Hi", tools=[len], tool_results=results, max_tokens=2)
    response.text()
    assert response.usage().output <= 2


# -- a process that stays --


class Elsewhere(Scripted):
    """Stands for an engine whose model is in another process."""

    def __init__(self, engine: Engine, wanted, prepare) -> None:
        super().__init__(engine)
        prepare()  # finds the files
        self.wanted = wanted


def test_a_resident_process_is_asked_if_option_or_environment_say_so(demo, engine, monkeypatch):
    made = []

    def make(wanted, *, prepare):
        made.append(Elsewhere(engine, wanted, prepare))
        return made[-1]

    monkeypatch.setattr("mlx_lfm2vl.serving.resident.client.RemoteEngine", make)
    monkeypatch.setattr(llm_answers, "KEPT", llm_answers._Kept())
    demo.prompt("Hi", resident=True).text()
    monkeypatch.setenv("MLX_LFM2VL_RESIDENT", "1")
    demo.prompt("Hi").text()
    assert [each.wanted for each in made] == [Wanted("demo")]
    assert len(made[0].asked) == 2
    demo.prompt("Hi", draft_model="demo").text()
    assert made[1].wanted == Wanted("demo", draft_model="demo")
    monkeypatch.setenv("MLX_LFM2VL_RESIDENT", "0")
    assert isinstance(llm_answers.KEPT.open("demo", None, resident=False), Engine)


@pytest.mark.slow
def test_a_resident_process_gives_the_answer_that_is_given_in_place(demo, monkeypatch):
    monkeypatch.setattr(llm_answers, "KEPT", llm_answers._Kept())
    given = {"attachments": [attached("shapes.png")], **GREEDY}
    expected = demo.prompt(QUESTION, **given).text()
    with own_folder():
        first = demo.prompt(QUESTION, resident=True, **given)
        assert first.text() == expected
        again = demo.prompt(QUESTION, resident=True, **given)
        assert again.text() == expected
        assert again.usage().details["cached_tokens"] >= first.usage().input - SHORT - 1
        asynchronous = llm.get_async_model("lfm2vl-demo").prompt(QUESTION, resident=True, **given)
        assert asyncio.run(asynchronous.text()) == expected


# -- the program --


def run(*words: str) -> str:
    result = CliRunner().invoke(cli, [*words])
    assert result.exit_code == 0, result.output
    return result.output


def test_the_program_answers_and_continues_a_conversation():
    words = ["-m", "lfm2vl-demo", "-o", "max_tokens", "8", "-o", "temperature", "0"]
    image = str(IMAGES / "shapes.png")
    first = run(QUESTION, *words, "-a", image)
    assert first.strip()
    assert run("Go on.", "-c", *words).strip()
    logged = json.loads(run("logs", "list", "--json", "-n", "2"))
    assert [row["model"] for row in logged] == ["lfm2vl-demo"] * 2
    assert logged[1]["input_tokens"] > logged[0]["input_tokens"]


def test_the_program_shows_options_and_features():
    shown = run("models", "list", "--options", "-m", "lfm2vl-demo")
    assert "max_image_tokens: int" in shown
    assert "image/heic" in shown
    for feature in ("streaming", "schemas", "async"):
        assert f"- {feature}" in shown


@pytest.mark.slow
def test_the_program_prints_an_error_in_a_line():
    code = (
        "import llm.plugins, mlx_lfm2vl.llm_plugin as plugin; from llm.cli import cli\n"
        "llm.plugins.load_plugins()\n"
        "plugin in llm.plugins.pm.get_plugins() or llm.plugins.pm.register(plugin)\n"
        "cli()"
    )
    words = ["-m", "lfm2vl-demo", "-o", "temperature", "-3", "Hi"]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "Error: temperature -3.0 is out of range, expected 0 to 100\n"
