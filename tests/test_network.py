"""Fetching by URL against a server in this process: limits hold, nothing private is reached."""

import http.server
import ipaddress
import threading
import time

import pytest

from mlx_lfm2vl import network
from mlx_lfm2vl.errors import InputError, NetworkError

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
        elif self.path == "/inside":
            self.answer(302, b"", Location="http://10.0.0.1/secret")
        elif self.path == "/file":
            self.answer(302, b"", Location="file:///etc/hosts")
        elif self.path == "/slow":
            self.send_response(200)
            self.end_headers()
            for _ in range(20):
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
    real = ipaddress.ip_address

    class Loopback:
        is_global = True

    monkeypatch.setattr(
        network.ipaddress, "ip_address", lambda a: Loopback() if a == "127.0.0.1" else real(a)
    )
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("path", ["/image", "/moved"])
def test_a_file_is_fetched_also_over_a_redirect(server, path):
    assert network.fetch(server + path, 1000) == BODY


@pytest.mark.parametrize(
    ("path", "error", "message"),
    [
        ("/missing", NetworkError, "404"),
        ("/loop", NetworkError, "redirects more than 5"),
        ("/inside", InputError, r"10\.0\.0\.1, a private or local address"),
        ("/file", InputError, "not an http or https URL"),
        ("/lies", NetworkError, "early"),
    ],
)
def test_what_goes_wrong_is_said(server, path, error, message):
    with pytest.raises(error, match=message):
        network.fetch(server + path, 10_000)


def test_the_byte_limit_holds(server):
    with pytest.raises(InputError, match="more than 999 bytes"):
        network.fetch(server + "/image", 999)


def test_the_time_limit_is_for_the_whole_download(server, monkeypatch):
    monkeypatch.setattr(network, "TIMEOUT_SECONDS", 0.2)
    with pytest.raises(NetworkError, match="took more than|timed out"):
        network.fetch(server + "/slow", 1000)


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "localhost", "10.1.2.3", "192.168.1.1", "169.254.169.254", "[::1]", "0.0.0.0"],
)
def test_private_addresses_are_not_fetched(host):
    with pytest.raises((InputError, NetworkError), match="private or local|cannot be fetched"):
        network.fetch(f"http://{host}:9/x", 10)


@pytest.mark.parametrize("url", ["http:///x", "http://host:port/", "ftp://host/x"])
def test_malformed_urls_are_refused(url):
    with pytest.raises(InputError, match="not a"):
        network.fetch(url, 10)


def test_an_unreachable_server_is_one_line(server):
    with pytest.raises(NetworkError, match="cannot be fetched"):
        network.fetch("http://127.0.0.1:1/x", 10)
    assert server
