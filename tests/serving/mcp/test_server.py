"""MCP: whatever a client sends, it gets the answer of the protocol, and the server lives on."""

import io
import json
import random
import threading

import pytest
from mcp_client import McpClient

from mlx_lfm2vl.errors import InputError
from mlx_lfm2vl.serving.mcp import calls as mcp_calls
from mlx_lfm2vl.serving.mcp.calls import MAX_WAITING
from mlx_lfm2vl.serving.mcp.messages import MAX_LINE, read_lines
from mlx_lfm2vl.serving.mcp.server import MAX_BATCH

ENVELOPE = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientCapabilities": {},
}


class Tools:
    """A toolbox that needs no model."""

    instructions = "Be kind."

    def __init__(self) -> None:
        self.listed = [{"name": name} for name in ("echo", "wait", "refuse", "break", "count")]
        self.cancelled = threading.Event()
        self.started = threading.Semaphore(0)

    def run(self, name, arguments, call):
        if name == "refuse":
            raise InputError("no such image")
        if name == "break":
            raise KeyError("a fault")
        if name == "count":
            for number in range(3, 0, -1):
                call.report(4 - number, "counting")
            for progress in (3, 1):
                call.report(progress, "no further")
        if name == "wait":
            call.on_cancel(self.cancelled.set)
            self.started.release()
            assert self.cancelled.wait(60)
        return {"content": [{"type": "text", "text": json.dumps(arguments)}]}


@pytest.fixture
def tools() -> Tools:
    return Tools()


@pytest.fixture
def client(tools):
    client = McpClient(tools)
    yield client
    client.end()


def code(answer) -> int:
    return answer["error"]["code"]


# -- versions --


@pytest.mark.parametrize(
    ("asked", "given"),
    [
        ("2024-11-05", "2024-11-05"),
        ("2025-03-26", "2025-03-26"),
        ("2025-06-18", "2025-06-18"),
        ("2025-11-25", "2025-11-25"),
        ("2099-01-01", "2025-11-25"),
    ],
)
def test_a_known_version_is_taken_and_the_newest_offered_for_another(client, asked, given):
    found = client.ask("initialize", {"protocolVersion": asked, "capabilities": {}})
    assert found["protocolVersion"] == given
    assert found["capabilities"] == {"tools": {"listChanged": False}}
    assert (found["serverInfo"]["name"], found["instructions"]) == ("mlx_lfm2vl", "Be kind.")
    assert client.ask("initialize", {})["code"] == -32602


def test_a_version_without_a_handshake_gets_complete_results(client):
    found = client.ask("server/discover", {"_meta": ENVELOPE})
    assert (found["supportedVersions"], found["resultType"]) == (["2026-07-28"], "complete")
    listed = client.ask("tools/list", {"_meta": ENVELOPE})
    assert (listed["cacheScope"], listed["ttlMs"] > 0) == ("private", True)
    called = client.ask("tools/call", {"name": "echo", "_meta": ENVELOPE})
    assert called["resultType"] == "complete"
    assert "resultType" not in client.ask("tools/call", {"name": "echo"})


def test_a_stateless_request_of_another_version_is_told_the_known_one(client):
    version = {**ENVELOPE, "io.modelcontextprotocol/protocolVersion": "2027-01-01"}
    found = client.ask("tools/list", {"_meta": version})
    assert (found["code"], found["data"]["supported"]) == (-32022, ["2026-07-28"])
    version["io.modelcontextprotocol/protocolVersion"] = 2026
    assert client.ask("tools/list", {"_meta": version})["code"] == -32602
    capable = {"io.modelcontextprotocol/protocolVersion": "2026-07-28"}
    assert client.ask("tools/list", {"_meta": capable})["code"] == -32602


