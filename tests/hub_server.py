"""A small Hub on the loopback: what the Hub's client asks for, with the failures of a real one."""

import contextlib
import hashlib
import json
import re
import shutil
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

REPO = "me/tiny"
EXTRA = {".gitattributes": b"*.safetensors filter=lfs\n", "README.md": b"# A model\n"}
EXTRA["onnx/model.onnx"] = b"not for us"
LARGE = 5000  # bytes from which a file is stored apart, and named by its SHA-256
SILENCE = 0.3  # seconds that the client waits


@dataclass
class Hub:
    """What the server has, how it fails, and what it was asked.

    Attributes:
        files: of its one repository, by path.
        commit: what `main` is.
        refusal: status and headers of every answer, if it refuses.
        refuses: pattern of the paths that it refuses.
        left: bytes of large files that it sends before it drops every connection.
        honours_range: whether it sends the part of a file that is asked for.
        requests: method and path of every request.
        sent: bytes of every file that were sent.
    """

    files: dict[str, bytes]
    commit: str = "a" * 40
    refusal: tuple[int, dict[str, str]] | None = None
    refuses: str = ""
    left: int | None = None
    honours_range: bool = True
    requests: list[tuple[str, str]] = field(default_factory=list)
    sent: dict[str, int] = field(default_factory=dict)
    tokens: set[str | None] = field(default_factory=set)
    url: str = ""

    def paths(self) -> list[str]:
        """The names of the files that were fetched."""
        return sorted({path.split("/", 5)[-1] for how, path in self.requests if how == "GET/file"})

    def forget(self) -> None:
        self.requests.clear()
        self.sent.clear()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # one packet an answer: a second would wait for the first one's receipt
    hub: Hub

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if not path.startswith(("/api/models/", f"/{REPO}/")):
            return self.answer(404, b"")  # the client's own business, not about a model
        kind = "/file" if "/resolve/" in path or "/cdn/" in path else ""
        self.hub.requests.append((self.command + kind, path))
        self.hub.tokens.add(self.headers.get("authorization"))
        if self.hub.refusal and re.search(self.hub.refuses, path):
            return self.answer(self.hub.refusal[0], b"no", self.hub.refusal[1])
        if found := re.fullmatch(rf"/api/models/{REPO}/revision/(.+)", path):
            if found[1] not in ("main", self.hub.commit):
                return self.answer(404, b"", {"X-Error-Code": "RevisionNotFound"})
            return self.answer(200, json.dumps({"id": REPO, "sha": self.hub.commit}).encode())
        if re.fullmatch(rf"/api/models/{REPO}/tree/{self.hub.commit}", path):
            return self.answer(200, json.dumps(self.listing()).encode())
        if found := re.fullmatch(rf"/{REPO}/(resolve|cdn)/{self.hub.commit}/(.+)", path):
            if found[2] in self.hub.files:
                return self.send_file(found[2], self.hub.files[found[2]], found[1] == "cdn")
            return self.answer(404, b"", {"X-Error-Code": "EntryNotFound"})
        return self.answer(404, b"", {"X-Error-Code": "RepoNotFound"})

    def listing(self) -> list[dict[str, Any]]:
        entries: list[dict[str, Any]] = [{"type": "directory", "path": "onnx", "oid": "0"}]
        for name, data in self.hub.files.items():
            entry: dict[str, Any] = {"type": "file", "path": name, "size": len(data)}
            entry["oid"] = hashlib.sha1(data).hexdigest()
            if len(data) >= LARGE:
                digest = hashlib.sha256(data).hexdigest()
                entry["lfs"] = {"oid": digest, "size": len(data), "pointerSize": 130}
            entries.append(entry)
        return entries

    def send_file(self, name: str, data: bytes, is_stored_apart: bool) -> None:
        large = len(data) >= LARGE
        etag = (hashlib.sha256 if large else hashlib.sha1)(data).hexdigest()
        headers = {"ETag": f'"{etag}"', "X-Repo-Commit": self.hub.commit}
        if large and not is_stored_apart:
            headers |= {"X-Linked-Etag": f'"{etag}"', "X-Linked-Size": str(len(data))}
            headers["Location"] = self.path.replace("/resolve/", "/cdn/")
            return self.answer(302, b"", headers)
        start, status = 0, 200
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if asked and self.hub.honours_range:
            start, status = int(asked[1]), 206
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        if self.command == "GET":
            cut = self.hub.left if large else None
            sent = len(data[start:][:cut])
            self.hub.sent[name] = self.hub.sent.get(name, 0) + sent
            if cut is not None:
                self.hub.left = cut - sent
            return self.answer(status, data[start:], headers, cut)
        return self.answer(status, data[start:], headers)

    def answer(
        self,
        status: int,
        data: bytes,
        headers: dict[str, str] | None = None,
        cut: int | None = None,
    ) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data[:cut])
        if cut is not None:
            self.wfile.flush()
            self.close_connection = True


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[Hub]:
    """Serve a folder's files as the repository `REPO`."""
    hub = Hub({path.name: path.read_bytes() for path in folder.iterdir()} | EXTRA)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


@contextlib.contextmanager
def silence() -> Iterator[str]:
    """A server that accepts connections and never answers; yields its address."""
    with socket.create_server(("127.0.0.1", 0), backlog=8) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def use_hub(monkeypatch: Any, url: str, home: Path) -> None:
    """Let the Hub's client ask this server and keep its cache in this folder."""
    from huggingface_hub import constants

    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(home / "no-token"))
    monkeypatch.setattr(constants, "ENDPOINT", url)
    template = url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", SILENCE)
    monkeypatch.setattr("mlx_lfm2vl.checkpoint.download.PAUSES", (0.0, 0.0))


def filled(folder: Path, *, without=(), tree=None, commit="a" * 40) -> Path:
    """Fill the cache as another client does, with or without its list of the files."""
    from mlx_lfm2vl.checkpoint.cached_copy import repo_folder

    copy = repo_folder(REPO) / "snapshots" / commit
    shutil.copytree(folder, copy, ignore=lambda *_: list(without))
    (repo_folder(REPO) / "refs").mkdir(exist_ok=True)
    (repo_folder(REPO) / "refs" / "main").write_text(commit)
    if tree is not None:
        trees = repo_folder(REPO) / "trees"
        trees.mkdir()
        files = {name: {"size": 1, "blob_id": "0"} for name in tree}
        listing = {"format_version": 1, "files": files}
        (trees / f"{commit}.json").write_text(json.dumps(listing))
    return copy
