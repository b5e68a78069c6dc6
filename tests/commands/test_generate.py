"""The command line: answers on stdout, the rest on stderr, documented exit codes."""

import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from itertools import pairwise
from pathlib import Path

import pytest
from conftest import edit_json, golden
from pictures import make_picture

from mlx_lfm2vl import cli
from mlx_lfm2vl.commands.generate import build_parser, main
from mlx_lfm2vl.generation.engine import Engine

TINY = str(golden("new_names").folder)
GREEDY = ["--temperature", "0", "--repetition-penalty", "1"]


@pytest.fixture
def picture(tmp_path) -> str:
    path = tmp_path / "picture.png"
    make_picture(45, 44, 2).save(path)
    return str(path)


def answer(*arguments: str) -> int:
    return main(["--model", TINY, "--prompt", "Describe.", "--max-tokens", "12", *arguments])


def test_the_answer_is_all_that_is_on_stdout(picture, capsys):
    assert answer("--image", picture, *GREEDY) == 0
    out, err = capsys.readouterr()
    ids = golden("new_names").expected("tiled", "greedy").tolist()
    text = golden_text(ids)
    assert out == text + "\n"
    assert err == ""


def test_a_terminal_sees_how_far_a_slow_prompt_is(picture, monkeypatch, capsys):
    class AtOnce(threading.Timer):
        def start(self) -> None:
            self.function()

    monkeypatch.setattr(threading, "Timer", AtOnce)
    monkeypatch.setattr("mlx_lfm2vl.model.decode_step.PREFILL_CHUNK", 40)
    assert answer("--image", picture, *GREEDY) == 0
    expected, log = capsys.readouterr()
    assert log.splitlines() == [f"loading {TINY} ...", "reading the prompt ..."]
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert answer("--image", picture, *GREEDY) == 0
    out, err = capsys.readouterr()
    assert out == expected
    told = [line for line in err.split("\r\033[K") if line]
    assert told[:2] == [f"loading {TINY} ...", "reading the prompt ..."]
    total = len(golden("new_names").expected("tiled", "input_ids"))
    encoded = [f"encoding images: {done} of 42 tokens" for done in (36, 42)]
    assert told[2:4] == encoded
    read = [line.split() for line in told[4:]]
    assert {(*words[:3], *words[4:]) for words in read} == {
        ("reading", "the", "prompt:", "of", str(total), "tokens")
    }
    done = [0, *(int(words[3]) for words in read)]  # cut after the image and the message, too
    assert done[-1] == total
    assert all(0 < after - before <= 40 for before, after in pairwise(done))


def golden_text(ids: list[int]) -> str:
    from mlx_lfm2vl.prompt.tokenizer import Tokenizer

    ids = ids[: ids.index(2)] if 2 in ids else ids
    return Tokenizer(golden("new_names").folder).decode(ids)


def test_json_is_one_object_with_every_documented_key(picture, capsys):
    assert answer("--image", picture, "--json", "--token-ids", "--seed", "3") == 0
    out, _ = capsys.readouterr()
    assert out.count("\n") == 1
    result = json.loads(out)
    assert set(result) == {
        "schema",
        "text",
        "tool_calls",
        "token_ids",
        "prompt_tokens",
        "image_tokens",
        "cached_tokens",
        "completion_tokens",
        "drafts",
        "lookup",
        "finish_reason",
        "sampling",
        "images",
        "timings",
        "peak_memory_bytes",
        "model",
    }
    assert result["completion_tokens"] == len(result["token_ids"])
    assert result["sampling"] == {
        "temperature": 0.1,
        "top_p": 1.0,
        "top_k": 0,
        "min_p": 0.15,
        "repetition_penalty": 1.05,
        "seed": 3,
    }
    (image,) = result["images"]
    assert (image["file"], image["width"], image["height"]) == (picture, 44, 45)
    assert image["tokens"] == sum(view["tokens"] for view in image["views"])
    assert image["tokens"] == result["image_tokens"]
    assert result["model"] == TINY


def test_verbose_speaks_on_stderr_only(picture, capsys):
    assert answer("--image", picture, "--verbose") == 0
    out, err = capsys.readouterr()
    for part in ("sampling: temperature 0.1", "tiles of", "tokens/s", "peak memory", "seed"):
        assert part in err
        assert part not in out


