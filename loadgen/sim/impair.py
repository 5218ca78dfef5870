"""Faults at work: a chain of stages through which one connection's frames pass.

A stage takes one frame and returns those that go on now, so stages compose: what one lets through, the next receives.
Each stage draws from its own generator, seeded by the run's seed, the fault's number and the connection's number.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from random import Random
from typing import NamedTuple, Protocol

from loadgen.sim.audience import VenueChannel
from loadgen.sim.faults import Fault
from loadgen.sim.frames import framed, payload_of


class Outgoing(NamedTuple):
    """A frame on its way to one connection. `channel` None marks an answer to a request."""

    frame: bytes
    channel: VenueChannel | None
    product: str | None


class Stage(Protocol):
    """One fault on one connection."""

    def pass_on(self, item: Outgoing) -> list[Outgoing]:
        """What goes on now that `item` has come."""

    def release(self) -> list[Outgoing]:
        """The fault is over: what was held back."""


class _SharedStage:
    """Hits a share of the frames that the fault concerns."""

    def __init__(self, fault: Fault, rng: Random, hits: Counter[str]) -> None:
        self._fault = fault
        self._rng = rng
        self._hits = hits

    def _hit(self, item: Outgoing) -> bool:
        if item.channel is None or not self._fault.concerns(item.product, item.channel):
            return False
        if self._rng.random() >= (self._fault.share or 0.0):
            return False
        self._hits[self._fault.kind] += 1
        return True

    def release(self) -> list[Outgoing]:
        return []


class Lose(_SharedStage):
    """Frames that never arrive."""

    def pass_on(self, item: Outgoing) -> list[Outgoing]:
        """Nothing, if hit."""
        return [] if self._hit(item) else [item]


class Duplicate(_SharedStage):
    """Frames that arrive twice."""

    def pass_on(self, item: Outgoing) -> list[Outgoing]:
        """The frame twice, if hit."""
        return [item, item] if self._hit(item) else [item]


class Garble(_SharedStage):
    """Frames that arrive damaged."""

    def pass_on(self, item: Outgoing) -> list[Outgoing]:
        """The damaged frame, if hit."""
        if not self._hit(item):
            return [item]
        return [item._replace(frame=framed(garbled(payload_of(item.frame), self._rng)))]


class Drop(_SharedStage):
    """A connection that breaks."""

    def __init__(self, fault: Fault, rng: Random, hits: Counter[str], cut: Callable[[], None]) -> None:
        super().__init__(fault, rng, hits)
        self._cut = cut
        self._broken = False

    def pass_on(self, item: Outgoing) -> list[Outgoing]:
        """Cut the connection instead of sending, if hit; nothing passes after that."""
        if not self._broken and self._hit(item):
            self._broken = True
            self._cut()
        return [] if self._broken else [item]


class Reorder(_SharedStage):
    """Frames that arrive late."""

    def __init__(self, fault: Fault, rng: Random, hits: Counter[str]) -> None:
        super().__init__(fault, rng, hits)
        self._held: list[tuple[int, Outgoing]] = []

    def pass_on(self, item: Outgoing) -> list[Outgoing]:
        """Hold the frame, if hit; else it goes on, followed by what has been held for long enough."""
        if self._hit(item):
            self._held.append((1 + int(self._rng.random() * 4), item))
            return []
        released = [late for wait, late in self._held if wait <= 1]
        self._held = [(wait - 1, late) for wait, late in self._held if wait > 1]
        return [item, *released]

    def release(self) -> list[Outgoing]:
        """What is still held."""
        released = [late for _, late in self._held]
        self._held = []
        return released


class Stall:
    """A connection, or some of its streams, on which nothing moves for a while; `hold` bounds what is kept."""

    def __init__(self, fault: Fault, hits: Counter[str], limit_bytes: int, overflow: Callable[[], None]) -> None:
        self._fault = fault
        self._hits = hits
        self._limit_bytes = limit_bytes
        self._overflow = overflow
        self._held: list[Outgoing] = []
        self._held_bytes = 0

    def pass_on(self, item: Outgoing) -> list[Outgoing]:
        """Nothing, if the frame is concerned; answers to requests are, unless the fault names products or channels."""
        whole = not self._fault.products and not self._fault.channels
        if not (whole if item.channel is None else self._fault.concerns(item.product, item.channel)):
            return [item]
        self._hits["stall"] += 1
        self._held.append(item)
        self._held_bytes += len(item.frame)
        if self._held_bytes > self._limit_bytes:
            self._held.clear()
            self._held_bytes = 0
            self._overflow()
        return []

    def release(self) -> list[Outgoing]:
        """Everything, in order."""
        released, self._held, self._held_bytes = self._held, [], 0
        return released


def garbled(payload: bytes, rng: Random) -> bytes:
    """`payload` cut off, or with a run of 1 to 8 characters overwritten by `#`.

    No character becomes another that could pass for data, so a damaged number is never taken for a different number.
    """
    at = int(rng.random() * len(payload))
    if rng.random() < 0.5:
        damaged = payload[:at]
    else:
        run = 1 + int(rng.random() * 8)
        damaged = payload[:at] + b"#" * len(payload[at : at + run]) + payload[at + run :]
    # Half a multi-byte character would make the text frame invalid UTF-8, which is another fault than this.
    return damaged.decode("utf-8", "ignore").encode()


class Chain:
    """The stages of one connection, in the order in which their faults began."""

    def __init__(self) -> None:
        self._stages: dict[int, Stage] = {}

    def __bool__(self) -> bool:
        return bool(self._stages)

    def add(self, number: int, stage: Stage) -> None:
        """Begin a fault."""
        self._stages[number] = stage

    def end(self, number: int) -> list[Outgoing]:
        """End a fault; returns what it held back, as it leaves the stages after it."""
        stages = list(self._stages.items())
        self._stages.pop(number, None)
        for place, (own, stage) in enumerate(stages):
            if own == number:
                return self._through([later for _, later in stages[place + 1 :]], stage.release())
        return []

    def pass_on(self, item: Outgoing) -> list[Outgoing]:
        """Send one frame through all stages."""
        return self._through(self._stages.values(), [item])

    @staticmethod
    def _through(stages: Iterable[Stage], items: list[Outgoing]) -> list[Outgoing]:
        for stage in stages:
            items = [out for item in items for out in stage.pass_on(item)]
        return items
