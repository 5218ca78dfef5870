"""The normalizers that an ingestor pushes to: one PUSH socket each, several a shard, none waits for another."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lfmesh.errors import BadEndpoint
from lfmesh.messages import ServiceRecord
from lfmesh.transport import Pusher, Transport
from lfmesh.types import Role

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

AWAY_AFTER_NS = 500_000_000
"""A normalizer to which nothing could be pushed for this long is away; if it is not listed either, it is left."""


@dataclass(slots=True)
class _Peer:
    record: ServiceRecord
    shard: int
    pusher: Pusher
    listed: bool
    taken_at: int
    attached: bool


class Normalizers:
    """Follows the mesh's view of normalizers. A push that succeeds is the proof that one is attached."""

    def __init__(self, transport: Transport, shards: int, hwm_messages: int, log: "FilteringBoundLogger") -> None:
        self.pushes = 0
        self.dropped = 0
        self.relinked = 0
        self._transport = transport
        self._shards = shards
        self._hwm_messages = hwm_messages
        self._log = log
        self._peers: dict[str, _Peer] = {}

    def follow(self, records: Sequence[ServiceRecord]) -> None:
        """The mesh's view has changed: connect to who is new or has moved. Who is missing is left in `beat`."""
        listed = {record.instance: record for record in records if self._is_ours(record)}
        for instance, peer in self._peers.items():
            peer.listed = instance in listed
        for instance, record in listed.items():
            known = self._peers.get(instance)
            if known is not None:
                if record.incarnation < known.record.incarnation:
                    continue
                if record.endpoints["raw"] == known.pusher.endpoint and record.shard == known.shard:
                    known.record = record  # ZeroMQ has connected again, or will
                    continue
                self._leave(instance, "it has moved")
            self._join(record)

    def push(self, shard: int, batch: bytes, now: int) -> None:
        """A batch for every normalizer of the shard; who can't take it now has to ask for it."""
        for peer in self._peers.values():
            if peer.shard == shard:
                if self._offer(peer, batch, now):
                    self.pushes += 1
                else:
                    self.dropped += 1

    def beat(self, beacons: dict[int, bytes], now: int) -> None:
        """A beacon for every normalizer, and the time to notice who has come or gone."""
        for instance, peer in tuple(self._peers.items()):
            self._offer(peer, beacons[peer.shard], now)
            away = now - peer.taken_at > AWAY_AFTER_NS
            if away and not peer.listed:
                self._leave(instance, "it is not listed and takes nothing")
            elif peer.attached == away:
                peer.attached = not away
                said = "normalizer away or stuck" if away else "normalizer attached"
                self._log.info(said, normalizer=instance, shard=peer.shard)

    def relink(self, instance: str) -> bool:
        """This normalizer says that nothing arrives: make the socket anew; False if it is not known.

        What was queued goes with the old one, and is asked for by its numbers.
        """
        peer = self._peers.get(instance)
        if peer is None:
            return False
        peer.pusher.close()
        peer.pusher = Pusher(self._transport, peer.pusher.endpoint, hwm=self._hwm_messages)
        self.relinked += 1
        self._log.warning("link to a normalizer made anew", normalizer=instance, shard=peer.shard)
        return True

    def attached(self, shard: int | None = None) -> int:
        """How many normalizers (of a shard) take what is pushed to them."""
        return sum(peer.attached for peer in self._peers.values() if shard is None or peer.shard == shard)

    def _is_ours(self, record: ServiceRecord) -> bool:
        return (
            record.role == Role.NORMALIZER
            and record.shard is not None
            and 0 <= record.shard < self._shards
            and "raw" in record.endpoints
        )

    def _join(self, record: ServiceRecord) -> None:
        assert record.shard is not None
        try:
            pusher = Pusher(self._transport, record.endpoints["raw"], hwm=self._hwm_messages)
        except BadEndpoint as error:
            self._log.warning("normalizer has a bad endpoint", normalizer=record.instance, error=str(error))
            return
        self._peers[record.instance] = _Peer(record, record.shard, pusher, listed=True, taken_at=0, attached=False)

    def _leave(self, instance: str, why: str) -> None:
        self._peers.pop(instance).pusher.close()
        self._log.info("normalizer left", normalizer=instance, reason=why)

    def _offer(self, peer: _Peer, frame: bytes, now: int) -> bool:
        taken = peer.pusher.push(frame)
        if taken:
            peer.taken_at = now
        return taken
