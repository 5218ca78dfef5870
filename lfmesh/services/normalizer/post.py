"""What a normalizer process has, whether it publishes or stands by; and the raw frames that wait for their turn."""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from lfmesh.config import NormalizerSection
from lfmesh.core.codec import last_record
from lfmesh.errors import BadMeshFrame
from lfmesh.ports import Context
from lfmesh.services.links import Links
from lfmesh.services.normalizer.outflow import Ring
from lfmesh.transport import Publisher, Transport
from lfmesh.types import InputPosition


@dataclass(frozen=True, slots=True)
class Post:
    """One process's place in its shard: `products` are those of the shard, `links` lead to its other normalizers."""

    shard: int
    instance: str
    products: tuple[str, ...]
    has_books: bool
    section: NormalizerSection
    context: Context
    transport: Transport
    publisher: Publisher
    links: Links
    ring: Ring


class HeldFrames:
    """Raw frames that can't be taken yet, in order: the newest of them, of at most so many bytes.

    Those that are dropped are missed by their numbers, and replayed.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._frames: deque[bytes] = deque()
        self._bytes = 0
        self.dropped = 0

    def __len__(self) -> int:
        return len(self._frames)

    @property
    def size(self) -> int:
        """Their size."""
        return self._bytes

    def extend(self, frames: Iterable[bytes]) -> None:
        """These have come."""
        for frame in frames:
            self._frames.append(frame)
            self._bytes += len(frame)
        while self._bytes > self._max_bytes and len(self._frames) > 1:
            self.pop()
            self.dropped += 1

    def pop(self) -> bytes:
        """The oldest."""
        frame = self._frames.popleft()
        self._bytes -= len(frame)
        return frame

    def forget(self, reached: Iterable[InputPosition]) -> None:
        """Records up to these have been dealt with by somebody else."""
        known = {source.ingestor: source for source in reached}
        while self._frames:
            try:
                last = last_record(self._frames[0])
            except BadMeshFrame:
                return  # for who takes it, to count and to log
            source = known.get(last.ingestor)
            if source is None or last > source:
                return
            self.pop()
