"""Plays a recorded tape: verbatim, at the pace of its receive times, to whoever is subscribed.

Played are ticker, match, last_match, snapshot, l2update, heartbeat and status frames; `subscriptions` and `error`
frames are not, because the echo must be that of the live subscription. The times inside the frames stay the
recording's, and what the simulator makes itself (heartbeats, books and positions for those who come later) is in that
time too.
"""

from loadgen import tape
from loadgen.sim.audience import Audience, VenueChannel
from loadgen.sim.config import SimConfig
from loadgen.sim.digits import IsoTimes
from loadgen.sim.feed import BOOK_CHANNELS, BookView, Instant, PlayState, ProductInfo, Truth
from loadgen.sim.frames import framed, heartbeat_frame
from loadgen.sim.tape_market import Route, TapeMarket
from loadgen.sim.trades import TradeLog

_TURN_FRAMES = 256
"""One turn plays at most so many, so that sessions are served in between."""


class TapeFeed:
    """The feed of a tape; see `loadgen.sim.feed.Feed`. BadTape at construction for a file that is none."""

    def __init__(self, config: SimConfig, audience: Audience, products: tuple[str, ...]) -> None:
        assert config.tape is not None
        self.products = products
        self.waits_for_slow = config.tape_speed == "max"
        self._speed = None if config.tape_speed == "max" else config.tape_speed
        self._starts_on_subscribe = config.tape_start == "subscribe"
        self._audience = audience
        self._market = TapeMarket(products, config.trade_history_rows)
        self._records = tape.read(config.tape)
        self._next: tuple[int, bytes] | None = next(self._records)
        self._first_ns = self._last_ns = self._next[0]
        self._times = IsoTimes()
        self._anchor_ns = 0
        self._stopped_ns: int | None = None
        self._started = self._playing = False
        self._sent = self._unplayed = 0
        self._own_heartbeats: set[int] = set()

    def start(self, now: Instant) -> None:
        """Begin; does nothing once begun."""
        if not self._started:
            self._started = self._playing = True
            self._anchor_ns = now.mono_ns

    def pause(self, now: Instant) -> None:
        """Stand still between two frames."""
        if self._playing:
            self._playing = False
            self._stopped_ns = now.mono_ns

    def resume(self, now: Instant, more: int | None = None) -> None:  # noqa: ARG002 - a tape has its own end
        """Go on where it stood."""
        self.start(now)
        if not self._playing and self._next is not None and self._stopped_ns is not None:
            self._playing = True
            self._anchor_ns += now.mono_ns - self._stopped_ns
            self._stopped_ns = None

    def audience_changed(self, now: Instant) -> None:
        """Begin when every product is listened to whole and the tape waits for that."""
        if self._starts_on_subscribe and not self._started and self._all_listened_to():
            self.start(now)

    def _all_listened_to(self) -> bool:
        kinds = (BOOK_CHANNELS, (VenueChannel.TICKER,), (VenueChannel.MATCHES,))
        return all(
            any(self._audience.of(channel)[index] for channel in channels)
            for channels in kinds
            for index in range(len(self.products))
        )

    def turn(self, now: Instant) -> int | None:
        """Play the frames that are due, at most a turn's worth."""
        if not self._playing:
            return None
        position_ns = self._position_ns(now)
        for _ in range(_TURN_FRAMES):
            if self._next is None:
                self._playing = False
                self._stopped_ns = now.mono_ns
                return None
            receive_ns, frame = self._next
            if position_ns is not None and receive_ns > position_ns:
                assert self._speed is not None
                return int((receive_ns - position_ns) / self._speed)
            self._play(receive_ns, frame)
            self._next = next(self._records, None)
        return 0

    def _position_ns(self, now: Instant) -> int | None:
        """The tape time that should have been reached; None at full speed."""
        if self._speed is None:
            return None
        return self._first_ns + int((now.mono_ns - self._anchor_ns) * self._speed)

    def _play(self, receive_ns: int, frame: bytes) -> None:
        self._last_ns = max(self._last_ns, receive_ns)
        route = self._market.apply(frame)
        if route is None:
            self._unplayed += 1
            return
        self._sent += 1
        if route.channel is VenueChannel.HEARTBEAT:
            self._own_heartbeats.add(route.index)
        self._publish(framed(frame), route)

    def _publish(self, frame: bytes, route: Route) -> None:
        self._audience.publish(frame, route.channel, route.index)
        if route.channel is VenueChannel.LEVEL2:
            served = self._audience.of(VenueChannel.LEVEL2)[route.index]
            for subscriber in self._audience.of(VenueChannel.LEVEL2_BATCH)[route.index]:
                if subscriber not in served:
                    subscriber.push(frame, VenueChannel.LEVEL2_BATCH, route.index)

    def state(self) -> PlayState:
        """How far the tape is."""
        return PlayState(
            mode="tape",
            started=self._started,
            playing=self._playing,
            finished=self._started and self._next is None and not self._playing,
            sent=self._sent,
            detail={
                "speed": self._speed or "max",
                "unplayed": self._unplayed,
                "position_ns": self._last_ns,
            },
        )

    def greeting(self, channel: VenueChannel, index: int, now: Instant) -> bytes | None:  # noqa: ARG002 - tape time
        """Made from the tape so far: a book snapshot, a last_match, the latest ticker. None before the tape's own."""
        product = self._market.products[index]
        if channel in BOOK_CHANNELS:
            return product.snapshot()
        if channel is VenueChannel.TICKER:
            return product.last_ticker
        if channel is VenueChannel.MATCHES:
            return product.position()
        return None

    def heartbeat(self, index: int, now: Instant) -> bytes | None:
        """In the tape's time; None when the tape held one of its own since the last call."""
        if index in self._own_heartbeats:
            self._own_heartbeats.discard(index)
            return None
        product = self._market.products[index]
        last_trade_id = product.log.last_trade_id or 0
        return heartbeat_frame(product.product, product.sequence, last_trade_id, self.time_text(now))

    def time_text(self, now: Instant) -> str:
        """The tape's clock: it runs at the tape's speed while it plays, and at ours after the end."""
        return self._times.text(self._clock_ns(now) // 1000)

    def _clock_ns(self, now: Instant) -> int:
        if not self._started:
            return self._first_ns
        if self._next is None:
            return self._last_ns + (now.mono_ns - self._stopped_ns if self._stopped_ns is not None else 0)
        reading = now if self._stopped_ns is None else Instant(self._stopped_ns, now.wall_ns)
        position_ns = self._position_ns(reading)
        if position_ns is None:
            return self._last_ns
        return max(self._last_ns, min(position_ns, self._next[0]))

    def book(self, index: int) -> BookView:
        """The book so far."""
        return self._market.products[index].book()

    def trades(self, index: int) -> TradeLog:
        """The trades so far."""
        return self._market.products[index].log

    def info(self, index: int) -> ProductInfo:
        """What the digits so far tell."""
        return self._market.products[index].info()

    def truth(self, index: int) -> Truth:
        """What a client that got every frame holds."""
        return self._market.products[index].truth()

    def close(self) -> None:
        """Close the file."""
        self._records.close()
