"""What is known of every process of a mesh: records from the registry, figures from telemetry. No clock, no I/O.

Rates are differences of totals between two telemetry messages of one incarnation, divided by the time between them.
The two are about a second apart: a process tells each second, and once more whenever somebody subscribes.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import msgspec

from lfmesh.messages import ServiceRecord, Telemetry
from lfmesh.top.recovery import recovery_of
from lfmesh.top.slowest import SlowRow, slowest_of
from lfmesh.types import Line, Role

RATE_SPAN_NS = 900_000_000
"""A rate is formed over at least this."""
SILENT_NS = 3_500_000_000
"""A process that has told nothing for so long (it tells each second) is silent."""
FORGOTTEN_NS = 60_000_000_000
"""One that neither the registry nor telemetry has known of for so long is shown no more."""

State = Literal["ready", "not ready", "silent", "gone", "announced"]
_ORDER = {role: place for place, role in enumerate(Role)}


class Row(msgspec.Struct, frozen=True):
    """One process, as `lfmesh top --json` prints it; None where nothing is known (yet).

    `state`: ready; not ready (`reasons` say why); silent (it is announced, but has told nothing for 3.5 s); gone (its
    lease has ended); announced (nothing told yet). Rates are per second over the last second, `cpu_percent` is of one
    core, `lag_ms` says how far behind its input the newest output is, `gaps` are those since its start, `age_s` is
    the time since its start and `restarts` how often it was seen to start anew. `line` is an ingestor's; for what
    follows `rss_bytes` see `lfmesh.top.recovery.Recovery`.
    """

    role: Role
    instance: str
    shard: int | None
    state: State
    reasons: list[str]
    pid: int
    host: str
    http: str
    age_s: float
    restarts: int
    messages_in_per_s: float | None = None
    messages_out_per_s: float | None = None
    messages_in_total: int | None = None
    messages_out_total: int | None = None
    lag_ms: float | None = None
    queue_messages: int | None = None
    gaps: int | None = None
    clients: int | None = None
    cpu_percent: float | None = None
    rss_bytes: int | None = None
    line: Line | None = None
    active: bool | None = None
    open_gaps: int | None = None
    backfills: int | None = None
    links_lost: int | None = None
    takeovers: int | None = None
    published: dict[str, int] = {}
    rungs: dict[str, int] = {}
    draining: bool | None = None


@dataclass(slots=True)
class _Peer:
    role: Role
    instance: str
    record: ServiceRecord | None = None
    told: deque[Telemetry] = field(default_factory=deque)
    heard_ns: int = 0
    listed_ns: int = 0
    listed: bool = False
    incarnation: int = 0
    restarts: int = 0

    def started(self, incarnation: int) -> None:
        if incarnation > self.incarnation:
            if self.incarnation:
                self.restarts += 1
            self.incarnation = incarnation
            self.told.clear()

    def take(self, telemetry: Telemetry, now: int) -> None:
        """Keep it, and of the earlier ones what the next rate may need."""
        self.heard_ns = now
        self.told.append(telemetry)
        while len(self.told) > 2 and self.told[1].ts <= telemetry.ts - RATE_SPAN_NS:
            self.told.popleft()

    @property
    def newest(self) -> Telemetry | None:
        """The last thing told by this incarnation."""
        return self.told[-1] if self.told else None

    @property
    def previous(self) -> Telemetry | None:
        """What the newest one is compared with."""
        if not self.told or self.told[0].ts > self.told[-1].ts - RATE_SPAN_NS:
            return None
        return self.told[0]


@dataclass(slots=True)
class TopState:
    """Every process that is or was lately known. `registries` is how many replicas answered, of how many."""

    registries: tuple[int, int] = (0, 0)
    peers: dict[tuple[Role, str], _Peer] = field(default_factory=dict)

    def listed(self, records: Iterable[ServiceRecord], now: int) -> None:
        """The merged view of the registry's replicas (or the static peers)."""
        for peer in self.peers.values():
            peer.listed = False
        for record in records:
            peer = self._peer(record.role, record.instance)
            if record.incarnation >= peer.incarnation or not record.incarnation:  # 0: a static peer
                peer.started(record.incarnation)
                peer.record = record
                peer.listed, peer.listed_ns = True, now

    def told(self, telemetry: Telemetry, now: int) -> None:
        """One telemetry message; those of an older incarnation are dropped."""
        peer = self._peer(telemetry.role, telemetry.instance)
        if telemetry.incarnation < peer.incarnation:
            return
        peer.started(telemetry.incarnation)
        peer.take(telemetry, now)

    def rows(self, now: int) -> list[Row]:
        """One row a process, in the order of the data's way through the mesh."""
        for key, peer in tuple(self.peers.items()):
            if max(peer.heard_ns, peer.listed_ns) + FORGOTTEN_NS < now:
                del self.peers[key]
        peers = sorted(self.peers.values(), key=lambda peer: (_ORDER[peer.role], peer.instance))
        return [_row(peer, now) for peer in peers]

    def slowest(self, now: int) -> list[SlowRow]:
        """The slowest clients of all gateways that are heard, the worst first."""
        heard = [peer for peer in self.peers.values() if _state(peer, now) in ("ready", "not ready")]
        return slowest_of(peer.newest for peer in heard if peer.newest is not None)

    def complete(self) -> bool:
        """Whether every listed process has told twice, so that its rates are known."""
        listed = [peer for peer in self.peers.values() if peer.listed]
        return bool(listed) and all(peer.previous is not None for peer in listed)

    def endpoints(self) -> dict[str, str]:
        """Telemetry address of every process that is listed, by instance."""
        return {
            f"{peer.role}/{peer.instance}": peer.record.endpoints["telemetry"]
            for peer in self.peers.values()
            if peer.record is not None and peer.listed and "telemetry" in peer.record.endpoints
        }

    def _peer(self, role: Role, instance: str) -> _Peer:
        return self.peers.setdefault((role, instance), _Peer(role, instance))


