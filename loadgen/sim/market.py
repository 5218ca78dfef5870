"""The market model: order flow around a moving fair price, as a deterministic stream of messages.

Theory of operation. `Market.messages()` is a generator that never ends. Each step picks a product by a power law
(the i-th product of the list has weight 1/i) and lets one order arrive there:

- a limit order adds size at a price drawn log-uniformly behind the touch, never crossing;
- a cancel reduces or removes a level; a replacement removes one level and fills another (two changes, one message);
- a market order takes what rests at the best price, level by level. Every fill yields three messages: the level's new
  size, the match, and the ticker after it.

The state moves just before its message is yielded. So whoever applies each message as it comes holds, after *every*
message, the book, best prices and last trade of the model; the run may stop or pause between any two messages.
The stream depends on nothing but the seed, the product list and the number of levels: no clock, no rate,
no subscriber. Only integers enter prices and sizes (and random() only to choose among them), so it is the same on
every machine.
"""

from bisect import bisect
from collections.abc import Iterator
from itertools import accumulate
from random import Random

import msgspec

from loadgen.sim.book import Ladder
from loadgen.sim.catalog import ProductSpec, spec_of
from loadgen.sim.digits import mixed

MARKET_ORDER_SHARE = 0.06
REPLACE_SHARE = 0.12
FAIR_MOVE_SHARE = 0.15
UNTRADED_EVERY = 10
"""Of every ten products the last has not traded yet when the run begins, as a newly listed one."""

_TABLE_SIZE = 1024
_MIN_LEVELS = 3


class Fill(msgspec.Struct, frozen=True, gc=False):
    """One trade of the model."""

    trade_id: int
    price: int
    lots: int
    maker_is_bid: bool
    maker_order: int
    taker_order: int
    sequence: int

    @property
    def maker_side(self) -> str:
        """The side that rested in the book, which a match frame names."""
        return "buy" if self.maker_is_bid else "sell"

    @property
    def taker_side(self) -> str:
        """The side that came and took, which a ticker frame names."""
        return "sell" if self.maker_is_bid else "buy"


class BookChange(msgspec.Struct, frozen=True, gc=False):
    """New absolute sizes: (is_bid, price in ticks, lots), 0 removes the level. Becomes an l2update."""

    instrument: "Instrument"
    changes: tuple[tuple[bool, int, int], ...]


class Match(msgspec.Struct, frozen=True, gc=False):
    """A trade happened."""

    instrument: "Instrument"
    fill: Fill


class Tick(msgspec.Struct, frozen=True, gc=False):
    """The ticker after a trade; its best prices are the book's at this moment."""

    instrument: "Instrument"
    fill: Fill


Message = BookChange | Match | Tick