def test_plan_tells_the_cost_without_weights(picture, checkpoint, capsys):
    (checkpoint / "model.safetensors").unlink()
    assert main(["--model", str(checkpoint), "--plan", "--image", picture]) == 0
    text = capsys.readouterr().out
    assert text == (
        f"{picture}: 44 x 45 pixels, 2 x 2 tiles of 24 x 24 + thumbnail of 16 x 24, 42 tokens\n"
    )
    assert main(["--model", str(checkpoint), "--plan", "--json", "--image", picture]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["image_tokens"] == 42
    assert (plan["images"][0]["columns"], plan["images"][0]["rows"]) == (2, 2)


def test_a_squeezed_picture_is_named_by_the_plan_and_with_the_answer(tmp_path, capsys):
    path = str(tmp_path / "page.png")
    make_picture(1200, 40, 1).save(path)
    assert main(["--model", TINY, "--plan", "--image", path]) == 0
    assert re.search(r": 40 x 1200 pixels, scaled to \d+ % x [\d.]+ %, ", capsys.readouterr().out)
    assert answer("--image", path) == 0
    assert "page.png' is scaled to" in capsys.readouterr().err


def test_too_many_images_are_refused_before_one_is_read(capsys):
    assert answer("--image", *["gone.png"] * 33) == 2
    assert "the prompt has 33 images, at most 32 are read" in capsys.readouterr().err


def test_options_change_the_plan(picture, capsys):
    def plan(*options: str) -> str:
        assert main(["--model", TINY, "--plan", "--image", picture, *options]) == 0
        return capsys.readouterr().out

    assert "1 view" in plan("--no-image-splitting")
    assert "thumbnail" not in plan("--no-thumbnail")
    assert "tiles" in plan("--min-tiles", "4", "--max-tiles", "4")


def stdin(monkeypatch, data: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))


def test_image_and_prompt_from_stdin(picture, monkeypatch, capsys):
    assert answer("--image", picture, *GREEDY) == 0
    expected = capsys.readouterr().out
    stdin(monkeypatch, Path(picture).read_bytes())
    assert answer("--image", "-", *GREEDY) == 0
    assert capsys.readouterr().out == expected
    stdin(monkeypatch, b"Describe.")
    arguments = ["--model", TINY, "--prompt", "-", "--max-tokens", "12", *GREEDY]
    assert main([*arguments, "--image", picture]) == 0
    assert capsys.readouterr().out == expected


def test_a_prompt_from_stdin_is_utf_8_whatever_the_locale(monkeypatch, capsys):
    stdin(monkeypatch, b"\xff\xfe")
    assert main(["--model", TINY, "--prompt", "-"]) == 2
    assert capsys.readouterr().err.endswith(
        "invalid start byte at byte 0; an image there is called -\n"
    )


@pytest.mark.parametrize("between", [[], ["--image"]], ids=["after one option", "repeated"])
def test_several_images_and_a_system_message(picture, capsys, between):
    images = ["--image", picture, *between, picture]
    assert answer(*images, "--system", "Short.", "--json") == 0
    result = json.loads(capsys.readouterr().out)
    assert len(result["images"]) == 2


WRONG = {
    "no prompt": (["--model", TINY], 2, "the prompt is missing"),
    "no model": (["--prompt", "x"], 2, "--model"),
    "unknown option": (["--model", TINY, "--prompt", "x", "--nothing"], 2, "--nothing"),
    "no such folder": (["--model", "no/such/dir", "--prompt", "x"], 2, "neither a folder"),
    "plan without image": (["--model", TINY, "--plan"], 2, "needs at least one --image"),
    "missing image": (["--model", TINY, "--prompt", "x", "--image", "gone.png"], 2, "not exist"),
    "folder as image": (["--model", TINY, "--prompt", "x", "--image", "."], 2, "is a folder"),
    "url": (["--model", TINY, "--prompt", "x", "--image", "http://a.b/c"], 2, "--allow-url"),
    "two stdins": (
        ["--model", TINY, "--prompt", "-", "--image", "-"],
        2,
        "stdin (-) can be used only once",
    ),
    "bad sampling": (["--model", TINY, "--prompt", "x", "--top-p", "7"], 2, "top_p 7.0"),
    "too long": (
        ["--model", TINY, "--prompt", "x", "--max-tokens", "9999999"],
        2,
        "max_tokens is 9999999, but the model holds",
    ),
    "bad cap": (
        ["--model", TINY, "--prompt", "x", "--max-megapixels", "0"],
        2,
        "--max-megapixels is 0.0, expected",
    ),
    "offline": (["--model", "nobody/nothing", "--prompt", "x"], 1, "not in the local cache"),
}


