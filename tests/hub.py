"""A stand-in for a Hugging Face hub: serves folders as repositories and misbehaves on demand.

Standard library only, so a pod can run this one file: `python hub.py --root DIR --port 8000` serves
DIR/ORG/NAME as hf://ORG/NAME.
"""

import argparse
import hashlib
import json
import re
import signal
import ssl
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from urllib.parse import parse_qs, quote, unquote, urlsplit

PIECE = 64 << 10
LFS_SUFFIXES = {".safetensors", ".bin", ".model"}
BAD_TOKEN = "Invalid credentials in Authorization header"


@dataclass
class Fault:
    """How the next answer to a request for a file differs from a good one."""

    status: int = 0
    """Answer with this status and nothing else."""
    headers: dict[str, str] = field(default_factory=dict)
    drop_after: int | None = None
    """Cut the connection after so many bytes of the answer."""
    end_after: int | None = None
    """End the answer politely after so many bytes."""
    corrupt: bool = False
    """Change the first byte."""
    no_range: bool = False
    """Send everything, whatever part was asked for."""
    stall: bool = False
    """Send nothing until the hub closes."""
    longer: bool = False
    """Send one byte too many."""
    at_cdn: bool = False
    """Strike at the file server instead of the hub, when there is one."""


@dataclass
class Repo:
    """One repository."""

    folder: Path
    gated: bool = False
    """Listed to everybody, read only by accounts in `allowed`."""
    private: bool = False
    allowed: set[str] = field(default_factory=set)
    """Tokens of accounts that may read it."""
    revisions: set[str] = field(default_factory=lambda: {"main"})
    faults: dict[str, deque[Fault]] = field(default_factory=dict)
    """Per file name; "" stands for the listing."""
    extra_siblings: list[dict[str, object]] = field(default_factory=list)
    rate: float | None = None
    """Bytes per second of one answer; a change counts for answers that have begun, too."""

    def files(self) -> dict[str, bytes]:
        paths = sorted(path for path in self.folder.rglob("*") if path.is_file())
        return {path.relative_to(self.folder).as_posix(): path.read_bytes() for path in paths}

    @property
    def sha(self) -> str:
        content = hashlib.sha1()
        for name, data in self.files().items():
            content.update(name.encode() + hashlib.sha1(data).digest())
        return content.hexdigest()

    def fault(self, name: str, *faults: Fault) -> None:
        """Queue faults for a file; each strikes once."""
        self.faults.setdefault(name, deque()).extend(faults)

    def listing(self) -> dict[str, object]:
        siblings = [sibling(name, data) for name, data in self.files().items()]
        return {"sha": self.sha, "siblings": [*siblings, *self.extra_siblings]}


def sibling(name: str, data: bytes) -> dict[str, object]:
    item: dict[str, object] = {
        "rfilename": name,
        "size": len(data),
        "blobId": hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest(),
    }
    if Path(name).suffix in LFS_SUFFIXES:
        item["lfs"] = {
            "sha256": hashlib.sha256(data).hexdigest(),
            "size": len(data),
            "pointerSize": 134,
        }
    return item


@dataclass(frozen=True)
class Request:
    """A request as it came in."""

    port: int
    path: str
    headers: dict[str, str]


class Hub:
    """The hub as a server on loopback, with a file server on a second port if asked for."""

    def __init__(
        self,
        *,
        cdn: bool = False,
        host: str = "127.0.0.1",
        port: int = 0,
        tls: ssl.SSLContext | None = None,
    ):
        self.repos: dict[str, Repo] = {}
        self.tokens: set[str] = set()
        """Tokens of accounts that exist; those that a repository allows are among them."""
        self.whoami_status: int | None = None
        self.requests: list[Request] = []
        self.closing = threading.Event()
        self._servers = [_Server((host, port), self)]
        if cdn:
            self._servers.append(_Server((host, 0), self))
        self._scheme = "http" if tls is None else "https"
        for server in self._servers if tls is not None else ():
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        self._threads = [
            threading.Thread(target=server.serve_forever, args=(0.05,)) for server in self._servers
        ]

    @property
    def url(self) -> str:
        return self._address(self._servers[0])

    @property
    def cdn_url(self) -> str | None:
        return self._address(self._servers[1]) if len(self._servers) > 1 else None

    def add(self, name: str, folder: Path, **settings: object) -> Repo:
        """Serve a folder as hf://NAME."""
        repo = Repo(folder, **settings)  # type: ignore[arg-type]
        self.repos[name] = repo
        self.tokens |= repo.allowed
        return repo

    def asked(self, part: str) -> list[Request]:
        """The requests whose path has this part."""
        return [request for request in self.requests if part in request.path]

    def __enter__(self) -> "Hub":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.closing.set()
        for server in self._servers:
            server.shutdown()
            server.server_close()
        for thread in self._threads:
            thread.join()

    def _address(self, server: ThreadingHTTPServer) -> str:
        host, port = server.server_address[:2]
        return f"{self._scheme}://{host!s}:{port}"


