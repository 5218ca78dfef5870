"""A replay to standard output: when each message is due, and how it is written."""

import time
from collections.abc import Callable, Iterable, Iterator
from typing import BinaryIO, Literal

from lfmesh.archive.history import Told

PAUSE = b""
"""Stands between messages where the next one is not due yet: what there is should be written."""

_WRITE_BYTES = 64 * 1024
_LEAST_NS = 1_000_000
"""A shorter pause is left out, and made up for by the next one."""


def paced(
    told: Iterable[Told],
    speed: float | Literal["max"],
    skip_s: float | None = None,
    *,
    clock: Callable[[], int] = time.monotonic_ns,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[bytes]:
    """The messages, each when it is due, with a PAUSE before every wait.

    The first one is due at once, the others after as much time as in the archive, divided by `speed`. A reader that was
    slow gets what is overdue at once. `skip_s`: a pause in the archive counts for so much of its time at most.
    """
    if speed == "max":
        for _, line in told:
            yield line.message
        return
    longest = None if skip_s is None else int(skip_s * 1e9)
    began = clock()
    at = due = 0
    for _, line in told:
        passed = max(0, line.time - at) if at else 0
        at = max(at, line.time)
        due += passed if longest is None else min(passed, longest)
        early = began + int(due / speed) - clock()
        if early > _LEAST_NS:
            yield PAUSE
            sleep(early / 1e9)
        yield line.message


def write(output: BinaryIO, messages: Iterable[bytes]) -> int:
    """Write messages a line each, at a PAUSE all that wait and else many at a time; how many there were."""
    waiting: list[bytes] = []
    count = size = 0
    for message in messages:
        if message:
            waiting.append(message)
            count += 1
            size += len(message)
        if waiting and (not message or size >= _WRITE_BYTES):
            _flush(output, waiting)
            waiting, size = [], 0
    if waiting:
        _flush(output, waiting)
    return count


def _flush(output: BinaryIO, lines: list[bytes]) -> None:
    output.write(b"\n".join([*lines, b""]))
    output.flush()
