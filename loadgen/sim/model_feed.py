"""Plays the market model at a rate.

Message k of the run is due at k / rate of model time, and its `time` field is that moment: the start's wall time
+ k / rate + the time spent paused. So times depend on the clock and nothing else does. The rate counts messages: each
l2update, match and ticker is one, whoever listens; an l2update counts once also for those who get it in a batch. How
changes fall into batches depends on the rate (a batch is 50 ms of model time), but not on the clock.
"""

from typing import assert_never

from loadgen.sim.audience import Audience, VenueChannel
from loadgen.sim.batches import Batches
from loadgen.sim.config import SimConfig
from loadgen.sim.digits import IsoTimes, padded
from loadgen.sim.feed import BOOK_CHANNELS, BookView, Instant, PlayState, ProductInfo, Truth, truth_of
from loadgen.sim.frames import InstrumentFrames, framed, heartbeat_frame, snapshot_frame
from loadgen.sim.market import BookChange, Market, Match, Tick
from loadgen.sim.trades import TradeLog

_SECOND_NS = 1_000_000_000
_CATCH_UP_NS = 250_000_000
"""After a hiccup at most this much is made good; the rest of the lost time is given up."""

_TURN_NS = 10_000_000
"""One turn plays at most the messages of this much model time, so that sessions are served in between."""


