"""HTTP for people, probes and scrapers: GET and HEAD, one reply a connection, on the `websockets` server.

The same `processor` serves a role's ops port and, beside WebSocket clients, the gateway's port. It does not read
request bodies; a request that carries one is refused by the library.
"""

import asyncio
import errno
import http
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from email.utils import formatdate
from inspect import isawaitable
from typing import NamedTuple, Protocol
from urllib.parse import parse_qsl, unquote

import msgspec
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.datastructures import Headers
from websockets.http11 import Request, Response

from lfmesh.errors import BadEndpoint, LfmeshError, PortInUse
from lfmesh.types import Role

_MAX_QUERY_FIELDS = 100
_TIMEOUT_S = 10.0
METRICS_CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class HttpRequest(NamedTuple):
    """What a route is asked: the path (percent-decoded, without the query) and the query's fields, each once."""

    path: str
    query: dict[str, str]


class HttpReply(NamedTuple):
    """What a route answers; length, date and connection headers are added."""

    status: int
    content_type: str
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()


Route = Callable[[HttpRequest], HttpReply | Awaitable[HttpReply]]
"""Answers one path. A LfmeshError from it becomes 503 with the error's line."""

Processor = Callable[[ServerConnection, Request], Awaitable[Response | None]]
"""`process_request` of `websockets.asyncio.server.serve`."""


class Probed(Protocol):
    """What the probes need of a service (`lfmesh.ports.Service` has it)."""

    @property
    def role(self) -> Role:
        """What it does."""

    @property
    def instance(self) -> str:
        """Its stable name."""

    def readiness(self) -> list[str]:
        """Why it can't do its work now; empty: ready."""


class Rendered(Protocol):
    """What gives the text for /metrics."""

    def render(self) -> bytes:
        """Prometheus text format."""


def text(status: int, body: str) -> HttpReply:
    """A plain-text reply."""
    return HttpReply(status, "text/plain; charset=utf-8", body.encode())


def json(status: int, value: object) -> HttpReply:
    """A JSON reply of anything that msgspec encodes."""
    return HttpReply(status, "application/json", msgspec.json.encode(value))


def health_routes(service: Probed, metrics: Rendered) -> dict[str, Route]:
    """/health (the loop turns), /ready (503 with reasons while it can't do its work) and /metrics of any role."""

    def health(_: HttpRequest) -> HttpReply:
        return json(200, {"status": "ok", "role": service.role, "instance": service.instance})

    def ready(_: HttpRequest) -> HttpReply:
        reasons = service.readiness()
        return json(503 if reasons else 200, {"ready": not reasons, "reasons": reasons})

    def metrics_text(_: HttpRequest) -> HttpReply:
        return HttpReply(200, METRICS_CONTENT_TYPE, metrics.render())

    return {"/health": health, "/ready": ready, "/metrics": metrics_text}


def processor(
    routes: Mapping[str, Route],
    prefixes: Mapping[str, Route] | None = None,
    websocket_path: str | None = None,
) -> Processor:
    """The `process_request` that answers `routes` by exact path, then `prefixes` by the longest one that matches.

    A WebSocket upgrade on `websocket_path` is let through; elsewhere, and for anything unknown, the reply says so.
    """
    by_prefix = sorted((prefixes or {}).items(), key=lambda item: len(item[0]), reverse=True)

    def route_of(path: str) -> Route | None:
        found = routes.get(path)
        return found or next((route for prefix, route in by_prefix if path.startswith(prefix)), None)

    async def process(_: ServerConnection, request: Request) -> Response | None:
        method = getattr(request, "method", "GET")  # websockets before 16 takes nothing but GET
        if method not in ("GET", "HEAD"):
            return _response(_refused_method(method))
        try:
            asked = _parse(request.path)
        except ValueError as error:
            return _response(text(400, f"bad request: {error}\n"), method)
        if websocket_path is not None and asked.path == websocket_path:
            return None if _is_upgrade(request) else _response(_upgrade_required(websocket_path), method)
        route = route_of(asked.path)
        if route is None:
            return _response(_unknown(asked.path, websocket_path), method)
        try:
            reply = route(asked)
            return _response(await reply if isawaitable(reply) else reply, method)
        except LfmeshError as error:
            return _response(text(503, f"{error}\n"), method)

    return process


