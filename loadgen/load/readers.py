"""What the clients of a load do with what they read: count it, or check it. Each is a `loadgen.load.tally.Reader`.

Both begin by taking every message apart, until all streams that were asked for have begun; one that only counts then
goes over to a `Tally`, between two frames.
"""

import re
import time
from collections import Counter
from collections.abc import Callable, Sequence

from loadgen.client.checker import Checker
from loadgen.load.frames import Splitter
from loadgen.load.ledger import Ledger
from loadgen.load.sampler import Latencies, Sampler
from loadgen.load.sequence import SequenceChecker
from loadgen.load.tally import Control, Tally

_INCREMENT = b'{"op":"incr"'
_PUBLISHED = b'"ts_publish":'
_DIGITS = 19

_snapshot = re.compile(
    rb'\{"op":"snapshot","data":\{"v":1,"type":"snapshot","product":"([^"]+)","channel":"([a-z]+)"'
).match
_part = re.compile(rb'"part":(\d+),"parts":(\d+),').search
_code = re.compile(rb'"code":"([A-Z_]+)"').search
_HEAD_BYTES = 400


class Asked:
    """What came of one subscription. Times in ns since the Unix epoch, 0 where it has not come to that.

    `first_at`: the first message with data; `joined_at`: everything that was asked for has begun.
    """

    __slots__ = ("asked_at", "first_at", "joined_at")

    def __init__(self) -> None:
        self.asked_at = 0
        self.first_at = 0
        self.joined_at = 0


class Reading:
    """What all have alike; `on_joined` is called once for each `ask`."""

    def __init__(
        self, sampler: Sampler, latencies: Latencies, on_joined: Callable[[], None], clock: Callable[[], int]
    ) -> None:
        self.asked = Asked()
        self.errors: Counter[str] = Counter()
        self._sampler = sampler
        self._latencies = latencies
        self._on_joined = on_joined
        self._clock = clock
        self._until = sampler.first()
        """Bytes until the next sample."""

    @property
    def messages(self) -> int:
        """Increments received."""
        raise NotImplementedError

    @property
    def received_bytes(self) -> int:
        """Bytes received."""
        raise NotImplementedError

    def measure(self, latencies: Latencies) -> None:
        """From now on latencies go there."""
        self._latencies = latencies

    def _joined(self) -> None:
        self.asked.joined_at = self._clock()
        self._on_joined()

    def _sample(self, buffer: bytearray, size: int) -> None:
        self._until -= size
        if self._until < 0:
            at = size + self._until
            self._until = self._sampler.look(buffer, at, size, self.asked.asked_at, self._latencies)


