"""A W&B server on the loopback: it answers enough for whole online runs, and keeps every request.

Not a model of W&B: it knows the calls that `wandb` 0.31 makes for runs, histories, summaries, files and tables, and answers an
empty object to any other. `hang` makes it silent from some call on, `refuse` answers with an error, `die` closes the port.
"""

import gzip
import json
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

ENTITY = "local"


@dataclass(frozen=True, kw_only=True)
class Request:
    """One request as it came in, with the body unpacked."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def operation(self) -> str | None:
        """The name of the GraphQL operation, if it is one."""
        if not self.path.startswith("/graphql"):
            return None
        query = json.loads(self.body)
        return query.get("operationName") or re.search(r"(?:query|mutation)\s+(\w+)", query["query"])[1]

    @property
    def variables(self) -> dict[str, Any]:
        """The variables of the GraphQL operation."""
        return json.loads(self.body).get("variables") or {}


@dataclass(kw_only=True)
class Run:
    """What the server was told about one run."""

    upserts: list[dict[str, Any]] = field(default_factory=list)
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    exit_code: int | None = None

    def told(self, key: str) -> Any:
        """The newest value of an upsert variable (`displayName`, `groupName`, `jobType`, `tags`, ...)."""
        return next((upsert[key] for upsert in reversed(self.upserts) if upsert.get(key)), None)

    @property
    def config(self) -> dict[str, Any]:
        """The configuration, as W&B's pages show it."""
        return {key: value["value"] for key, value in json.loads(self.told("config")).items()}


class WandbServer:
    """The stub; a context manager. `url` is what WANDB_BASE_URL is set to."""

    def __init__(self):
        self.requests: list[Request] = []
        self.hang: Callable[[Request], bool] = lambda request: False
        """Requests for which this is true are never answered."""
        self.refuse: int | None = None
        """HTTP status with which every request is refused."""
        self.answers: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {}
        """More GraphQL operations by name, from their variables to what is answered."""
        self._released = threading.Event()
        self._server = _Server(("127.0.0.1", 0), partial(_Handler, self))
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "WandbServer":
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *exception) -> None:
        self.die()

    def die(self) -> None:
        """Close the port: from now on connections are refused, and requests that hang are dropped."""
        self._released.set()
        self._server.shutdown()
        self._server.server_close()

    def wait_released(self) -> None:
        """Hold a request until the server dies."""
        self._released.wait()

    def operations(self) -> list[str]:
        """The names of all GraphQL calls so far, in order."""
        return [request.operation for request in list(self.requests) if request.operation]

    def uploads(self) -> dict[str, bytes]:
        """Uploaded files by name."""
        return {request.path.removeprefix("/upload/"): request.body for request in list(self.requests) if request.method == "PUT"}

    def runs(self) -> dict[str, Run]:
        """Runs by id, put together from everything that came in."""
        runs: dict[str, Run] = {}
        for request in list(self.requests):
            if request.operation == "UpsertBucket":
                runs.setdefault(request.variables["name"], Run()).upserts.append(request.variables)
            elif request.path.endswith("/file_stream"):
                _add_stream(runs.setdefault(request.path.split("/")[-2], Run()), json.loads(request.body))
        return runs


def _add_stream(run: Run, body: dict[str, Any]) -> None:
    files = body.get("files") or {}
    for line in files.get("wandb-history.jsonl", {}).get("content", []):
        run.history.append(json.loads(line))
    for line in files.get("wandb-summary.json", {}).get("content", []):
        run.summary = json.loads(line)
    if body.get("complete"):
        run.exit_code = body["exitcode"]


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, client_address) -> None:
        """A client that gives up on a hanging server resets the connection: no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, stub: WandbServer, *args):
        self.stub = stub
        super().__init__(*args)

    def log_message(self, *args) -> None:
        """Keep the test's output clean."""

    def do_GET(self) -> None:
        self._serve()

    do_POST = do_PUT = do_GET

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        request = Request(method=self.command, path=self.path, headers=dict(self.headers), body=body)
        self.stub.requests.append(request)
        if self.stub.hang(request):
            self.stub.wait_released()
            self.close_connection = True
        elif self.stub.refuse:
            self._answer(self.stub.refuse, {"errors": [{"message": "refused"}]})
        elif request.operation:
            answer = self.stub.answers.get(request.operation, partial(_graphql, self.stub.url, request.operation))
            self._answer(200, {"data": answer(request.variables)})
        else:
            self._answer(200, {})

    def _answer(self, status: int, answer: dict[str, Any]) -> None:
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _graphql(url: str, operation: str, variables: dict[str, Any]) -> dict[str, Any]:
    match operation:
        case "Viewer" | "GetDefaultEntity":
            viewer = {"id": "u", "entity": ENTITY, "username": ENTITY, "email": "a@b", "admin": False, "flags": "{}"}
            return {"viewer": viewer | {"teams": {"edges": []}}}
        case "ServerFeaturesQuery":
            return {"serverInfo": {"features": []}}
        case "RunResumeStatus":
            return {"model": None}
        case "ArtifactType":
            return {"project": None}
        case "UpsertBucket":
            return {"upsertBucket": {"bucket": _bucket(variables), "inserted": True}}
        case "CreateRunFiles":
            files = [{"name": name, "uploadUrl": f"{url}/upload/{name}"} for name in variables["files"]]
            return {"createRunFiles": {"runID": "r", "uploadHeaders": [], "files": files}}
        case "CreateArtifact":
            return {"createArtifact": {"artifact": {"id": "a", "state": "PENDING", "artifactSequence": {"latestArtifact": None}}}}
        case "CreateArtifactManifest":
            manifest = {"id": "m", "file": _upload(url, "manifest.json")}
            return {"createArtifactManifest": {"artifactManifest": manifest}}
        case "CreateArtifactFiles":
            edges = [{"node": _upload(url, file["name"])} for file in variables["input"]["artifactFiles"]]
            return {"createArtifactFiles": {"files": {"edges": edges}}}
        case "CommitArtifact":
            return {"commitArtifact": {"artifact": {"id": "a", "digest": "d"}}}
        case _:
            return {}


def _bucket(variables: dict[str, Any]) -> dict[str, Any]:
    project = {"id": "p", "name": variables.get("project"), "entity": {"id": "e", "name": ENTITY}}
    return {
        "id": "UnVuOjE=",
        "name": variables.get("name"),
        "displayName": variables.get("displayName"),
        "description": None,
        "config": "{}",
        "sweepName": None,
        "historyLineCount": 0,
        "project": project,
    }


def _upload(url: str, name: str) -> dict[str, Any]:
    node = {"id": "f", "name": name, "displayName": name, "uploadUrl": f"{url}/upload/{name}", "uploadHeaders": []}
    return node | {"uploadMultipartUrls": None, "storagePath": "s", "artifact": {"id": "a"}}
