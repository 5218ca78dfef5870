"""A relay before DynamoDB Local that answers in its place what a test wants: throttling, faults, silence."""

import http.client
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple
from urllib.parse import urlsplit


class Request(NamedTuple):
    """A request of DynamoDB's protocol; `forward` gives the real server's answer to it, or to a changed body."""

    operation: str
    body: dict[str, Any]
    forward: "Callable[[dict[str, Any]], Answer]"


class Answer(NamedTuple):
    """`status` 0: the connection ends without an answer."""

    status: int
    body: dict[str, Any]


Rule = Callable[[Request], Answer]

DROPPED = Answer(0, {})


def fault(status: int, kind: str) -> Answer:
    return Answer(status, {"__type": f"com.amazonaws.dynamodb.v20120810#{kind}", "message": "a test wants it so"})


def passing(request: Request) -> Answer:
    return request.forward(request.body)


class Relay(ThreadingHTTPServer):
    """`rule` says what becomes of each request; `seen` are the operations asked for, in order."""

    daemon_threads = True

    def __init__(self, target: str) -> None:
        super().__init__(("127.0.0.1", 0), _Exchange)
        self.target = urlsplit(target).netloc
        self.rule: Rule = passing
        self.seen: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


@contextmanager
def relay(target: str) -> Iterator[Relay]:
    server = Relay(target)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Exchange(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Relay

    def do_POST(self) -> None:
        text = self.rfile.read(int(self.headers["Content-Length"]))
        operation = self.headers["X-Amz-Target"].partition(".")[2]
        self.server.seen.append(operation)
        answer = self.server.rule(Request(operation, json.loads(text), self._forward))
        if not answer.status:
            self.close_connection = True
            return
        body = json.dumps(answer.body).encode()
        self.send_response(answer.status)
        self.send_header("Content-Type", "application/x-amz-json-1.0")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _forward(self, body: dict[str, Any]) -> Answer:
        connection = http.client.HTTPConnection(self.server.target, timeout=20)
        try:
            names = ("X-Amz-Target", "Authorization", "Content-Type", "X-Amz-Date")
            connection.request(
                "POST", "/", json.dumps(body), {name: self.headers[name] for name in names if name in self.headers}
            )
            response = connection.getresponse()
            return Answer(response.status, json.loads(response.read()))
        finally:
            connection.close()

    def log_message(self, *_: object) -> None:
        """A test's output is its own."""
