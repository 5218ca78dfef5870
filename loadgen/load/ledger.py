"""Whether all clients get the same bytes, and what those say: looked into once, for all clients of a process.

The first client to get a message leaves it here, with its position; who gets the same bytes finds it, which proves
that they are the same and saves taking them apart. What is not found is compared by checksum with what stood at its
position before.

Only messages as they were published are compared: those with `prev_seq` are made for each interval. What is kept is
bounded; what comes when its checksum has gone is not compared.
"""

import re
from typing import NamedTuple
from zlib import crc32

MAX_MESSAGES = 16_384
MAX_KEPT = 200_000
_LEAST_KEPT = 64
_EVERY = 61
_MAX_TOLD = 4000
_MAX_EXAMPLES = 5


_TRADE_ID = b'"trade_id":'
_END = b"}}}"

_increment = re.compile(
    rb'\{"op":"incr","data":\{"v":1,"type":"([a-z]+)","product":"([^"]+","channel":"[a-z]+)",'
    rb'"epoch":(\d+),"seq":(\d+),"ts_event":\d+,"ts_ingest":\d+,"ts_publish":\d+,'
).match


class Place(NamedTuple):
    """What an increment says: its stream (as it stands in the message), position, and its trade's id (-1: no trade)."""

    stream: bytes
    epoch: int
    seq: int
    trade_id: int


class Ledger:
    """One for all checked clients of a process, for about so many streams."""

    def __init__(self, streams: int = 1) -> None:
        self.compared = 0
        self.differing = 0
        self.examples: list[str] = []
        self.told: dict[str, int] = {}
        """Some checksums, at positions that every process chooses alike, to be compared between processes."""
        self._bound = max(_LEAST_KEPT, MAX_KEPT // max(1, streams))
        self._known: dict[tuple[bytes, int], dict[int, int]] = {}
        self.places: dict[bytes, Place] = {}
        """The latest messages, by their bytes. Who finds one here adds 1 to `compared`."""

    def see(self, message: bytes) -> None:
        """Compare a message of one whose positions are checked elsewhere; what is no increment is passed over."""
        if message in self.places:
            self.compared += 1
        else:
            self.look(message)

    def look(self, message: bytes) -> Place | None:
        """Take a message apart that is not in `places`; None if it is no increment as the mesh publishes them."""
        found = _increment(message)
        if found is None:
            return None
        kind, stream, epoch, seq = found.groups()
        trade_id = -1
        if kind == b"trade":
            digits = message[message.rfind(_TRADE_ID) + len(_TRADE_ID) :].removesuffix(_END)
            if not digits.isdigit():
                return None
            trade_id = int(digits)
        place = Place(stream, int(epoch), int(seq), trade_id)
        self.compare(stream, place.epoch, place.seq, message)
        self.places[message] = place
        if len(self.places) > MAX_MESSAGES:
            del self.places[next(iter(self.places))]
        return place

    def compare(self, stream: bytes, epoch: int, seq: int, message: bytes) -> None:
        """Compare a message with what stood at its position before."""
        known = self._known.get((stream, epoch))
        if known is None:
            known = self._known[stream, epoch] = {}
        value = crc32(message)
        first = known.get(seq)
        if first == value:
            self.compared += 1
        elif first is not None:
            self.compared += 1
            self.differing += 1
            self._note(f"{_named(stream, epoch, seq)}: {message[:400].decode('utf-8', 'replace')}")
        else:
            known[seq] = value
            if len(known) > self._bound:
                del known[next(iter(known))]
            if not seq % _EVERY:
                self.told[_named(stream, epoch, seq)] = value
                if len(self.told) > _MAX_TOLD:
                    del self.told[next(iter(self.told))]

    def compare_told(self, told: dict[str, int]) -> None:
        """What another process was told."""
        for name, value in told.items():
            first = self.told.setdefault(name, value)
            self.compared += 1
            if first != value:
                self.differing += 1
                self._note(f"{name}: differs between two processes")

    def _note(self, example: str) -> None:
        if len(self.examples) < _MAX_EXAMPLES:
            self.examples.append(example)


def _named(stream: bytes, epoch: int, seq: int) -> str:
    return f"{stream.decode().replace('","channel":"', ' ')} ({epoch}, {seq})"
