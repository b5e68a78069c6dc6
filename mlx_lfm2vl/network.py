"""Fetching an image by URL within limits of size, time, redirects and address."""

import http.client
import ipaddress
import socket
import time
from urllib.parse import SplitResult, urljoin, urlsplit

from .errors import InputError, NetworkError

MAX_REDIRECTS = 5
TIMEOUT_SECONDS = 30.0  # for the whole download
CHUNK_BYTES = 64 * 1024


def fetch(url: str, max_bytes: int) -> bytes:
    """Download a file over http or https.

    Every hop is resolved once and must be a public address; the connection goes to that very
    address, so a name cannot point elsewhere a moment later.

    Raises:
        InputError: the URL is malformed, not public, or the file is larger than `max_bytes`.
        NetworkError: the server could not be reached, answered an error, or took too long.
    """
    deadline = time.monotonic() + TIMEOUT_SECONDS
    for _ in range(MAX_REDIRECTS + 1):
        connection, response = _request(url, deadline)
        try:
            location = response.getheader("Location")
            if response.status in (301, 302, 303, 307, 308) and location:
                url = urljoin(url, location)
                continue
            if response.status != 200:
                raise NetworkError(f"{url} answered {response.status} {response.reason}")
            return _read(response, url, max_bytes, deadline)
        except (OSError, http.client.HTTPException) as error:
            raise NetworkError(
                f"{url} cannot be fetched: {error or type(error).__name__}"
            ) from None
        finally:
            connection.close()
    raise NetworkError(f"{url} redirects more than {MAX_REDIRECTS} times")


def _request(
    url: str, deadline: float
) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
    try:
        parts = urlsplit(url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError as error:
        raise InputError(f"{url} is not a URL: {error}") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InputError(f"{url} is not an http or https URL")
    try:
        address = _public_address(parts.hostname, port)
        connection = _connection(parts, port, address, max(0.1, deadline - time.monotonic()))
        target = parts.path or "/"
        target += f"?{parts.query}" if parts.query else ""
        connection.request("GET", target, headers={"User-Agent": "mlx-lfm2vl", "Accept": "image/*"})
        return connection, connection.getresponse()
    except (OSError, http.client.HTTPException, UnicodeError) as error:
        raise NetworkError(f"{url} cannot be fetched: {error or type(error).__name__}") from None


def _public_address(host: str, port: int) -> str:
    found = [info[4][0] for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    for address in found:
        if not ipaddress.ip_address(str(address).split("%")[0]).is_global:
            raise InputError(f"{host} is {address}, a private or local address: not fetched")
    return str(found[0])


def _connection(
    parts: SplitResult, port: int, address: str, timeout: float
) -> http.client.HTTPConnection:
    """A connection that speaks to `address` but asks, and checks the certificate, for the host."""
    host = str(parts.hostname)
    sock = socket.create_connection((address, port), timeout)
    if parts.scheme == "https":
        import ssl

        sock = ssl.create_default_context().wrap_socket(sock, server_hostname=host)
    connection = http.client.HTTPConnection(host, port, timeout=timeout)
    connection.sock = sock
    return connection


def _read(response: http.client.HTTPResponse, url: str, max_bytes: int, deadline: float) -> bytes:
    parts: list[bytes] = []
    size = 0
    while part := response.read1(CHUNK_BYTES):
        parts.append(part)
        size += len(part)
        if size > max_bytes:
            raise InputError(f"{url} has more than {max_bytes} bytes")
        if time.monotonic() > deadline:
            raise NetworkError(f"{url} took more than {TIMEOUT_SECONDS:.0f} seconds")
    if response.length:
        raise NetworkError(f"{url} ended {response.length} bytes early")
    return b"".join(parts)
