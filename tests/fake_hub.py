"""A Hugging Face hub on loopback: real bytes, commits and LFS objects, spoken to over HTTP.

It answers the routes that huggingface_hub uses to make a repository, commit, list and download,
as the hub does; anything else is a 404 that names the route. ``tests`` may plant what a push never
would: hostile files, gated repositories, an answer of any status.
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

Files = dict[str, bytes]


@dataclass
class Repository:
    """Its branches, and the files of each commit."""

    branches: dict[str, str] = field(default_factory=dict)
    commits: dict[str, Files] = field(default_factory=dict)
    gated: bool = False
    visibility: str | None = None

    def commit(self, branch: str, files: Files) -> str:
        before = self.branches.get(branch, "")
        listed = sorted((name, hashlib.sha1(data).hexdigest()) for name, data in files.items())
        sha = hashlib.sha1(f"{before}{listed}{len(self.commits)}".encode()).hexdigest()
        self.commits[sha], self.branches[branch] = files, sha
        return sha

    def find(self, revision: str) -> str | None:
        sha = self.branches.get(revision, revision)
        return sha if sha in self.commits else None


class FakeHub:
    """The hub's state and its server.

    Attributes:
        repositories: id -> repository; a test may add to it.
        claimed_sizes: file name -> the size that is told of it instead of the true one.
        refuse: path prefix -> the status to answer there.
        meanwhile: path prefix -> what happens just before that request is answered.
        sent: the names of the files that were downloaded.
        requests: methods and paths, in order.
    """

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.objects: dict[str, bytes] = {}
        self.claimed_sizes: dict[str, int] = {}
        self.refuse: dict[str, int] = {}
        self.meanwhile: dict[str, Callable[[], object]] = {}
        self.sent: list[str] = []
        self.requests: list[str] = []
        hub = self
        self.server = ThreadingHTTPServer(
            ("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub})
        )
        self.server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def plant(self, repo_id: str, files: Files) -> str:
        """Put a commit on ``main`` of a repository, as its author might have pushed it."""
        return self.repositories.setdefault(repo_id, Repository()).commit("main", dict(files))


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._answer()

    do_HEAD = do_POST = do_PUT = do_GET  # noqa: N815

    def _answer(self) -> None:
        url = urlsplit(self.path)
        path, self.query = unquote(url.path), parse_qs(url.query)
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.hub.requests.append(f"{self.command} {path}")
        for prefix, status in self.hub.refuse.items():
            if path.startswith(prefix):
                code = {401: "RepoNotFound"}.get(status, "Refused")  # the hub hides private ones so
                return self._error(status, code, "refused by the test")
        for prefix in [p for p in self.hub.meanwhile if path.startswith(p)]:
            self.hub.meanwhile.pop(prefix)()
        parts = path.strip("/").split("/")
        if path == "/api/validate-yaml":
            return self._json({"errors": [], "warnings": []})
        if path == "/api/repos/create":
            return self._create()
        if path == "/api/models":
            return self._list()
        if parts[0] == "lfs" and self.command == "PUT":
            assert hashlib.sha256(self.body).hexdigest() == parts[1]
            self.hub.objects[parts[1]] = self.body
            return self._send(200, b"")
        if path.endswith(".git/info/lfs/objects/batch"):
            return self._batch()
        if parts[:2] == ["api", "models"] and len(parts) >= 4:
            return self._model("/".join(parts[2:4]), parts[4:])
        if len(parts) >= 5 and parts[2] == "resolve":
            return self._resolve("/".join(parts[:2]), parts[3], "/".join(parts[4:]))
        return self._error(404, "NoRoute", f"the fake hub has no route {self.command} {path}")

    def _create(self) -> None:
        asked = json.loads(self.body)
        repo_id = f"{asked['organization']}/{asked['name']}"
        answer = {"url": f"{self.hub.endpoint}/{repo_id}"}
        if repo_id in self.hub.repositories:
            return self._json({**answer, "error": "You already created this model repo"}, 409)
        self.hub.plant(repo_id, {".gitattributes": b"*.safetensors filter=lfs\n"})
        self.hub.repositories[repo_id].visibility = asked.get("visibility")
        return self._json(answer)

    def _list(self) -> None:
        (author,), tags = self.query["author"], self.query.get("filter", [])
        found = [
            {"id": repo_id, "modelId": repo_id, "tags": tags, "private": False}
            for repo_id, repo in self.hub.repositories.items()
            if repo_id.split("/")[0] == author
            and all(f"- {tag}\n".encode() in self._card(repo) for tag in tags)
        ]
        self._json(found)

    @staticmethod
    def _card(repo: Repository) -> bytes:
        return repo.commits[repo.branches["main"]].get("README.md", b"").split(b"---\n\n")[0]

    def _batch(self) -> None:
        objects = [
            {
                **asked,
                "actions": {"upload": {"href": f"{self.hub.endpoint}/lfs/{asked['oid']}"}},
            }
            for asked in json.loads(self.body)["objects"]
        ]
        self._json({"transfer": "basic", "objects": objects})

    def _model(self, repo_id: str, rest: list[str]) -> None:
        repo = self.hub.repositories.get(repo_id)
        if repo is None:
            return self._error(404, "RepoNotFound", "Repository not found")
        action, revision = (rest[0], "/".join(rest[1:])) if rest else ("revision", "main")
        if action == "branch":
            repo.branches[revision] = repo.branches["main"]
            return self._json({})
        sha = repo.find(revision)
        if sha is None:
            return self._error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        if action == "revision":
            siblings = [
                {"rfilename": name, "size": self._size(name, data)}
                for name, data in repo.commits[sha].items()
            ]
            return self._json({"id": repo_id, "modelId": repo_id, "sha": sha, "siblings": siblings})
        if action == "tree":
            return self._json([self._entry(n, d) for n, d in repo.commits[sha].items()])
        if action == "preupload":
            names = [file["path"] for file in json.loads(self.body)["files"]]
            return self._json({"files": [self._mode(name, repo.commits[sha]) for name in names]})
        if action == "commit":
            return self._commit(repo_id, repo, revision)
        return self._error(404, "NoRoute", f"the fake hub has no route for {action!r}")

    @staticmethod
    def _mode(name: str, there: Files) -> dict[str, Any]:
        mode = "lfs" if name.endswith(".safetensors") else "regular"
        known = {"oid": _oid(name, there[name])} if name in there else {}
        return {"path": name, "uploadMode": mode, "shouldIgnore": False, **known}

    def _commit(self, repo_id: str, repo: Repository, branch: str) -> None:
        lines = [json.loads(line) for line in self.body.splitlines()]
        parent = lines[0]["value"].get("parentCommit")
        if parent is not None and parent != repo.branches[branch]:
            return self._error(412, "Conflict", "A commit has happened since. Please refresh")
        files = dict(repo.commits[repo.branches[branch]])
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.objects[value["oid"]]
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        answer = {}
        if "create_pr" in self.query:
            branch = f"refs/pr/{sum(name.startswith('refs/pr/') for name in repo.branches) + 1}"
            number = branch.rsplit("/", 1)[1]
            answer["pullRequestUrl"] = f"{self.hub.endpoint}/{repo_id}/discussions/{number}"
        sha = repo.commit(branch, files)
        url = f"{self.hub.endpoint}/{repo_id}/commit/{sha}"
        return self._json({"commitUrl": url, "commitOid": sha, **answer})

    def _entry(self, name: str, data: bytes) -> dict[str, Any]:
        size = self._size(name, data)
        entry = {"type": "file", "path": name, "size": size, "oid": _git_oid(data)}
        if name.endswith(".safetensors"):
            entry["lfs"] = {"oid": _oid(name, data), "size": size, "pointerSize": 130}
        return entry

    def _size(self, name: str, data: bytes) -> int:
        return self.hub.claimed_sizes.get(name, len(data))

    def _resolve(self, repo_id: str, revision: str, name: str) -> None:
        repo = self.hub.repositories.get(repo_id)
        if repo is None:
            return self._error(404, "RepoNotFound", "Repository not found")
        if repo.gated:
            return self._error(403, "GatedRepo", "Access to this model is restricted")
        sha = repo.find(revision)
        if sha is None:
            return self._error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        data = repo.commits[sha].get(name)
        if data is None:
            return self._error(404, "EntryNotFound", "Entry not found")
        if self.command == "GET":
            self.hub.sent.append(name)
        return self._send(200, data, {"X-Repo-Commit": sha, "ETag": f'"{_oid(name, data)}"'})

    def _error(self, status: int, code: str, message: str) -> None:
        self._json({"error": message}, status, {"X-Error-Code": code, "X-Error-Message": message})

    def _json(self, value: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        kind = {"Content-Type": "application/json"}
        self._send(status, json.dumps(value).encode(), kind | (headers or {}))

    def _send(self, status: int, data: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


def _oid(name: str, data: bytes) -> str:
    return hashlib.sha256(data).hexdigest() if name.endswith(".safetensors") else _git_oid(data)


def _git_oid(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
