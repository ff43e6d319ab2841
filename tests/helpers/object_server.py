"""An object store on 127.0.0.1 that other hands keep (moto's S3), and a proxy before it that loses, delays, cuts and refuses.

client ─▶ Proxy ─ rules ─▶ moto's server, a process of its own
"""

import hashlib
import http.client
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from html import escape, unescape
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal
from urllib.parse import parse_qsl, unquote

BUCKET = "bucket"
SECRET = "not-to-be-printed-0123456789"
What = Literal["lose answer", "drop", "503", "501", "full", "cut", "stall", "expired", "denied"]
_ANSWERS = {
    "503": (503, b"<Error><Code>SlowDown</Code></Error>"),
    "501": (501, b"<Error><Code>NotImplemented</Code></Error>"),
    "full": (507, b"<Error><Code>XMinioStorageFull</Code></Error>"),
    "expired": (400, b"<Error><Code>ExpiredToken</Code><Message>The provided token has expired.</Message></Error>"),
    "denied": (403, b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"),
}


_LOCK = threading.Lock()
Response = tuple[int, dict[str, str], bytes]
_XML = {"Content-Type": "application/xml"}


class Objects:
    """One bucket in memory, which answers as S3 does."""

    def __init__(self) -> None:
        self.found: dict[str, tuple[bytes, str, str]] = {}  # key -> content, e_tag, time
        self.parts: dict[str, dict[int, bytes]] = {}  # uploads that are under way
        self.lock = threading.Lock()
        self.unlisted = "(?!)"  # keys that listings leave out

    def answer(self, method: str, path: str, headers: dict[str, str], body: bytes) -> Response:
        place, _, query = path.partition("?")
        bucket, _, key = unquote(place).lstrip("/").partition("/")
        if bucket != BUCKET:
            return 404, _XML, b"<Error><Code>NoSuchBucket</Code></Error>"
        if method == "GET" and not key:
            return 200, _XML, self.listing(dict(parse_qsl(query)))
        if key and ("uploads" in query or "uploadId" in query):
            return self.in_parts(method, key, query, body)
        with self.lock:
            known = self.found.get(key)
            if method == "PUT":
                expected = headers.get("if-match")
                exists = known is not None and headers.get("if-none-match") == "*"
                if exists or (expected is not None and (known is None or known[1] != expected)):
                    return 412, _XML, b"<Error><Code>PreconditionFailed</Code></Error>"
                if (wanted := headers.get("if-match")) is not None and (known is None or known[1] != wanted):
                    return 412, _XML, b"<Error><Code>PreconditionFailed</Code></Error>"
                e_tag = f'"{hashlib.md5(body).hexdigest()}"'
                self.found[key] = body, e_tag, formatdate(usegmt=True)
                return 200, {"ETag": e_tag}, b""
            if method == "POST":  # obstore deletes in bulk
                keys = re.findall("<Key>(.*?)</Key>", body.decode())
                for one in keys:
                    self.found.pop(unescape(one), None)
                deleted = "".join(f"<Deleted><Key>{one}</Key></Deleted>" for one in keys)
                return 200, _XML, f"<DeleteResult>{deleted}</DeleteResult>".encode()
        if known is None:
            return 404, _XML, b"<Error><Code>NoSuchKey</Code></Error>"
        content, e_tag, modified = known
        about = {"ETag": e_tag, "Last-Modified": modified, "Content-Length": str(len(content))}
        if (part := re.fullmatch(r"bytes=(\d*)-(\d*)", headers.get("range", ""))) is None:
            return 200, about, content
        start = int(part[1]) if part[1] else max(0, len(content) - int(part[2]))
        stop = min(int(part[2]) + 1, len(content)) if part[1] and part[2] else len(content)
        return 206, {**about, "Content-Range": f"bytes {start}-{stop - 1}/{len(content)}"}, content[start:stop]

    def in_parts(self, method: str, key: str, query: str, body: bytes) -> Response:
        """An upload of several parts."""
        told = dict(parse_qsl(query))
        with self.lock:
            if method == "POST" and "uploadId" not in told:
                name = f"upload-{len(self.parts)}"
                self.parts[name] = {}
                return (
                    200,
                    _XML,
                    f"<InitiateMultipartUploadResult><UploadId>{name}</UploadId></InitiateMultipartUploadResult>".encode(),
                )
            parts = self.parts[told["uploadId"]]
            if method == "PUT":
                parts[int(told["partNumber"])] = body
                return 200, {"ETag": f'"{hashlib.md5(body).hexdigest()}"'}, b""
            if method == "POST":
                content = b"".join(parts[number] for number in sorted(parts))
                e_tag = f'"{hashlib.md5(content).hexdigest()}-{len(parts)}"'
                self.found[key] = content, e_tag, formatdate(usegmt=True)
                answer = f"<CompleteMultipartUploadResult><Key>{escape(key)}</Key><ETag>{escape(e_tag)}</ETag></CompleteMultipartUploadResult>"
                return 200, _XML, answer.encode()
            parts.clear()
            return 204, {}, b""

    def listing(self, query: dict[str, str]) -> bytes:
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        after = query.get("continuation-token", query.get("start-after", ""))
        with self.lock:
            keys = sorted(
                key
                for key in self.found
                if key.startswith(prefix) and key > after and not re.search(self.unlisted, key)
            )
            found = {key: self.found[key] for key in keys[:1000]}
        folders, lines = set(), []
        for key, (content, e_tag, _) in found.items():
            rest = key[len(prefix) :]
            if delimiter and delimiter in rest:
                folders.add(prefix + rest.partition(delimiter)[0] + delimiter)
                continue
            lines.append(
                f"<Contents><Key>{escape(key)}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified>"
                f"<ETag>{escape(e_tag)}</ETag><Size>{len(content)}</Size></Contents>"
            )
        lines += [f"<CommonPrefixes><Prefix>{escape(folder)}</Prefix></CommonPrefixes>" for folder in sorted(folders)]
        if len(keys) > len(found):
            lines.append(f"<NextContinuationToken>{escape(keys[999])}</NextContinuationToken>")
        truncated = str(len(keys) > len(found)).lower()
        return (
            f"<ListBucketResult><Name>{BUCKET}</Name><Prefix>{escape(prefix)}</Prefix><KeyCount>{len(found)}</KeyCount>"
            f"<MaxKeys>1000</MaxKeys><IsTruncated>{truncated}</IsTruncated>{''.join(lines)}</ListBucketResult>"
        ).encode()


class Moto:
    """The same through moto's server."""

    def __init__(self, port: int) -> None:
        self.port = port

    def answer(self, method: str, path: str, headers: dict[str, str], body: bytes) -> Response:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, body, headers)
            found = connection.getresponse()
            return found.status, dict(found.getheaders()), found.read()
        finally:
            connection.close()


