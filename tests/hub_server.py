"""A hub on the loopback: models and data sets given by the test, faults given by the test, and every request kept.

It speaks as much of the hub as `huggingface_hub` 2.4 and `from_pretrained` ask for. Large files are sent on to another host name,
as the hub sends them on to its store, so that a token which travels along is noticed.
"""

import contextlib
import hashlib
import json
import re
import threading
import time
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, quote, unquote, urlsplit

from hub_uploads import Uploads

LARGE = (".safetensors", ".bin", ".parquet", ".gguf")
PAGE = 20
"""Entries of a listing in one answer."""


def git_id(content: bytes) -> str:
    """The name git gives a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def sha256(content: bytes) -> str:
    """The name the hub gives a large file's content."""
    return hashlib.sha256(content).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Request:
    """One request as it came in."""

    method: str
    path: str
    headers: dict[str, str]
    place: str
    """info, tree, resolve, store or other."""

    @property
    def start(self) -> int:
        """The first byte that is asked for."""
        return int(re.match(r"bytes=(\d+)-", self.headers.get("range", "bytes=0-"))[1])


@dataclass(kw_only=True)
class Fault:
    """What goes wrong, at most `times` times, with requests to `place` whose path holds `path`."""

    place: str
    path: str = ""
    method: str = "GET"
    times: int = 1_000
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    cut: int | None = None
    """The connection ends after so many bytes of the answer."""
    stall: int | None = None
    """Nothing more comes after so many bytes, until the server ends; for a listing nothing at all."""
    pace: float = 0
    """Seconds between two blocks of the answer."""
    change: bool = False
    """One byte of the content is another one."""
    shorter: int = 0
    """So many bytes are missing at the end, and the answer does not say so."""
    no_ranges: bool = False
    """The store ignores `Range`."""


@dataclass(kw_only=True)
class Repository:
    """Branches and the contents of their commits."""

    branches: dict[str, str] = field(default_factory=dict)
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    gated_for: str | None = None
    """The only token that opens it."""
    private_for: str | None = None
    private: bool = False
    """What the hub says of itself; made so by an upload."""


class HubServer:
    """The stub; a context manager. `url` is what HF_ENDPOINT is set to."""

    def __init__(self):
        self.requests: list[Request] = []
        self.faults: list[Fault] = []
        self.sent: dict[str, int] = {}
        """Bytes of content sent so far, by the name of the file; a block counts from when it is about to go out."""
        self.repositories: dict[str, Repository] = {}
        self.accounts: dict[str, str] = {}
        """Who may write, by token: name of the account."""
        self.uploaded: dict[str, bytes] = {}
        """Large files by sha256, until a commit names them."""
        self.ended = threading.Event()
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, self))
        self._server.daemon_threads = True
        self.port = self._server.server_port
        self.url = f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> "HubServer":
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *exception) -> None:
        self.ended.set()
        self._server.shutdown()
        self._server.server_close()

    def push(self, repo: str, files: dict[str, bytes], *, kind: str = "model", branch: str = "main") -> str:
        """Put these files, and only these, on a branch; returns the commit."""
        repository = self.repositories.setdefault(f"{kind}s/{repo}", Repository())
        content = repr(sorted((name, sha256(content)) for name, content in files.items())).encode()
        commit = hashlib.sha1(content + repo.encode()).hexdigest()
        repository.commits[commit] = dict(files)
        repository.branches[branch] = commit
        return commit

    def files(self, repo: str, *, kind: str = "model") -> dict[str, bytes]:
        """What the main branch of a repository holds."""
        repository = self.repositories[f"{kind}s/{repo}"]
        return repository.commits[repository.branches["main"]]

    def count(self, place: str, *, method: str | None = None, path: str = "") -> int:
        """Requests to a place."""
        return sum(r.place == place and (method in (None, r.method)) and path in r.path for r in self.requests)

    def take_fault(self, request: Request) -> Fault | None:
        """The first fault that fits and has not run out."""
        with self._lock:
            for fault in self.faults:
                if (fault.place, fault.method) == (request.place, request.method) and fault.path in request.path and fault.times:
                    fault.times -= 1
                    return fault
        return None

    def add_sent(self, name: str, count: int) -> None:
        """Count content that goes out."""
        with self._lock:
            self.sent[name] = self.sent.get(name, 0) + count


