"""A hub on 127.0.0.1 that keeps models in memory: what huggingface_hub asks for when it creates, commits, lists and downloads."""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

COMMIT = "a" * 40
DENIED = "denied"  # the owner of models whose files are not taken
REFUSED = "my-own"  # a licence that is not in the hub's list


@dataclass
class ModelHub:
    """What the server has and has heard."""

    url: str = ""
    token: str = "hf_secret"
    models: dict[str, dict[str, bytes]] = field(default_factory=dict)  # repository -> file -> content
    visibility: dict[str, str] = field(default_factory=dict)
    large: dict[str, bytes] = field(default_factory=dict)  # by SHA-256, before they are committed
    requests: list[str] = field(default_factory=list)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: ModelHub

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_POST(self) -> None:
        body = self.heard()
        if self.headers["Authorization"] != f"Bearer {self.hub.token}":
            self.answer(401, {"error": "Unauthorized"})
        elif self.path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            known = name in self.hub.models
            self.hub.models.setdefault(name, {})
            self.hub.visibility.setdefault(name, asked.get("visibility", "public"))
            self.answer(409 if known else 200, {"url": f"{self.hub.url}/{name}", "name": name})
        elif self.path == "/api/validate-yaml":
            wrong = (
                [{"message": '"license" must be one of the list'}]
                if f'"{REFUSED}"' in json.loads(body)["content"]
                else []
            )
            self.answer(400 if wrong else 200, {"errors": wrong, "warnings": []})
        elif "/preupload/" in self.path:
            files = [each["path"] for each in json.loads(body)["files"]]
            modes = {path: "lfs" if path.endswith(".safetensors") else "regular" for path in files}
            self.answer(
                200, {"files": [{"path": path, "uploadMode": modes[path], "shouldIgnore": False} for path in files]}
            )
        elif self.path.endswith("/info/lfs/objects/batch"):
            objects = json.loads(body)["objects"]
            actions = {
                each["oid"]: {"upload": {"href": f"{self.hub.url}/lfs{self.path.partition('.git')[0]}/{each['oid']}"}}
                for each in objects
            }
            self.answer(
                200, {"transfer": "basic", "objects": [{**each, "actions": actions[each["oid"]]} for each in objects]}
            )
        elif found := re.fullmatch(r"/api/models/(.+)/commit/main", self.path):
            model = self.hub.models[found[1]]
            for line in body.splitlines():
                entry = json.loads(line)
                value = entry["value"]
                if entry["key"] == "file":
                    model[value["path"]] = base64.b64decode(value["content"])
                elif entry["key"] == "lfsFile":
                    model[value["path"]] = self.hub.large[value["oid"]]
            self.answer(200, {"commitUrl": f"{self.hub.url}/{found[1]}/commit/{COMMIT}", "commitOid": COMMIT})
        else:
            self.answer(404, {"error": self.path})

    def do_PUT(self) -> None:
        content = self.heard()
        if DENIED in self.path:
            self.answer(403, {"error": "no"})
            return
        self.hub.large[hashlib.sha256(content).hexdigest()] = content
        self.answer(200, {})

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.heard()
        path = urlsplit(self.path).path
        model = next((name for name in self.hub.models if f"/{name}/" in path), None)
        if model is None or (self.hub.visibility[model] == "private" and self.headers["Authorization"] is None):
            self.answer(401, {"error": "Repository not found"}, **{"X-Error-Code": "RepoNotFound"})
            return
        files = self.hub.models[model]
        rest = path.partition(f"/{model}/")[2].split("/")
        if rest[-1] not in ("main", COMMIT) and rest[0] in ("revision", "tree"):
            self.answer(404, {"error": "Revision not found"}, **{"X-Error-Code": "RevisionNotFound"})
        elif rest[0] == "revision":
            self.answer(
                200, {"id": model, "modelId": model, "sha": COMMIT, "siblings": [{"rfilename": name} for name in files]}
            )
        elif rest[0] == "tree":
            self.answer(200, [
                {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                for name, content in files.items()
            ])  # fmt: skip
        else:
            content = files[rest[-1]]
            self.send(200, content, {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": COMMIT})

    def heard(self) -> bytes:
        self.hub.requests.append(f"{self.command} {urlsplit(self.path).path}")
        return self.rfile.read(int(self.headers["Content-Length"] or 0))

    def answer(self, status: int, content: Any, **headers: str) -> None:
        self.send(status, json.dumps(content).encode(), {"Content-Type": "application/json", **headers})

    def send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


@contextmanager
def model_hub() -> Iterator[ModelHub]:
    state = ModelHub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("HubHandler", (Handler,), {"hub": state}))
    state.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield state
    server.shutdown()
    server.server_close()
    thread.join()
