"""Which of a shard's snapshotters writes to what they share, pure.

Both of a pair journal everything and answer. Of those that share a store the first by name is the primary: it writes
states and uploads. The other one does so once the primary has not been listed for `GONE_NS`. Two that take themselves
for it at once (a registry that is down, a start) do no harm: states never go back, and tape that is there twice is read
once; it only costs.
"""

from collections.abc import Iterable

from lfmesh.messages import ServiceRecord
from lfmesh.types import Role

GONE_NS = 5_000_000_000
"""Who has not been listed for so long is gone."""


class Pair:
    """The others of our shard, as one store is concerned.

    `host`: only those on this machine share it (None: it is reached from everywhere). `now` is in ns.
    """

    def __init__(self, shard: int, instance: str, now: int, host: str | None = None) -> None:
        self._shard = shard
        self._instance = instance
        self._host = host
        self._listed: set[str] = set()
        self._left: dict[str, int] = {}
        self._first_since: int | None = now
        self.met = False
        """True once another one has been listed."""

    def see(self, peers: Iterable[ServiceRecord], now: int) -> None:
        """The merged view of the mesh has changed."""
        listed = {
            record.instance
            for record in peers
            if record.role is Role.SNAPSHOTTER
            and record.shard == self._shard
            and record.instance != self._instance
            and self._host in (None, record.host)
        }
        for name in self._listed - listed:
            self._left[name] = now
        for name in listed:
            self._left.pop(name, None)
        self._listed = listed
        self.met = self.met or bool(listed)
        self.primary(now)

    def primary(self, now: int) -> bool:
        """True while it is ours to write."""
        self._left = {name: left for name, left in self._left.items() if 0 <= now - left < GONE_NS}
        if any(name < self._instance for name in (*self._listed, *self._left)):
            self._first_since = None
            return False
        if self._first_since is None:
            self._first_since = now
        return True

    @property
    def alone(self) -> bool:
        """True while no one before us is listed: who ends then should write, though not the primary yet."""
        return all(name > self._instance for name in self._listed)

    def may_overlap(self, now: int, within_ns: int) -> bool:
        """True if what we hold may have been stored by another one: we have not been the primary for `within_ns`."""
        if not self.met:
            return False
        return not self.primary(now) or self._first_since is None or 0 <= now - self._first_since < within_ns
