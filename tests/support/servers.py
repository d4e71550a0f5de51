"""Servers on loopback: a real S3 server, a web server that fails when it is told to, and one that hands on."""

from __future__ import annotations

import functools
import http.client
import http.server
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import fsspec


@contextmanager
def s3_server() -> Iterator[str]:
    """A real S3 server in a process of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            for _ in range(200):
                try:
                    socket.create_connection(("127.0.0.1", port), 1).close()
                    break
                except OSError:
                    assert process.poll() is None, "the S3 server ended"
                    time.sleep(0.1)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.kill()


def ask(url: str, method: str, content: bytes = b"") -> None:
    request = urllib.request.Request(url, content, {"Content-Type": "application/octet-stream"}, method=method)
    with urllib.request.urlopen(request, timeout=10) as answer:
        answer.read()


def forget_connections() -> None:
    """Credentials and endpoint are looked up again, as in a new process."""
    fsspec.get_filesystem_class("s3").clear_instance_cache()


class Server:
    """A web server on loopback that fails as often as it is told."""

    def __init__(self, handler: type[http.server.BaseHTTPRequestHandler], **more: Any) -> None:
        self.failures: dict[str, int] = {}
        self.how = 503
        self.failed = 0
        outer = self

        class Failing(handler):  # type: ignore[misc, valid-type]
            def parse_request(self) -> bool:
                good: bool = super().parse_request()
                if good and any(part in self.path and outer.fails(part) for part in outer.failures):
                    if outer.how:
                        self.send_error(outer.how)
                    self.close_connection = True
                    return False
                return good

            def log_message(self, *_: Any) -> None:
                pass

        self.httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Failing, **more))
        self.url = f"http://127.0.0.1:{self.httpd.server_port}"

    def fails(self, part: str) -> bool:
        self.failures[part] -= 1
        self.failed += self.failures[part] >= 0
        return self.failures[part] >= 0

    def __enter__(self) -> Server:
        threading.Thread(target=self.httpd.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.httpd.shutdown()
        self.httpd.server_close()


class Forwarding(http.server.BaseHTTPRequestHandler):
    """Hands requests on to the S3 server."""

    protocol_version = "HTTP/1.1"

    def __init__(self, *arguments: Any, server: str) -> None:
        self.behind = server.removeprefix("http://")
        super().__init__(*arguments)

    def forward(self) -> None:
        content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        connection = http.client.HTTPConnection(self.behind, timeout=10)
        connection.request(self.command, self.path, content, dict(self.headers))
        answer = connection.getresponse()
        found = answer.read()
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("transfer-encoding", "connection", "content-length", "server", "date"):
                self.send_header(name, value)
        length = answer.getheader("Content-Length") if self.command == "HEAD" else None
        self.send_header("Content-Length", length or str(len(found)))
        self.end_headers()
        self.wfile.write(found)
        connection.close()

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = forward  # noqa: N815
