"""One connection to the venue's feed, for ever: connect, subscribe, hand over what comes, notice the end, come back.

    down ── connect ──► subscribing ── echo ──► up
      ▲                      │ silent, refused      │ closed, quiet for longer than the watchdog, frame too large
      └── back-off ◄─────────┴──────────────────────┘

The first retry is at once, later ones back off with jitter. While the connection is up, streams that the venue has
not confirmed are asked for again with a back-off of their own (`lfmesh.venues.coinbase.subscription`).

Connecting and each request wait for a place in the schedule by which all connections of the process keep the venue's
limit. A connection takes the place of its first request with its own: the venue ends those that do not subscribe soon.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, assert_never

from websockets.exceptions import ConnectionClosed, WebSocketException

from lfmesh.config import VenueSection
from lfmesh.core.backoff import Backoff
from lfmesh.core.limits import RequestSchedule
from lfmesh.core.repeat import Repeats
from lfmesh.errors import BadVenueFrame
from lfmesh.ports import Clock
from lfmesh.venues.coinbase.parse import VenueError, parse
from lfmesh.venues.coinbase.protocol import Echo, Stray, read_control, route
from lfmesh.venues.coinbase.socket import FeedSocket, open_socket
from lfmesh.venues.coinbase.subscription import Subscription

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

GOOD_AFTER_S = 10.0
"""A connection that was subscribed for this long is retried at once when it ends."""

_TICK_S = 0.1
_BASE_PAUSE_S = 0.5
_SUBSCRIBE_BASE_PAUSE_S = 0.5
_NOTICEABLE_S = 0.05


def ws_schedule(venue: VenueSection) -> RequestSchedule:
    """This ingestor's share of the venue's limit."""
    share = max(1, venue.ws_burst // venue.ingestors_per_address)
    return RequestSchedule(venue.ws_requests_per_s / venue.ingestors_per_address, share)


class Lane(Protocol):
    """Where the frames of a product go."""

    def add(self, ts_ingest: int, frame: bytes) -> None:
        """Take one frame, stamped with the time of its arrival in ns."""


class FeedOwner(Protocol):
    """Who is told what happens to a connection, in order with the frames."""

    def link_up(self, connection: int, products: tuple[str, ...], reason: str) -> None:
        """The venue has confirmed the subscription of these products."""

    def link_down(self, connection: int, products: tuple[str, ...], reason: str) -> None:
        """Nothing more comes for these products until `link_up`."""

    def strayed(self, connection: int, why: Stray, frame: bytes) -> None:
        """A frame names no product of the connection. If it can't be read either, it goes to all lanes."""


@dataclass(slots=True)
class FeedCounters:
    """What one connection has done since the start."""

    frames: int = 0
    bytes: int = 0
    connects: int = 0
    losses: int = 0
    failed_attempts: int = 0
    too_large: int = 0
    watchdog_trips: int = 0
    venue_errors: int = 0
    resyncs: int = 0
    requests: int = 0
    delayed: int = 0