class ModelFeed:
    """The feed of a `Market`; see `loadgen.sim.feed.Feed`."""

    waits_for_slow = False

    def __init__(self, config: SimConfig, audience: Audience, now: Instant) -> None:
        self.products = config.listed_products
        self._rate = config.rate_msgs_s
        self._end = config.count
        self._audience = audience
        self._market = Market(self.products, config.seed, config.book_levels)
        self._stream = self._market.messages()
        self._frames = [InstrumentFrames(instrument) for instrument in self._market.instruments]
        self._logs = [TradeLog(config.trade_history_rows) for _ in self.products]
        self._counts = [0] * len(self.products)
        self._trade_times = [""] * len(self.products)
        self._batches = Batches(len(self.products), config.batch_interval_ms * 1_000_000)
        self._times = IsoTimes()
        self._sent = 0
        self._started = self._playing = False
        self._anchor = Instant(0, 0)
        self._paused_at = Instant(0, 0)
        self._skipped_ns = 0
        self._list_earlier_trades(self.time_text(now))

    def _list_earlier_trades(self, time: str) -> None:
        for index, instrument in enumerate(self._market.instruments):
            if instrument.last is not None:
                self._trade_times[index] = time
                px, qty = self._frames[index].trade_texts(instrument.last)
                self._logs[index].list_only(instrument.last.trade_id, px, qty, instrument.last.maker_side, time)

    def start(self, now: Instant) -> None:
        """Begin; does nothing once begun."""
        if not self._started:
            self._started = self._playing = True
            self._anchor = now

    def pause(self, now: Instant) -> None:
        """Stand still between two messages; pending batches go out."""
        if self._playing:
            self._playing = False
            self._paused_at = now
            self._send_batches(None)

    def resume(self, now: Instant, more: int | None = None) -> None:
        """Go on; the pause is no lost time to catch up with."""
        self.start(now)
        if more is not None:
            self._end = self._sent + more
        if not self._playing and not self._done:
            self._playing = True
            self._shift(now.mono_ns - self._paused_at.mono_ns)

    @property
    def _done(self) -> bool:
        return self._end is not None and self._sent >= self._end

    def audience_changed(self, now: Instant) -> None:
        """The model plays to anybody or nobody alike."""

    def _shift(self, by_ns: int) -> None:
        self._anchor = Instant(self._anchor.mono_ns + by_ns, self._anchor.wall_ns + by_ns)

    def turn(self, now: Instant) -> int | None:
        """Generate and publish the messages that are due, at most a turn's worth."""
        if not self._playing:
            return None
        rate = self._rate
        behind = (now.mono_ns - self._anchor.mono_ns) * rate // _SECOND_NS + 1 - self._sent
        excess = behind - max(1, _CATCH_UP_NS * rate // _SECOND_NS)
        if excess > 0:
            lost_ns = excess * _SECOND_NS // rate
            self._skipped_ns += lost_ns
            self._shift(lost_ns)
            behind -= excess
        steps = min(behind, max(1, _TURN_NS * rate // _SECOND_NS))
        if self._end is not None:
            steps = min(steps, self._end - self._sent)
        for _ in range(steps):
            self._step()
        if self._done:
            self.pause(now)
            return None
        if steps < behind:
            return 0
        model_ns = now.mono_ns - self._anchor.mono_ns
        self._send_batches(model_ns)
        next_ns = self._sent * _SECOND_NS // rate
        batch_ns = self._batches.due_ns()
        return max(0, (next_ns if batch_ns is None else min(next_ns, batch_ns)) - model_ns)

    def _step(self) -> None:
        at_ns = self._sent * _SECOND_NS // self._rate
        self._send_batches(at_ns)
        time = self._times.text((self._anchor.wall_ns + at_ns) // 1000)
        message = next(self._stream)
        index = message.instrument.index
        self._sent += 1
        self._counts[index] += 1
        audience, frames = self._audience, self._frames[index]
        match message:
            case BookChange():
                if audience.of(VenueChannel.LEVEL2)[index]:
                    audience.publish(framed(frames.change(message, time)), VenueChannel.LEVEL2, index)
                self._batches.add(index, message.changes, at_ns, time)
            case Match():
                fill = message.fill
                px, qty = frames.trade_texts(fill)
                self._trade_times[index] = time
                self._logs[index].add(fill.trade_id, px, qty, fill.maker_side, time)
                if audience.of(VenueChannel.MATCHES)[index]:
                    audience.publish(framed(frames.match(fill, time)), VenueChannel.MATCHES, index)
            case Tick():
                if audience.of(VenueChannel.TICKER)[index]:
                    # Dated, as the venue's, with the trade that it reports.
                    ticker = frames.ticker(message.fill, self._trade_times[index])
                    audience.publish(framed(ticker), VenueChannel.TICKER, index)
            case _:
                assert_never(message)

    def _send_batches(self, until_ns: int | None) -> None:
        due_ns = self._batches.due_ns()
        if due_ns is None or (until_ns is not None and due_ns > until_ns):
            return
        listeners = self._audience.of(VenueChannel.LEVEL2_BATCH)
        for batch in self._batches.take_due(until_ns):
            if listeners[batch.index]:
                frame = framed(self._frames[batch.index].update(batch.changes, batch.time))
                self._audience.publish(frame, VenueChannel.LEVEL2_BATCH, batch.index)

    def state(self) -> PlayState:
        """How far the run is."""
        return PlayState(
            mode="model",
            started=self._started,
            playing=self._playing,
            finished=self._started and self._done,
            sent=self._sent,
            detail={"rate_msgs_s": self._rate, "count": self._end, "skipped_ms": self._skipped_ns // 1_000_000},
        )

    def greeting(self, channel: VenueChannel, index: int, now: Instant) -> bytes | None:
        """The book, the last trade or the ticker, as of this moment between two messages."""
        instrument, frames = self._market.instruments[index], self._frames[index]
        time = self._trade_times[index] or self.time_text(now)
        if channel in BOOK_CHANNELS:
            book = self.book(index)
            return snapshot_frame(self.products[index], book.bids, book.asks)
        if channel is VenueChannel.TICKER:
            return frames.ticker(instrument.last, time)
        if channel is VenueChannel.MATCHES and instrument.last is not None:
            return frames.match(instrument.last, time, kind="last_match")
        return None

    def heartbeat(self, index: int, now: Instant) -> bytes | None:
        """Dated by the wall clock."""
        trade_id = self._logs[index].last_trade_id or 0
        sequence = self._market.instruments[index].sequence
        return heartbeat_frame(self.products[index], sequence, trade_id, self.time_text(now))

    def time_text(self, now: Instant) -> str:
        """The wall clock."""
        return self._times.text(now.wall_ns // 1000)

    def book(self, index: int) -> BookView:
        """The model's ladders as texts."""
        instrument, frames = self._market.instruments[index], self._frames[index]
        bids, asks = frames.levels(instrument.bids.levels()), frames.levels(instrument.asks.levels())
        return BookView(bids, asks, instrument.sequence)

    def trades(self, index: int) -> TradeLog:
        """The trades so far."""
        return self._logs[index]

    def info(self, index: int) -> ProductInfo:
        """From the catalogue."""
        spec = self._market.instruments[index].spec
        return ProductInfo(spec.id, spec.base, spec.quote, padded(1, spec.size_digits), padded(1, spec.price_digits))

    def truth(self, index: int) -> Truth:
        """The model's own state."""
        return truth_of(self.products[index], self.book(index), self._logs[index], self._counts[index])

    def close(self) -> None:
        """Nothing is held open."""