class HttpServer:
    """A listening HTTP server; `port` is the one that the system chose where 0 was asked for."""

    def __init__(self, server: Server, host: str, connections: set[ServerConnection]) -> None:
        self._server = server
        self._connections = connections
        self.host = host
        self.port: int = server.sockets[0].getsockname()[1]

    @property
    def url(self) -> str:
        """Base URL, with the host that it listens on."""
        return http_url(self.host, self.port)

    async def close(self) -> None:
        """Stop listening and cut what is under way, so that nobody's slow request delays the end; idempotent."""
        self._server.close()
        for connection in tuple(self._connections):
            connection.transport.abort()
        await self._server.wait_closed()


async def serve_http(host: str, port: int, routes: Mapping[str, Route]) -> HttpServer:
    """Serve `routes` on an address; PortInUse or BadEndpoint, in clear words, where that is impossible."""
    connections: set[ServerConnection] = set()

    class Tracked(ServerConnection):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            connections.add(self)
            super().connection_made(transport)

        def connection_lost(self, exc: Exception | None) -> None:
            connections.discard(self)
            super().connection_lost(exc)

    with listening(host, port):
        server = await serve(
            _no_websockets,
            host,
            port,
            process_request=processor(routes),
            compression=None,
            server_header=None,
            open_timeout=_TIMEOUT_S,
            close_timeout=_TIMEOUT_S,
            create_connection=Tracked,
        )
    return HttpServer(server, host, connections)


@contextmanager
def listening(host: str, port: int) -> Iterator[None]:
    """Turns the OSErrors of listening on an address into PortInUse and BadEndpoint, in clear words."""
    try:
        yield
    except OSError as error:
        address = http_url(host, port)
        if error.errno == errno.EADDRINUSE:
            raise PortInUse(f"{address} is in use by another process; choose another port or stop that one") from error
        raise BadEndpoint(f"cannot listen on {address}: {error.strerror or error}") from error


def http_url(host: str, port: int) -> str:
    """`http://host:port`, with brackets around an IPv6 address."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


async def _no_websockets(_: ServerConnection) -> None:
    raise AssertionError("a processor without a websocket_path answers every request itself")


def _parse(target: str) -> HttpRequest:
    path, _, query = target.partition("?")
    if not path.startswith("/"):
        raise ValueError("the request's target must be a path")
    fields = parse_qsl(
        query, keep_blank_values=True, strict_parsing=bool(query), errors="strict", max_num_fields=_MAX_QUERY_FIELDS
    )
    values = dict(fields)
    if len(values) != len(fields):
        raise ValueError("a field of the query is given twice")
    return HttpRequest(unquote(path, errors="strict"), values)


def _is_upgrade(request: Request) -> bool:
    return "websocket" in request.headers.get("Upgrade", "").lower()


def _refused_method(method: str) -> HttpReply:
    reply = text(405, f"{method[:20]} is not served here; use GET\n")
    return reply._replace(headers=(("Allow", "GET, HEAD"),))


def _upgrade_required(path: str) -> HttpReply:
    reply = text(426, f"{path} speaks WebSocket; connect with a WebSocket client\n")
    return reply._replace(headers=(("Upgrade", "websocket"),))


def _unknown(path: str, websocket_path: str | None) -> HttpReply:
    hint = f"; WebSocket clients connect to {websocket_path}" if websocket_path else ""
    return text(404, f"nothing at {path[:200]!r}{hint}\n")


def _response(reply: HttpReply, method: str = "GET") -> Response:
    status = http.HTTPStatus(reply.status)
    headers = Headers(
        [
            ("Date", formatdate(usegmt=True)),
            ("Connection", "close"),
            ("Content-Length", str(len(reply.body))),
            ("Content-Type", reply.content_type),
            ("Cache-Control", "no-store"),
            ("X-Content-Type-Options", "nosniff"),
            *reply.headers,
        ]
    )
    return Response(status.value, status.phrase, headers, b"" if method == "HEAD" else reply.body)
