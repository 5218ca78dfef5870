"""The seams of the house: what the services need of each other's worlds, as narrow protocols.

A service is built from a `Config` and a `Context`, and run by `lfmesh.services.runtime`, which owns what every role
has alike:
loop, signals, log, registry, telemetry, ops port. Tests give a service a context of their own.
"""

from collections.abc import Callable, Collection, Coroutine, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, runtime_checkable

import msgspec

from lfmesh.messages import ServiceRecord, SlowClient
from lfmesh.types import InputPosition, Position, Role, StreamKey

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

Clock = Callable[[], int]
"""Now, in ns since the Unix epoch (`time.time_ns` in production)."""


class Figures(msgspec.Struct, frozen=True):
    """What every role tells `lfmesh top`, beside its own statistics. Totals count since the process started.

    `lag_ms`: how far behind the venue (or the input) the newest output is; None where there is none yet.
    `queue_messages`: what has arrived and is not yet dealt with. `clients`: None but for gateways.
    """

    messages_in_total: int = 0
    messages_out_total: int = 0
    gaps_total: int = 0
    queue_messages: int = 0
    lag_ms: float | None = None
    clients: int | None = None


class Vitals(msgspec.Struct, frozen=True):
    """A process's own figures; None where they are not measured.

    `cpu_s` is user and system time since its start. `loop_lag_s` is the longest that the event loop came late
    within the last ten seconds: what anything that waits for a turn of the loop had to wait.
    """

    cpu_s: float | None = None
    rss_bytes: int | None = None
    loop_lag_s: float | None = None


@dataclass(frozen=True, slots=True)
class Context:
    """What the runtime gives a service.

    `incarnation` is the process's start in µs. `spawn` starts a supervised task: an exception in it that nobody
    expected
    stops the process, loudly. `log` is a structlog logger bound to role and instance.
    """

    incarnation: int
    clock: Clock
    log: "FilteringBoundLogger"
    spawn: Callable[[Coroutine[Any, Any, None]], None]
    vitals: Callable[[], Vitals] = Vitals
    """The process's own figures, for `lfmesh.observe.metrics.MetricsText`."""


class Service(Protocol):
    """One role of the mesh, as the runtime sees it.

    `statistics()` is a frozen msgspec Struct: int and float fields become metrics `lfmesh_<role>_<field>` (counter
    if the name ends
    in `_total`, else gauge), `dict[str, int]` fields become one metric with a label. Each field is
    `Annotated[…, msgspec.Meta(description="help text", extra_json_schema={"label": "reason"})]` (the label only for
    dicts).
    """

    role: Role
    instance: str
    shard: int | None

    async def start(self) -> None:
        """Bind and begin; LfmeshError if that is impossible."""

    def endpoints(self) -> dict[str, str]:
        """Bound ZeroMQ addresses by socket name, for the registry (telemetry and http are added by the runtime)."""

    def on_peers(self, peers: Sequence[ServiceRecord]) -> None:
        """The merged view of the mesh has changed: connect to new peers, leave those that went."""

    def readiness(self) -> list[str]:
        """Why it can't do its work now, each a short sentence; empty: ready."""

    def statistics(self) -> msgspec.Struct:
        """Its figures, immutable; metrics, telemetry and tests read the same."""

    def figures(self) -> Figures:
        """The figures that every role has."""

    async def stop(self) -> None:
        """End in order: flush, close sockets and stores. Also called after a `start` that failed or was cut short."""


@runtime_checkable
class ServesHttp(Protocol):
    """A service that serves /health, /ready and /metrics on a port of its own: the runtime then opens no ops port."""

    def http_url(self) -> str:
        """Base URL of that port, known once `start` has returned."""


@runtime_checkable
class MayStandBy(Protocol):
    """A service of which one of several works while the others stand by."""

    @property
    def active(self) -> bool:
        """True while it is the one that works."""


@runtime_checkable
class ServesClients(Protocol):
    """A service with clients of its own, that can tell which of them are slow."""

    def slowest(self) -> list[SlowClient]:
        """The clients for which most waits, at most ten, the worst first; none for which nothing waits."""


