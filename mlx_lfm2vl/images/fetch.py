"""Downloading an image by URL, with limits on size, time, redirects and addresses."""

import contextlib
import http.client
import ipaddress
import socket
import threading
import time
from urllib.parse import SplitResult, quote, urljoin, urlsplit

from ..errors import InputError, Lfm2VLError, NetworkError

MAX_REDIRECTS = 5
TIMEOUT_SECONDS = 30.0  # for the whole download
UNICAST = ipaddress.ip_network("2000::/3")
DOCUMENTATION = ipaddress.ip_network("3fff::/20")
RELAYS = ipaddress.ip_network("192.88.99.0/24")  # that were between IPv6 and IPv4
QUERY_SAFE = "/%:@!$&'()*+,;=~?"


def fetch(url: str, max_bytes: int) -> bytes:
    """Download a file over http or https.

    Every host, also of a redirect, is resolved once and must have public addresses. The connection
    uses the resolved address, so the host cannot resolve to another one in between (DNS rebinding).

    Args:
        url: of the file.
        max_bytes: largest size to accept.

    Returns:
        The bytes of the file.

    Raises:
        InputError: the URL is malformed or its address is not public, or the file is too large.
        NetworkError: the server could not be reached, answered with an error, or took too long.
    """
    deadline = time.monotonic() + TIMEOUT_SECONDS
    for _ in range(MAX_REDIRECTS + 1):
        try:
            connection = _connect(url, deadline)
            # A socket's timeout restarts with every byte. Only closing it stops a slow server.
            timer = threading.Timer(deadline - time.monotonic(), _shut, [connection.sock])
            timer.start()
            try:
                found = _answer(connection, url, max_bytes)
            finally:
                timer.cancel()
                connection.close()
        except Lfm2VLError:
            raise
        except (OSError, http.client.HTTPException, ValueError) as error:
            if time.monotonic() > deadline:
                raise NetworkError(f"{url} took more than {TIMEOUT_SECONDS:g} seconds") from None
            reason = str(error).strip() or type(error).__name__
            raise NetworkError(f"{url} cannot be fetched: {reason}") from None
        if time.monotonic() > deadline:  # the timer may have cut the download short
            raise NetworkError(f"{url} took more than {TIMEOUT_SECONDS:g} seconds")
        if isinstance(found, bytes):
            return found
        url = found
    raise NetworkError(f"{url} redirects more than {MAX_REDIRECTS} times")


def _shut(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)


def _answer(connection: http.client.HTTPConnection, url: str, max_bytes: int) -> bytes | str:
    """Request a URL; return the body, or the URL it redirects to."""
    parts = urlsplit(url)
    target = quote(parts.path, safe="/%:@!$&'()*+,;=~") or "/"
    target += f"?{quote(parts.query, safe=QUERY_SAFE)}" if parts.query else ""
    connection.request("GET", target, headers={"User-Agent": "mlx-lfm2vl", "Accept": "image/*"})
    with connection.getresponse() as response:
        location = response.getheader("Location")
        if response.status in (301, 302, 303, 307, 308) and location:
            return urljoin(url, location)
        if response.status != 200:
            raise NetworkError(f"{url} answered {response.status} {response.reason}")
        body = response.read(max_bytes + 1)
        if len(body) > max_bytes:
            raise InputError(f"{url} has more than {max_bytes} bytes, the limit")
        if response.length:
            raise NetworkError(f"{url} ended {response.length} bytes early")
        return body


def _connect(url: str, deadline: float) -> http.client.HTTPConnection:
    try:
        parts = urlsplit(url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError as error:
        raise InputError(f"{url} is not a valid URL: {error}") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InputError(f"{url} is not an http or https URL")
    address = _public_address(parts.hostname, port)
    return _connection(parts, port, address, max(0.1, deadline - time.monotonic()))


def _public_address(host: str, port: int) -> str:
    found = [str(info[4][0]) for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    for address in found:
        if not _is_public(ipaddress.ip_address(address.split("%")[0])):
            name = "" if host == address else f" {address},"
            raise InputError(
                f"{host} is{name} a private or local address: not fetched; download the image "
                "yourself"
            )
    return found[0]


def _is_public(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """Whether an address is one of the public internet's.

    Of IPv6 these are the unicast addresses that are given out, without those that carry an IPv4
    address. Every other form that carries one lies outside of them.
    """
    if address.version == 6:
        carries = address.sixtofour or address.teredo
        if carries or address not in UNICAST or address in DOCUMENTATION:
            return False
    return address.is_global and not address.is_multicast and address not in RELAYS


def _connection(
    parts: SplitResult, port: int, address: str, timeout: float
) -> http.client.HTTPConnection:
    """Connect to `address`, but name the URL's host in the request and the TLS handshake."""
    host = str(parts.hostname)
    sock = socket.create_connection((address, port), timeout)
    if parts.scheme == "https":
        import ssl

        sock = ssl.create_default_context().wrap_socket(sock, server_hostname=host)
    connection = http.client.HTTPConnection(host, port, timeout=timeout)
    connection.sock = sock
    return connection
