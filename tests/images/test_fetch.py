"""Fetching by URL against a server in this process: limits hold, nothing private is reached."""

import http.server
import ipaddress
import socket
import ssl
import threading
import time
from types import SimpleNamespace
from urllib.parse import urlsplit

import pytest

from mlx_lfm2vl.errors import InputError, NetworkError
from mlx_lfm2vl.images import fetch

BODY = b"x" * 1000


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/image":
            self.answer(200, BODY)
        elif self.path == "/lies":
            self.answer(200, BODY, length=2000)
        elif self.path == "/moved":
            self.answer(302, b"", Location="/image")
        elif self.path == "/loop":
            self.answer(302, b"", Location="/loop")
        elif self.path.startswith("/hops/"):
            left = int(self.path.removeprefix("/hops/"))
            self.answer(302, b"", Location=f"/hops/{left - 1}" if left > 1 else "/image")
        elif self.path == "/inside":
            self.answer(302, b"", Location="http://10.0.0.1/secret")
        elif self.path == "/file":
            self.answer(302, b"", Location="file:///etc/hosts")
        elif self.path == "/headers":
            self.wfile.write(b"HTTP/1.1 200 OK\r\n")
            for count in range(100):
                self.wfile.write(b"X-%d: y\r\n" % count)
                self.wfile.flush()
                time.sleep(0.05)
        elif self.path == "/red":
            self.send_response(500, "\x1b[31mred\x1b[0m\x07")
            self.end_headers()
        elif self.path == "/red-location":
            self.answer(302, b"", Location="ftp://x/\x1b[31mred")
        elif self.path == "/garbage":
            self.wfile.write(b"\x1b]0;title\x07 garbage\r\n")
        elif self.path == "/broken-location":
            self.answer(302, b"", Location="http://[bad")
        elif self.path == "/%C3%A9%20x?q=%20":
            self.answer(200, BODY)
        elif self.path == "/slow":
            self.send_response(200)
            self.end_headers()
            for _ in range(100):
                self.wfile.write(b"x")
                self.wfile.flush()
                time.sleep(0.05)
        else:
            self.answer(404, b"no")

    def answer(self, status, body, length=None, **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(length or len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    """A server on this machine, which the rule about private addresses lets through."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    real = fetch._is_public

    monkeypatch.setattr(fetch, "_is_public", lambda a: str(a) == "127.0.0.1" or real(a))
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("path", ["/image", "/moved"])
def test_a_file_is_fetched_also_over_a_redirect(server, path):
    assert fetch.fetch(server + path, 1000) == BODY
    for thread in threading.enumerate():  # one that goes on would hold up the end of the process
        if isinstance(thread, threading.Timer):
            thread.join(1)
            assert not thread.is_alive()


@pytest.mark.parametrize(
    ("path", "error", "message"),
    [
        ("/missing", NetworkError, "404"),
        ("/loop", NetworkError, "redirects more than 5"),
        ("/inside", InputError, r"10\.0\.0\.1 is a private or local address"),
        ("/file", InputError, "not an http or https URL"),
        ("/lies", NetworkError, "early|IncompleteRead"),
        ("/broken-location", NetworkError, "cannot be fetched"),
    ],
)
def test_what_goes_wrong_is_said(server, path, error, message):
    with pytest.raises(error, match=message):
        fetch.fetch(server + path, 10_000)


@pytest.mark.parametrize("path", ["/red", "/red-location", "/garbage"])
def test_a_server_cannot_send_escape_codes_to_a_terminal(server, path):
    with pytest.raises((InputError, NetworkError), match=r"\\x1b.(31mred|0;title)") as error:
        fetch.fetch(server + path, 1000)
    assert str(error.value).isprintable()


def test_as_many_redirects_as_the_limit_are_followed_and_not_one_more(server):
    assert fetch.fetch(f"{server}/hops/{fetch.MAX_REDIRECTS}", 1000) == BODY
    with pytest.raises(NetworkError, match="redirects more than 5 times"):
        fetch.fetch(f"{server}/hops/{fetch.MAX_REDIRECTS + 1}", 1000)


def test_the_byte_limit_holds(server):
    assert fetch.fetch(server + "/image", 1000) == BODY
    with pytest.raises(InputError, match="more than 999 bytes"):
        fetch.fetch(server + "/image", 999)


@pytest.mark.parametrize("path", ["/slow", "/headers"])
def test_the_time_limit_is_for_the_whole_download(server, monkeypatch, path):
    monkeypatch.setattr(fetch, "TIMEOUT_SECONDS", 0.3)
    started = time.monotonic()
    with pytest.raises(NetworkError, match="took more than|timed out|early"):
        fetch.fetch(server + path, 1000)
    assert time.monotonic() - started < 1


def test_a_path_with_letters_of_other_scripts_is_quoted(server):
    assert fetch.fetch(server + "/é x?q= ", 1000) == BODY


@pytest.mark.parametrize(
    "address",
    [
        *("fec0::1", "ff02::1", "2002:7f00:1::", "64:ff9b::7f00:1", "::ffff:10.0.0.1", "224.0.0.1"),
        *("::127.0.0.1", "::7f00:1", "::10.0.0.1", "::a9fe:a9fe", "::8.8.8.8"),
        *("::ffff:0:127.0.0.1", "64:ff9b:1::7f00:1", "3fff::1", "5f00::1", "192.88.99.1"),
        *("2001:0:7f00:1::", "2001:db8::1", "fe80::1", "fc00::1", "100::1"),
    ],
)
def test_special_addresses_are_not_public(address):
    assert not fetch._is_public(ipaddress.ip_address(address))


def test_ordinary_addresses_are_public():
    for address in ("93.184.216.34", "2606:2800:220:1:248:1893:25c8:1946", "2a00::1"):
        assert fetch._is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "localhost", "10.1.2.3", "192.168.1.1", "169.254.169.254", "[::1]", "0.0.0.0"],
)
def test_private_addresses_are_not_fetched(host):
    with pytest.raises((InputError, NetworkError), match="private or local|cannot be fetched"):
        fetch.fetch(f"http://{host}:9/x", 10)


def test_an_address_that_is_not_fetched_is_named_once():
    with pytest.raises(InputError, match=r"^127\.0\.0\.1 is a private or local address"):
        fetch.fetch("http://127.0.0.1:9/x", 10)


@pytest.mark.parametrize("public_first", [True, False])
def test_a_name_with_one_private_address_is_not_fetched(monkeypatch, public_first):
    addresses = ["93.184.216.34", "10.0.0.1"] if public_first else ["10.0.0.1", "93.184.216.34"]
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (a, 80)) for a in addresses]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    monkeypatch.setattr(socket, "create_connection", lambda *_: pytest.fail("connected"))
    with pytest.raises(InputError, match=r"10\.0\.0\.1, a private or local address"):
        fetch.fetch("http://example.com/x", 10)


@pytest.mark.parametrize(
    ("url", "port"),
    [
        ("http://example.com/", 80),
        ("https://example.com/", 443),
        ("https://example.com:8443/", 8443),
    ],
)
def test_the_port_is_that_of_the_url_or_of_its_scheme(monkeypatch, url, port):
    asked = []

    def getaddrinfo(host, port, **_):
        asked.append((host, port))
        raise OSError("no network here")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    with pytest.raises(NetworkError, match="no network here"):
        fetch.fetch(url, 10)
    assert asked == [("example.com", port)]


def test_the_certificate_must_be_that_of_the_name_though_the_address_is_asked(monkeypatch):
    asked = []
    context = SimpleNamespace(wrap_socket=lambda _, **named: asked.append(named))
    monkeypatch.setattr(ssl, "create_default_context", lambda: context)
    monkeypatch.setattr(socket, "create_connection", lambda *given: asked.append(given))
    parts = urlsplit("https://example.com/a.png")
    assert fetch._connection(parts, 443, "93.184.216.34", 1.0).host == "example.com"
    assert asked == [(("93.184.216.34", 443), 1.0), {"server_hostname": "example.com"}]


@pytest.mark.parametrize("url", ["http:///x", "http://host:port/", "ftp://host/x"])
def test_malformed_urls_are_refused(url):
    with pytest.raises(InputError, match="not a"):
        fetch.fetch(url, 10)


def test_an_unreachable_server_is_one_line(server):
    with pytest.raises(NetworkError, match="cannot be fetched"):
        fetch.fetch("http://127.0.0.1:1/x", 10)
    assert server