@dataclass
class Rule:
    """What the proxy does to the next `times` requests whose "METHOD path" matches; later ones pass."""

    pattern: str
    what: What
    times: int = 10**9
    seconds: float = 0.0  # of a stall
    met: int = 0


@dataclass
class Proxy:
    """An HTTP proxy before a server, which is told what to do to requests."""

    server: Objects | Moto
    rules: list[Rule] = field(default_factory=list)
    delay: float = 0.0  # seconds, of every request
    rate: float = float("inf")  # bytes of a request's body a second
    log: list[str] = field(default_factory=list)  # "METHOD path" of every request
    before: Callable[[str], object] = lambda _: None  # called with "METHOD path" before a request is passed on
    port: int = 0
    without_conditions: bool = False  # whether If-None-Match and If-Match are taken away

    def rule(self, pattern: str, what: What, times: int = 10**9, seconds: float = 0.0) -> Rule:
        self.rules.append(Rule(pattern, what, times, seconds))
        return self.rules[-1]

    def requests(self, pattern: str) -> list[str]:
        return [line for line in self.log if re.search(pattern, line)]

    def take(self, line: str) -> Rule | None:
        with _LOCK:
            self.log.append(line)
            for rule in self.rules:
                if rule.met < rule.times and re.search(rule.pattern, line):
                    rule.met += 1
                    return rule
        return None

    @property
    def environment(self) -> dict[str, str]:
        """For a process that uses the object store."""
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}",
            "AWS_ACCESS_KEY_ID": "someone",
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_REGION": "us-east-1",
        }


