"""The auditing clients of a run, taken together: what they hold against what the exchange did."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self

import msgspec

from loadgen.chaos.truth import Findings, Ledger, compare_state, compare_trades, unreached
from loadgen.chaos.venue import ProductTruth
from loadgen.client.audit import AuditConfig, AuditKind, Auditor, Counts, Life
from loadgen.client.violations import Kind as ViolationKind

_POLL_S = 0.02
_KEPT_TRADES = 5000
"""Of each product, after they have been compared: more than any snapshot lists."""


class Tally(msgspec.Struct, frozen=True):
    """What the clients' checkers have counted, summed; see `loadgen.client.audit.Counts`.

    `silences`: violations that say that a gateway sent neither data nor heartbeats.
    """

    missing: int
    undeclared: int
    repeated: int
    violations: int
    silences: int
    resumes: int
    resumed: int
    connections: int


def kinds_of(gateways: Sequence[str], products: Sequence[str], seed: int) -> list[AuditConfig]:
    """Clients of every kind: those that stay, one at each gateway; one that drops its connection and resumes again and
    again; one that begins from nothing again and again.

    Those that stay share the products between them, the others follow some: to check every message costs more than to
    send it, and the mesh has to run on the same machine.
    """
    there, back = tuple(gateways), tuple(reversed(gateways))
    shares = [tuple(products[first::step]) or tuple(products) for first, step in ((0, 2), (1, 2), (1, 3), (2, 3))]

    def client(
        kind: AuditKind, name: str, urls: tuple[str, ...], which: tuple[str, ...], every_s: float = 1.0
    ) -> AuditConfig:
        return AuditConfig(urls=urls, kind=kind, name=name, products=which, every_s=every_s, seed=seed + len(name))

    return [
        client(AuditKind.STEADY, "steady-0", there, shares[0]),
        client(AuditKind.STEADY, "steady-1", back, shares[1]),
        client(AuditKind.RESUMING, "resuming", there, shares[2], every_s=1.5),
        client(AuditKind.RESTARTING, "restarting", back, shares[3], every_s=4.0),
    ]


class Clients:
    """Use it as an async context manager; it ends them all."""

    def __init__(self, configs: Sequence[AuditConfig]) -> None:
        self.auditors = [Auditor(config) for config in configs]
        self._verified: dict[tuple[str, int, str], int] = {}  # (client, life's beginning, product) → trade id

    async def __aenter__(self) -> Self:
        try:
            await asyncio.gather(*(auditor.start() for auditor in self.auditors))
        except BaseException:
            await self._stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stop()

    async def _stop(self) -> None:
        await asyncio.gather(*(auditor.stop() for auditor in self.auditors))

    def unwhole(self, last_ids: Mapping[str, int]) -> list[str]:
        """What is not as it should be: streams that are not live, trades and tickers that are behind the exchange's."""
        found = []
        for auditor in self.auditors:
            # Who has resumed, and has been answered, has all that there is, also where nothing new has come yet.
            resumed = auditor.config.kind is AuditKind.RESUMING
            found += [reason for reason in auditor.unwhole() if not (resumed and " is waiting: " in reason)]
            followed = {product: last_ids[product] for product in auditor.config.products if product in last_ids}
            reached = {product: auditor.last_trade_id(product) for product in followed}
            found += [f"{auditor.name}: {product} trades are behind" for product in unreached(followed, reached)]
            tickers = {product: _ticker_id(auditor, product) for product in followed}
            found += [f"{auditor.name}: {product} ticker is behind" for product in unreached(followed, tickers)]
        return found

    def _behind(self, truth: Mapping[str, ProductTruth]) -> bool:
        """Whether a trade is still on its way to somebody."""
        return any(
            unreached(
                {product: truth[product].last_trade_id or 0 for product in auditor.config.products},
                {product: auditor.last_trade_id(product) for product in auditor.config.products},
            )
            for auditor in self.auditors
        )

    def rest(self, resting: bool) -> None:
        """Let nobody drop its connection or restart by itself, or let them again."""
        for auditor in self.auditors:
            auditor.rest(resting)

    def tally(self) -> Tally:
        """The checkers' counts, now."""
        silences = sum(
            life.counts.get(ViolationKind.SILENCE, 0) for auditor in self.auditors for life in auditor.history().lives
        )
        return _tally([auditor.counts() for auditor in self.auditors], silences)

    def pauses_s(self) -> float:
        """The longest time since the last call in which a steady client was sent nothing of some stream."""
        longest = 0
        for auditor in self.auditors:
            pauses = auditor.take_pauses()
            if auditor.config.kind is AuditKind.STEADY and pauses:
                longest = max(longest, *(pause.ns for pause in pauses.values()))
        return longest / 1e9

    def problems(self) -> list[str]:
        """Every broken promise, in words."""
        return [f"{auditor.name}: {problem}" for auditor in self.auditors for problem in auditor.history().problems()]

    def compare_trades(self, ledger: Ledger) -> Findings:
        """Trades of every life that have not been compared yet; the market stands still meanwhile."""
        found = Findings()
        for auditor in self.auditors:
            history = auditor.history()
            for life in history.lives:
                ended = life is not history.final or not auditor.alive
                for product in auditor.config.products:
                    self._compare(auditor.name, life, product, ledger, found, ended=ended)
            auditor.forget_trades(_KEPT_TRADES)
        ledger.forget(_KEPT_TRADES)
        return found

    def _compare(self, name: str, life: Life, product: str, ledger: Ledger, found: Findings, *, ended: bool) -> None:
        held = life.trades.get(product, ())
        if not held:
            return
        key = (name, life.began, product)
        after = self._verified.get(key, held[0].trade_id - 1)
        until = held[-1].trade_id if ended else ledger.last_id(product)
        if after >= until:
            return
        declared = [(first, last) for which, first, last in life.declared if which == product]
        found.merge(compare_trades(name, product, held, declared, ledger, after, until))
        self._verified[key] = until

    async def compare_state(self, truth: Mapping[str, ProductTruth], timeout_s: float) -> Findings:
        """Books and tickers while the market stands still: what differs from the exchange's for good.

        That is, after `timeout_s` in which nothing more came to anybody: who is only behind is waited for.
        """
        came, deadline = 0, 0.0
        while True:
            now_came = sum(auditor.counts().increments for auditor in self.auditors)
            if now_came != came:
                came, deadline = now_came, time.monotonic() + timeout_s
            found = Findings()
            for auditor in self.auditors:
                for product in auditor.config.products:
                    found.merge(_state(auditor, product, truth[product]))
            if not (found or self._behind(truth)) or time.monotonic() > deadline:
                return found
            await asyncio.sleep(_POLL_S)


def _state(auditor: Auditor, product: str, truth: ProductTruth) -> Findings:
    book, ticker = auditor.book(product), auditor.ticker(product)
    held = ([], []) if book is None else (book.bids, book.asks)
    if ticker is None:
        return compare_state(auditor.name, truth, held, (None, None, None))
    last = ticker.last_trade
    return compare_state(
        auditor.name, truth, held, (ticker.best_bid, ticker.best_ask, None if last is None else last.trade_id)
    )


def _ticker_id(auditor: Auditor, product: str) -> int | None:
    ticker = auditor.ticker(product)
    return None if ticker is None or ticker.last_trade is None else ticker.last_trade.trade_id


def _tally(counts: Sequence[Counts], silences: int) -> Tally:
    return Tally(
        missing=sum(one.missing for one in counts),
        undeclared=sum(one.undeclared for one in counts),
        repeated=sum(one.repeated for one in counts),
        violations=sum(one.violations for one in counts),
        silences=silences,
        resumes=sum(one.resumes for one in counts),
        resumed=sum(one.resumed for one in counts),
        connections=sum(one.connections for one in counts),
    )
