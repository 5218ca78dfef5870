"""The simulated exchange: one port for WebSocket, REST and control."""

import asyncio
import errno
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import assert_never

from msgspec import structs
from websockets.asyncio.server import Server, ServerConnection
from websockets.asyncio.server import serve as serve_websocket
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from lfmesh.errors import ConfigError, LfmeshError, PortInUse
from loadgen import tape
from loadgen.sim.audience import Audience, VenueChannel
from loadgen.sim.config import SimConfig
from loadgen.sim.control import Control
from loadgen.sim.desk import SubscriptionDesk
from loadgen.sim.faultboard import FaultBoard
from loadgen.sim.faults import Fault
from loadgen.sim.feed import Feed, Truth
from loadgen.sim.frames import framed
from loadgen.sim.model_feed import ModelFeed
from loadgen.sim.outlet import Pump, SessionOutlet, instant
from loadgen.sim.rest import RequestLimit, Rest
from loadgen.sim.session import Session
from loadgen.sim.status import status_frame
from loadgen.sim.tape_feed import TapeFeed
from loadgen.sim.web import NOT_FOUND, Answer, Query, refusal

_GOING_AWAY = 1001
_POLICY_VIOLATION = 1008
_CLOSE_WITHIN_S = 1.0
_OPEN_TIMEOUT_S, _CLOSE_TIMEOUT_S = 2.5, 2.0
"""Of the library: for how long a silent peer, or one that keeps an HTTP connection, can delay the end."""