class Admission(Protocol):
    """Who may connect, over all worker processes of a gateway. Every `admit` that says yes is ended by a `leave`."""

    async def admit(self, address: str) -> str:
        """Take one more connection of this client address; empty, or why not: `full`, `address` (too many of it)."""

    def leave(self, address: str) -> None:
        """One connection of this address has ended."""


class ReplayState(NamedTuple):
    """Where a replay is, as clients are told (`lfmesh.models.ReplayStatus`). Times are the archive's, in ns.

    `speed` None: as fast as it is taken. `run` is another one after each seek.
    """

    state: Literal["waiting", "playing", "paused", "seeking", "ended"]
    at: int
    start: int
    end: int
    speed: float | None
    run: int


class Audience(Protocol):
    """The gateway that serves a replay, as the replay sees it. Both run in one loop; nothing here waits."""

    def heard(self) -> int | None:
        """How many of the replay's frames it has taken, by the last beacon that it has; None before any."""

    def is_behind(self) -> bool:
        """True while much waits for a client that does take what it is sent."""

    def changed(self, state: ReplayState) -> None:
        """Tell all clients."""

    def rewound(self, state: ReplayState, begun: Collection[StreamKey]) -> None:
        """From now on the replay plays from another moment, under the term `state.run`: what was published below it is
        void. It goes on with a snapshot of each stream that has `begun` by then."""


class Replay(Protocol):
    """A replay, as the gateway that serves it sees it. Both run in one loop; nothing here waits."""

    def listen(self, audience: Audience) -> None:
        """Tell this gateway what happens."""

    def state(self) -> ReplayState:
        """Where it is."""

    def pause(self) -> None:
        """Publish nothing more for now."""

    def resume(self) -> None:
        """Go on."""

    def seek(self, at: int) -> None:
        """Go on from this moment (ns), as soon as what holds there has been read."""

    def set_speed(self, speed: float | None) -> None:
        """Play so many times as fast as it was; None: as fast as it is taken."""

    def subscribed(self) -> None:
        """A client follows something."""

    def room(self) -> None:
        """The gateway, or one of its clients, has taken something: `Audience.is_behind` may have changed."""


class StoredState(msgspec.Struct, frozen=True):
    """Latest state of one stream, as a state store keeps it; `state` is the JSON text of the snapshot's `state`."""

    stream: StreamKey
    term: int
    position: Position
    input: InputPosition
    ts: int
    state: bytes


class StateStore(Protocol):
    """Latest state per (product, channel). A write never moves (term, epoch, seq) backwards."""

    def load(self) -> Iterable[StoredState]:
        """Everything stored for this shard; StoreUnavailable."""

    def write(self, states: Sequence[StoredState]) -> int:
        """Write a batch, in one transaction where the store has such; older ones are ignored.

        Returns how many were newer and so written; StoreUnavailable, or StatesLeft where some of them have to wait.
        """

    def close(self) -> None:
        """Release what is held; idempotent."""


class StoredObject(NamedTuple):
    """One object as a listing shows it; `written_ns` is when it was stored, by the store's own clock."""

    key: str
    size: int
    written_ns: int


class ObjectStore(Protocol):
    """Immutable objects under keys (`a/b/c`, see `lfmesh.core.archive`). Any number of threads may call at once.

    Every method raises StoreUnavailable while the store can't be reached, and StoreMisconfigured where asking again is
    of no use. Transient trouble (throttling, 5xx, time-outs) has been retried a few times with back-off before.
    """

    def check(self) -> None:
        """Reach the store with our credentials and see that the bucket or folder is there; else raise."""

    def put(self, key: str, body: bytes | Path) -> bool:
        """Store an object whole, or not at all, whatever happens on the way; False if the key is taken (it stays)."""

    def get(self, key: str) -> bytes:
        """An object's bytes; ObjectMissing."""

    def list(self, prefix: str = "", after: str = "") -> Iterator[StoredObject]:
        """Objects whose key begins with `prefix` and is greater than `after`, in order of their keys (as bytes)."""

    def folders(self, prefix: str) -> Sequence[str]:
        """The distinct `prefix…/` one level below a prefix that ends with `/` or is empty, in order."""

    def delete(self, keys: Sequence[str]) -> int:
        """Delete objects; how many were asked to go. A key that is not there is no error."""

    def close(self) -> None:
        """Release what is held; idempotent."""
