"""A service's side of the registry: announces itself to every replica, and watches them all.

    discovery = Discovery(config.registry, transport, log=log, on_peers=service.on_peers)
    discovery.start()                  # watches from now on
    discovery.announce(record)         # at once, then each announce_interval_s; again whenever the record changes
    await discovery.leave(); discovery.close()

The merged view (rules: `lfmesh.core.peers`) is given to `on_peers` whenever it has changed. A peer is missing from it
only when a replica that is up and warm does not list it; whether its socket is silent too is for the service to judge,
which knows its links: it should keep a peer that still talks.

Replicas that are away are asked again and again, so that one that comes back is picked up without a restart.
`lfmesh top` and the supervisor use it to watch only.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from lfmesh.config import RegistrySection
from lfmesh.core import topics
from lfmesh.core.addresses import is_endpoint
from lfmesh.core.codec import split_topic
from lfmesh.core.peers import Observed, Peers
from lfmesh.core.repeat import Repeats
from lfmesh.errors import BadEndpoint, BadMeshFrame, ConfigError, RequestTimeout
from lfmesh.messages import (
    AnnounceRequest,
    LookupRequest,
    Rejected,
    ServiceRecord,
    View,
    decode_registry_change,
    decode_reply,
    encode,
)
from lfmesh.services.resolve import Resolved, is_numeric, resolve
from lfmesh.transport import Requester, Subscriber, Transport
from lfmesh.types import Role

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

_LOOKUP = encode(LookupRequest())
_FIRST_TIMEOUT_S, _MAX_TIMEOUT_S = 0.25, 2.0
_LEAVE_TIMEOUT_S = 0.3
_UNSEEN_RETRY_S = 0.05
_RESOLVE_INTERVAL_S = 5.0
_CHANGES_HWM = 10_000


def static_peers(section: RegistrySection) -> tuple[ServiceRecord, ...]:
    """The peers that the configuration names, as records; they replace the registry altogether. ConfigError."""
    for peer in section.static_peers:
        for name, endpoint in peer.endpoints.items():
            if not is_endpoint(endpoint):
                raise ConfigError(
                    f"registry.static_peers: {name} of {peer.instance} must be tcp://HOST:PORT or ipc://PATH, "
                    f"given: {endpoint!r}"
                )
    return tuple(
        ServiceRecord(
            role=peer.role,
            instance=peer.instance,
            incarnation=0,
            endpoints=dict(peer.endpoints),
            version="",
            pid=0,
            host="",
            shard=peer.shard,
            line=peer.line,
        )
        for peer in section.static_peers
    )


_CHANGES_SILENCE_NS = 2_500_000_000
"""A replica publishes at least each second."""


class Discovery:
    """Announces one service and watches the others, over all replicas; see the module's docstring."""

    def __init__(
        self,
        section: RegistrySection,
        transport: Transport,
        *,
        log: "FilteringBoundLogger",
        on_peers: Callable[[Sequence[ServiceRecord]], None],
    ) -> None:
        self.peers: tuple[ServiceRecord, ...] = ()
        self.transport = transport
        self.merged = Peers()
        self._section = section
        self._log = log
        self._on_peers = on_peers
        self._repeats = Repeats()
        self._loop = asyncio.get_running_loop()
        self._links: dict[str, _Replica] = {}
        self._up: set[str] = set()
        self._announcement: bytes | None = None
        self._record: ServiceRecord | None = None
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._closed = False

    def start(self) -> None:
        """Begin to watch; BadEndpoint if a replica's address is none."""
        endpoints = self._section.endpoints
        self._reach({endpoint for endpoint in endpoints if is_numeric(endpoint)})
        if not all(map(is_numeric, endpoints)):
            resolve(endpoints, self._on_resolved)
        self._tick()

    def announce(self, record: ServiceRecord) -> None:
        """Say to every replica that this service lives, now and from now on."""
        self._record = record
        self._announcement = encode(AnnounceRequest(record))
        self._announce_again()

    async def leave(self) -> None:
        """Tell every replica that is up that this service ends; waits for them a short time."""
        record, self._record, self._announcement = self._record, None, None
        if record is None:
            return
        farewell = encode(AnnounceRequest(record, leaving=True))
        told = [link.requester for endpoint, link in self._links.items() if self.merged.counts(endpoint, self.now())]
        await asyncio.gather(*(_tell(requester, farewell) for requester in told))

    def close(self) -> None:
        """Stop watching and announcing; the sockets close, the last view stays."""
        self._closed = True
        for timer in self._timers.values():
            timer.cancel()
        for link in self._links.values():
            link.close()

    def replicas(self) -> tuple[int, int]:
        """How many replicas answer, and of how many addresses."""
        return len(self._up), len(self._links)

    # What the links call -------------------------------------------------------------------------------------------

    def now(self) -> int:
        """The loop's time in ns: leases and silence are durations, which the wall clock would falsify."""
        return int(self._loop.time() * 1e9)

    @property
    def announcement(self) -> bytes | None:
        """What is to be announced, if anything."""
        return self._announcement

    def changed(self) -> None:
        """Something was learnt of a replica, or time has passed: tell of what the merged view has become."""
        if self._closed:
            return
        self._log_replicas()
        peers = self.merged.merge(self.now())
        if peers != self.peers:
            self.peers = peers
            # In a turn of its own: whoever is told may close this object, and with it the socket that is being read.
            self._loop.call_soon(self._tell)

    def complain(self, event: str, **facts: str) -> None:
        """Log a replica's fault, once a minute."""
        held_back = self._repeats.admit((event, *facts.values()), self.now())
        if held_back is not None:
            self._log.warning(event, **facts, held_back=held_back)

    # ---------------------------------------------------------------------------------------------------------------

    def _tick(self) -> None:
        interval_s = self._section.announce_interval_s
        patience = round(1.5 * interval_s * 1e9)
        for endpoint, link in self._links.items():
            silence = self.merged.silent_for(endpoint, self.now())
            if silence is None or silence > patience:
                link.look_up()
        self.changed()
        self._timers["tick"] = self._loop.call_later(interval_s / 2, self._tick)

    def _tell(self) -> None:
        if not self._closed:
            self._on_peers(self.peers)

    def _announce_again(self) -> None:
        if "announce" in self._timers:
            self._timers["announce"].cancel()
        if self._closed or self._announcement is None:
            return
        for link in self._links.values():
            link.announce()
        self._timers["announce"] = self._loop.call_later(self._section.announce_interval_s, self._announce_again)

    def _reach(self, endpoints: set[str]) -> None:
        for endpoint in self._links.keys() - endpoints:
            self._links.pop(endpoint).close()
            self.merged.forget(endpoint)
        for endpoint in sorted(endpoints - self._links.keys()):
            link = self._links[endpoint] = _Replica(self, endpoint)
            link.look_up()
            link.announce()

    def _on_resolved(self, found: Resolved) -> None:
        if self._closed:
            return
        unknown = sorted(endpoint for endpoint, addresses in found.items() if not addresses)
        for endpoint in unknown:
            self.complain("registry's name is not known", endpoint=endpoint)
        addresses = {address for known in found.values() for address in known}
        # A name server that is away must not take away the replicas that it named before.
        self._reach(addresses | set(self._links) if unknown else addresses)
        pause_s = _RESOLVE_INTERVAL_S if addresses else _RESOLVE_INTERVAL_S / 10
        self._timers["resolve"] = self._loop.call_later(pause_s, resolve, self._section.endpoints, self._on_resolved)

    def _log_replicas(self) -> None:
        up = {endpoint for endpoint in self._links if self.merged.counts(endpoint, self.now())}
        for endpoint in sorted(up - self._up):
            self._log.info("registry replica up", endpoint=endpoint)
        for endpoint in sorted(self._up - up):
            self._log.warning("registry replica lost", endpoint=endpoint)
        if self._up and not up:
            self._log.warning("no registry left: the last view of the mesh stays in force")
        self._up = up