# -- messages --


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b"{", -32700),
        (b"\xff\xfe", -32700),
        (b"NaN", -32700),
        (b"[" * 100_000, -32700),
        (b'{"jsonrpc": "2.0", "id": 1, "method": "ping", "params": ' + b"9" * 5000, -32700),
        (b"[]", -32600),
        (b"3", -32600),
        (b'{"id": 1, "method": "ping"}', -32600),
        (b'{"jsonrpc": "2.0", "id": null, "method": "ping"}', -32600),
        (b'{"jsonrpc": "2.0", "id": true, "method": "ping"}', -32600),
        (b'{"jsonrpc": "2.0", "id": 1, "method": 2}', -32600),
        (b'{"jsonrpc": "2.0", "id": 1}', -32600),
        (b'{"jsonrpc": "2.0", "id": 1, "method": "ping", "params": []}', -32602),
        (b'{"jsonrpc": "2.0", "id": 1, "method": "resources/list"}', -32601),
        (b"[" + b"1," * MAX_BATCH + b"1]", -32600),
    ],
    ids=range(15),
)
def test_a_wrong_line_gets_an_error_and_the_next_line_is_answered(client, line, expected):
    client.write(line)
    assert code(client.read()) == expected
    assert client.ask("ping") == {}


def test_a_line_over_the_limit_is_refused_and_one_at_the_limit_is_read(client):
    ping = json.dumps({"jsonrpc": "2.0", "id": 5, "method": "ping"}).encode()
    client.write(ping.ljust(3 * MAX_LINE))
    assert code(client.read()) == -32600
    client.write(ping.ljust(MAX_LINE))
    assert client.read()["result"] == {}
    last = b"x" * MAX_LINE  # without an end
    assert list(read_lines(io.BytesIO(last))) == [last]


def test_blank_lines_notifications_and_responses_get_no_answer(client):
    client.write(b"")
    client.notify("notifications/initialized", {})
    client.notify("notifications/cancelled", [3])
    client.notify("notifications/cancelled", {"requestId": 77})
    client.write(b'{"jsonrpc": "2.0", "id": 9, "result": {}}')
    client.write(b'{"jsonrpc": "2.0", "method": "unknown"}')
    assert client.ask("ping") == {}


def test_a_batch_gets_one_array_with_its_calls_in_it(client):
    ping = {"jsonrpc": "2.0", "id": "a", "method": "ping"}
    call = {"jsonrpc": "2.0", "id": "b", "method": "tools/call", "params": {"name": "echo"}}
    notice = {"jsonrpc": "2.0", "method": "notifications/initialized"}
    client.write(json.dumps([call, notice, ping, 4]).encode())
    answers = {answer["id"]: answer for answer in client.read()}
    assert answers.keys() == {"a", "b", None}
    assert answers["b"]["result"]["content"][0]["text"] == "{}"
    client.write(json.dumps([ping] * MAX_BATCH).encode())
    assert len(client.read()) == MAX_BATCH
    client.write(json.dumps([notice, notice]).encode())
    assert client.ask("ping") == {}


def test_an_answer_is_one_line_of_ascii_whatever_is_in_it(client):
    text = "a\nb\u2028c \U0001f600 \ud800"
    assert json.loads(client.call("echo", text=text)["content"][0]["text"]) == {"text": text}


# -- calls --


@pytest.mark.parametrize(
    "params", [{}, {"name": 3}, {"name": "nothing"}, {"name": "echo", "arguments": []}]
)
def test_a_call_of_no_tool_is_an_error_of_the_protocol(client, params):
    assert client.ask("tools/call", params)["code"] == -32602


def test_what_a_tool_cannot_do_is_a_result_that_the_agent_reads(client):
    found = client.call("refuse")
    assert found == {"content": [{"type": "text", "text": "no such image"}], "isError": True}


def test_a_fault_of_a_tool_is_an_error_and_the_next_call_is_answered(client, caplog):
    assert client.call("break")["code"] == -32603
    assert "KeyError: 'a fault'" in caplog.text
    assert "isError" not in client.call("echo")


def test_pings_are_answered_while_a_tool_runs(client, tools):
    number = client.send("tools/call", {"name": "wait"})
    assert client.ask("ping") == {}
    tools.cancelled.set()
    assert client.read()["id"] == number


