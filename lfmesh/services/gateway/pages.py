"""The gateway's HTTP routes: a page for people, probes, metrics, products, states and the protocol's schema."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from html import escape
from typing import Any, Protocol, assert_never

import msgspec

from lfmesh import __version__
from lfmesh.core import encode
from lfmesh.core.hub_snapshots import State
from lfmesh.core.times import parse_time
from lfmesh.models import schema
from lfmesh.observe.http import METRICS_CONTENT_TYPE, HttpReply, HttpRequest, Route, health_routes, json, text
from lfmesh.observe.metrics import MetricsText, merged
from lfmesh.ports import Service
from lfmesh.services.gateway.crew_messages import Told, What
from lfmesh.services.gateway.moments import NoState
from lfmesh.services.gateway.statistics import GatewayStatistics
from lfmesh.types import CHANNELS, Channel, StreamKey

SNAPSHOT_PREFIX = "/v1/snapshot/"

_CHANNELS = {str(channel): channel for channel in CHANNELS}
_FIELDS = ("channel", "at")
_MAX_MOMENT = (1 << 63) - 1


class Gateway(Service, Protocol):
    """What the pages need of the gateway."""

    @property
    def products(self) -> Mapping[str, int]:
        """Shard of each product that can be subscribed."""

    def statistics(self) -> GatewayStatistics:
        """Its figures."""

    def state_of(self, key: StreamKey) -> Awaitable[State | None]:
        """The current state of a stream; None if there is none now."""

    def state_at(self, key: StreamKey, at: int) -> Awaitable[State | NoState]:
        """The state of a stream as of a moment (ns, the venue's time), or why there is none."""


class Crew(Protocol):
    """What the pages of a worker need of its line to the others."""

    def others(self, what: What) -> Awaitable[Sequence[Told]]:
        """What every other worker of this port says now."""


def routes(gateway: Gateway, metrics: MetricsText, crew: Crew | None = None) -> dict[str, Route]:
    """Routes by exact path. With a crew, /ready and /metrics answer for all of its workers, whichever is asked."""
    listed = [{"id": product, "shard": shard, "channels": CHANNELS} for product, shard in gateway.products.items()]
    products = json(200, {"products": listed})
    described = json(200, schema())
    return {
        **health_routes(gateway, metrics),
        **({} if crew is None else _routes_of_all(gateway, metrics, crew)),
        "/": lambda _: _page(gateway),
        "/products": lambda _: products,
        "/schema": lambda _: described,
    }


def _routes_of_all(gateway: Gateway, metrics: MetricsText, crew: Crew) -> dict[str, Route]:
    async def ready(_: HttpRequest) -> HttpReply:
        reasons = [f"{gateway.instance}: {reason}" for reason in gateway.readiness()]
        for told in await crew.others("ready"):
            said = [told.silence] if told.silence else told.items
            reasons.extend(f"{told.worker}: {reason}" for reason in said)
        reasons.sort(key=lambda reason: reason.partition(": ")[0])
        return json(503 if reasons else 200, {"ready": not reasons, "reasons": reasons})

    async def metrics_text(_: HttpRequest) -> HttpReply:
        own = metrics.render().decode()
        others = [item for told in await crew.others("metrics") for item in told.items]
        return HttpReply(200, METRICS_CONTENT_TYPE, merged([own, *others]).encode())

    return {"/ready": ready, "/metrics": metrics_text}


def prefixes(gateway: Gateway) -> dict[str, Route]:
    """Routes by the beginning of the path."""
    return {SNAPSHOT_PREFIX: _snapshot_route(gateway)}


def _snapshot_route(gateway: Gateway) -> Callable[[HttpRequest], Awaitable[HttpReply]]:
    async def snapshot(request: HttpRequest) -> HttpReply:
        product = request.path.removeprefix(SNAPSHOT_PREFIX)
        name = request.query.get("channel", str(Channel.TICKER))
        channel = _CHANNELS.get(name)
        unknown = request.query.keys() - _FIELDS
        if product not in gateway.products:
            return _refusal(404, "UNKNOWN_PRODUCT", f"not carried here: {product[:40]}; see /products")
        if channel is None:
            return _refusal(400, "UNKNOWN_CHANNEL", f"no such channel: {name[:40]}; known: {', '.join(CHANNELS)}")
        if unknown:
            known = ", ".join(_FIELDS)
            return _refusal(400, "BAD_REQUEST", f"unknown field: {min(unknown)[:40]}; known: {known}")
        key = StreamKey(product, channel)
        moment = request.query.get("at")
        return await _now(gateway, key) if moment is None else await _then(gateway, key, moment)

    return snapshot


async def _now(gateway: Gateway, key: StreamKey) -> HttpReply:
    state = await gateway.state_of(key)
    if state is None:
        return _refusal(503, "NO_DATA", f"no state of {key.product} {key.channel} can be had now; try again")
    return HttpReply(200, "application/json", snapshot_data(*key, state))


async def _then(gateway: Gateway, key: StreamKey, moment: str) -> HttpReply:
    try:
        # In a query a plus is a space: an offset that was not percent-encoded has lost it.
        at = parse_time(moment.replace(" ", "+") if "T" in moment.upper() else moment)
    except ValueError as error:
        return _refusal(400, "BAD_REQUEST", f"at: {error}")
    if not 0 < at <= _MAX_MOMENT:
        return _refusal(400, "BAD_REQUEST", f"at: {moment[:40]} is out of range: a moment after 1970, before 2262")
    found = await gateway.state_at(key, at)
    if isinstance(found, State):
        return HttpReply(200, "application/json", snapshot_data(*key, found))
    said = f"{key.product} {key.channel} as of {moment[:40]}: {found.reason}"
    match found.why:
        case "unknown":
            return _refusal(404, "NOT_KNOWN", said)
        case "senseless":
            return _refusal(400, "BAD_REQUEST", said)
        case "busy" | "unavailable":
            return _refusal(503, "UNAVAILABLE", said)._replace(headers=(("Retry-After", "1"),))
        case _:
            assert_never(found.why)


def snapshot_data(product: str, channel: Channel, state: State) -> bytes:
    """The JSON of a snapshot's `data` in one piece, however many parts the state has."""
    whole = encode.whole_state(state.parts)
    return encode.snapshot_data(product, channel, state.position, state.ts, "subscribe", whole)


def _refusal(status: int, code: str, msg: str) -> HttpReply:
    return json(status, {"error": {"code": code, "msg": msg}})


def _page(gateway: Gateway) -> HttpReply:
    reasons = gateway.readiness()
    figures = gateway.statistics()
    shown: dict[str, Any] = {
        "clients": figures.clients,
        "subscriptions": figures.subscriptions,
        "deliveries a second": f"{figures.deliveries_per_s:,.0f}",
        "streams": ", ".join(f"{count} {state}" for state, count in figures.streams.items()),
        "lag": "unknown" if figures.lag_ms is None else f"{figures.lag_ms:.1f} ms",
    }
    example = next(iter(gateway.products))
    asked = msgspec.json.encode({"op": "subscribe", "products": [example], "channels": ["ticker"]}).decode()
    rows = "".join(f"<tr><th>{escape(name)}</th><td>{escape(str(value))}</td></tr>" for name, value in shown.items())
    state = "ready" if not reasons else "not ready: " + "; ".join(reasons)
    body = _PAGE.format(
        version=escape(__version__),
        instance=escape(gateway.instance),
        state=escape(state),
        figures=rows,
        products=escape(", ".join([*gateway.products][:20])) + (" …" if len(gateway.products) > 20 else ""),
        example=escape(example),
        asked=escape(asked),
    )
    return text(200, body)._replace(content_type="text/html; charset=utf-8")


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>LedgerFlux Mesh</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>body{{font:16px/1.5 system-ui,sans-serif;max-width:46rem;margin:2rem auto;padding:0 1rem}}
th{{text-align:left;padding-right:1rem;font-weight:normal}}code,pre{{background:#f3f3f3;padding:.1em .3em}}</style>
</head><body>
<h1>LedgerFlux Mesh</h1>
<p>{instance}, version {version}: <strong>{state}</strong>.</p>
<table>{figures}</table>
<h2>WebSocket</h2>
<p>Connect to <code>/ws</code> and send, for instance:</p>
<pre>{asked}</pre>
<p>Channels: ticker, trades, book. Products: {products}</p>
<h2>HTTP</h2>
<ul>
<li><a href="/products">/products</a>: everything that can be subscribed</li>
<li><a href="/v1/snapshot/{example}?channel=ticker">/v1/snapshot/{example}?channel=ticker</a>: a stream's state;
with <code>&amp;at=2021-04-17T16:43:50Z</code> (or ns since 1970) as of that moment</li>
<li><a href="/schema">/schema</a>: JSON Schema of the protocol</li>
<li><a href="/health">/health</a>, <a href="/ready">/ready</a>, <a href="/metrics">/metrics</a></li>
</ul>
</body></html>
"""
