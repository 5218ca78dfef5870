"""One registry replica: takes announcements, answers lookups, publishes changes.

    ROUTER `requests`   AnnounceRequest → Reply or Rejected, LookupRequest → View
    PUB `changes`       `rg.` NUL msgpack RegistryChange: each change at once, a beacon each announce_interval_s and to
                        each new subscriber

Nothing is kept on disk: a replica that starts anew is filled by the next announcements. Its own record, which the
runtime hands it as its only peer, is part of its view, so that watchers find its `changes` and monitors find it.
"""

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Annotated, assert_never

import msgspec

from lfmesh.config import Config
from lfmesh.core import topics
from lfmesh.core.leases import Full, Joined, Leases, Outdated, Renewed, fault, name_of
from lfmesh.core.repeat import Repeats
from lfmesh.errors import BadMeshFrame
from lfmesh.messages import (
    AnnounceRequest,
    LookupRequest,
    RegistryChange,
    Rejected,
    Reply,
    ServiceRecord,
    View,
    decode_request,
    encode,
)
from lfmesh.ports import Context, Figures
from lfmesh.transport import Publisher, Responder, Server, Transport
from lfmesh.types import Role

MAX_SERVICES = 10_000
MAX_REQUEST_BYTES = 128 * 1024
_SWEEPS_PER_LEASE = 10
_CHANGES_HWM = 10_000


class RegistryStatistics(msgspec.Struct, frozen=True):
    """What a replica has done since it started, and what it holds."""

    announcements_total: Annotated[int, msgspec.Meta(description="Announcements taken")]
    lookups_total: Annotated[int, msgspec.Meta(description="Lookups answered")]
    joined_total: Annotated[int, msgspec.Meta(description="Services that came, or came back as a new incarnation")]
    left_total: Annotated[int, msgspec.Meta(description="Services that said that they end")]
    expired_total: Annotated[int, msgspec.Meta(description="Leases that ended because nothing was heard any more")]
    rejected_total: Annotated[
        dict[str, int],
        msgspec.Meta(description="Requests refused", extra_json_schema={"label": "reason"}),
    ]
    replies_dropped_total: Annotated[int, msgspec.Meta(description="Replies to an asker that was gone or did not read")]
    services: Annotated[
        dict[str, int], msgspec.Meta(description="Services listed", extra_json_schema={"label": "service_role"})
    ]
    warming: Annotated[bool, msgspec.Meta(description="1 for one lease after a start, while services may be missing")]