class _Replica:
    """The links to one replica: DEALER for lookups and announcements, SUB for its changes."""

    def __init__(self, owner: Discovery, endpoint: str) -> None:
        self._owner = owner
        self._endpoint = endpoint
        self._under_way: dict[str, bytes] = {}
        self._timeout_s = _FIRST_TIMEOUT_S
        self._changes: Subscriber | None = None
        self._changes_endpoint = ""
        self._changes_heard_at = 0
        self._closed = False
        self._retry: asyncio.TimerHandle | None = None
        self.requester = Requester(owner.transport, endpoint)

    def look_up(self) -> None:
        """Ask for the whole view, unless that is under way."""
        self._ask("lookup", _LOOKUP)

    def announce(self) -> None:
        """Announce the service, unless that is under way."""
        if self._owner.announcement is not None:
            self._ask("announce", self._owner.announcement)

    def close(self) -> None:
        """Close the sockets."""
        self._closed = True
        if self._retry is not None:
            self._retry.cancel()
        self.requester.close()
        if self._changes is not None:
            self._changes.close()

    def _ask(self, kind: str, payload: bytes) -> None:
        if self._closed or kind in self._under_way:
            return
        self._under_way[kind] = payload
        requester = self.requester
        requester.ask(payload, lambda reply: self._on_reply(requester, kind, reply), self._timeout_s)

    def _on_reply(self, requester: Requester, kind: str, reply: Sequence[bytes] | None) -> None:
        if self._closed or requester is not self.requester:
            return
        asked = self._under_way.pop(kind)
        if reply is None:
            self._start_over()
            return
        self._timeout_s = _FIRST_TIMEOUT_S
        try:
            header = decode_reply(reply[0]) if reply else None
        except BadMeshFrame as error:
            self._owner.complain("registry's answer is not readable", endpoint=self._endpoint, error=str(error))
            return
        if isinstance(header, View):
            self._on_view(header)
        elif isinstance(header, Rejected):
            self._owner.complain("registry refuses this service", endpoint=self._endpoint, reason=header.reason)
        if kind == "announce" and asked != self._owner.announcement:
            self.announce()

    def _start_over(self) -> None:
        # What an unreachable replica was asked stays queued in the socket and would flood it when it comes back:
        # a new socket has nothing queued, and tries to connect at once.
        if self._timeout_s >= _MAX_TIMEOUT_S:
            self._owner.complain("registry replica does not answer", endpoint=self._endpoint)
        self._timeout_s = min(2 * self._timeout_s, _MAX_TIMEOUT_S)
        self._under_way.clear()
        self.requester.close()
        self.requester = Requester(self._owner.transport, self._endpoint)
        self.look_up()
        self.announce()

    def _on_view(self, view: View) -> None:
        merged, now = self._owner.merged, self._owner.now()
        known = merged.incarnation(self._endpoint)
        merged.observe_view(self._endpoint, view, now)
        changes = next(
            (
                record.endpoints.get("changes", "")
                for record in view.services
                if record.role is Role.REGISTRY and record.instance == view.replica
            ),
            "",
        )
        if changes:
            if now - self._changes_heard_at > _CHANGES_SILENCE_NS:
                self._changes_endpoint = ""  # it answers, and nothing of what it publishes comes: a new socket
            self._subscribe(changes, now)
        elif self._retry is None:
            # It has only just bound its sockets and does not list itself yet.
            self._retry = asyncio.get_running_loop().call_later(_UNSEEN_RETRY_S, self._look_again)
        if known not in (None, view.incarnation):
            self.announce()  # it has started anew and knows nobody
        self._owner.changed()

    def _look_again(self) -> None:
        self._retry = None
        self.look_up()

    def _subscribe(self, changes: str, now: int) -> None:
        if changes == self._changes_endpoint:
            return
        self._changes_heard_at = now
        if self._changes is not None:
            self._changes.close()
        self._changes_endpoint = changes
        self._changes = Subscriber(self._owner.transport, [topics.REGISTRY_CHANGES], self._on_changes, hwm=_CHANGES_HWM)
        try:
            self._changes.connect(changes)
        except BadEndpoint as error:  # lookups go on in place of changes
            self._owner.complain("registry replica publishes nowhere", endpoint=self._endpoint, error=str(error))

    def _on_changes(self, frames: list[bytes]) -> None:
        merged, now = self._owner.merged, self._owner.now()
        self._changes_heard_at = now
        applied = False
        for frame in frames:
            try:
                _, offset = split_topic(frame)
                change = decode_registry_change(frame[offset:])
            except BadMeshFrame as error:
                self._owner.complain("registry's change is not readable", endpoint=self._endpoint, error=str(error))
                continue
            observed = merged.observe_change(self._endpoint, change, now)
            applied = applied or observed is Observed.APPLIED
            if observed is Observed.NEEDS_VIEW:
                self.look_up()
        if applied:
            self._owner.changed()


async def _tell(requester: Requester, farewell: bytes) -> None:
    try:
        await requester.request(farewell, _LEAVE_TIMEOUT_S)
    except RequestTimeout:
        return  # it will see the lease end
