"""`mlx_lfm2vl mcp`: what it allows, how it ends, and that reference clients understand it."""

import asyncio
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from processes import modules_after

from mlx_lfm2vl import cli
from mlx_lfm2vl.checkpoint.find import DEMO_FOLDER
from mlx_lfm2vl.commands import mcp

IMAGES = Path(__file__).parents[2] / "examples" / "images"
ALLOWED = ["-m", "demo", "--allow-folder", str(IMAGES)]
CALL = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "tools/call",
    "params": {"name": "describe", "arguments": {"image": str(IMAGES / "shapes.png")}},
}


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], "nothing may be looked at: add --allow-folder FOLDER"),
        (["--allow-folder", "missing"], "--allow-folder 'missing': No such file"),
        ([*ALLOWED, "--max-tokens", "0"], "--max-tokens is 0, expected at least 1"),
        ([*ALLOWED, "--max-seconds", "0"], "--max-seconds is 0, expected more than 0"),
        ([*ALLOWED, "--max-seconds", "nan"], "--max-seconds is nan, expected more than 0"),
        ([*ALLOWED, "--max-megapixels", "-1"], "--max-megapixels is -1.0, expected more than 0"),
    ],
)
def test_wrong_use_is_refused_in_a_line(capsys, words, expected):
    assert cli.main(["mcp", "-m", "demo", *words]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert expected in err


def test_closed_standard_input_is_refused(capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)
    assert cli.main(["mcp", *ALLOWED]) == 2
    assert "standard input is closed" in capsys.readouterr().err


def test_stdout_holds_messages_alone_and_is_as_before_afterwards(capfd, monkeypatch):
    def serve(server, _stream):
        print("a note of a library", flush=True)
        os.write(1, b"a note of a program\n")
        server._send({"jsonrpc": "2.0"})

    monkeypatch.setattr("mlx_lfm2vl.serving.mcp.server.Server.serve", serve)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO()))
    before = signal.getsignal(signal.SIGTERM)
    assert cli.main(["mcp", *ALLOWED]) == 0
    os.write(1, b"after\n")
    out, err = capfd.readouterr()
    assert out == '{"jsonrpc":"2.0"}\nafter\n'
    assert err == "a note of a library\na note of a program\n"
    assert signal.getsignal(signal.SIGTERM) is before


def test_nothing_heavy_is_loaded_before_a_tool_is_called():
    code = (
        "import io, sys\n"
        "from mlx_lfm2vl.commands.mcp import main\n"
        'ask = b\'{"jsonrpc": "2.0", "id": 1, "method": "tools/list"}\'\n'
        "sys.stdin = io.TextIOWrapper(io.BytesIO(ask))\n"
        f"assert main({ALLOWED}) == 0"
    )
    assert modules_after(code) == set()


def test_a_model_that_cannot_be_preloaded_is_noted_and_the_server_lives(
    capfd, monkeypatch, tmp_path
):
    ping = b'{"jsonrpc": "2.0", "id": 1, "method": "ping"}'
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(ping)))
    monkeypatch.setattr(mcp, "STOP_SECONDS", 60.0)  # after which the process, this one, ends
    folder = shutil.copytree(DEMO_FOLDER, tmp_path / "model")
    (folder / "model.safetensors").unlink()
    words = ["-m", str(folder), "--preload", "--allow-folder", str(tmp_path)]
    assert cli.main(["mcp", *words]) == 0
    out, err = capfd.readouterr()
    assert json.loads(out)["result"] == {}
    assert "note: the model was not loaded: " in err


def test_a_signal_ends_it_although_its_main_thread_does_not_handle_it(monkeypatch):
    ended = threading.Event()
    monkeypatch.setattr(mcp, "STOP_SECONDS", 0.0)
    monkeypatch.setattr(os, "_exit", lambda _: ended.set())
    with mcp._ended_in_time():
        before = signal.signal(signal.SIGTERM, lambda *_: None)
        signal.raise_signal(signal.SIGTERM)
        assert ended.wait(20)
        signal.signal(signal.SIGTERM, before)


def start(*words: str) -> subprocess.Popen[bytes]:
    """Start the command; it has answered once."""
    command = [sys.executable, "-m", "mlx_lfm2vl", "mcp", *ALLOWED, *words]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    send(process, {"jsonrpc": "2.0", "id": 0, "method": "ping"})
    assert process.stdout
    assert json.loads(process.stdout.readline())["result"] == {}
    return process


def send(process: subprocess.Popen[bytes], message: object) -> None:
    assert process.stdin
    process.stdin.write(json.dumps(message).encode() + b"\n")
    process.stdin.flush()


def end_of_input(process) -> None:
    process.stdin.close()


def client_gone(process) -> None:
    process.stdout.close()
    send(process, {"jsonrpc": "2.0", "id": 2, "method": "ping"})


@pytest.mark.parametrize("end", [end_of_input, subprocess.Popen.terminate, client_gone])
def test_it_ends_at_once_when_its_client_does_although_a_call_is_under_way(end):
    process = start()
    send(process, CALL)
    end(process)
    assert process.wait(mcp.STOP_SECONDS + 60) == 0  # much longer than on an idle machine
    for stream in (process.stdin, process.stdout):
        stream.close()


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["legacy", "auto", "2026-07-28"])
def test_the_reference_client_understands_it(mode):
    from mcp import Client, StdioServerParameters

    words = ["-m", "mlx_lfm2vl", "mcp", *ALLOWED]
    server = StdioServerParameters(command=sys.executable, args=words, env=dict(os.environ))
    told = []

    async def note(progress, _total, message) -> None:
        told.append((progress, message))

    async def talk() -> None:
        async with Client(server, mode=mode) as client:
            names = [tool.name for tool in (await client.list_tools()).tools]
            assert names == ["describe", "read_text", "detect", "extract", "compare"]
            arguments = {"image": str(IMAGES / "shapes.png"), "what": ["star"]}
            found = await client.call_tool("detect", arguments, progress_callback=note)
            assert not found.is_error
            assert found.structured_content["boxes"][0]["label"] == "blue star"
            refused = await client.call_tool("describe", {"image": "/etc/hostname"})
            assert refused.is_error
            assert "is not in a folder that is allowed" in refused.content[0].text

    asyncio.run(asyncio.wait_for(talk(), 60))
    assert told[0] == (0.5, "reading the image")


def test_a_wrong_model_ends_it_before_any_call(capsys):
    assert mcp.main(["-m", "nothere", *ALLOWED[2:]]) == 2
    assert "nothere is neither a folder nor a repo id" in capsys.readouterr().err