class RegistryService:
    """A replica; see the module's docstring."""

    role = Role.REGISTRY
    shard: int | None = None

    def __init__(self, config: Config, context: Context) -> None:
        self.instance = config.registry.instance
        self._section = config.registry
        self._context = context
        self._log = context.log
        self._repeats = Repeats()
        self._counts: Counter[str] = Counter()
        self._rejected: Counter[str] = Counter()
        self._view: tuple[tuple[int, bool], bytes] | None = None
        self._transport: Transport | None = None
        self._timers: dict[str, asyncio.TimerHandle] = {}

    async def start(self) -> None:
        """Bind and take announcements."""
        self._loop = asyncio.get_running_loop()
        self._leases = Leases(round(self._section.lease_ttl_s * 1e9), self._now(), MAX_SERVICES)
        self._transport = Transport(max_message_bytes=MAX_REQUEST_BYTES)
        self._server = Server(self._transport, self._section.bind_requests, self._on_request)
        self._changes = Publisher(
            self._transport,
            self._section.bind_changes,
            hwm=_CHANGES_HWM,
            on_subscription=lambda _, subscribed: self._publish() if subscribed else None,
        )
        self._was_warming = True
        self._sweep()
        self._beacon()

    def endpoints(self) -> dict[str, str]:
        """`requests` and `changes`."""
        return {"requests": self._server.endpoint, "changes": self._changes.endpoint}

    def on_peers(self, peers: Sequence[ServiceRecord]) -> None:
        """A replica talks to no other: its only peer is its own record, which it lists."""
        for record in peers:
            if name_of(record) == (self.role, self.instance):
                self._leases.list_own(record)
                self._publish(joined=[record])

    def readiness(self) -> list[str]:
        """Ready as soon as it is bound: a warming replica must be reachable, or it would never be warm."""
        return [] if self._transport is not None else ["not started"]

    def statistics(self) -> RegistryStatistics:
        """Its figures."""
        counts = self._counts
        return RegistryStatistics(
            announcements_total=counts["announcements"],
            lookups_total=counts["lookups"],
            joined_total=counts["joined"],
            left_total=counts["left"],
            expired_total=counts["expired"],
            rejected_total=dict(self._rejected),
            replies_dropped_total=self._server.counters.dropped,
            services=dict(Counter(str(record.role) for record in self._leases.services())),
            warming=self._leases.warming(self._now()),
        )

    def figures(self) -> Figures:
        """Requests in; replies and changes out."""
        return Figures(
            messages_in_total=self._counts["requests"],
            messages_out_total=self._server.counters.messages + self._changes.counters.messages,
        )

    async def stop(self) -> None:
        """Unbind."""
        for timer in self._timers.values():
            timer.cancel()
        if self._transport is not None:
            self._transport.close()
            self._transport = None

    def _now(self) -> int:
        # A lease is a duration: the loop's clock never jumps, as the wall clock may.
        return int(self._loop.time() * 1e9)

    def _sweep(self) -> None:
        ended = self._leases.expire(self._now())
        for record in ended:
            self._counts["expired"] += 1
            self._log.warning("lease ended", service=record.instance, incarnation=record.incarnation, pid=record.pid)
        if ended:
            self._publish(left=ended)
        warming = self._leases.warming(self._now())
        if warming != self._was_warming:
            self._was_warming = warming
            self._log.info("warming" if warming else "warm", services=len(self._leases.services()))
            self._publish()
        self._timers["sweep"] = self._loop.call_later(self._section.lease_ttl_s / _SWEEPS_PER_LEASE, self._sweep)

    def _beacon(self) -> None:
        self._publish()
        self._timers["beacon"] = self._loop.call_later(self._section.announce_interval_s, self._beacon)

    def _publish(self, joined: Sequence[ServiceRecord] = (), left: Sequence[ServiceRecord] = ()) -> None:
        change = RegistryChange(
            replica=self.instance,
            incarnation=self._context.incarnation,
            version=self._leases.version,
            warming=self._leases.warming(self._now()),
            lease_ttl_s=self._section.lease_ttl_s,
            joined=list(joined),
            left=[name_of(record) for record in left],
        )
        self._changes.publish(topics.REGISTRY_CHANGES + b"\0" + encode(change))
        self._changes.settle()

    def _on_request(self, payload: bytes, responder: Responder) -> None:
        self._counts["requests"] += 1
        try:
            request = decode_request(payload)
        except BadMeshFrame as error:
            self._reject(responder, "malformed", str(error))
            return
        if isinstance(request, AnnounceRequest):
            self._on_announcement(request, responder)
        elif isinstance(request, LookupRequest):
            self._counts["lookups"] += 1
            responder.reply(self._encoded_view())
        else:
            self._reject(responder, "other_request", "a registry takes announcements and lookups")

    def _on_announcement(self, request: AnnounceRequest, responder: Responder) -> None:
        record = request.record
        wrong = fault(record)
        if wrong is not None:
            self._reject(responder, "bad_record", wrong)
            return
        if request.leaving:
            self._on_farewell(record)
            responder.reply(encode(Reply()))
            return
        outcome = self._leases.announce(record, self._now())
        match outcome:
            case Outdated(incarnation):
                reason = f"a newer {record.instance} (incarnation {incarnation}) is listed; names must differ"
                self._reject(responder, "outdated", reason)
                return
            case Full(max_services):
                self._reject(responder, "full", f"{max_services} services are listed already")
                return
            case Joined():
                self._counts["joined"] += 1
                self._log.info(
                    "service joined", service=record.instance, incarnation=record.incarnation, pid=record.pid
                )
                self._publish(joined=[record])
            case Renewed():
                pass
            case _ as never:
                assert_never(never)
        self._counts["announcements"] += 1
        responder.reply(encode(Reply()))

    def _on_farewell(self, record: ServiceRecord) -> None:
        if self._leases.leave(record):
            self._counts["left"] += 1
            self._log.info("service left", service=record.instance, incarnation=record.incarnation, pid=record.pid)
            self._publish(left=[record])

    def _reject(self, responder: Responder, reason: str, explanation: str) -> None:
        self._rejected[reason] += 1
        held_back = self._repeats.admit(reason, self._now())
        if held_back is not None:
            self._log.warning("request refused", reason=reason, explanation=explanation[:300], held_back=held_back)
        responder.reply(encode(Rejected(explanation)))

    def _encoded_view(self) -> bytes:
        state = (self._leases.version, self._leases.warming(self._now()))
        if self._view is None or self._view[0] != state:
            view = View(
                replica=self.instance,
                warming=state[1],
                lease_ttl_s=self._section.lease_ttl_s,
                services=self._leases.services(),
                incarnation=self._context.incarnation,
                version=state[0],
            )
            self._view = (state, encode(view))
        return self._view[1]
