"""A shard's snapshot as an object: the state of every stream, one `StateLine` each, made and read a line at a time.

`lfmesh.core.archive` names it. The whole text of a shard can be hundreds of megabytes; only its compressed form is
held.
"""

import io
from collections.abc import Iterable, Iterator

import msgspec
import zstandard

from lfmesh.core.archive import SnapshotName, StateLine, checksum
from lfmesh.errors import BadArchive

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(StateLine).decode


class StatesWriter:
    """Takes lines, in any order, and makes the object of them."""

    def __init__(self, venue: str, shards: int, shard: int, level: int = 3) -> None:
        self._venue = venue
        self._shards = shards
        self._shard = shard
        self._compress = zstandard.ZstdCompressor(level=level).compressobj()
        self._chunks: list[bytes] = []
        self._ts = 0
        self._published = 0
        self._term = 0
        self._streams = 0

    @property
    def streams(self) -> int:
        """How many lines there are so far."""
        return self._streams

    def add(self, lines: Iterable[StateLine]) -> None:
        """Lines of further streams."""
        for line in lines:
            self._chunks.append(self._compress.compress(_encode(line) + b"\n"))
            self._ts = max(self._ts, line.time)
            self._published = max(self._published, line.ts)
            self._term = max(self._term, line.term)
            self._streams += 1

    def finish(self) -> tuple[SnapshotName, bytes]:
        """Name and bytes of the object; nothing can be added any more.

        Where no stream has a time of the venue yet, the object's is when the newest state was published.
        """
        self._chunks.append(self._compress.flush())
        body = b"".join(self._chunks)
        self._chunks = []
        name = SnapshotName(
            self._venue,
            self._shards,
            self._shard,
            self._ts or self._published,
            self._term,
            self._streams,
            checksum(body),
        )
        return name, body


def read_states(name: SnapshotName, body: bytes) -> Iterator[StateLine]:
    """The lines of a shard's snapshot. BadArchive if the bytes are not those that the name promises."""
    if checksum(body) != name.checksum:
        raise BadArchive(f"{name.key} is damaged: its bytes do not have the checksum of its name")
    count = 0
    try:
        with zstandard.ZstdDecompressor().stream_reader(io.BytesIO(body)) as reader:
            for text in io.BufferedReader(reader, 1 << 20):
                yield _decode(text)
                count += 1
    except (zstandard.ZstdError, msgspec.DecodeError) as error:
        raise BadArchive(f"{name.key} can't be read: {error}") from error
    if count != name.streams:
        raise BadArchive(f"{name.key} holds {count} streams where its name promises {name.streams}")
