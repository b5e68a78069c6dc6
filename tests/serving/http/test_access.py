"""Who may ask a server: rebinding, pages of other sites, tokens."""

import asyncio
import os

import pytest
from asgi_client import ask
from scripted_core import ScriptedCore, make_app, pieces

from mlx_lfm2vl.errors import InputError
from mlx_lfm2vl.serving.http.access import Access, read_token

HELLO = {"prompt": "Hello"}
TOKEN = "0123456789abcdef"


def reply(access=None, path="/v1/echo", value=HELLO, **changes):
    core = ScriptedCore(pieces("Hi"))
    answer = asyncio.run(ask(make_app(core, access=access), path, value, **changes))
    assert bool(core.asked) == (answer.status == 200 and path == "/v1/echo")
    return answer


def code_of(answer) -> str:
    return answer.json["error"]["code"]


@pytest.mark.parametrize(
    "host", ["127.0.0.1:8080", "localhost:8080", "LOCALHOST:8080", "[::1]:8080"]
)
def test_a_loopback_name_with_the_port_is_answered(host):
    assert reply(host=host).status == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example:8080",  # resolves to this machine (DNS rebinding)
        "127.0.0.1.evil.example:8080",
        "localhost.:8080",
        "localhost",
        "localhost:80",
        "localhost:8080:8080",
        "localhost:8080@evil.example",
        "192.168.1.5:8080",
        "",
    ],
)
def test_another_name_is_refused(host):
    answer = reply(host=host)
    assert (answer.status, code_of(answer)) == (403, "host_not_allowed")


def test_a_name_that_was_allowed_is_answered_with_any_port_or_its_own():
    assert reply(Access(names=("mac.local",)), host="mac.local:9000").status == 200
    assert reply(Access(names=("mac.local:8080",)), host="mac.local:8080").status == 200
    assert reply(Access(names=("mac.local:8080",)), host="mac.local:9000").status == 403


def test_a_server_of_the_network_answers_to_addresses_which_cannot_be_rebound():
    access = Access(host="0.0.0.0", token=TOKEN)
    bearer = {"authorization": f"Bearer {TOKEN}"}
    for host in ("192.168.1.5:8080", "[fe80::1]:8080", "localhost:8080"):
        assert reply(access, host=host, **bearer).status == 200
    assert reply(access, host="evil.example:8080", **bearer).status == 403


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example",
        "null",
        "http://localhost:3000",
        "http://127.0.0.1:3000",
        "http://127.0.0.1",
        "https://127.0.0.1:8080",
        "http://127.0.0.1:8080.evil.example",
        " ",
    ],
)
def test_a_page_of_another_site_is_refused(origin):
    answer = reply(origin=origin)
    assert (answer.status, code_of(answer)) == (403, "origin_not_allowed")


def test_the_own_page_may_ask_and_gets_no_header_for_other_sites():
    answer = reply(origin="http://127.0.0.1:8080")
    assert answer.status == 200
    assert "access-control-allow-origin" not in answer.headers
    assert reply(host="LOCALHOST:8080", origin="http://LOCALHOST:8080").status == 200


def test_a_page_that_was_allowed_may_ask_and_read():
    page = "http://localhost:3000"
    access = Access(origins=(page,), token=TOKEN)
    asked = reply(
        access,
        value=None,
        method="OPTIONS",
        origin=page,
        access_control_request_method="POST",
    )
    assert asked.status == 204  # without a token, which the browser sends later
    assert asked.headers["access-control-allow-headers"] == "*, Authorization"
    answer = reply(access, origin=page, authorization=f"Bearer {TOKEN}")
    assert answer.headers["access-control-allow-origin"] == page
    assert answer.headers["vary"] == "Origin"
    assert reply(access, origin=page).headers["access-control-allow-origin"] == page


def test_a_preflight_of_another_page_is_refused():
    answer = reply(
        value=None,
        method="OPTIONS",
        origin="https://evil.example",
        access_control_request_method="POST",
    )
    assert answer.status == 403
    assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize(
    "kind",
    ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""],
)
def test_what_a_form_of_another_site_could_post_is_refused(kind):
    answer = reply(content_type=kind)
    assert (answer.status, code_of(answer)) == (415, "unsupported_content_type")


def test_json_with_a_charset_is_json():
    assert reply(content_type="Application/JSON; charset=utf-8").status == 200


@pytest.mark.parametrize("header", ["", "Bearer", f"Bearer {TOKEN}x", f"Basic {TOKEN}", "Bearer é"])
def test_a_wrong_token_is_refused(header):
    answer = reply(Access(token=TOKEN), authorization=header)
    assert (answer.status, code_of(answer)) == (401, "invalid_api_key")
    assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize(
    "changes",
    [
        {"method": "OPTIONS", "value": None},
        {"method": "POST", "access_control_request_method": "POST"},
    ],
    ids=["no preflight", "no OPTIONS"],
)
def test_only_a_preflight_needs_no_token(changes):
    assert reply(Access(token=TOKEN), **changes).status == 401


def test_a_preflight_never_reaches_a_route():
    asked = {"method": "OPTIONS", "value": None, "access_control_request_method": "POST"}
    for path in ("/v1/echo", "/nothing"):
        assert reply(Access(token=TOKEN), path, **asked).status == 204


def test_a_token_opens_everything_and_page_and_health_need_none():
    access = Access(token=TOKEN)
    assert reply(access, authorization=f"bearer {TOKEN}").status == 200
    assert reply(access, "/health", None).status == 200
    assert reply(access, "/", None).status == 404  # there is none here, which needs no token
    for path in ("/v1/models", "/metrics", "/openapi.json"):
        assert reply(access, path, None).status == 401


def test_a_server_that_others_can_reach_needs_a_token():
    with pytest.raises(InputError, match=r"0\.0\.0\.0 can be reached by other machines"):
        Access(host="0.0.0.0")


@pytest.mark.parametrize("origin", ["*", "localhost:3000", "http://a/b", "null"])
def test_an_allowed_page_is_a_scheme_and_a_host(origin):
    with pytest.raises(InputError, match="expected a scheme and a host"):
        Access(origins=(origin,))


def test_an_address_has_brackets_if_it_has_colons():
    assert Access("::1", 80).url == "http://[::1]:80"
    assert Access("127.0.0.1", 80).url == "http://127.0.0.1:80"


@pytest.fixture
def token_file(tmp_path):
    path = tmp_path / "token"
    path.write_text(f"{TOKEN}\n")
    path.chmod(0o600)
    return path


def test_a_token_file_is_read_without_its_line_end(token_file):
    assert read_token(token_file) == TOKEN


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620])
def test_a_token_file_that_others_can_use_is_refused(token_file, mode):
    token_file.chmod(mode)
    with pytest.raises(InputError, match="chmod 600"):
        read_token(token_file)


def test_a_token_file_of_another_user_is_refused(token_file, monkeypatch):
    monkeypatch.setattr(os, "getuid", lambda: token_file.stat().st_uid + 1)
    with pytest.raises(InputError, match="belongs to another user"):
        read_token(token_file)


def test_a_token_file_that_is_a_pipe_or_missing_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe", 0o600)
    with pytest.raises(InputError, match="is not a file"):
        read_token(tmp_path / "pipe")
    with pytest.raises(InputError, match="No such file"):
        read_token(tmp_path / "none")


@pytest.mark.parametrize("text", ["", "short", "two words of a secret", "é" * 20])
def test_what_is_no_secret_is_refused(token_file, text):
    token_file.write_text(text)
    with pytest.raises(InputError, match="16 or more letters"):
        read_token(token_file)