class Instrument:
    """One product's market: its book, its last trade, its day, and the tables that its orders are drawn from."""

    def __init__(self, spec: ProductSpec, index: int, levels: int, rng: Random) -> None:
        self.spec = spec
        self.index = index
        self.depth = levels
        self.bids = Ladder(is_bid=True)
        self.asks = Ladder(is_bid=False)
        self.sequence = 10_000_000 + mixed(index) % 90_000_000
        self.fair = spec.start_ticks * (950 + int(rng.random() * 100)) // 1000
        self._fair_bounds = (max(50, self.fair // 3), self.fair * 3)
        self.scale = max(1, self.fair // 100_000)
        self.offsets = _offsets(self.scale, self.fair // 2)
        self.sizes = _sizes(spec.unit_lots, rng)
        self.order_salt = mixed(int(rng.random() * 2**53))
        self._fill_book(rng)
        self.open = self.high = self.low = self.fair
        self.volume_24h = spec.unit_lots * (500 + int(rng.random() * 5000))
        self.volume_30d = self.volume_24h * (20 + int(rng.random() * 15))
        self.trade_id = 0
        self.last: Fill | None = None
        if index % UNTRADED_EVERY != UNTRADED_EVERY - 1:
            self.trade_id = 100_000 + mixed(index + 1) % 900_000
            self._record(self.asks, self.asks.keys[-1], self.sizes[0], int(rng.random() * 2**53))

    def _fill_book(self, rng: Random) -> None:
        draw = rng.random
        for side in (self.bids, self.asks):
            tries = 0
            while len(side) < _MIN_LEVELS or (len(side) < self.depth and tries < self.depth * 20):
                tries += 1
                offset = self.offsets[int(draw() * _TABLE_SIZE)] + len(side) * (tries > self.depth)
                key = self.fair * side.sign - 1 - offset
                if side.is_bid and key < 1:
                    continue
                side.put(key, self.sizes[int(draw() * _TABLE_SIZE)])

    def maker_order(self, side: Ladder, key: int) -> int:
        """The id of the order that rests at a level: the model keeps one a level, named by its side and price."""
        high = mixed(self.order_salt ^ (key if side.is_bid else ~key))
        return high << 64 | mixed(high)

    def wander(self, draw: float) -> None:
        """Move the fair price by a step, up or down by `draw` (0 to 1), within reach of the book."""
        step = max(1, self.scale >> 2)
        fair = self.fair + (step if draw < 0.5 else -step)
        low, high = self._fair_bounds
        mid = (self.bids.keys[-1] - self.asks.keys[-1]) >> 1
        reach = 10 * self.scale
        self.fair = min(max(fair, low, mid - reach), high, mid + reach)

    def _record(self, maker: Ladder, key: int, lots: int, taker_order: int) -> Fill:
        self.trade_id += 1
        price = key * maker.sign
        fill = Fill(self.trade_id, price, lots, maker.is_bid, self.maker_order(maker, key), taker_order, self.sequence)
        self.last = fill
        self.high = max(self.high, price)
        self.low = min(self.low, price)
        self.volume_24h += lots
        self.volume_30d += lots
        return fill

    def arrive(self, rng: Random) -> BookChange:
        """A limit order, a cancel or a replacement arrives; returns the change that it made."""
        draw = rng.random
        side, other = (self.bids, self.asks) if draw() < 0.5 else (self.asks, self.bids)
        count, depth = len(side.keys), self.depth
        if count > depth + (depth >> 3):
            change = self._remove(side, side.keys[0])
        elif count > _MIN_LEVELS and draw() < REPLACE_SHARE:
            pulled = self._cancel(side, draw(), 0.0)
            change = (*pulled, *self._add(side, other, draw(), draw()))
            if change[0][1] == change[1][1]:
                change = change[1:]
        elif count <= _MIN_LEVELS or draw() * depth < depth - (count >> 1):
            change = self._add(side, other, draw(), draw())
        else:
            change = self._cancel(side, draw(), draw())
        return BookChange(self, change)

    def _add(self, side: Ladder, other: Ladder, place: float, amount: float) -> tuple[tuple[bool, int, int], ...]:
        # The other side's best key, negated, is its price as a key of this side: one tick short of it is free.
        limit = -other.keys[-1] - 1
        key = min(limit, self.fair * side.sign) - self.offsets[int(place * _TABLE_SIZE)]
        if side.is_bid and key < 1:
            key = min(limit, 1)
        lots = self.sizes[int(amount * _TABLE_SIZE)]
        resting = side.lots.get(key, 0)
        if resting < 8 * self.spec.unit_lots:
            lots += resting
        side.put(key, lots)
        self.sequence += 2  # the full feed says "received" and "open"
        return ((side.is_bid, key * side.sign, lots),)

    def _cancel(self, side: Ladder, place: float, amount: float) -> tuple[tuple[bool, int, int], ...]:
        key = side.keys[-1 - int(place * place * len(side.keys))]
        if amount < 0.6:
            return self._remove(side, key)
        lots = side.lots[key] * (1 + int(amount * 1000)) >> 10
        side.put(key, lots)
        self.sequence += 1  # "done" or "change"
        return ((side.is_bid, key * side.sign, lots),)

    def _remove(self, side: Ladder, key: int) -> tuple[tuple[bool, int, int], ...]:
        side.put(key, 0)
        self.sequence += 1
        return ((side.is_bid, key * side.sign, 0),)

    def take(self, rng: Random) -> Iterator[Message]:
        """A market order arrives; yields a change, a match and a ticker for each fill."""
        draw = rng.random
        bid, ask = self.bids.keys[-1], -self.asks.keys[-1]
        buy_odds = 0.9 if self.fair > ask else 0.1 if self.fair < bid else 0.5
        maker = self.asks if draw() < buy_odds else self.bids
        remaining = self._order_size(maker, draw(), draw())
        taker_order = int(draw() * 2**53) << 64 | mixed(self.sequence)
        self.sequence += 1  # "received"
        while remaining:
            key = maker.keys[-1]
            resting = maker.lots[key]
            # The last few levels are never used up, so that no side runs empty.
            available = resting if len(maker.keys) > _MIN_LEVELS else resting >> 1
            lots = min(remaining, available)
            if not lots:
                return
            remaining = remaining - lots if lots == resting else 0
            maker.put(key, resting - lots)
            self.sequence += 1
            yield BookChange(self, ((maker.is_bid, key * maker.sign, resting - lots),))
            self.sequence += 1
            fill = self._record(maker, key, lots, taker_order)
            yield Match(self, fill)
            yield Tick(self, fill)

    def _order_size(self, maker: Ladder, kind: float, amount: float) -> int:
        best = maker.lots[maker.keys[-1]]
        if kind < 0.55:
            return max(1, best * (1 + int(amount * 1000)) >> 10)
        if kind < 0.8:
            return best
        return best + self.sizes[int(amount * _TABLE_SIZE)]


class Market:
    """All instruments, and the order flow through them."""

    def __init__(self, products: tuple[str, ...], seed: int, levels: int) -> None:
        self._rng = Random(seed)  # noqa: S311 - reproducible, no secret
        self.instruments = tuple(
            Instrument(spec_of(product), index, levels, self._rng) for index, product in enumerate(products)
        )

    def messages(self) -> Iterator[Message]:
        """The endless stream; see the module's text. Call it once: it carries the one random generator on."""
        rng = self._rng
        draw = rng.random
        instruments = self.instruments
        weights = list(accumulate(1 / (rank + 1) for rank in range(len(instruments))))
        total = weights[-1]
        last = len(instruments) - 1
        while True:
            instrument = instruments[min(last, bisect(weights, draw() * total))]
            chance = draw()
            if chance < FAIR_MOVE_SHARE:
                instrument.wander(chance / FAIR_MOVE_SHARE)
            if draw() < MARKET_ORDER_SHARE:
                yield from instrument.take(rng)
            else:
                yield instrument.arrive(rng)


def _offsets(scale: int, limit: int) -> list[int]:
    """Distances from the touch in ticks: a log-uniform table from 0 to 2,000 scales, in integers."""
    table = []
    value = 1 << 20
    for _ in range(_TABLE_SIZE):
        table.append(min(limit, (value - (1 << 20)) * scale >> 20))
        value = value * 100745 // 100000  # 2,000 = 1.00745 ** 1024
    return table


def _sizes(unit_lots: int, rng: Random) -> list[int]:
    """Order sizes in lots: log-uniform from a hundredth of the unit to ten units, every third a round number."""
    table = []
    value = unit_lots * 1000
    for step in range(_TABLE_SIZE):
        lots = value // 100_000 + int(rng.random() * value) // 400_000
        if step % 3 == 0:
            grain = 10 ** max(0, len(str(lots)) - 2)
            lots = lots // grain * grain
        table.append(max(1, lots))
        value = value * 100677 // 100000  # 1,000 = 1.00677 ** 1024
    return table
