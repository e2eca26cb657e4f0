"""A model hub on this machine: as much of the Hugging Face Hub's interface as its client uses for small files."""

import base64
import json
import re
import threading
from contextlib import contextmanager
from hashlib import sha1
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

TOKEN = "hf_of_the_test"
COMMIT = "0" * 39 + "1"


class Hub:
    """What it holds: files and privacy of each repository."""

    def __init__(self):
        self.files, self.private, self.messages, self.url = {}, {}, [], ""


class Handler(BaseHTTPRequestHandler):
    """Answers as the hub does; who brings no token sees no repository."""

    protocol_version = "HTTP/1.1"

    @property
    def hub(self):
        return self.server.hub

    def log_message(self, *_):
        pass

    def send(self, status, body=b"", **headers):
        body = json.dumps(body).encode() if isinstance(body, (dict, list)) else body
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = urlsplit(self.path).path
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.send(401, {"error": "Invalid username or password."})
        if path == "/api/validate-yaml":
            return self.send(200, {"errors": [], "warnings": []})
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else asked["name"]
            self.hub.files.setdefault(name, {})
            self.hub.private[name] = asked.get("private", asked.get("visibility") == "private")
            return self.send(200, {"url": f"{self.hub.url}/{name}"})
        name, action = re.fullmatch(r"/api/models/([^/]+/[^/]+)/(preupload|commit)/main", path).groups()
        if action == "preupload":
            files = [
                {"path": one["path"], "uploadMode": "regular", "shouldIgnore": False, "oid": None}
                for one in json.loads(body)["files"]
            ]
            return self.send(200, {"files": files})
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "header":
                self.hub.messages.append(line["value"]["summary"])
            else:
                self.hub.files[name][line["value"]["path"]] = base64.b64decode(line["value"]["content"])
        url = f"{self.hub.url}/{name}/commit/{COMMIT}"
        return self.send(200, {"success": True, "commitOid": COMMIT, "commitUrl": url, "hookOutput": ""})

    def do_GET(self):
        path = urlsplit(self.path).path
        if told := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/([^/]+))?", path):
            name, revision = told.groups()
            if name not in self.hub.files:
                return self.send(404, {"error": "Repository not found"}, X_Error_Code="RepoNotFound")
            if revision not in (None, "main", COMMIT):
                return self.send(404, {"error": "Invalid rev id"}, X_Error_Code="RevisionNotFound")
            files = [{"rfilename": file, "size": len(held)} for file, held in self.hub.files[name].items()]
            return self.send(200, {"id": name, "sha": COMMIT, "siblings": files, "tags": [], "private": True})
        if told := re.fullmatch(r"/([^/]+/[^/]+)/resolve/[^/]+/(.+)", path):
            held = self.hub.files.get(told[1], {}).get(told[2])
            if held is None:
                return self.send(404, b"", X_Error_Code="EntryNotFound")
            return self.send(200, held, ETag=f'"{sha1(held).hexdigest()}"', X_Repo_Commit=COMMIT)
        return self.send(404, {"error": f"no {path}"})

    do_HEAD = do_GET


@contextmanager
def running_hub():
    """A hub that listens on a free port of loopback."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.hub = Hub()
    server.hub.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.hub
    finally:
        server.shutdown()
        server.server_close()