class CountingReader(Reading):
    """Counts, and hardly looks. Made for one connection."""

    def __init__(
        self,
        sampler: Sampler,
        latencies: Latencies,
        on_joined: Callable[[], None] = lambda: None,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        super().__init__(sampler, latencies, on_joined, clock)
        self._tally = Tally()
        self._splitter: Splitter | None = None
        self._waiting: set[tuple[bytes, bytes]] = set()
        self._early = 0
        self._early_bytes = 0

    @property
    def messages(self) -> int:
        """Increments received."""
        return self._early + self._tally.messages

    @property
    def received_bytes(self) -> int:
        """Bytes received."""
        return self._early_bytes + self._tally.bytes

    def ask(self, products: Sequence[str], channels: Sequence[str]) -> None:
        """These streams are being subscribed, with snapshots; nothing has come yet on this connection."""
        self.asked.asked_at = self._clock()
        self._waiting = {(product.encode(), channel.encode()) for product in products for channel in channels}
        self._splitter = Splitter(self._early_message)

    def give_up(self) -> None:
        """Wait no more for streams that do not begin."""
        self._waiting.clear()
        self._on_joined = lambda: None

    def feed(self, buffer: bytearray, size: int) -> Sequence[Control]:
        """Take one read."""
        self._sample(buffer, size)
        splitter = self._splitter
        if splitter is None:
            return self._tally.feed(buffer, size)
        controls = splitter.feed(buffer, size)
        self._early_bytes = splitter.bytes
        if not self._waiting:
            rest = bytearray(splitter.rest)
            self._early_bytes -= len(rest)
            self._splitter = None
            controls = [*controls, *self._tally.feed(rest, len(rest))]
            self._joined()
        return controls

    def _early_message(self, data: bytes, start: int, end: int) -> None:
        if data.startswith(_INCREMENT, start):
            self._early += 1
            return
        found = _snapshot(data, start, end)
        if found is not None:
            if not self.asked.first_at:
                self.asked.first_at = self._clock()
            part = _part(data, start, min(end, start + _HEAD_BYTES))
            if part is None or part[1] == part[2]:
                self._waiting.discard((found[1], found[2]))
        elif data.startswith(b'{"op":"error"', start):
            code = _code(data, start, end)
            self.errors[code[1].decode() if code else "?"] += 1


class CheckingReader(Reading):
    """Gives every message to a checker, which outlives connections; so does this."""

    def __init__(
        self,
        checker: Checker,
        sampler: Sampler,
        latencies: Latencies,
        on_joined: Callable[[], None] = lambda: None,
        clock: Callable[[], int] = time.time_ns,
        ledger: Ledger | None = None,
    ) -> None:
        super().__init__(sampler, latencies, on_joined, clock)
        self.checker = checker
        self.caught_up = False
        """True when something published after `watch` was called has come."""
        self._ledger = ledger
        """Where a full checker's messages are compared with those of others; a light one has its own way there."""
        self._light = checker if isinstance(checker, SequenceChecker) else None
        self._take = checker.take if isinstance(checker, SequenceChecker) else self._message
        self._splitter = Splitter(self._take)
        self._messages = 0
        self._bytes = 0
        self._now = 0
        self._joining = False
        self._resuming = False
        self._watched_since = 0

    @property
    def messages(self) -> int:
        """Increments received."""
        return self._messages if self._light is None else self._light.taken

    @property
    def received_bytes(self) -> int:
        """Bytes received."""
        return self._bytes

    def ask(self, *, resuming: bool) -> None:
        """Requests are being sent on a new connection. Who resumes has joined with the first message of any stream."""
        self.asked = Asked()
        self.asked.asked_at = self._clock()
        self._splitter = Splitter(self._take)
        self._joining = True
        self._resuming = resuming

    def watch(self) -> None:
        """Look out for what is published from now on."""
        self.caught_up = False
        self._watched_since = self._clock()

    def feed(self, buffer: bytearray, size: int) -> Sequence[Control]:
        """Take one read."""
        self._sample(buffer, size)
        self._bytes += size
        self._now = self._clock()
        if self._light is not None:
            self._light.heard(self._now)
        controls = self._splitter.feed(buffer, size)
        if self._joining:
            self._look_for_the_end_of_joining()
        if self._watched_since:
            self._look_for_the_present(buffer, size)
        return controls

    def _message(self, data: bytes, start: int, end: int) -> None:
        if data.startswith(_INCREMENT, start):
            self._messages += 1
        message = data[start:end]
        if self._ledger is not None:
            self._ledger.see(message)
        self.checker.receive(message, self._now)

    def _look_for_the_end_of_joining(self) -> None:
        checker, asked = self.checker, self.asked
        if not asked.first_at and any(stream.started for _, stream in checker.streams()):
            asked.first_at = self._now
        if asked.first_at and not checker.unanswered and (self._resuming or not checker.waiting()):
            self._joining = False
            self._joined()

    def _look_for_the_present(self, buffer: bytearray, size: int) -> None:
        at = buffer.rfind(_PUBLISHED, 0, size) + len(_PUBLISHED)
        digits = bytes(buffer[at : min(size, at + _DIGITS)])
        if at >= len(_PUBLISHED) and len(digits) == _DIGITS and digits.isdigit() and int(digits) > self._watched_since:
            self.caught_up = True
            self._watched_since = 0