class FeedConnection:
    """Carries `products` (the keys of `lanes`, in ASCII) over one connection; `run` it as a task, cancel to end it.

    `random` returns a number in [0, 1), for the jitter. `schedule` is shared by all connections of the process.
    """

    def __init__(
        self,
        number: int,
        lanes: Mapping[bytes, Lane],
        venue: VenueSection,
        owner: FeedOwner,
        *,
        schedule: RequestSchedule,
        clock: Clock,
        random: Callable[[], float],
        log: "FilteringBoundLogger",
    ) -> None:
        self.number = number
        self.products = tuple(product.decode() for product in lanes)
        self.counters = FeedCounters()
        self._lanes = lanes
        self._venue = venue
        self._owner = owner
        self._schedule = schedule
        self._clock = clock
        self._random = random
        self._log = log.bind(connection=number)
        self._backoff = Backoff(_BASE_PAUSE_S, venue.backoff_max_s, random)
        self._subscription: Subscription | None = None
        self._repeats = Repeats()
        self._down_because = "not tried yet"
        self._arrived_at = 0.0
        self._up_since: float | None = None
        self._places = 0
        self._places_from = 0.0
        self._wake = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    @property
    def up(self) -> bool:
        """True while connected with everything confirmed."""
        return self._subscription is not None and self._subscription.confirmed

    @property
    def refused_products(self) -> int:
        """Products of which the venue has refused or left out something."""
        return 0 if self._subscription is None else self._subscription.refused_products

    def problems(self) -> list[str]:
        """Why not everything flows, in plain words; empty when all is well."""
        name = f"connection {self.number} to the venue"
        if self._subscription is None:
            return [f"{name} is down: {self._down_because}"]
        problems = [f"{name}: {problem}" for problem in self._subscription.problems()]
        silence = self._loop.time() - self._arrived_at
        if silence > self._venue.watchdog_s / 2:
            problems.append(f"{name} has been silent for {silence:.0f} s")
        return problems

    def resync(self, products: Iterable[str]) -> None:
        """Get new book snapshots by subscribing anew; a connection that is down brings them when it is back."""
        if self._subscription is not None:
            self.counters.resyncs += self._subscription.resync(products, self._loop.time())
            self._wake.set()

    async def run(self) -> None:
        """Until cancelled."""
        told = ""
        while True:
            why = await self._attempt()
            if self._up_since is not None and self._loop.time() - self._up_since >= GOOD_AFTER_S:
                self._backoff.reset()
            pause = self._backoff.next_pause()
            self._down_because = why
            (self._log.warning if why != told else self._log.debug)(
                "venue connection down", reason=why, retry_in_s=round(pause, 2), retries=self._backoff.retries
            )
            told = why if self._up_since is None else ""
            await asyncio.sleep(pause)

    # One connection ------------------------------------------------------------------------------------------------

    async def _attempt(self) -> str:
        """Connect and stay as long as it lasts; why it ended."""
        self._up_since = None
        await self._place_to_connect()
        try:
            socket = await open_socket(self._venue)
        except (OSError, WebSocketException, ValueError) as error:  # ValueError: the venue redirects to no URL
            self.counters.failed_attempts += 1
            reached = not isinstance(error, OSError) or isinstance(error, TimeoutError)
            self._give_back(1 if reached else 2)
            return f"cannot connect to {self._venue.ws_url}: {error}"
        self.counters.connects += 1
        self.counters.requests += 1
        self._places = 1
        backoff = Backoff(_SUBSCRIBE_BASE_PAUSE_S, self._venue.refused_max_s, self._random, first_at_once=False)
        subscription = Subscription(self._venue.channels, self.products, self._venue.subscribe_timeout_s, backoff)
        self._subscription = subscription
        self._arrived_at = self._loop.time()
        why = "the ingestor ends"
        try:
            socket.attach(self._clock, self._frames_arrived, self._wake.set)
            why = await self._converse(socket, subscription)
            why = why or await self._ended(socket)
        finally:
            socket.detach()
            self._give_back(self._places)
            self._subscription = None
            self._down_because = why
            if subscription.up:
                self.counters.losses += 1
                self._owner.link_down(self.number, subscription.up, why)
            await socket.close()
        return why

    async def _converse(self, socket: FeedSocket, subscription: Subscription) -> str:
        """Say what is due until the connection is of no use; why, or nothing when the socket itself knows."""
        while True:
            now = self._loop.time()
            try:
                async with asyncio.timeout(self._venue.subscribe_timeout_s):
                    for request in subscription.due(now, self._admits):
                        await socket.send(request)
            except ConnectionClosed:
                return ""
            except TimeoutError:
                return f"the venue did not take our subscription within {self._venue.subscribe_timeout_s:g} s"
            self._tell_changes(subscription)
            if not socket.open:
                return ""
            if subscription.silent:
                return f"the venue did not answer our subscription within {self._venue.subscribe_timeout_s:g} s"
            if now - self._arrived_at > self._venue.watchdog_s:
                self.counters.watchdog_trips += 1
                return f"the venue sent nothing for {self._venue.watchdog_s:g} s"
            await self._doze()

    # The venue's limit ---------------------------------------------------------------------------------------------

    async def _place_to_connect(self) -> None:
        """Wait until connecting, and subscribing right after it, are within the limit."""
        now = self._loop.time()
        self._places, self._places_from = 2, self._schedule.reserve(2, now)
        self.counters.delayed += self._places_from > now + _NOTICEABLE_S
        try:
            await asyncio.sleep(self._places_from - now)
        except asyncio.CancelledError:
            self._give_back(2)
            raise

    def _admits(self, requests: int) -> bool:
        """Whether so many requests may be sent now; if not, their place is taken and comes."""
        now = self._loop.time()
        lacking = requests - self._places
        if lacking > 0:
            self._places += lacking
            self._places_from = self._schedule.reserve(lacking, now)
            self.counters.delayed += self._places_from > now + _NOTICEABLE_S
        if now < self._places_from:
            return False
        self._places -= requests
        self.counters.requests += requests
        return True

    def _give_back(self, places: int) -> None:
        self._schedule.give_back(places)
        self._places = 0

    async def _doze(self) -> None:
        """Until something changes, a tick at most."""
        try:
            async with asyncio.timeout(_TICK_S):
                await self._wake.wait()
        except TimeoutError:
            pass
        self._wake.clear()

    async def _ended(self, socket: FeedSocket) -> str:
        why, too_large = await socket.ending()
        if too_large:
            self.counters.too_large += 1
            return f"a frame of more than {self._venue.max_frame_bytes} bytes: {why}"
        return why

    # What arrives --------------------------------------------------------------------------------------------------

    def _frames_arrived(self, ts_ingest: int, frames: list[bytes]) -> None:
        self._arrived_at = self._loop.time()
        self.counters.frames += len(frames)
        self.counters.bytes += sum(map(len, frames))
        lanes = self._lanes
        for frame in frames:
            lane = route(frame, lanes)
            if lane is not None:
                lane.add(ts_ingest, frame)
            else:
                self._take_control(ts_ingest, frame)

    def _take_control(self, ts_ingest: int, frame: bytes) -> None:
        subscription = self._subscription
        if subscription is None:
            return
        now = self._loop.time()
        control = read_control(frame)
        match control:
            case Echo():
                subscription.echoed(control, now)
                self._owner.strayed(self.number, Stray.SUBSCRIPTIONS, frame)
            case VenueError():
                self.counters.venue_errors += 1
                held_back = self._repeats.admit(control, self._clock())
                if held_back is not None:
                    said = {"message": control.message, "reason": control.reason}
                    self._log.warning("venue error", **said, held_back=held_back)
                subscription.refused(control, now)
                self._owner.strayed(self.number, Stray.ERROR, frame)
            case Stray():
                self._owner.strayed(self.number, control, frame)
                if control is Stray.BAD_PRODUCT or (control is not Stray.UNKNOWN_PRODUCT and not _readable(frame)):
                    self._share(ts_ingest, frame)
                return
            case _:
                assert_never(control)
        self._tell_changes(subscription)
        self._wake.set()

    def _share(self, ts_ingest: int, frame: bytes) -> None:
        """What can't be read may have been anybody's: whoever keeps books has to know that something was lost."""
        for lane in dict.fromkeys(self._lanes.values()):
            lane.add(ts_ingest, frame)

    def _tell_changes(self, subscription: Subscription) -> None:
        came, went = subscription.changes()
        if came:
            self._up_since = self._up_since if self._up_since is not None else self._loop.time()
            self._log.info("venue subscribed", products=len(came), of=len(self.products))
            self._owner.link_up(self.number, came, "subscribed")
        if went:
            why = "the venue no longer confirms the subscription"
            self._log.warning("venue subscription lost", products=len(went), reason=why)
            self._owner.link_down(self.number, went, why)


def _readable(frame: bytes) -> bool:
    try:
        parse(frame)
    except BadVenueFrame:
        return False
    return True
