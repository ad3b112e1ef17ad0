"""What the hub on the loopback does with uploads: accounts, new repositories, large files sent to the store, commits."""

import base64
import json
import re
from urllib.parse import urlsplit


class Uploads:
    """The part of the request handler that changes repositories; `hub.accounts` says which token writes as whom."""

    def answer_upload(self, path: str, body: bytes) -> bool:
        """Whether the request was one of these; it is answered then."""
        repo = r"([^/]+/[^/]+?)"
        ways = (
            ("GET", "/api/whoami-v2", self.whoami),
            ("POST", "/api/repos/create", self.create),
            ("POST", "/api/validate-yaml", self.validate),
            ("POST", f"/api/models/{repo}/preupload/main", self.preupload),
            ("POST", rf"/{repo}\.git/info/lfs/objects/batch", self.batch),
            ("PUT", "/upload/([0-9a-f]{64})", self.keep),
            ("POST", f"/api/models/{repo}/commit/main", self.commit),
        )
        for method, pattern, answer in ways:
            if self.command == method and (match := re.fullmatch(pattern, path)):
                answer(body, *match.groups())
                return True
        return False

    def account(self) -> str | None:
        """Who asks; None after a refusal has been sent."""
        name = self.hub.accounts.get((self.headers.get("Authorization") or "").removeprefix("Bearer "))
        if name is None:
            self.send_json(401, {"error": f"Invalid credentials; you sent {self.headers.get('Authorization')}"})
        return name

    def writes(self, repo: str) -> bool:
        """Whether who asks may write there; a refusal has been sent otherwise."""
        name = self.account()
        if name is not None and repo.partition("/")[0] != name:
            self.send_json(403, {"error": f"You don't have the rights to create a model under the namespace {repo.partition('/')[0]}"})
            return False
        return name is not None

    def whoami(self, body: bytes) -> None:
        if (name := self.account()) is not None:
            self.send_json(200, {"type": "user", "name": name})

    def create(self, body: bytes) -> None:
        asked = json.loads(body)
        repo = f"{asked['organization']}/{asked['name']}"
        if not self.writes(repo):
            return
        url = {"url": f"{self.hub.url}/{repo}"}
        if f"models/{repo}" in self.hub.repositories:
            self.send_json(409, {"error": "You already created this model repo", **url})
            return
        self.hub.push(repo, {".gitattributes": b"*.safetensors filter=lfs\n"})
        self.hub.repositories[f"models/{repo}"].private = asked["visibility"] == "private"
        self.send_json(200, url)

    def validate(self, body: bytes) -> None:
        assert json.loads(body)["content"].startswith("---\n"), "a card begins with what the hub reads"
        self.send_json(200, {"warnings": [], "errors": []})

    def preupload(self, body: bytes, repo: str) -> None:
        if self.writes(repo):
            files = json.loads(body)["files"]
            modes = ["lfs" if file["path"].endswith(".safetensors") else "regular" for file in files]
            told = [{"path": f["path"], "uploadMode": mode, "shouldIgnore": False} for f, mode in zip(files, modes, strict=True)]
            self.send_json(200, {"files": told})

    def batch(self, body: bytes, repo: str) -> None:
        if self.writes(repo):
            objects = json.loads(body)["objects"]
            told = [{**one, "actions": {"upload": {"href": f"{self.hub.url}/upload/{one['oid']}"}}} for one in objects]
            self.send_json(200, {"transfer": "basic", "objects": told})

    def keep(self, body: bytes, oid: str) -> None:
        self.hub.uploaded[oid] = body
        self.send(200, b"", {})

    def commit(self, body: bytes, repo: str) -> None:
        if not self.writes(repo):
            return
        lines = [json.loads(line) for line in body.splitlines()]
        files = dict(self.hub.files(repo))
        for value in (line["value"] for line in lines if line["key"] in ("file", "lfsFile")):
            files[value["path"]] = self.hub.uploaded[value["oid"]] if "oid" in value else base64.b64decode(value["content"])
        commit = self.hub.push(repo, files)
        address = urlsplit(self.hub.url)._replace(path=f"/{repo}/commit/{commit}").geturl()
        self.send_json(200, {"success": True, "commitUrl": address, "commitOid": commit})
