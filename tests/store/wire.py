"""What can go wrong between a client and a store: a relay that stops, and a server that answers what it is told."""

import socket
import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import MappingProxyType
from typing import NamedTuple, Self
from urllib.parse import urlsplit


class Relay:
    """Passes connections on to `target`. Each has its own thread; `stalled` is set once `hold_after` bytes have gone to
    the server, and no more go."""

    def __init__(self, target: str) -> None:
        parts = urlsplit(target)
        assert parts.hostname is not None
        assert parts.port is not None
        self._target = (parts.hostname, parts.port)
        self._ends: list[socket.socket] = []
        self._left: int | None = None
        self.stalled = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._begin()
        return self

    def __exit__(self, *_: object) -> None:
        self.down()

    def down(self) -> None:
        """Refuse connections, and end those that are open."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for end in self._ends:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
        self._ends.clear()

    def up(self) -> None:
        """Take connections again, at the same address."""
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self._begin()

    def hold_after(self, count: int) -> None:
        """Pass on so many more bytes to the server, and then none."""
        self.stalled.clear()
        self._left = count

    def _begin(self) -> None:
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def _accept(self, listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                server = socket.create_connection(self._target)
                self._ends += [client, server]
                for source, target, counted in ((client, server, True), (server, client, False)):
                    threading.Thread(target=self._pump, args=(source, target, counted), daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket, counted: bool) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if counted and self._left is not None:
                    self._left -= len(data)
                    if self._left <= 0:
                        self.stalled.set()
                        return
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)


class Asked(NamedTuple):
    """One request."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


class Answer(NamedTuple):
    """What is answered; `length` is what the answer says of itself, where that is not the truth."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = MappingProxyType({})
    length: int | None = None


def error(status: int, code: str) -> Answer:
    """An error as S3 writes it."""
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>Hush</Message></Error>"
    return Answer(status, body.encode(), {"Content-Type": "application/xml"})


class Canned:
    """An HTTP server with fixed answers: `answer` makes one of each request, None leaves it without."""

    def __init__(self, answer: Callable[[Asked], Answer | None]) -> None:
        self.asked: list[Asked] = []
        ended = self._ended = threading.Event()
        asked = self.asked

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _serve(self) -> None:
                if self.headers.get("Expect") == "100-continue":
                    self.send_response_only(100)
                    self.end_headers()
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                request = Asked(self.command, self.path, dict(self.headers.items()), body)
                asked.append(request)
                given = answer(request)
                if given is None:
                    ended.wait()
                    return
                self.send_response(given.status)
                for name, value in given.headers.items():
                    self.send_header(name, value)
                self.send_header("Connection", "close")
                self.send_header("Content-Length", str(len(given.body) if given.length is None else given.length))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(given.body)

            do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _serve  # noqa: N815 - the names that http.server wants

            def log_message(self, *_: object) -> None:
                pass

            def handle_expect_100(self) -> bool:
                return True

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._server.shutdown()
        self._server.server_close()


def each(answers: Iterable[Answer | None]) -> Callable[[Asked], Answer | None]:
    """One after the other; the last one again and again."""
    left = list(answers)

    def answer(_: Asked) -> Answer | None:
        return left.pop(0) if len(left) > 1 else left[0]

    return answer