@contextmanager
def proxy_to(server: Objects | Moto) -> Iterator[Proxy]:
    """A proxy before an object store, at a port of 127.0.0.1."""
    proxy = Proxy(server)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # an answer's body follows its head in a packet of its own, 40 ms later with it

        def log_message(self, *_arguments: object) -> None:
            pass

        def pass_on(self) -> None:
            line = f"{self.command} {self.path}"
            body = b""
            while left := int(self.headers.get("Content-Length", 0)) - len(body):
                part = self.rfile.read(min(left, 1 << 18))
                time.sleep(len(part) / proxy.rate)
                body += part
            rule = proxy.take(line)
            time.sleep(proxy.delay)
            what = None if rule is None else rule.what
            if what in _ANSWERS:
                status, content = _ANSWERS[what]
                self.answer(status, {"Content-Type": "application/xml"}, content)
                return
            if what == "drop":
                self.close_connection = True
                return
            if what == "stall" and rule is not None:
                time.sleep(rule.seconds)
            proxy.before(line)
            headers = {name.lower(): value for name, value in self.headers.items()}
            if proxy.without_conditions:
                headers.pop("if-none-match", None)
                headers.pop("if-match", None)
            status, found, content = proxy.server.answer(self.command, self.path, headers, body)
            if what == "lose answer":
                self.close_connection = True
                return
            self.answer(status, found, content, cut=what == "cut")

        def answer(self, status: int, headers: dict[str, str], content: bytes, cut: bool = False) -> None:
            self.send_response_only(status)
            for name, value in headers.items():
                if name.lower() not in ("content-length", "connection", "transfer-encoding"):
                    self.send_header(name, value)
            length = headers.get("Content-Length", len(content)) if self.command == "HEAD" else len(content)
            self.send_header("Content-Length", str(length))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content[: len(content) // 2] if cut else content)
            self.close_connection = self.close_connection or cut

        do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = pass_on

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128

        def handle_error(self, *_arguments: object) -> None:
            """A client that went away is what tests want."""

    server_ = Server(("127.0.0.1", 0), Handler)
    proxy.port = server_.server_address[1]
    thread = threading.Thread(target=server_.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        server_.shutdown()
        server_.server_close()
        thread.join()


@contextmanager
def moto_server() -> Iterator[Moto]:
    """moto's server, in a process of its own, with one bucket."""
    program = (
        "import socketserver, sys\n"
        "from moto.server import ThreadedMotoServer\n"
        "socketserver.StreamRequestHandler.disable_nagle_algorithm = True\n"
        "server = ThreadedMotoServer(ip_address='127.0.0.1', port=0, verbose=False)\n"
        "server.start()\n"
        "print(server.get_host_and_port()[1], flush=True)\n"
        "sys.stdin.read()\n"
        "server.stop()\n"
    )
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        env=environment, text=True,
    ) as process:  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            port = int(process.stdout.readline())
            signed = {"Authorization": "AWS4-HMAC-SHA256 Credential=someone/20260101/us-east-1/s3/aws4_request"}
            assert Moto(port).answer("PUT", f"/{BUCKET}", signed, b"")[0] == 200
            yield Moto(port)
        finally:
            process.stdin.close()  # which ends it
