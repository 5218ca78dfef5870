"""Numbers that processes of a benchmark share: how much each client has got, read by whoever paces a publisher by it.

A memory-mapped file of unsigned 64-bit numbers. Each has one writer, and an aligned store of eight bytes is whole, so
nothing needs a lock. Names, not handles, travel to other processes.
"""

import mmap
from pathlib import Path
from typing import Self

_WIDTH = 8


class Counters:
    """`values` is what is shared; give a `size` to make the file, none to open what another process has made."""

    def __init__(self, path: Path, size: int = 0) -> None:
        self.path = path
        if size:
            path.write_bytes(bytes(size * _WIDTH))
        with path.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), 0)
        self.values = memoryview(self._memory).cast("Q")

    def close(self) -> None:
        """Let go of the memory; the file stays."""
        self.values.release()
        self._memory.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Pace:
    """How many messages a publisher may send, so that no client is more than `window` of them behind.

    `each` says how many bytes a message is for a client; clients whose share of the messages is smaller have a
    larger `every`: one message of theirs in so many that are published. What was received before is not counted.
    """

    def __init__(self, received: memoryview, each: int, window: int, every: int = 1) -> None:
        self._received = received
        self._each = each
        self._every = every
        self._window = window
        self._base = list(received)
        self.sent = 0

    def behind(self) -> int:
        """By how many published messages the slowest client is behind."""
        least = min(got - base for got, base in zip(self._received, self._base, strict=True))
        return self.sent - least // self._each * self._every

    def room(self) -> int:
        """How many more may be sent now; 0 or less: none."""
        return self._window - self.behind()
