"""Latencies of a sample of messages: picked at even distances in the bytes, so that every delivery has the same chance.

A sample costs about as much as counting twenty messages. Where samples come faster than `MAX_PER_WINDOW` in a window,
the distance is doubled for good.
"""

import re
import time
from collections.abc import Callable
from random import Random

from loadgen.client.latency import Histogram

FIRST_DISTANCE_BYTES = 512
MAX_PER_WINDOW = 1000
_WINDOW_NS = 100_000_000

_stamps = re.compile(rb'"ts_ingest":(\d{16,19}),"ts_publish":(\d{16,19}),').search


class Latencies:
    """From ts_ingest and from ts_publish to the receipt."""

    __slots__ = ("ingest", "publish")

    def __init__(self) -> None:
        self.ingest = Histogram()
        self.publish = Histogram()


class Sampler:
    """One for all clients of a process. `clock` in ns since the Unix epoch."""

    def __init__(self, seed: int = 1, clock: Callable[[], int] = time.time_ns) -> None:
        self.samples = 0
        self._clock = clock
        self._chance = Random(seed).random  # noqa: S311
        self._distance = FIRST_DISTANCE_BYTES
        self._window_end = 0
        self._in_window = 0

    def first(self) -> int:
        """Bytes to the first sample of a client."""
        return int(self._distance * self._chance())

    def look(self, buffer: bytearray | bytes, at: int, size: int, asked_at: int, latencies: Latencies) -> int:
        """Sample from `at` on in a read of `size` bytes; how many bytes after the read the next sample is.

        What was published before `asked_at` does not count: it was on its way to be kept, not to be delivered.
        """
        now = self._clock()
        if now > self._window_end:
            self._window_end = now + _WINDOW_NS
            self._in_window = 0
        while at < size:
            found = _stamps(buffer, at, size)
            if found is None:
                at = size
                # The message that begins here ends in the next read: take one there.
                break
            ingest, publish = int(found[1]), int(found[2])
            if publish > asked_at:
                latencies.ingest.record(now - ingest)
                latencies.publish.record(now - publish)
                self.samples += 1
                self._in_window += 1
                if self._in_window > MAX_PER_WINDOW:
                    self._distance *= 2
                    self._in_window = 0
            at = max(at + int(self._distance * (0.5 + self._chance())), found.end())
        return at - size
