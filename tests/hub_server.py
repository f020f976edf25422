"""A server on this machine that speaks the hub's API over HTTP, as far as jaxcl asks for it."""

import base64
import contextlib
import dataclasses
import hashlib
import json
import re
import threading
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

LARGE = (".safetensors", ".bin", ".npz")
"""Files kept apart, by their SHA-256, as the hub does."""


@dataclasses.dataclass
class Repository:
    """Its files, by commit and path, and the commits that its branches name."""

    private: bool = False
    commits: dict[str, dict[str, bytes]] = dataclasses.field(default_factory=dict)
    branches: dict[str, str] = dataclasses.field(default_factory=dict)

    def commit(self, files, branch="main"):
        """Adds files to a branch; returns the commit's name."""
        whole = self.commits.get(self.branches.get(branch, ""), {}) | files
        parts = sorted((name, digest(name, content)) for name, content in whole.items())
        sha = hashlib.sha1(json.dumps([branch, parts]).encode()).hexdigest()
        self.commits[sha] = whole
        self.branches[branch] = sha
        return sha


@dataclasses.dataclass
class Hub:
    """What the server holds, and how it misbehaves."""

    address: str = ""
    token: str = "hf_secret"
    repositories: dict[str, Repository] = dataclasses.field(default_factory=dict)
    uploads: dict[str, bytes] = dataclasses.field(default_factory=dict)
    breaks: dict[str, int] = dataclasses.field(default_factory=dict)
    """How often the connection breaks in the middle of a file, by its name."""
    spoiled: set[str] = dataclasses.field(default_factory=set)
    """Files of which a byte is turned on the way."""
    down: bool = False
    """Whether every answer is 503."""
    asked: list[str] = dataclasses.field(default_factory=list)
    """Methods and paths of requests."""


