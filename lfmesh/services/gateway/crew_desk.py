"""What the supervisor of a gateway's workers keeps for all of them: who is admitted, and who is asked what. Pure.

letters = desk.take("gateway-0.1", messages, now)      what a worker has sent; whom to send what
letters = desk.lost("gateway-0.1", "killed by …")      it has died: its connections are over, nobody waits for it
letters = desk.expire(now)                             who has not answered in time
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, assert_never

from lfmesh.core.admission import Admissions
from lfmesh.services.gateway.crew_messages import (
    ASK_TIMEOUT_S,
    Admit,
    Admitted,
    Answer,
    Answers,
    Ask,
    Leave,
    Told,
    ToWorker,
    What,
)


class Letter(NamedTuple):
    """A message to a worker."""

    to: str
    message: ToWorker


@dataclass(slots=True)
class _Round:
    """A worker wants to know what the others say."""

    asker: str
    number: int
    """The asker's own."""
    what: What
    deadline: float
    waiting: set[str]
    told: dict[str, Told] = field(default_factory=dict)


class Desk:
    """See the module's docstring. Times are seconds of any clock that only goes forward.

    `figures` gives the supervisor's own metrics, which go with those of the workers under its name.
    """

    def __init__(self, name: str, workers: Sequence[str], admissions: Admissions, figures: Callable[[], str]) -> None:
        self._name = name
        self._figures = figures
        self._admissions = admissions
        self._admitted: dict[str, Counter[str]] = {worker: Counter() for worker in workers}
        self._absent = dict.fromkeys(workers, "starting")
        self._rounds: dict[int, _Round] = {}
        self._last_round = 0

    @property
    def admitted(self) -> int:
        """Connections admitted and not ended yet, of all workers."""
        return self._admissions.clients

    @property
    def due(self) -> float | None:
        """When `expire` has something to do; None: nobody is waited for."""
        return min((one.deadline for one in self._rounds.values()), default=None)

    def started(self, worker: str) -> None:
        """From now on it is asked, too."""
        self._absent.pop(worker, None)

    def lost(self, worker: str, why: str) -> list[Letter]:
        """A worker has died, or ends: what it had admitted is over; until it has `started` again, `why` is its word."""
        self._absent[worker] = why
        for address, count in self._admitted[worker].items():
            for _ in range(count):
                self._admissions.leave(address)
        self._admitted[worker].clear()
        self._rounds = {number: one for number, one in self._rounds.items() if one.asker != worker}
        for one in self._rounds.values():
            if worker in one.waiting:
                one.waiting.discard(worker)
                one.told[worker] = Told(worker, silence=why)
        return self._finished()

    def take(self, worker: str, messages: Iterable[Admit | Leave | Ask | Answer], now: float) -> list[Letter]:
        """What a worker has sent, in one go: who leaves is let go before others are admitted."""
        letters: list[Letter] = []
        others: list[Admit | Ask | Answer] = []
        for message in messages:
            if isinstance(message, Leave):
                self._leave(worker, message.address)
            else:
                others.append(message)
        for message in others:
            match message:
                case Admit():
                    letters.append(Letter(worker, Admitted(message.number, self._admit(worker, message.address))))
                case Ask():
                    letters.extend(self._ask(worker, message, now))
                case Answer():
                    self._answer(worker, message)
                case other:
                    assert_never(other)
        return letters + self._finished()

    def expire(self, now: float) -> list[Letter]:
        """Answers without those who have not answered in time."""
        for one in self._rounds.values():
            if one.deadline <= now:
                for worker in one.waiting:
                    one.told[worker] = Told(worker, silence=f"no answer within {ASK_TIMEOUT_S:g} s")
                one.waiting.clear()
        return self._finished()

    def _admit(self, worker: str, address: str) -> str:
        refusal = self._admissions.admit(address)
        if not refusal:
            self._admitted[worker][address] += 1
        return refusal

    def _leave(self, worker: str, address: str) -> None:
        counts = self._admitted[worker]
        counts[address] -= 1
        if not counts[address]:
            del counts[address]
        self._admissions.leave(address)

    def _ask(self, asker: str, ask: Ask, now: float) -> list[Letter]:
        others = [worker for worker in self._admitted if worker != asker]
        self._last_round += 1
        asked = [worker for worker in others if worker not in self._absent]
        told = {worker: Told(worker, silence=self._absent[worker]) for worker in others if worker in self._absent}
        self._rounds[self._last_round] = _Round(asker, ask.number, ask.what, now + ASK_TIMEOUT_S, set(asked), told)
        return [Letter(worker, Ask(self._last_round, ask.what)) for worker in asked]

    def _answer(self, worker: str, answer: Answer) -> None:
        one = self._rounds.get(answer.number)
        if one is not None and worker in one.waiting:
            one.waiting.discard(worker)
            one.told[worker] = Told(worker, answer.items)

    def _finished(self) -> list[Letter]:
        letters = []
        for number, one in tuple(self._rounds.items()):
            if not one.waiting:
                del self._rounds[number]
                told = [one.told[worker] for worker in self._admitted if worker in one.told]
                if one.what == "metrics":
                    told.append(Told(self._name, [self._figures()]))
                letters.append(Letter(one.asker, Answers(one.number, told)))
        return letters
