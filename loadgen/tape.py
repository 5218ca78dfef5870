"""Recorded tapes: what a venue sent, frame by frame, with the time of receipt.

`lfmesh.core.rawtape` says what their lines are. Tapes are read and written as a stream, so they may be larger than
memory.
"""

import re
from collections.abc import Generator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from lfmesh.core import rawtape
from lfmesh.errors import BadTape

_product_id = re.compile(rb'"product_id"\s*:\s*"([^"\\]+)"')
_SHOWN_BYTES = 40


def read(path: Path) -> Generator[tuple[int, bytes], None, None]:
    """The tape's (receive_ns, frame) in order; frames are the recorded bytes, unparsed.

    Raises BadTape with the line number and the cause for a file that cannot be read or is no tape. Lines are checked
    as they are reached, so a broken one late in the file is found late. Closing the generator closes the file.
    """
    try:
        with path.open("rb", buffering=1 << 20) as file:
            yield from _lines(path, file)
    except OSError as error:
        raise BadTape(f"{path}: cannot be read: {error.strerror or error}") from error


def _lines(path: Path, file: BinaryIO) -> Generator[tuple[int, bytes], None, None]:
    number = 0
    while line := file.readline(rawtape.MAX_LINE_BYTES):
        number += 1
        try:
            record = rawtape.split(line)
        except ValueError as cause:
            raise BadTape(_complaint(path, number, line, str(cause))) from None
        yield record
    if number == 0:
        raise BadTape(f"{path}: not a tape: the file is empty")


def _complaint(path: Path, number: int, line: bytes, cause: str) -> str:
    shown = ascii(line[:_SHOWN_BYTES].decode("utf-8", "replace").rstrip("\n"))
    return f"{path}: not a tape: line {number}: {cause} (it begins with {shown})"


def products(path: Path) -> tuple[str, ...]:
    """The ids of the products whose frames the tape holds, in order of first appearance.

    Reads the whole file once, so it checks every line. Raises BadTape as `read` does, and when no line holds
    a product's frame.
    """
    found: dict[str, None] = {}
    for _, frame in read(path):
        match = _product_id.search(frame)
        if match is not None:
            found.setdefault(match[1].decode("utf-8", "replace"), None)
    if not found:
        raise BadTape(f"{path}: not a tape: none of its lines holds a frame with a product_id")
    return tuple(found)


class Writer:
    """Writes a tape that `read` reads back; use it as a context manager."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")

    def write(self, receive_ns: int, frame: bytes) -> None:
        """Append one frame. ValueError for a frame that holds a newline or nothing: a line could not carry it."""
        self._file.write(rawtape.line(receive_ns, frame))

    def close(self) -> None:
        """Flush and close the file; closing twice is harmless."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