def test_a_cancelled_call_is_told_and_never_answered(client, tools):
    number = client.send("tools/call", {"name": "wait"})
    tools.started.acquire()
    client.notify("notifications/cancelled", {"requestId": number})
    assert tools.cancelled.wait(60)
    assert "content" in client.call("echo")


def test_a_call_that_is_cancelled_before_its_turn_never_runs(client, tools):
    first = client.send("tools/call", {"name": "wait"})
    second = client.send("tools/call", {"name": "wait"})
    client.notify("notifications/cancelled", {"requestId": second})
    assert client.ask("ping") == {}
    tools.cancelled.set()
    assert client.read()["id"] == first
    assert client.ask("ping") == {}
    assert tools.started.acquire(blocking=False)
    assert not tools.started.acquire(blocking=False)


def test_too_many_calls_are_refused_and_an_id_is_used_once(client, tools):
    first = client.send("tools/call", {"name": "wait"})
    client.send("tools/call", {"name": "echo"}, id=first)
    assert code(client.read()) == -32600
    for _ in range(MAX_WAITING - 1):
        client.send("tools/call", {"name": "echo"})
    assert "try again later" in client.call("echo")["content"][0]["text"]
    tools.cancelled.set()
    assert len([client.read() for _ in range(MAX_WAITING)]) == MAX_WAITING


def test_progress_grows_and_is_told_to_those_who_want_it(client, monkeypatch):
    monkeypatch.setattr(mcp_calls, "REPORT_SECONDS", 0)
    number = client.send("tools/call", {"name": "count", "_meta": {"progressToken": "t"}})
    told = [client.read()["params"] for _ in range(3)]
    assert [params["progress"] for params in told] == [1, 2, 3]
    assert {params["progressToken"] for params in told} == {"t"}
    assert client.read()["id"] == number
    assert "content" in client.call("count")


def test_reports_that_follow_each_other_closely_are_left_out(client):
    number = client.send("tools/call", {"name": "count", "_meta": {"progressToken": 0}})
    assert client.read()["params"]["progress"] == 1
    assert client.read()["id"] == number


def test_a_tool_that_asks_late_learns_at_once_that_its_call_was_cancelled():
    call, told = mcp_calls.Call(print, None), []
    call.cancel()
    call.on_cancel(lambda: told.append("cancelled"))
    assert told == ["cancelled"]


def test_the_end_of_the_input_cancels_what_is_under_way(tools):
    client = McpClient(tools)
    client.send("tools/call", {"name": "wait"})
    tools.started.acquire()
    client.end()
    assert tools.cancelled.is_set()


def test_a_client_that_reads_no_more_is_noticed_once(tools):
    client = McpClient(tools)
    client.stop_reading()
    client.send("ping")
    client.send("ping")
    client.end()
    assert client.gone == 1


# -- anything --


@pytest.mark.parametrize("cases", [60, pytest.param(20_000, marks=pytest.mark.fuzz)])
def test_every_line_is_answered_or_ignored(client, cases):
    draw = random.Random(cases)
    values = [None, True, 0, -1, 1.5, "", "ping", "tools/call", "echo", "2.0", [], {}, "\ud800"]
    keys = ["jsonrpc", "id", "method", "params", "name", "arguments", "_meta", "result"]

    def made(depth: int):
        if depth and draw.random() < 0.6:
            return {key: made(depth - 1) for key in draw.sample(keys, draw.randrange(6))}
        return [made(depth - 1)] if depth and draw.random() < 0.1 else draw.choice(values)

    for number in range(cases):
        message = made(3)
        if isinstance(message, dict) and draw.random() < 0.8:
            message["jsonrpc"] = "2.0"
        line = bytearray(json.dumps(message).encode())
        if draw.random() < 0.2:
            line[draw.randrange(len(line))] = draw.randrange(256)
        client.write(bytes(line).replace(b"\n", b" "))
        client.write(b'{"jsonrpc": "2.0", "id": "mark %d", "method": "ping"}' % number)
        while True:
            answer = client.read()
            if isinstance(answer, dict) and answer.get("id") == f"mark {number}":
                break