def digest(name, content):
    """As the hub names the content of a file."""
    if name.endswith(LARGE):
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@contextlib.contextmanager
def serving():
    """A hub on a free port, for as long as it is needed."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    server.daemon_threads = True
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


def _handler(hub):
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        def do_GET(self):
            self._serve("GET")

        def do_HEAD(self):
            self._serve("HEAD")

        def do_POST(self):
            self._serve("POST")

        def do_PUT(self):
            self._serve("PUT")

        def _serve(self, method):
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            path = urllib.parse.unquote(urllib.parse.urlparse(self.path).path)
            hub.asked.append(f"{method} {path}")
            if hub.down:
                return self._answer({"error": "Service Unavailable"}, 503)
            for pattern, wanted, serve in ROUTES:
                match = re.fullmatch(pattern, path)
                if match and method in wanted:
                    return serve(self, body, *match.groups())
            return self._answer({"error": f"no such page: {path}"}, 404)

        def _answer(self, content, status=200, headers=(), *, length=None):
            if not isinstance(content, bytes):
                content = json.dumps(content).encode()
                headers = (*headers, ("Content-Type", "application/json"))
            self.send_response(status)
            for name, value in headers:
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content) if length is None else length))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)
            return True

        def _refuse(self, status, code, said):
            headers = (("X-Error-Code", code), ("X-Error-Message", said))
            self._answer({"error": said}, status, headers)

        def _known(self, name, revision="main"):
            """A repository and a commit of it; None, and an answer, where there is none."""
            repository = hub.repositories.get(name)
            with_token = self.headers.get("Authorization") == f"Bearer {hub.token}"
            if repository is None or (repository.private and not with_token):
                return self._refuse(401, "RepoNotFound", "Repository not found")
            sha = repository.branches.get(revision, revision)
            if sha not in repository.commits:
                return self._refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            return repository, sha

        def _writable(self):
            if self.headers.get("Authorization") == f"Bearer {hub.token}":
                return True
            return self._refuse(401, "", "Invalid username or password.")

        def about(self, _, name, revision="main"):
            found = self._known(name, revision)
            if found is None:
                return
            repository, sha = found
            siblings = []
            for path, content in repository.commits[sha].items():
                oid = digest(path, content)
                size = {"size": len(content)}
                large = {"lfs": {"sha256": oid, "pointerSize": 134, **size}}
                siblings.append(
                    {"rfilename": path, "blobId": oid, **size, **(large if len(oid) == 64 else {})}
                )
            self._answer(
                {"id": name, "sha": sha, "private": repository.private, "siblings": siblings}
            )

        def tree(self, _, name, revision):
            found = self._known(name, revision)
            if found is None:
                return
            repository, sha = found
            self._answer(
                [
                    {"type": "file", "path": path, "size": len(content), "oid": oid}
                    | (
                        {"lfs": {"oid": oid, "size": len(content), "pointerSize": 134}}
                        if len(oid) == 64
                        else {}
                    )
                    for path, content in repository.commits[sha].items()
                    for oid in [digest(path, content)]
                ]
            )

        def resolve(self, _, name, revision, path):
            found = self._known(name, revision)
            if found is None:
                return
            repository, sha = found
            content = repository.commits[sha].get(path)
            if content is None:
                self._refuse(404, "EntryNotFound", "Entry not found")
                return
            headers = [
                ("X-Repo-Commit", sha),
                ("ETag", f'"{digest(path, content)}"'),
                ("X-Linked-Etag", f'"{digest(path, content)}"'),
                ("X-Linked-Size", str(len(content))),
                ("Accept-Ranges", "bytes"),
            ]
            if path in hub.spoiled:
                content = content[:-1] + bytes([content[-1] ^ 1])
            status, start = 200, 0
            if asked := re.match(r"bytes=(\d+)-", self.headers.get("Range") or ""):
                status, start = 206, int(asked[1])
                headers.append(
                    ("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
                )
            rest = content[start:]
            if self.command == "GET" and hub.breaks.get(path, 0) > 0:
                hub.breaks[path] -= 1
                self._answer(rest[: len(rest) // 2], status, headers, length=len(rest))
                self.close_connection = True
                return
            self._answer(rest, status, headers)

        def create(self, body):
            if not self._writable():
                return
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            url = {"url": f"{hub.address}/{name}"}
            if name in hub.repositories:
                self._answer(url | {"error": "You already created this model repo"}, 409)
                return
            private = asked.get("private") or asked.get("visibility") == "private"
            hub.repositories[name] = Repository(bool(private))
            hub.repositories[name].commit({".gitattributes": b""})
            self._answer(url)

        def card(self, _):
            self._answer({"errors": [], "warnings": []})

        def preupload(self, body, name, revision):
            if self._known(name, revision) is None:
                return
            self._answer(
                {
                    "files": [
                        {
                            "path": file["path"],
                            "uploadMode": "lfs" if file["path"].endswith(LARGE) else "regular",
                            "shouldIgnore": False,
                        }
                        for file in json.loads(body)["files"]
                    ]
                }
            )

        def batch(self, body, name):
            if self._known(name) is None or not self._writable():
                return
            objects = [
                {
                    "oid": one["oid"],
                    "size": one["size"],
                    "actions": {"upload": {"href": f"{hub.address}/upload/{one['oid']}"}},
                }
                for one in json.loads(body)["objects"]
            ]
            self._answer({"transfer": "basic", "objects": objects})

        def upload(self, body, oid):
            assert hashlib.sha256(body).hexdigest() == oid
            hub.uploads[oid] = body
            self._answer({})

        def commit(self, body, name, revision):
            found = self._known(name, revision)
            if found is None or not self._writable():
                return
            files = {}
            for line in body.splitlines():
                entry = json.loads(line)
                value = entry["value"]
                if entry["key"] == "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                elif entry["key"] == "lfsFile":
                    files[value["path"]] = hub.uploads[value["oid"]]
            sha = found[0].commit(files, revision)
            self._answer(
                {
                    "success": True,
                    "commitOid": sha,
                    "commitUrl": f"{hub.address}/{name}/commit/{sha}",
                    "hookOutput": "",
                }
            )

    name = r"([\w.-]+/[\w.-]+)"
    ROUTES = [
        (r"/api/repos/create", ("POST",), Handler.create),
        (r"/api/validate-yaml", ("POST",), Handler.card),
        (rf"/api/models/{name}/preupload/(.+)", ("POST",), Handler.preupload),
        (rf"/api/models/{name}/commit/(.+)", ("POST",), Handler.commit),
        (rf"/api/models/{name}/tree/([^/]+)", ("GET",), Handler.tree),
        (rf"/api/models/{name}/revision/(.+)", ("GET",), Handler.about),
        (rf"/api/models/{name}", ("GET",), Handler.about),
        (rf"/{name}\.git/info/lfs/objects/batch", ("POST",), Handler.batch),
        (r"/upload/(\w+)", ("PUT",), Handler.upload),
        (rf"/{name}/resolve/([^/]+)/(.+)", ("GET", "HEAD"), Handler.resolve),
    ]
    return Handler
