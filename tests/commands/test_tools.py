"""--tools tells the model what it may call; calls are printed as data."""

import json
import shutil
from itertools import chain, repeat

import mlx.core as mx
import pytest
from conftest import edit_json, golden

from mlx_lfm2vl import cli
from mlx_lfm2vl.generation.sampling import Drawn
from mlx_lfm2vl.prompt.tokenizer import Tokenizer

BEGIN, END = "<|img_row_10_col_9|>", "<|img_row_10_col_10|>"
TOOLS = [{"name": "look"}, {"type": "function", "function": {"name": "say", "parameters": {}}}]


def press_ctrl_c():
    raise KeyboardInterrupt
    yield


@pytest.fixture
def ask(tmp_path, monkeypatch, capsys):
    """Runs `generate` with a model that knows tools and writes a given text."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(golden("new_names").folder, "model")
    edit_json(
        tmp_path / "model/tokenizer_config.json",
        tool_call_start_token=BEGIN,
        tool_call_end_token=END,
    )
    template = tmp_path / "model/chat_template.jinja"
    template.write_text("{{ tools | tojson if tools }}" + template.read_text())
    tokenizer = Tokenizer(tmp_path / "model")

    def ask(text: str, *arguments: str, pressed: bool = False) -> tuple[int, str, str]:
        """Answer with a text; after it the model ends the answer, or Ctrl-C is pressed."""
        after = press_ctrl_c() if pressed else repeat(2)
        script = chain(tokenizer.encode_rendered(text), after)
        monkeypatch.setattr(
            "mlx_lfm2vl.generation.stream.Sampler",
            lambda *_, **__: lambda _: Drawn(mx.array([next(script)]), None),
        )
        code = cli.main(["generate", "-m", "model", *arguments])
        return code, *capsys.readouterr()

    return ask


def test_tools_are_told_to_the_model(ask, tmp_path):
    (tmp_path / "tools.json").write_text(json.dumps(TOOLS))
    plain, told = (
        json.loads(ask("Hi", "-p", "Hi", "--json", *more)[1])
        for more in ([], ["--tools", "tools.json"])
    )
    length = len(Tokenizer(tmp_path / "model").encode_plain(json.dumps(TOOLS)))
    assert told["prompt_tokens"] == plain["prompt_tokens"] + length


@pytest.mark.parametrize("question", [["-p", "Hi"], ["--ask", "Hi"]])
def test_a_call_is_printed_as_an_object_below_the_text(ask, question):
    header = "==> Hi <==\n" if question[0] == "--ask" else ""
    rest = "\n" if header else ""
    call = '{"name": "f", "arguments": {"x": "é"}}\n'
    _, out, err = ask(f'I look.{BEGIN}[f(x="é")]{END}', *question)
    assert (out, err) == (f"{header}I look.\n{call}{rest}", "")
    _, out, _ = ask(f'{BEGIN}[f(x="é"), f(x="é")]{END}', *question)
    assert out == f"{header}{call}{call}{rest}"


def test_json_has_the_calls(ask):
    values = json.loads(ask(f"{BEGIN}[f()]{END}", "-p", "Hi", "--json")[1])
    assert (values["text"], values["tool_calls"]) == ("", [{"name": "f", "arguments": {}}])
    assert json.loads(ask("No.", "-p", "Hi", "--json")[1])["tool_calls"] == []


def test_what_is_no_call_is_printed_with_a_note(ask):
    code, out, err = ask(f"{BEGIN}[f(1)]{END}", "-p", "Hi")
    assert (code, out) == (0, f"{BEGIN}[f(1)]{END}\n")
    assert err.startswith("note: a tool call stays in the text, because it cannot be read: '1' is")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[", "tools.json cannot be read as JSON"),
        ("{}", "tools.json holds no list of tools"),
        ("[]", "tools.json holds no list of tools"),
        ('[{"name": "f"}, {"function": {}}]', "tools.json: tool 2 has no name"),
        ('["f"]', "tools.json: tool 1 has no name"),
        ("[" * 100_000, "tools.json cannot be read as JSON"),
        (None, "tools.json: No such file"),
    ],
)
def test_a_bad_file_of_tools_is_one_line(ask, tmp_path, text, message):
    if text is not None:
        (tmp_path / "tools.json").write_text(text)
    code, out, err = ask("", "-p", "Hi", "--tools", "tools.json")
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1


def test_a_started_answer_is_printed_whole(ask):
    assert ask("1}", "-p", "Hi", "--answer-start", '{"a":\\n')[1] == '{"a":\n1}\n'


@pytest.mark.parametrize("how", [["-p", "Hi"], ["--ask", "Hi"], ["-p", "Hi", "--json"]])
def test_ctrl_c_within_a_call_shows_what_there_is_of_it(ask, how):
    code, out, _ = ask(f"I look.{BEGIN}[f(x=12345)", *how, pressed=True)
    assert code == 130
    text = json.loads(out)["text"] if "--json" in how else out
    assert f"I look.{BEGIN}[f(x=" in text
