"""Which faults are active, on every connection present and to come."""

from collections import Counter
from collections.abc import Callable, Iterable
from random import Random
from typing import Literal, Protocol, assert_never

from loadgen.sim.faults import Fault, FaultKind
from loadgen.sim.impair import Drop, Duplicate, Garble, Lose, Reorder, Stage, Stall


class Impaired(Protocol):
    """A connection that faults can be put on."""

    number: int

    def begin_fault(self, number: int, stage: Stage) -> None:
        """Put a stage on the connection."""

    def end_fault(self, number: int) -> None:
        """Take it off again."""

    def cut(self) -> None:
        """Break the connection at once, without a closing handshake."""

    def listens_to(self, products: Iterable[str]) -> bool:
        """Whether it is subscribed to any of the products."""


class FaultBoard:
    """Active faults by number, and how often each kind has struck. It has no clock: `end` is called by who has one."""

    def __init__(self, seed: int, limit_bytes: int) -> None:
        self._seed = seed
        self._limit_bytes = limit_bytes
        self._active: dict[int, Fault] = {}
        self._connections: set[Impaired] = set()
        self._next_number = 1
        self._refusals = Random(f"{seed}/refuse")  # noqa: S311 - reproducible, no secret
        self.hits: Counter[str] = Counter()

    def begin(self, fault: Fault) -> int:
        """Make a fault active and return its number. An immediate drop cuts connections here and now."""
        number = self._next_number
        self._next_number += 1
        if fault.immediate:
            for connection in list(self._connections):
                if not fault.products or connection.listens_to(fault.products):
                    self.hits["drop"] += 1
                    connection.cut()
            if fault.for_s is None:
                return number
        self._active[number] = fault
        for connection in self._connections:
            self._put(connection, number, fault)
        return number

    def end(self, number: int) -> None:
        """Make a fault inactive; what it held back goes out. Ending one that is over does nothing."""
        if self._active.pop(number, None) is not None:
            for connection in list(self._connections):
                connection.end_fault(number)

    def clear(self) -> int:
        """End all; returns how many there were."""
        numbers = list(self._active)
        for number in numbers:
            self.end(number)
        return len(numbers)

    def attach(self, connection: Impaired) -> None:
        """A connection has opened."""
        self._connections.add(connection)
        for number, fault in self._active.items():
            self._put(connection, number, fault)

    def detach(self, connection: Impaired) -> None:
        """A connection has ended."""
        self._connections.discard(connection)

    def active(self) -> dict[int, Fault]:
        """A copy of what is active, by number."""
        return dict(self._active)

    def closed_to_newcomers(self) -> bool:
        """Whether an immediate drop still keeps everybody out."""
        return any(fault.immediate for fault in self._active.values())

    def refuses(self, products: Iterable[str]) -> bool:
        """Whether this subscribe request is to be refused."""
        wanted = set(products)
        for fault in self._active.values():
            if fault.kind != "refuse" or (fault.products and not wanted & fault.products):
                continue
            if fault.share is None or self._refusals.random() < fault.share:
                self.hits["refuse"] += 1
                return True
        return False

    def fails(self, product: str | None) -> Literal["limit", "fail"] | None:
        """Whether a REST request is to be refused, and as what; product None is the list of products."""
        for fault in self._active.values():
            if fault.kind not in ("limit", "fail") or (fault.products and product not in fault.products):
                continue
            if fault.share is None or self._refusals.random() < fault.share:
                self.hits[fault.kind] += 1
                return fault.kind
        return None

    def delay_s(self, product: str | None) -> float:
        """How much later a REST request is to be answered."""
        return sum(fault.delay_s or 0.0 for fault in self._struck("slow", product))

    def hidden_trades(self, product: str) -> int:
        """How many of a product's newest trades REST is not to list in this answer."""
        return max((fault.count or 0 for fault in self._struck("hide", product)), default=0)

    def _struck(self, kind: FaultKind, product: str | None) -> list[Fault]:
        """The active faults of a kind that hit this request."""
        struck = [
            fault
            for fault in self._active.values()
            if fault.kind == kind
            and (not fault.products or product in fault.products)
            and (fault.share is None or self._refusals.random() < fault.share)
        ]
        self.hits[kind] += len(struck)
        return struck

    def _put(self, connection: Impaired, number: int, fault: Fault) -> None:
        stage = self._stage(connection, number, fault)
        if stage is not None:
            connection.begin_fault(number, stage)

    def _stage(self, connection: Impaired, number: int, fault: Fault) -> Stage | None:
        rng = Random(f"{self._seed}/{number}/{connection.number}")  # noqa: S311 - reproducible, no secret
        shared: dict[str, Callable[[Fault, Random, Counter[str]], Stage]] = {
            "lose": Lose,
            "duplicate": Duplicate,
            "reorder": Reorder,
            "garble": Garble,
        }
        match fault.kind:
            case "lose" | "duplicate" | "reorder" | "garble":
                return shared[fault.kind](fault, rng, self.hits)
            case "drop":
                return None if fault.immediate else Drop(fault, rng, self.hits, connection.cut)
            case "stall":
                return Stall(fault, self.hits, self._limit_bytes, connection.cut)
            case "refuse" | "limit" | "fail" | "slow" | "hide":
                return None
            case _:
                assert_never(fault.kind)