@pytest.mark.parametrize("name", WRONG)
def test_mistakes_end_with_one_line_and_their_exit_code(name, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    stdin(monkeypatch, b"")
    arguments, code, message = WRONG[name]
    assert main(arguments) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err.strip().splitlines()[-1]
    assert "Traceback" not in err


def test_a_broken_checkpoint_is_a_failure(checkpoint, capsys):
    edit_json(checkpoint / "config.json", model_type="lfm3_vl")
    assert main(["--model", str(checkpoint), "--prompt", "x"]) == 1
    assert capsys.readouterr().err.startswith("error: ")


def test_notes_are_one_line_on_stderr(checkpoint, capsys):
    edit_json(checkpoint / "processor_config.json", mystery=1)
    assert main(["--model", str(checkpoint), "--prompt", "x", "--max-tokens", "1"]) == 0
    err = capsys.readouterr().err
    assert err == "note: ignoring unknown keys in the processor files: mystery\n"


def test_an_interrupt_keeps_what_was_said(monkeypatch, capsys):
    original = Engine.stream

    def interrupted(*args, **options):
        for count, piece in enumerate(original(*args, **options)):
            if count == 2:
                raise KeyboardInterrupt
            yield piece

    monkeypatch.setattr(Engine, "stream", interrupted)
    assert answer(*GREEDY) == 130
    out = capsys.readouterr().out
    assert len(out) > 1
    assert out.endswith("\n")
    assert answer("--json", *GREEDY) == 130
    result = json.loads(capsys.readouterr().out)
    assert result["finish_reason"] == "interrupted"
    assert result["text"] == out[:-1]


def start(*arguments: str, **options) -> subprocess.Popen:
    command = [sys.executable, "-m", "mlx_lfm2vl.generate", "--model", TINY, "--prompt", "Hi"]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen([*command, *arguments], env=environment, **options)


ENDLESS = ["--max-tokens", "900", *GREEDY]


def test_control_c_ends_with_130_and_without_a_traceback(checkpoint):
    edit_json(checkpoint / "generation_config.json", eos_token_id=[364])
    edit_json(checkpoint / "config.json", text_config__max_position_embeddings=10**7)
    edit_json(checkpoint / "tokenizer_config.json", eos_token="<|img_row_10_col_10|>")
    arguments = ["--model", str(checkpoint), "--max-tokens", "1000000", *GREEDY]
    process = start(*arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.read(1)  # it has begun to answer
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert err == b""
    assert out


def test_a_reader_that_goes_away_is_no_traceback():
    process = start(*ENDLESS, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    err = process.stderr.read()
    process.stderr.close()
    assert process.wait(30) == 1
    assert err == b""


def test_the_program_lists_and_dispatches_commands(capsys, picture):
    assert cli.main([]) == 2
    assert "which command?" in capsys.readouterr().err
    assert cli.main(["--help"]) == 0
    assert "generate" in capsys.readouterr().out
    assert cli.main(["--version"]) == 0
    assert cli.main(["nothing"]) == 2
    assert cli.main(["generate", "--model", TINY, "--plan", "--image", picture]) == 0
    for name in cli.COMMANDS:
        assert cli.main([name, "--help"]) == 0


def test_every_option_is_explained():
    for action in build_parser()._actions:
        assert action.help, action.dest


EARLY = {
    "image": ["--image", "nope.jpg"],
    "temperature": ["--temperature", "-1"],
    "max tokens": ["--max-tokens", "0"],
    "stop": ["--stop", ""],
}


@pytest.mark.parametrize("name", EARLY)
def test_mistakes_are_found_before_a_checkpoint_is_loaded(name, checkpoint, capsys):
    (checkpoint / "model.safetensors").unlink()
    assert main(["--model", str(checkpoint), "--prompt", "x", *EARLY[name]]) == 2
    assert "no weights" not in capsys.readouterr().err


def test_a_plan_for_another_architecture_is_refused(checkpoint, picture, capsys):
    edit_json(checkpoint / "config.json", model_type="lfm3_vl")
    assert main(["--model", str(checkpoint), "--plan", "--image", picture]) == 1
    assert "lfm3_vl" in capsys.readouterr().err


def test_too_many_tiles_for_the_vocabulary_is_wrong_use(tmp_path, capsys):
    path = tmp_path / "tall.png"
    make_picture(600, 40, 1).save(path)
    assert answer("--image", str(path), "--min-tiles", "12", "--max-tiles", "12") == 2
    assert "lower max_tiles" in capsys.readouterr().err


@pytest.mark.parametrize("value", ["nan", "inf", "-3"])
def test_impossible_caps_are_refused(value, capsys):
    assert answer("--max-megapixels", value) == 2
    assert "--max-megapixels" in capsys.readouterr().err


def test_empty_stdin_is_an_empty_image(monkeypatch, capsys):
    stdin(monkeypatch, b"")
    assert answer("--image", "-") == 2
    assert "empty (0 bytes)" in capsys.readouterr().err


SHELL = [sys.executable, "-m", "mlx_lfm2vl.generate", "--model", TINY, "--max-tokens", "3"]


@pytest.mark.parametrize(
    ("tail", "code", "message"),
    [
        ("--prompt Hi >/dev/full", 1, "No space left"),
        ("--prompt Hi >&-", 1, "standard output is closed"),
        ("--prompt - <&-", 2, "standard input is closed"),
        ("--prompt $'h\\xff'", 2, "not valid Unicode"),
    ],
)
def test_broken_pipes_and_terminals_are_one_line(tail, code, message):
    if "/dev/full" in tail and not Path("/dev/full").exists():
        pytest.skip("only Linux has /dev/full")
    command = " ".join(SHELL) + " " + tail
    run = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert run.returncode == code, run.stderr
    assert message in run.stderr
    assert run.stderr.count("\n") == 1


def test_a_terminal_that_is_not_utf8_still_gets_an_answer():
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    run = subprocess.run([*SHELL, "--prompt", "Hi"], capture_output=True, env=environment)
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize(("value", "shown"), [("1", True), ("0", False), ("", False)])
def test_a_traceback_is_shown_on_request(monkeypatch, capsys, value, shown):
    monkeypatch.setenv("MLX_LFM2VL_DEBUG", value)
    assert answer("--image", "nowhere.png") == 2
    err = capsys.readouterr().err
    assert ("Traceback" in err) == shown
    assert err.splitlines()[-1].startswith("error: ")
