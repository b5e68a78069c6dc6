"""Who may ask a server: the names it answers to, the pages that may call it, and its token.

A page in the user's browser can reach a server on the same machine. It can post there from another
site, or through a name of its own that resolves to this machine (DNS rebinding). The `Host` header
tells the name, and the `Origin` header the page.
"""

from __future__ import annotations

import hmac
import ipaddress
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path

from ...errors import InputError
from .errors import HttpError

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")
WITHOUT_TOKEN = ("/", "/health")  # a page of no content of its own, and a word
TOKEN_BYTES = 4096  # of a file that may hold one
ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/\s]+")
SHORTEST_TOKEN = 16


@dataclass(frozen=True)
class Access:
    """What a request must show.

    Attributes:
        host: numeric address that the server listens on.
        port: that it listens on.
        names: other names it answers to, `name` or `name:port`.
        origins: pages of other sites that may call it, as their `Origin` header names them.
        token: that requests must bring; None needs none.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    names: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    token: str | None = None

    def __post_init__(self) -> None:
        if self.token is None and not ipaddress.ip_address(self.host).is_loopback:
            raise InputError(
                f"{self.host} can be reached by other machines, which must bring a token: add "
                "--token-file FILE or set MLX_LFM2VL_TOKEN, or listen on 127.0.0.1"
            )
        for origin in self.origins:
            if not ORIGIN.fullmatch(origin):
                raise InputError(
                    f"--allow-origin is {origin!r:.60}, expected a scheme and a host, such as "
                    "https://example.org"
                )

    @property
    def url(self) -> str:
        """Of the server, as this machine reaches it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"

    def check(self, path: str, headers: dict[bytes, bytes], *, needs_token: bool) -> None:
        """Refuse a request by its headers.

        Args:
            path: of the request.
            headers: of the request, with names in lower case.
            needs_token: whether to ask for the token, if there is one.

        Raises:
            HttpError: the name, the page or the token is not one that may ask.
        """
        host = headers.get(b"host", b"").decode("latin-1").lower()
        if not self._answers_to(host):
            raise HttpError(
                403,
                f"Host is {host!r:.80}, which this server does not answer to: --allow-host adds a "
                "name",
                "host_not_allowed",
            )
        origin = headers.get(b"origin")
        if origin is not None and not self.allows(text := origin.decode("latin-1"), host):
            raise HttpError(
                403,
                f"Origin is {text!r:.80}, a page that may not call this server: --allow-origin "
                "adds one",
                "origin_not_allowed",
            )
        if needs_token and self.token is not None and path not in WITHOUT_TOKEN:
            self._check_token(headers.get(b"authorization", b""), self.token)

    def allows(self, origin: str, host: str) -> bool:
        """Return whether a page of an origin may call the server under a name."""
        return origin.lower() == f"http://{host}" or self.is_named(origin)

    def is_named(self, origin: str) -> bool:
        """Return whether an origin is among those of other sites that may call."""
        return origin in self.origins

    def _answers_to(self, host: str) -> bool:
        name, port = _split(host)
        if host in self.names or name in self.names:
            return True
        if port != self.port:
            return False
        own = ipaddress.ip_address(self.host)
        if own.is_loopback:
            return name in LOOPBACK_NAMES
        # Nobody can make an address resolve to another machine.
        return name in LOOPBACK_NAMES or _is_address(name)

    def _check_token(self, header: bytes, token: str) -> None:
        kind, _, given = header.partition(b" ")
        is_right = hmac.compare_digest(given.strip(), token.encode())
        if kind.lower() != b"bearer" or not is_right:
            raise HttpError(
                401,
                "the token is absent or wrong, expected the header Authorization: Bearer TOKEN",
                "invalid_api_key",
                (("WWW-Authenticate", "Bearer"),),
            )


def read_token(path: Path) -> str:
    """Read a token from a file that only its user can read.

    Raises:
        InputError: there is no such file, it is another user's, others may read or write it, or it
            holds no token.
    """
    try:
        # A pipe would wait for its writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        with open(descriptor, "rb") as file:
            about = os.fstat(descriptor)
            if not stat.S_ISREG(about.st_mode):
                raise InputError(f"{path} is not a file, expected one that holds a token")
            if about.st_uid != os.getuid():
                raise InputError(f"{path} belongs to another user, expected a file of your own")
            if about.st_mode & 0o077:
                raise InputError(
                    f"{path} can be read or changed by other users: run chmod 600 {path}"
                )
            content = file.read(TOKEN_BYTES)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    return checked_token(content.decode("latin-1"), str(path))


def checked_token(text: str, source: str) -> str:
    """Return a token without the space around it.

    Args:
        text: that holds it.
        source: of the text, for messages.

    Raises:
        InputError: it is too short to be a secret, or a header cannot hold it.
    """
    token = text.strip()
    if len(token) < SHORTEST_TOKEN or not re.fullmatch(r"[!-~]+", token):
        raise InputError(
            f"{source} holds no token, expected {SHORTEST_TOKEN} or more letters and digits, such "
            "as `openssl rand -hex 32` prints"
        )
    return token


def _split(host: str) -> tuple[str, int]:
    """Return name and port of a `Host` header; an absent port is that of HTTP."""
    found = re.fullmatch(r"(\[[0-9a-f:.]+\]|[^:\[\]]+)(?::(\d{1,5}))?", host)
    return (found[1], int(found[2] or 80)) if found else ("", 0)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True
