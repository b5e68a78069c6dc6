"""The command `serve`: its options, and the process from its start to its end."""

import contextlib
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pages import page
from pictures import make_picture
from processes import modules_after

from mlx_lfm2vl.commands.durations import seconds_of
from mlx_lfm2vl.commands.serve import _models, build_parser, main
from mlx_lfm2vl.errors import InputError
from mlx_lfm2vl.images.limits import ImageLimits
from mlx_lfm2vl.serving.http.server import listen

ROOT = Path(__file__).parent.parent.parent


@contextlib.contextmanager
def started(*options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The process of a server that is ready, and its address."""
    command = [sys.executable, "-m", "mlx_lfm2vl.serve", "--model", "demo", *options]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        try:
            assert process.stderr is not None
            line = process.stderr.readline()
            assert line.startswith("listening on "), line
            yield process, line.split()[-1]
        finally:
            process.kill()


def health(address: str) -> bytes:
    with urllib.request.urlopen(f"{address}/health", timeout=60) as reply:
        return reply.read()


@pytest.fixture(scope="module")
def port() -> int:
    """A port that is free."""
    with listen("127.0.0.1", 0) as listener:
        return listener.getsockname()[1]


def ask(address: str, **changes: Any) -> Any:
    """Open the stream of an answer."""
    body = {"messages": [{"role": "user", "content": "What is this?"}], "stream": True, **changes}
    headers = {"Content-Type": "application/json"}
    asked = urllib.request.Request(
        f"{address}/v1/chat/completions", json.dumps(body).encode(), headers
    )
    return urllib.request.urlopen(asked, timeout=60)


# An answer of many tokens.
LONG = {"max_tokens": 200, "constraint": {"type": "regex", "regex": "a{200}"}}


def test_a_server_starts_again_after_a_kill_and_finishes_its_answers_after_sigterm(port):
    with started("--port", str(port)) as (process, address):
        assert address == f"http://127.0.0.1:{port}"
        assert health(address) in (b'{"status":"ok"}', b'{"status":"loading"}')
        process.kill()
    with started("--port", str(port), "--log-requests") as (process, address):
        with ask(address, **LONG) as stream:
            # Before its first token a question waits, and is refused when the server stops.
            assert any(b'"content":"a' in line for line in iter(stream.readline, b""))
            process.send_signal(signal.SIGTERM)
            assert stream.read().endswith(b"data: [DONE]\n\n")
        assert process.wait(60) == 0
        assert process.stderr is not None
        told = process.stderr.read()
        assert "stopping: running answers have 30 s to finish" in told
        assert "POST /v1/chat/completions 200" in told


@pytest.mark.slow
@pytest.mark.parametrize("signals", [1, 2])
def test_ctrl_c_ends_a_server_as_it_ends_other_commands(signals):
    with started("--port", "0") as (process, address):
        assert health(address)
        for _ in range(signals):
            process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130


@pytest.mark.slow
def test_a_server_that_was_killed_at_any_point_of_an_answer_starts_again(port):
    for point in range(20):
        with started("--port", str(port)) as (process, address):
            with contextlib.suppress(OSError, http.client.HTTPException):
                stream = ask(address, **LONG)
                for _ in range(point):
                    stream.readline()
                process.kill()
                assert not stream.read().endswith(b"[DONE]\n\n")
            process.kill()
            assert process.wait(60) == -signal.SIGKILL
    with started("--port", str(port)) as (_, address), ask(address, max_tokens=4) as stream:
        assert stream.read().endswith(b"data: [DONE]\n\n")


def test_the_lines_for_curl_in_the_documentation_are_answered(tmp_path):
    lines = [code for code in page("server").blocks("sh") if "curl" in code]
    make_picture(60, 40, 1).save(tmp_path / "photo.jpg")
    with started("--port", "0") as (_, address):
        for line in lines:
            typed = line.replace("http://127.0.0.1:8080", address).replace("curl", "curl -sS")
            run = subprocess.run(typed, shell=True, cwd=tmp_path, capture_output=True, timeout=60)
            assert run.returncode == 0, run.stderr
            assert b'"error"' not in run.stdout, line
            assert b'"text"' in run.stdout or b'"content"' in run.stdout, line
    assert len(lines) == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--max-tokens", "0"], "--max-tokens is 0, expected at least 1"),
        (["--max-waiting", "0"], "--max-waiting is 0"),
        (["--max-images", "0"], "--max-images is 0"),
        (["--max-seconds", "nan"], "--max-seconds is nan"),
        (["--max-megapixels", "0"], "--max-megapixels is 0"),
        (["--port", "70000"], "--port is 70000, expected 0 to 65535"),
        (["--port", "-1"], "--port is -1"),
        (["--keep-alive", "soon"], "'soon' is no duration, expected 30s, 10m"),
        (["--grace", "forever"], "--grace is forever"),
        (["--exit-when-idle"], "--exit-when-idle needs a time: add --keep-alive"),
        (["--host", "0.0.0.0", "--port", "0"], "must bring a token"),
        (["--port", "0", "--allow-origin", "*"], "--allow-origin is '*'"),
        (["--model", "demo"], "two models are called demo"),
        (["--model", "b=demo", "--adapter", "x"], "--adapter belongs to one model, and 2 are"),
        (["--model", "none=/no/such/folder", "--port", "0"], "/no/such/folder"),
    ],
)
def test_a_wrong_option_is_one_line(options, message, capsys):
    assert main(["--model", "demo", *options]) in (1, 2)
    shown = capsys.readouterr().err
    assert message in shown
    assert shown.count("\n") == 1


def test_a_token_comes_from_one_place(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("MLX_LFM2VL_TOKEN", "0123456789abcdef")
    assert main(["--model", "demo", "--token-file", str(tmp_path / "token")]) == 2
    assert "both give a token" in capsys.readouterr().err
    monkeypatch.setenv("MLX_LFM2VL_TOKEN", "short")
    assert main(["--model", "demo"]) == 2
    assert "MLX_LFM2VL_TOKEN holds no token" in capsys.readouterr().err


def test_a_missing_extra_is_named(monkeypatch, capsys):
    for name in [
        name for name in sys.modules if re.match(r"starlette|mlx_lfm2vl\.serving\.http", name)
    ]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "starlette", None)
    assert main(["--model", "demo"]) == 1
    shown = capsys.readouterr().err
    assert "the extra 'server': pip install starlette uvicorn" in shown
    assert shown.count("\n") == 1


def test_a_server_listens_before_what_reads_images_and_text_is_loaded():
    code = (
        "import mlx_lfm2vl.commands.serve, mlx_lfm2vl.serving.http.server\n"
        "from mlx_lfm2vl.serving.core import Core\n"
        "from mlx_lfm2vl.serving.http.fronts import all_fronts\n"
        "from mlx_lfm2vl.serving.served import served_model\n"
        "model = served_model('demo'); model.info; Core([model]); all_fronts()"
    )
    assert modules_after(code) <= {"mlx"}


def models(*given: str) -> list[str]:
    arguments = [part for name in given for part in ("--model", name)]
    options = build_parser().parse_args(arguments)
    return [model.name for model in _models(options, ImageLimits())]


def test_a_model_is_called_as_it_was_given_but_not_by_its_path(tmp_path):
    (tmp_path / "plants=1").mkdir()
    assert models("450m", f"mine={tmp_path}", str(tmp_path / "plants=1")) == [
        "450m",
        "mine",
        "plants=1",
    ]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30s", 30), ("1.5m", 90), ("2h", 7200), ("0", 0), ("12", 12), ("forever", None)],
)
def test_a_duration_has_a_unit(text, seconds):
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "s", "-1s", "1e9", "10 m", "1w", "inf"])
def test_what_is_no_duration_is_refused(text):
    with pytest.raises(InputError, match="expected 30s, 10m, 2h, 0 or forever"):
        seconds_of(text)