class Simulator:
    """A running exchange; made by `serve`. What the control endpoints do, its methods do in process."""

    def __init__(self, config: SimConfig, feed: Feed, audience: Audience) -> None:
        self.products = feed.products
        self._config = config
        self._feed = feed
        self._audience = audience
        self._outlet = SessionOutlet(config.buffer_limit_bytes, config.slow_consumer_s)
        self._board = FaultBoard(config.seed, config.buffer_limit_bytes)
        self._desk = SubscriptionDesk(feed, audience, self._board)
        limit = RequestLimit(config.rest_rate_per_s, config.rest_burst)
        self._rest = Rest(feed, limit, self._board.hidden_trades)
        self._control = Control(self)
        self._pump = Pump(feed, self._outlet)
        self._fault_ends: dict[int, asyncio.TimerHandle] = {}
        self._connections_total = 0
        self._server: Server | None = None

    # Addresses

    @property
    def port(self) -> int:
        """The port that is listened on."""
        assert self._server is not None
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    @property
    def _authority(self) -> str:
        host = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(self._config.host, self._config.host)  # noqa: S104 - compared, not bound
        return f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"

    @property
    def ws_url(self) -> str:
        """Where to connect a WebSocket."""
        return f"ws://{self._authority}"

    @property
    def rest_url(self) -> str:
        """The base of REST, control and truth, without a slash at its end."""
        return f"http://{self._authority}"

    # Control (loadgen.sim.control.Controlled)

    def status(self) -> dict[str, object]:
        """A report of the run; `subscribed` lists products by channel."""
        play = self._feed.state()
        return {
            "mode": play.mode,
            "started": play.started,
            "playing": play.playing,
            "finished": play.finished,
            "sent": play.sent,
            **play.detail,
            "products": len(self.products),
            "connections": len(self._outlet.sessions),
            "connections_total": self._connections_total,
            "slow_consumers_dropped": self._outlet.slow_consumers_dropped,
            "subscribed": {
                channel: [self.products[index] for index in self._audience.heard(channel)]
                for channel in VenueChannel
                if channel is not VenueChannel.STATUS
            },
            "rest_requests": self._rest.requests,
            "rest_limited": self._rest.limited,
            "faults": [fault.described() for fault in self._board.active().values()],
            "fault_hits": dict(self._board.hits),
        }

    def start(self) -> None:
        """Begin what waits for a start; does nothing once begun."""
        self._feed.start(instant())
        self._pump.wake()

    def pause(self) -> None:
        """Stand still. Pending batches go out, so that whoever applied everything holds the truth."""
        self._feed.pause(instant())
        self._outlet.flush()
        self._pump.wake()

    def resume(self, more: int | None = None) -> None:
        """Go on; a model goes on for `more` messages if given, past its count too."""
        self._feed.resume(instant(), more)
        self._pump.wake()

    async def wait_finished(self) -> None:
        """Until the model has sent its count or the tape has ended."""
        await self._pump.finished.wait()

    def truth(self, product: str) -> Truth:
        """What a client that missed nothing holds; KeyError for an unknown product."""
        try:
            return self._feed.truth(self.products.index(product))
        except ValueError:
            raise KeyError(product) from None

    def trades_after(self, product: str, after: int) -> list[bytes]:
        """A product's trades with ids above `after`, oldest first, as rows of the REST API; KeyError."""
        try:
            log = self._feed.trades(self.products.index(product))
        except ValueError:
            raise KeyError(product) from None
        return log.after(after)

    def begin_fault(self, fault: Fault) -> int:
        """Begin a fault on every connection; returns its number. It ends by itself after its `for_s`."""
        number = self._board.begin(fault)
        if fault.for_s is not None:
            loop = asyncio.get_running_loop()
            self._fault_ends[number] = loop.call_later(fault.for_s, self._end_fault, number)
        return number

    def _end_fault(self, number: int) -> None:
        self._fault_ends.pop(number).cancel()
        self._board.end(number)
        self._outlet.flush()

    def clear_faults(self) -> int:
        """End all faults, sending what they held back; returns how many there were."""
        self._cancel_fault_ends()
        cleared = self._board.clear()
        self._outlet.flush()
        return cleared

    def _cancel_fault_ends(self) -> None:
        for handle in self._fault_ends.values():
            handle.cancel()
        self._fault_ends.clear()

    def active_faults(self) -> dict[int, Fault]:
        """By number."""
        return self._board.active()

    def inject(self, product: str, text: str) -> int:
        """Send `text` as one frame, verbatim, to a product's subscribers; returns how many there are."""
        listeners = self._audience.listeners(self.products.index(product))
        payload = text.encode()
        for session in self._outlet.sessions & listeners:
            session.say_verbatim(payload)
        self._outlet.flush()
        return len(listeners)

    # Connections

    async def _converse(self, connection: ServerConnection) -> None:
        self._connections_total += 1
        session = Session(connection, self._connections_total, self.products, self._outlet)
        self._outlet.sessions.add(session)
        self._board.attach(session)
        try:
            async with asyncio.timeout(self._config.subscribe_deadline_s) as deadline:
                async for raw in connection:
                    if self._desk.serve(session, raw, instant()):
                        deadline.reschedule(None)
                    self._outlet.flush()
                    self._pump.wake()
        except TimeoutError:
            limit_s = self._config.subscribe_deadline_s
            await session.close(_POLICY_VIOLATION, f"no subscribe within {limit_s:g} s", _CLOSE_WITHIN_S)
        except ConnectionClosed:
            pass  # cut by a fault, dropped as a slow consumer, or gone without a word: nothing is left to do
        finally:
            self._board.detach(session)
            self._desk.leave_all(session)
            self._outlet.sessions.discard(session)

    async def _process_request(self, connection: ServerConnection, request: Request) -> Response | None:
        if any("websocket" in value.lower() for value in request.headers.get_all("Upgrade")):
            if self._board.closed_to_newcomers():
                return _response(refusal(HTTPStatus.SERVICE_UNAVAILABLE, "the venue is away"))
            return None
        query = Query.of(request.path)
        answer = self._control.answer(query)
        if answer is None:
            if delay_s := self._delay_s(query):
                await asyncio.sleep(delay_s)
            answer = self._failure(query) or self._rest.answer(query, str(connection.remote_address[0]), instant())
        return _response(answer or NOT_FOUND)

    def _delay_s(self, query: Query) -> float:
        """How much later a fault of the REST API makes the answer come."""
        if query.segments[:1] != ("products",):
            return 0.0
        return self._board.delay_s(query.segments[1] if len(query.segments) > 1 else None)

    def _failure(self, query: Query) -> Answer | None:
        """What a fault of the REST API makes of a request; None: nothing."""
        if query.segments[:1] != ("products",):
            return None
        match self._board.fails(query.segments[1] if len(query.segments) > 1 else None):
            case "limit":
                answer = refusal(HTTPStatus.TOO_MANY_REQUESTS, "Public rate limit exceeded")
                return structs.replace(answer, headers=(("Retry-After", "1"),))
            case "fail":
                return refusal(HTTPStatus.SERVICE_UNAVAILABLE, "the venue is away")
            case None:
                return None
            case other:
                assert_never(other)

    # Background

    async def _beat(self) -> None:
        async for _ in _ticks(self._config.heartbeat_interval_s):
            now = instant()
            for index in self._audience.heard(VenueChannel.HEARTBEAT):
                payload = self._feed.heartbeat(index, now)
                if payload is not None:
                    self._audience.publish(framed(payload), VenueChannel.HEARTBEAT, index)
            self._outlet.flush()

    async def _announce_status(self) -> None:
        async for _ in _ticks(self._config.status_interval_s):
            if self._audience.of(VenueChannel.STATUS)[0]:
                self._audience.publish(framed(status_frame(self._feed)), VenueChannel.STATUS, 0)
                self._outlet.flush()

    @asynccontextmanager
    async def _open(self) -> AsyncIterator[None]:
        """Listen and play until the block is left; then close every connection in order."""
        self._server = await self._listen()
        try:
            async with asyncio.TaskGroup() as tasks:
                running = [
                    tasks.create_task(work) for work in (self._pump.run(), self._beat(), self._announce_status())
                ]
                try:
                    yield
                finally:
                    for task in running:
                        task.cancel()
        except BaseExceptionGroup as group:
            # One failure keeps its own type; only the group's frame around it goes.
            if len(group.exceptions) > 1:
                raise
            raise group.exceptions[0] from None
        finally:
            self._cancel_fault_ends()
            self._server.close(close_connections=False)
            async with asyncio.TaskGroup() as closing:
                for session in self._outlet.sessions:
                    closing.create_task(session.close(_GOING_AWAY, "the simulator ends", _CLOSE_WITHIN_S))
            await self._server.wait_closed()

    async def _listen(self) -> Server:
        host, port = self._config.host, self._config.port
        try:
            return await serve_websocket(
                self._converse,
                host,
                port,
                process_request=self._process_request,
                compression="deflate" if self._config.compress else None,
                open_timeout=_OPEN_TIMEOUT_S,
                close_timeout=_CLOSE_TIMEOUT_S,
            )
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise PortInUse(f"simulator: port {port} on {host} is in use; choose another, or 0 for any") from error
            raise LfmeshError(f"simulator: cannot listen on {host}:{port}: {error.strerror or error}") from error


