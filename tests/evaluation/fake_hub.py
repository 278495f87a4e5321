"""A server on this machine that plays the hub for `huggingface_hub` and `datasets`, with faults if asked."""

import hashlib
import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import datasets
import huggingface_hub
import pytest
from huggingface_hub import constants

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LARGE = 2000  # bytes from which on a file is stored apart, as the hub does from 10 MB on
TOKEN = "hf_fake"


@dataclass
class Repo:
    """Files of one commit; `gated` ones want `TOKEN`, `forbidden` ones give nothing to it. Every request for
    one that is `down` gets that status.
    """

    kind: str
    name: str
    files: dict[str, bytes]
    commit: str = COMMIT
    gated: bool = False
    forbidden: bool = False
    down: int | None = None

    def tree(self, below: str, recursive: bool) -> list[dict]:
        found: dict[str, dict] = {}
        for path, data in self.files.items():
            if below and not path.startswith(f"{below}/"):
                continue
            rest = path.removeprefix(f"{below}/" if below else "")
            if "/" in rest and not recursive:
                folder = f"{below}/{rest.partition('/')[0]}".strip("/")
                found[folder] = {"type": "directory", "path": folder, "oid": "0" * 40, "size": 0}
            else:
                found[path] = self.entry(path, data)
        return list(found.values())

    def entry(self, path: str, data: bytes) -> dict:
        one = {"type": "file", "path": path, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
        if len(data) >= LARGE:
            one["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
        return one


@dataclass
class FakeHub:
    """What the server has, what it shall do wrong, and what it was asked."""

    repos: dict[str, Repo] = field(default_factory=dict)
    endpoint: str = ""
    store: str = ""
    """Where large files are, which is another host."""
    refusals: list[int] = field(default_factory=list)
    """Statuses that the next requests get."""
    down: int | None = None
    """Status that every request gets."""
    cuts: Counter = field(default_factory=Counter)
    """How often the sending of a file breaks off in the middle."""
    spoiled: set[str] = field(default_factory=set)
    """Files that come with other bytes of the same number."""
    asked: list[tuple[str, str]] = field(default_factory=list)
    sent: Counter = field(default_factory=Counter)
    """Bytes by file."""
    ranges: list[str] = field(default_factory=list)

    def add(self, repo: Repo) -> None:
        self.repos[f"{repo.kind}s/{repo.name}"] = repo

    @property
    def fetched(self) -> set[str]:
        return {name for name, count in self.sent.items() if count}


@contextmanager
def serving() -> Iterator[FakeHub]:
    hub = FakeHub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    hub.store = f"http://localhost:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def playing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """The hub of this process: caches in `folder`, no token, no waiting between attempts."""
    with serving() as hub:
        for name, value in {
            "ENDPOINT": hub.endpoint,
            "HUGGINGFACE_CO_URL_TEMPLATE": hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HUB_CACHE": str(folder / "cache"),
            "HF_TOKEN_PATH": str(folder / "token"),
            "HF_URL_HOSTS": frozenset({"127.0.0.1"}),
            "DOWNLOAD_CHUNK_SIZE": 1000,
        }.items():
            monkeypatch.setattr(constants, name, value, raising=False)
        monkeypatch.setattr(datasets.config, "HF_ENDPOINT", hub.endpoint)
        monkeypatch.setenv("HF_DATASETS_CACHE", str(folder / "rows"))
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(folder / "rows"))
        monkeypatch.delenv("HF_TOKEN", raising=False)
        monkeypatch.setattr(time, "sleep", lambda seconds: None)
        huggingface_hub.HfFileSystem.clear_instance_cache()
        yield hub


def switch_off(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    """HF_HUB_OFFLINE=1, and a hub that would not answer."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    hub.down = 500
    hub.asked.clear()


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments) -> None:
        """Say nothing."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def _answer(self) -> None:
        url = urlsplit(self.path)
        parts = [unquote(part) for part in url.path.strip("/").split("/")]
        self.hub.asked.append((self.command, url.path))
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if status := self.hub.down or (self.hub.refusals.pop(0) if self.hub.refusals else None):
            return self._send(status, b"{}")
        if parts[0] == "cdn":
            return self._file("/".join(parts[2:]), self._large(parts[1]))
        api = parts[0] == "api"
        if api:
            parts = parts[1:]
        kind = parts.pop(0) if parts[0] in ("datasets", "models") else "models"
        repo = self.hub.repos.get(f"{kind}/{'/'.join(parts[:2])}")
        return self._repo(repo, parts[2:], parse_qs(url.query), body, api)

    def _repo(self, repo: Repo | None, rest: list[str], query: dict, body: bytes, api: bool) -> None:
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if token and token != TOKEN:
            return self._send(401, b"{}", {"X-Error-Message": "Invalid credentials in Authorization header"})
        if repo is not None and repo.down:
            return self._send(repo.down, b"{}")
        if repo is None:
            return self._send(401 if not token else 404, b"{}", {"X-Error-Code": "RepoNotFound"})
        listing = api and (
            not rest or rest[0] == "revision"
        )  # of a gated one, everybody sees that it is there
        if repo.gated and not listing and (token != TOKEN or repo.forbidden):
            return self._send(403 if token else 401, b"{}", {"X-Error-Code": "GatedRepo"})
        if repo.forbidden and not repo.gated:
            return self._send(403, b"{}", {"X-Error-Message": "no"})
        revision = rest[1] if len(rest) > 1 else "main"
        if revision not in ("main", repo.commit):
            return self._send(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        if listing:
            siblings = [{"rfilename": path} for path in repo.files]
            known = {"id": repo.name, "sha": repo.commit, "siblings": siblings, "tags": []}
            return self._json({**known, "cardData": {"license": "cc-by-4.0"}})
        if rest[0] == "tree":
            recursive = query.get("recursive", ["false"])[0].lower() in ("true", "1")
            found = repo.tree("/".join(rest[2:]), recursive)
            if not found and rest[2:]:
                return self._send(404, b"{}", {"X-Error-Code": "EntryNotFound"})
            return self._json(found)
        if rest[0] == "paths-info":
            return self._json(_paths_info(repo, _paths(body)))
        return self._resolve(repo, "/".join(rest[2:]))

    def _resolve(self, repo: Repo, path: str) -> None:
        if path not in repo.files:
            return self._send(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": repo.commit})
        data = repo.files[path]
        if len(data) < LARGE:
            etag = hashlib.sha1(data).hexdigest()
            return self._file(path, data, {"X-Repo-Commit": repo.commit, "ETag": f'"{etag}"'})
        digest = hashlib.sha256(data).hexdigest()
        headers = {
            "X-Repo-Commit": repo.commit,
            "X-Linked-Etag": f'"{digest}"',
            "X-Linked-Size": str(len(data)),
            "Location": f"{self.hub.store}/cdn/{digest}/{path}",
        }
        return self._send(302, b"", headers)

    def _large(self, digest: str) -> bytes:
        files = [data for repo in self.hub.repos.values() for data in repo.files.values()]
        return next(data for data in files if hashlib.sha256(data).hexdigest() == digest)

    def _file(self, path: str, data: bytes, headers: dict | None = None) -> None:
        headers = {"Accept-Ranges": "bytes", **(headers or {})}
        if path in self.hub.spoiled:
            data = bytes(len(data))
        start, status, whole = 0, 200, len(data)
        if asked := self.headers.get("Range"):
            self.hub.ranges.append(asked)
            first, _, last = asked.removeprefix("bytes=").partition("-")
            start, status = int(first), 206
            data = data[start : int(last) + 1 if last else None]
            headers["Content-Range"] = f"bytes {start}-{start + len(data) - 1}/{whole}"
        if self.command == "HEAD" or not self.hub.cuts[path]:
            if self.command == "GET":
                self.hub.sent[path] += len(data)
            self._send(status, data, headers)
            return
        self.hub.cuts[path] -= 1
        part = data[: len(data) // 2]
        self.hub.sent[path] += len(part)
        self._send(status, part, headers, length=len(data))
        self.close_connection = True

    def _json(self, value: object) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, data: bytes, headers: dict | None = None, length: int | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data) if length is None else length))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


def _paths(body: bytes) -> list[str]:
    try:
        return list(json.loads(body)["paths"])
    except ValueError:
        return parse_qs(body.decode())["paths"]


def _paths_info(repo: Repo, paths: list[str]) -> list[dict]:
    found = []
    for path in paths:
        if path in repo.files:
            found.append(repo.entry(path, repo.files[path]))
        elif any(name.startswith(f"{path}/") for name in repo.files):
            found.append({"type": "directory", "path": path, "oid": "0" * 40, "size": 0})
    return found


def card(splits: dict[str, dict[str, str]]) -> bytes:
    """A data set's README: by configuration, each split's files."""
    lines = ["---", "configs:"]
    for config, files in splits.items():
        lines += [f"- config_name: {config}", "  data_files:"]
        for split, pattern in files.items():
            lines += [f"  - split: {split}", f"    path: {pattern}"]
    return "\n".join([*lines, "---", "# A data set", ""]).encode()


def folder_files(folder: Path) -> dict[str, bytes]:
    """All files below a folder, as a repository has them."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
