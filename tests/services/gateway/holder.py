"""A client that holds what it is sent, and checks with every message that it may hold it (client protocol, 1 to 4)."""

import json
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from lfmesh.core.encode import book_fields
from lfmesh.models import parse_message, to_json
from lfmesh.types import Channel, Position, StreamKey
from tests.core.model_publisher import ModelStream

Json = dict[str, Any]
Side = dict[Decimal, Decimal]


@dataclass
class Held:
    """One stream of a client. `events` are "incr", and a snapshot's reason, in the order of their coming.

    Trades: `ids` as they came, `missing` what was declared.
    """

    channel: Channel
    position: Position | None = None
    events: list[str] = field(default_factory=list)
    merged: int = 0
    ticker: Json = field(default_factory=dict)
    bids: Side = field(default_factory=dict)
    asks: Side = field(default_factory=dict)
    ids: list[int] = field(default_factory=list)
    missing: set[int] = field(default_factory=set)
    parts: list[Json] = field(default_factory=list)

    def take(self, message: Json) -> None:
        """One snapshot, part of a snapshot, or increment."""
        data = message["data"]
        if message["op"] == "incr":
            self._increment(data)
        else:
            self.parts.append(data)
            if data.get("part", 1) == data.get("parts", 1):
                self._snapshot(data)

    def turns(self) -> list[str]:
        """Its events, of several increments one after the other only the first."""
        return [event for at, event in enumerate(self.events) if event != "incr" or self.events[at - 1 : at] != [event]]

    def agrees(self, truth: ModelStream) -> bool:
        """Whether it holds what has been published up to now, and exactly that."""
        if self.position != truth.position:
            return False
        match self.channel:
            case Channel.TICKER:
                assert self.ticker == _read(truth.ticker)
            case Channel.TRADES:
                assert not self.parts
                everything = set(range(1, len(truth.trades) + 1))
                first = min(self.ids)
                assert {one for one in everything if one >= first} == self.missing | set(self.ids)
                assert not self.missing & set(self.ids)
            case Channel.BOOK:
                state = _read(book_fields(*truth.sides()))
                assert (self.bids, self.asks) == (_side(state["bids"]), _side(state["asks"]))
        return True

    def _increment(self, data: Json) -> None:
        assert not self.parts, "a snapshot is not whole yet"
        assert self.position is not None
        assert data["epoch"] == self.position.epoch
        if "prev_seq" in data:
            assert data["prev_seq"] == self.position.seq
            assert data["seq"] > data["prev_seq"]
            assert self.channel is not Channel.TRADES
            self.merged += 1
        else:
            assert data["seq"] == self.position.seq + 1
        self.position = Position(data["epoch"], data["seq"])
        self.events.append("incr")
        fields = data["fields"]
        match self.channel:
            case Channel.TICKER:
                self.ticker = fields
            case Channel.TRADES:
                assert not self.ids or fields["trade_id"] == self.ids[-1] + 1
                self.ids.append(fields["trade_id"])
            case Channel.BOOK:
                _change(self.bids, fields["bids"])
                _change(self.asks, fields["asks"])

    def _snapshot(self, data: Json) -> None:
        parts, self.parts = self.parts, []
        assert all((one["epoch"], one["seq"], one["reason"]) == (data["epoch"], data["seq"], data["reason"])
                   for one in parts)  # fmt: skip
        if self.channel is Channel.TRADES:
            self._trades(data)
        elif self.channel is Channel.BOOK:
            self.bids = _side([level for one in parts for level in one["state"]["bids"]])
            self.asks = _side([level for one in parts for level in one["state"]["asks"]])
        else:
            self.ticker = data["state"]
        self.position = Position(data["epoch"], data["seq"])
        self.events.append(data["reason"])

    def _trades(self, data: Json) -> None:
        listed = [trade["trade_id"] for trade in data["state"]["trades"]]
        declared: set[int] = set()
        if data.get("missing"):
            declared = set(range(data["missing"]["from_trade_id"], data["missing"]["to_trade_id"] + 1))
        fresh = [one for one in listed if not self.ids or one > self.ids[-1]]
        if self.ids:
            last = max(declared.union(fresh, self.ids))
            assert declared.union(fresh) == set(range(self.ids[-1] + 1, last + 1)), "each trade, or that it is missing"
        self.missing |= declared.difference(fresh)
        self.ids += fresh


@dataclass
class Holder:
    """All streams of a client, by key; `strict`: also check the form of each message (client protocol, 6)."""

    streams: dict[StreamKey, Held] = field(default_factory=dict)
    strict: bool = True
    messages: int = 0
    bytes: int = 0

    def take(self, text: str) -> Json:
        """One message as it came; it is given back."""
        message = _read(text)
        if self.strict:
            assert to_json(parse_message(text)).decode() == text
        if message["op"] in ("incr", "snapshot"):
            key = StreamKey(message["data"]["product"], Channel(message["data"]["channel"]))
            self.streams.setdefault(key, Held(key.channel)).take(message)
            self.messages += 1
            self.bytes += len(text)
        return message

    def agrees(self, truth: dict[StreamKey, ModelStream]) -> bool:
        """Whether it holds the newest of all of its streams."""
        return bool(self.streams) and all(held.agrees(truth[key]) for key, held in self.streams.items())


def _read(text: str) -> Json:
    found: Json = json.loads(text, parse_float=Decimal)
    return found


def _side(levels: list[list[Decimal]]) -> Side:
    return {Decimal(px): Decimal(qty) for px, qty in levels}


def _change(side: Side, levels: list[list[Decimal]]) -> None:
    for px, qty in levels:
        if qty:
            side[Decimal(px)] = Decimal(qty)
        else:
            side.pop(Decimal(px), None)