def _response(answer: Answer) -> Response:
    headers = Headers(
        [
            ("Content-Type", "application/json; charset=utf-8"),
            ("Content-Length", str(len(answer.body))),
            ("Connection", "close"),
            *answer.headers,
        ]
    )
    return Response(answer.status.value, answer.status.phrase, headers, answer.body)


async def _ticks(interval_s: float) -> AsyncIterator[None]:
    """Yields every interval, at a steady beat; beats that were slept through are left out."""
    loop = asyncio.get_running_loop()
    due = loop.time() + interval_s
    while True:
        await asyncio.sleep(max(0.0, due - loop.time()))
        yield
        due = max(due + interval_s, loop.time())


async def _feed_of(config: SimConfig) -> tuple[Feed, Audience]:
    if config.tape is None:
        audience = Audience(len(config.listed_products))
        feed = ModelFeed(config, audience, instant())
        if not config.start_paused:
            feed.start(instant())
        return feed, audience
    products = await asyncio.to_thread(tape.products, config.tape)
    audience = Audience(len(products))
    tape_feed = TapeFeed(config, audience, products)
    if config.tape_start == "now":
        tape_feed.start(instant())
    return tape_feed, audience


@asynccontextmanager
async def serve(config: SimConfig) -> AsyncIterator[Simulator]:
    """Run the simulator inside the block. PortInUse, BadTape or ConfigError when it cannot start."""
    feed, audience = await _feed_of(config)
    try:
        simulator = Simulator(config, feed, audience)
        for fault in config.faults:
            unknown = fault.products - set(feed.products)
            if unknown:
                raise ConfigError(f"fault {fault.kind}: unknown product {', '.join(sorted(unknown))}")
            simulator.begin_fault(fault)
        async with simulator._open():  # noqa: SLF001 - the one caller of this half of the class
            yield simulator
    finally:
        feed.close()


async def run(config: SimConfig, announce: Callable[[str, str], None]) -> None:
    """Run until SIGTERM or SIGINT, then end in order. `announce` gets the WebSocket and the REST address."""
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    signals = (signal.SIGTERM, signal.SIGINT)
    for number in signals:
        loop.add_signal_handler(number, stopped.set)
    try:
        async with serve(config) as simulator:
            announce(simulator.ws_url, simulator.rest_url)
            await stopped.wait()
    finally:
        for number in signals:
            loop.remove_signal_handler(number)