class _Handler(Uploads, BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else every answer waits 40 ms

    def __init__(self, hub: HubServer, *arguments):
        self.hub = hub
        super().__init__(*arguments)

    def log_message(self, *arguments) -> None:
        pass

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError):  # the client was killed or has heard enough
            super().handle()

    def answer(self) -> None:
        """Any request."""
        address = urlsplit(self.path)
        path = unquote(address.path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        api = re.fullmatch(r"/api/(models|datasets)/([^/]+/[^/]+?)(?:/(revision|tree|paths-info)/([^/]+)(/.*)?)?", path)
        file = re.fullmatch(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.*)", path, re.DOTALL)
        store = re.fullmatch(r"/store/((?:models|datasets)/[^/]+/[^/]+)/([0-9a-f]{40})/(.*)", path, re.DOTALL)
        place = "other"
        if api is not None:
            place = {"tree": "tree", "paths-info": "paths-info"}.get(api[3], "info")
        elif file is not None or store is not None:
            place = "resolve" if file else "store"
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = Request(method=self.command, path=self.path, headers=headers, place=place)
        self.hub.requests.append(request)
        fault = self.hub.take_fault(request)
        if fault is not None and fault.status is not None:
            self.send(fault.status, fault.body, fault.headers)
        elif fault is not None and api is not None:
            self.hub.ended.wait()
        elif api is not None:
            self.answer_api(*api.groups(), body=body, query=parse_qs(address.query))
        elif file is not None:
            self.answer_file(request, fault, f"{'datasets' if file[1] else 'models'}/{file[2]}", file[3], file[4])
        elif store is not None:
            self.answer_store(request, fault, *store.groups())
        elif not self.answer_upload(path, body):
            self.send_json(404, {"error": "not found"})

    do_GET = do_HEAD = do_POST = do_PUT = answer

    def answer_api(self, kind: str, repo: str, what: str | None, revision: str | None, folder: str | None, *, body, query) -> None:
        found = self.find(f"{kind}/{repo}", revision or "main", gate=False)
        if found is None:
            return
        commit, files = found
        if what == "tree":
            start = int(query.get("cursor", ["0"])[0])
            under = (folder or "").strip("/")
            lines = listed(files, f"{under}/" if under else "", deep=query.get("recursive") == ["true"])
            link = {}
            if under and not lines:
                self.send(404, b"", {"X-Error-Code": "EntryNotFound"})
                return
            if len(lines) > start + PAGE:
                next_page = urlsplit(self.path)._replace(query=f"recursive={query['recursive'][0]}&cursor={start + PAGE}")
                link = {"Link": f'<{self.hub.url}{next_page.geturl()}>; rel="next"'}
            self.send_json(200, lines[start : start + PAGE], link)
        elif what == "paths-info":
            asked = json.loads(body)["paths"] if body.startswith(b"{") else parse_qs(body.decode())["paths"]
            self.send_json(200, [entry(name, files[name]) for name in asked if name in files])
        else:
            siblings = [{"rfilename": name} for name in files]
            private = self.hub.repositories[f"{kind}/{repo}"].private
            self.send_json(200, {"_id": "1", "id": repo, "sha": commit, "private": private, "tags": [], "siblings": siblings})

    def answer_file(self, request: Request, fault: Fault | None, repo: str, revision: str, name: str) -> None:
        found = self.find(repo, revision, gate=True)
        if found is None:
            return
        commit, files = found
        if name not in files:
            self.send(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
        elif name.endswith(LARGE):
            tag = sha256(files[name])
            location = f"http://localhost:{self.hub.port}/store/{repo}/{commit}/{quote(name)}?signature=of-the-store"
            headers = {"Location": location, "X-Linked-Etag": f'"{tag}"', "X-Linked-Size": str(len(files[name]))}
            self.send(302, b"", {"X-Repo-Commit": commit, **headers})
        else:
            tag = git_id(files[name])
            self.send_content(request, fault, name, files[name], {"X-Repo-Commit": commit, "ETag": f'"{tag}"'})

    def answer_store(self, request: Request, fault: Fault | None, repo: str, commit: str, name: str) -> None:
        self.send_content(request, fault, name, self.hub.repositories[repo].commits[commit][name], {"ETag": '"of-the-store"'})

    def find(self, repo: str, revision: str, *, gate: bool) -> tuple[str, dict[str, bytes]] | None:
        """Commit and files, or None after a refusal has been sent."""
        repository = self.hub.repositories.get(repo)
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None
        if repository is None or repository.private_for not in (None, token):
            self.send(404 if token else 401, b"", {"X-Error-Code": "RepoNotFound"})
            return None
        if gate and repository.gated_for not in (None, token):
            # Some proxies and hubs repeat what they were sent: nothing of it may reach the user's screen.
            echo = f"access is restricted; you sent {self.headers.get('Authorization')}"
            self.send(403 if token else 401, echo.encode(), {"X-Error-Code": "GatedRepo", "X-Error-Message": echo})
            return None
        commit = repository.branches.get(revision, revision)
        if commit not in repository.commits:
            self.send(404, b"", {"X-Error-Code": "RevisionNotFound"})
            return None
        return commit, repository.commits[commit]

    def send_content(self, request: Request, fault: Fault | None, name: str, content: bytes, headers: dict[str, str]) -> None:
        fault = fault or Fault(place="")
        content = content[: len(content) - fault.shorter]
        if fault.change:
            content = content[:-1] + bytes([content[-1] ^ 1])
        status, start = 200, 0 if fault.no_ranges else request.start
        if "range" in request.headers and not fault.no_ranges:
            if start >= len(content):
                self.send(416, b"", {"Content-Range": f"bytes */{len(content)}"})
                return
            status, headers = 206, {**headers, "Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"}
        self.send(status, content[start:], headers, fault=fault, name=name)

    def send_json(self, status: int, content: object, headers: dict[str, str] | None = None) -> None:
        self.send(status, json.dumps(content).encode(), {"Content-Type": "application/json", **(headers or {})})

    def send(self, status: int, content: bytes, headers: dict[str, str], *, fault: Fault | None = None, name: str = "") -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(content)), "Accept-Ranges": "bytes", **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        end = next((n for n in (fault and fault.cut, fault and fault.stall) if n is not None), len(content))
        for start in range(0, min(end, len(content)), 1 << 16):
            block = content[start : min(end, start + (1 << 16))]
            if name:  # counted first: the client may be done with the last block before this thread runs again
                self.hub.add_sent(name, len(block))
            self.wfile.write(block)
            time.sleep(fault.pace if fault else 0)
        if end < len(content):
            self.wfile.flush()
            if fault.stall is not None:
                self.hub.ended.wait()
            self.close_connection = True


def listed(files: dict[str, bytes], under: str, *, deep: bool) -> list[dict]:
    """The lines of a listing; a shallow one shows folders instead of what is in them."""
    found = {}
    for name, content in files.items():
        if name.startswith(under):
            inside, folder, _ = name.removeprefix(under).partition("/")
            if folder and not deep:
                found[under + inside] = {"type": "directory", "path": under + inside, "size": 0, "oid": git_id(inside.encode())}
            else:
                found[name] = entry(name, content)
    return list(found.values())


def entry(name: str, content: bytes) -> dict:
    """One line of a listing."""
    found = {"type": "file", "path": name, "size": len(content), "oid": git_id(content)}
    if name.endswith(LARGE):
        found["lfs"] = {"oid": sha256(content), "size": len(content), "pointerSize": 130}
    return found
