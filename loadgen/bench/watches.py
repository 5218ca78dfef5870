"""What is looked for in a watched client's bytes, pure: bytes and the time of their receipt in, findings out."""

import re
from collections.abc import Callable
from typing import Protocol

from loadgen.client.latency import Histogram

_INCREMENT = b'{"op":"incr"'
_STATE = b'{"op":"snapshot"'
_TEXT = 0x81
_KEEP_FAULTS = 5

_numbered = re.compile(rb'"product":"([^"]+)".*?"seq":(\d+)').search
_ingested: Callable[[bytes], list[bytes]] = re.compile(rb'"ts_ingest":(\d{19})').findall
_INGESTED_BYTES = len('"ts_ingest":') + 19


class Watch(Protocol):
    """One client's bytes."""

    def take(self, received: bytes, at: int) -> None:
        """What was received next, at a time in ns."""


class Frames:
    """Every frame taken apart; each product's increments must be numbered one after the other, or after a snapshot."""

    def __init__(self) -> None:
        self.increments = 0
        self._faults: list[str] = []
        self._rest = b""
        self._seqs: dict[bytes, int] = {}

    def take(self, received: bytes, at: int) -> None:  # noqa: ARG002 - the time is of no interest here
        """What was received next."""
        data = self._rest + received
        start, size = 0, len(data)
        while start + 2 <= size:
            length, body = data[start + 1], start + 2
            if length > 125:
                body += 2 if length == 126 else 8
                length = int.from_bytes(data[start + 2 : body])
            end = body + length
            if end > size:
                break
            if data[start] == _TEXT:
                self._message(data[body:end])
            start = end
        self._rest = data[start:]

    def take_faults(self) -> list[str]:
        """The first few since the last call."""
        faults, self._faults = self._faults, []
        return faults[:_KEEP_FAULTS]

    def _message(self, message: bytes) -> None:
        increment = message.startswith(_INCREMENT)
        found = _numbered(message) if increment or message.startswith(_STATE) else None
        if found is None:
            return
        product, seq = found[1], int(found[2])
        if not increment:
            self._seqs[product] = seq
            return
        last = self._seqs.get(product)
        if last is not None and seq != last + 1:
            self._faults.append(f"{product.decode()} {seq} after {last}")
        self._seqs[product] = seq
        self.increments += 1


class Latencies:
    """From `ts_ingest` of each increment to its receipt."""

    def __init__(self) -> None:
        self.seen = Histogram()
        self._rest = b""

    def take(self, received: bytes, at: int) -> None:
        """What was received next, at a time in ns."""
        data = self._rest + received
        record = self.seen.record
        for digits in _ingested(data):
            record(at - int(digits))
        # One that is cut off is found with the next bytes; a whole one at the very end must not be found again.
        cut = data.rfind(b'"ts_i', max(0, len(data) - _INGESTED_BYTES + 1))
        self._rest = data[cut:] if cut >= 0 else data[-4:]


class Marks:
    """When each message with a `mark` in it came: `at`, in ns."""

    mark = b""

    def __init__(self) -> None:
        self.at: list[int] = []
        self._rest = b""

    def take(self, received: bytes, at: int) -> None:
        """What was received next, at a time in ns."""
        data = self._rest + received
        self.at += [at] * data.count(self.mark)
        self._rest = data[-len(self.mark) + 1 :]


class Snapshots(Marks):
    """Snapshots."""

    mark = b'"op":"snapshot"'


class Conflations(Marks):
    """Snapshots by which a slow client is told that messages were left out."""

    mark = b'"reason":"conflated"'