def _state(peer: _Peer, now: int) -> State:
    told = peer.newest is not None and peer.heard_ns + SILENT_NS >= now
    if told:
        assert peer.newest is not None
        return "not ready" if peer.newest.reasons else "ready"
    if not peer.listed:
        return "gone"
    return "announced" if peer.newest is None and now - peer.incarnation * 1000 < SILENT_NS else "silent"


def _row(peer: _Peer, now: int) -> Row:
    state = _state(peer, now)
    record, newest = peer.record, peer.newest
    known = Row(
        role=peer.role,
        instance=peer.instance,
        shard=newest.shard if newest else record.shard if record else None,
        state=state,
        reasons=list(newest.reasons) if newest and state == "not ready" else [],
        pid=newest.pid if newest else record.pid if record else 0,
        host=record.host if record else "",
        http=record.http if record else "",
        age_s=max(0.0, round((now - peer.incarnation * 1000) / 1e9, 1)),
        restarts=peer.restarts,
        line=record.line if record else None,
    )
    if newest is None:
        return known
    recovery = recovery_of(newest.statistics)
    totals = msgspec.structs.replace(
        known,
        messages_in_total=newest.messages_in_total,
        messages_out_total=newest.messages_out_total,
        gaps=newest.gaps_total,
        rss_bytes=newest.rss_bytes,
        links_lost=recovery.links_lost,
        takeovers=recovery.takeovers,
        rungs=recovery.rungs,
    )
    if state not in ("ready", "not ready"):
        return totals
    return msgspec.structs.replace(
        totals,
        messages_in_per_s=rate(peer.previous, newest, "messages_in_total"),
        messages_out_per_s=rate(peer.previous, newest, "messages_out_total"),
        lag_ms=newest.lag_ms,
        queue_messages=newest.queue_messages,
        clients=newest.clients,
        cpu_percent=_percent(rate(peer.previous, newest, "cpu_s")),
        active=recovery.active,
        open_gaps=recovery.open_gaps,
        backfills=recovery.backfills,
        published=recovery.published,
        draining=recovery.draining,
    )


def rate(
    previous: Telemetry | None,
    newest: Telemetry,
    total: Literal["messages_in_total", "messages_out_total", "cpu_s"],
) -> float | None:
    """Growth of a total a second between two messages; None without two of them."""
    if previous is None or newest.ts <= previous.ts:
        return None
    grown: float = getattr(newest, total) - getattr(previous, total)
    return round(max(0.0, grown) * 1e9 / (newest.ts - previous.ts), 4)


def _percent(share: float | None) -> float | None:
    return None if share is None else round(share * 100, 1)


def totals(rows: Sequence[Row]) -> tuple[float, float, int]:
    """Of the whole mesh: venue messages a second into it, messages a second to clients, clients."""
    into = sum(row.messages_in_per_s or 0 for row in rows if row.role == Role.INGESTOR)
    out = sum(row.messages_out_per_s or 0 for row in rows if row.role == Role.GATEWAY)
    return into, out, sum(row.clients or 0 for row in rows)
