"""One round: a fault, the time until everything is whole again, and the comparison with the exchange's truth."""

import asyncio
import time
from collections.abc import Sequence
from datetime import UTC, datetime

import msgspec

from lfmesh.errors import LfmeshError
from lfmesh.types import Role
from loadgen.chaos import figures
from loadgen.chaos.clients import Clients, Tally
from loadgen.chaos.lag import LoopLag
from loadgen.chaos.mesh import Mesh
from loadgen.chaos.plan import Card, Kind
from loadgen.chaos.truth import Findings, Ledger

_POLL_S = 0.05
_GIVE_UP_S = 30.0
"""Past this a round is not whole, whatever comes later."""
_CALM_S = 0.7
"""Whole is what stays whole so long: some trouble shows only when the next message or heartbeat comes."""
_SETTLE_S = 4.0
"""What clients lack so long after the last message has come, they lack for good: the market stands still."""
_LAG_S = 0.5
_SHOWN = 12


class Result(msgspec.Struct, frozen=True):
    """What came of a round. `at`: when the fault began (UTC), as logs write it.

    `whole_s`: from the end of the fault until every client and role was whole (None: never); `held_up`: what was
    unwhole last. `lost`, `undeclared`: trades, by the exchange's ledger and the clients' checkers; `repeated`: those
    that came twice, out of order or altered; `violations`: other broken promises, and processes that died by
    themselves. `books`, `tickers`: states that differed while the market stood still, each product of each client
    counted; `declared`: trades that gateways declared missing. `pause_s`: the longest silence of a stream at a steady
    client, `lag_s`: that of the clients' own loop; `rungs`: what was needed; `words`: what went wrong.
    """

    number: int
    at: str
    topology: str
    fault: str
    target: str
    fault_s: float
    amount: float
    whole_s: float | None
    pause_s: float
    lag_s: float
    lost: int
    undeclared: int
    repeated: int
    violations: int
    books: int
    tickers: int
    declared: int
    rungs: dict[str, int]
    held_up: list[str]
    words: list[str]

    @property
    def clean(self) -> bool:
        """Nothing lost, nothing broken, whole in the end."""
        wrong = self.lost + self.undeclared + self.repeated + self.violations + self.books + self.tickers
        return not wrong and self.whole_s is not None


class Player:
    """Plays the rounds of one mesh."""

    def __init__(self, mesh: Mesh, clients: Clients) -> None:
        self._mesh = mesh
        self._clients = clients
        self._ledger = Ledger()
        self._lag = LoopLag()
        self._lag.start()
        self._said: set[str] = set()

    async def play(self, card: Card) -> Result:
        """One round; the market plays before and after it, and stands still for the comparison."""
        mesh, clients = self._mesh, self._clients
        before, tally, deaths = await mesh.figures(), clients.tally(), len(mesh.supervisor.deaths)
        clients.pauses_s()
        self._lag.take()
        words: list[str] = []
        clients.rest(False)
        began, at = time.monotonic(), datetime.now(UTC).strftime("%H:%M:%S.%f")[:-3]
        hit = await mesh.strike(card)
        ended = time.monotonic()
        clients.rest(True)
        whole_s, held_up = await self._until_whole(ended)
        if whole_s is None:
            words += [f"not whole after {_GIVE_UP_S:g} s: {reason}" for reason in held_up[:_SHOWN]]
        pause_s, lag_s = clients.pauses_s(), self._lag.take()
        if lag_s > _LAG_S:
            words.append(
                f"the clients themselves were held up for {lag_s:.2f} s: the machine has too little for this rate"
            )
        found = await self.compare()
        words += found.words
        after, now = await mesh.figures(), clients.tally()
        died = mesh.supervisor.deaths[deaths:]
        words += [str(death) for death in died]
        new = [problem for problem in clients.problems() if problem not in self._said]
        words += new[:_SHOWN]
        self._said.update(new)
        return Result(
            number=card.number,
            at=at,
            topology=card.topology,
            fault=card.kind,
            target=hit if hit == card.target else f"{hit} ({card.target})",
            fault_s=round(ended - began, 2),
            amount=card.amount,
            whole_s=None if whole_s is None else round(whole_s, 2),
            pause_s=round(pause_s, 2),
            lag_s=round(lag_s, 3),
            lost=found.lost,
            undeclared=max(found.undeclared, now.undeclared - tally.undeclared),
            repeated=max(found.repeated, now.repeated - tally.repeated) + found.altered,
            violations=_others(now, tally, silent=card.kind is Kind.PAUSE and Role.GATEWAY in card.roles) + len(died),
            books=found.books,
            tickers=found.tickers,
            declared=now.missing - tally.missing,
            rungs=dict(figures.rungs(before, after)),
            held_up=list(held_up[:_SHOWN]),
            words=words,
        )

    def end(self) -> None:
        """No more rounds."""
        self._lag.stop()

    async def settle(self, timeout_s: float) -> None:
        """Before the first round: wait until all is whole; LfmeshError says what is not."""
        whole_s, why = await self._until_whole(time.monotonic() - _GIVE_UP_S + timeout_s)
        if whole_s is None:
            raise LfmeshError(f"the mesh is not whole before the first fault: {'; '.join(why[:_SHOWN])}")

    async def compare(self) -> Findings:
        """Stop the market, compare everything with it, let it go on."""
        venue = self._mesh.venue
        await venue.pause()
        try:
            truth = await venue.truth()
            for product in truth:
                self._ledger.add(product, await venue.trades_after(product, self._ledger.last_id(product)))
            found = await self._clients.compare_state(truth, _SETTLE_S)
            found.merge(self._clients.compare_trades(self._ledger))
        finally:
            await venue.resume()
        return found

    async def _until_whole(self, ended: float) -> tuple[float | None, Sequence[str]]:
        """Seconds from the end of the fault until nothing was unwhole and stayed so, or None; what was unwhole last."""
        deadline = ended + _GIVE_UP_S
        last_ids = await self._mesh.venue.last_trade_ids()
        held_up: Sequence[str] = ()
        while True:
            found = self._clients.unwhole(last_ids) or await self._mesh.unwhole()
            if not found:
                at = time.monotonic()
                last_ids, found = await self._trouble()
                if not found:
                    return max(0.0, at - ended), held_up
            held_up = found
            if time.monotonic() > deadline:
                return None, held_up
            await asyncio.sleep(_POLL_S)

    async def _trouble(self) -> tuple[dict[str, int], list[str]]:
        """Trouble that shows only now: what is unwhole within a moment, and the trades that it was compared with."""
        last_ids = await self._mesh.venue.last_trade_ids()
        calm_at = time.monotonic() + _CALM_S
        while time.monotonic() < calm_at:
            found = self._clients.unwhole({})
            if found:
                return last_ids, found
            await asyncio.sleep(_POLL_S)
        return last_ids, self._clients.unwhole(last_ids) or await self._mesh.unwhole()


def _others(now: Tally, before: Tally, *, silent: bool) -> int:
    """Broken promises that are neither gaps nor repetitions. A gateway that was stopped may have been `silent`."""
    counted = (now.undeclared - before.undeclared) + (now.repeated - before.repeated)
    counted += now.silences - before.silences if silent else 0
    return max(0, now.violations - before.violations - counted)