class _Server(ThreadingHTTPServer):
    def __init__(self, address: tuple[str, int], hub: Hub):
        self.hub = hub
        super().__init__(address, _Handler)

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is no error here."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_GET(self) -> None:
        hub = self.server.hub
        port = int(self.server.server_address[1])
        hub.requests.append(Request(port, self.path, dict(self.headers.items())))
        url = urlsplit(self.path)
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/revision/([^/]+)", url.path):
            self._listing(
                match[1], unquote(match[2]), "true" in parse_qs(url.query).get("blobs", [])
            )
        elif match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", url.path):
            self._resolve(match[1], unquote(match[2]), unquote(match[3]))
        elif match := re.fullmatch(r"/cdn/([^/]+/[^/]+)/(.+)", url.path):
            self._cdn(match[1], unquote(match[2]), url.query)
        elif url.path == "/api/whoami-v2":
            known = self._token() in hub.tokens
            self._empty(hub.whoami_status or (200 if known else 401))
        else:
            self._empty(404)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: `requests` remembers them."""

    def _token(self) -> str:
        return self.headers.get("Authorization", "").removeprefix("Bearer ")

    def _repo(self, name: str, revision: str) -> Repo | None:
        """Find what the client may know of; answers for what it may not."""
        repo, token = self.server.hub.repos.get(name), self._token()
        if token and token not in self.server.hub.tokens:
            self._refuse(401, "", BAD_TOKEN)
        elif repo is None or (repo.private and token not in repo.allowed):
            # Whoever is not logged in is not even told that there is nothing.
            self._refuse(404 if token else 401, "RepoNotFound", "Repository not found")
        elif revision not in repo.revisions | {repo.sha}:
            self._refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        else:
            return repo
        return None

    def _listing(self, name: str, revision: str, blobs: bool) -> None:
        repo = self._repo(name, revision)
        if repo is None or self._strike(repo, ""):
            return
        listing = repo.listing()
        if not blobs:
            listing["siblings"] = [{"rfilename": file} for file in repo.files()]
        self._send(json.dumps(listing).encode())

    def _resolve(self, name: str, revision: str, file: str) -> None:
        repo, cdn = self._repo(name, revision), self.server.hub.cdn_url
        if repo is None:
            return
        token = self._token()
        if repo.gated and token not in repo.allowed:
            message = f"Access to model {name} is restricted"
            self._refuse(403 if token else 401, "GatedRepo", message)
        elif file not in repo.files():
            self._refuse(404, "EntryNotFound", "Entry not found")
        elif cdn is None:
            self._file(repo, file)
        elif (queue := repo.faults.get(file)) and queue[0].status and not queue[0].at_cdn:
            self._strike(repo, file)
        else:
            # As object stores sign: the spelling of the address is part of the signature.
            location = f"{cdn}/cdn/{name}/{quote(file)}?X-Signature=a%2Fb%7Ec"
            self._empty(302, {"Location": location})

    def _cdn(self, name: str, file: str, query: str) -> None:
        if "Authorization" in self.headers or query != "X-Signature=a%2Fb%7Ec":
            self._empty(400)
        else:
            self._file(self.server.hub.repos[name], file)

    def _strike(self, repo: Repo, file: str) -> bool:
        """Answer with the queued status, if the next fault has one."""
        queue = repo.faults.get(file)
        if not queue or not queue[0].status:
            return False
        fault = queue.popleft()
        self._empty(fault.status, fault.headers)
        return True

    def _file(self, repo: Repo, file: str) -> None:
        if self._strike(repo, file):
            return
        queue = repo.faults.get(file)
        fault = queue.popleft() if queue else Fault()
        data = repo.files()[file]
        if fault.longer:
            data += b"!"
        match = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = int(match[1]) if match and not fault.no_range else 0
        if start and start >= len(data):
            self._empty(416, {"Content-Range": f"bytes */{len(data)}"})
            return
        body = data[start:]
        if fault.corrupt and body:
            body = bytes([body[0] ^ 0xFF]) + body[1:]
        self.send_response(206 if match and not fault.no_range else 200)
        if match and not fault.no_range:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        if fault.end_after is None:
            self.send_header("Content-Length", str(len(body)))
        else:  # without a length the end of the connection is the end of the answer
            self.send_header("Connection", "close")
        self.end_headers()
        if fault.stall:
            self.wfile.flush()
            self.server.hub.closing.wait()
        limit = fault.drop_after if fault.drop_after is not None else fault.end_after
        self._pieces(body if limit is None else body[:limit], repo)
        if limit is not None:
            self.close_connection = True

    def _pieces(self, body: bytes, repo: Repo) -> None:
        for piece in _split(body):
            self.wfile.write(piece)
            if repo.rate is not None:
                time.sleep(len(piece) / repo.rate)
        self.wfile.flush()

    def _refuse(self, status: int, code: str, message: str) -> None:
        headers = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})
        self._empty(status, headers)

    def _empty(self, status: int, headers: dict[str, str] | None = None) -> None:
        self._send(b"", status, headers)

    def _send(self, body: bytes, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _split(body: bytes) -> Iterator[bytes]:
    for start in range(0, len(body), PIECE):
        yield body[start : start + PIECE]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--host", default="")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--rate", type=float, help="bytes per second of one answer")
    parser.add_argument("--gated", action="append", default=[], metavar="ORG/NAME")
    parser.add_argument("--private", action="append", default=[], metavar="ORG/NAME")
    parser.add_argument("--token", action="append", default=[], help="may read everything")
    args = parser.parse_args()
    with Hub(host=args.host, port=args.port) as hub:
        hub.tokens |= set(args.token)
        for folder in sorted(args.root.glob("*/*")):
            name = folder.relative_to(args.root).as_posix()
            hub.add(
                name,
                folder,
                gated=name in args.gated,
                private=name in args.private,
                allowed=set(args.token),
                rate=args.rate,
            )
        signal.signal(signal.SIGTERM, lambda *_: hub.closing.set())
        print(f"{hub.url} serves {', '.join(hub.repos) or 'nothing'}", flush=True)
        hub.closing.wait()


if __name__ == "__main__":
    main()
