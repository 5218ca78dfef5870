"""The simulator's own endpoints: control of the run, faults, injected frames, and the truth.

    /control/status                          how far the run is, who is connected, what is subscribed, active faults
    /control/start                           begin what waits for it
    /control/pause, /control/resume          stand still, go on; resume?count=N: N more messages, then quiet (model)
    /control/fault?kind=…&share=…&for_s=…&products=A,B&channels=…&delay_s=…&count=…
                                             begin a fault, see `loadgen.sim.faults`
    /control/faults, /control/faults/clear   what is active; end everything
    /control/inject?product=P&kind=K or &text=…    send one frame verbatim to the subscribers of a product
    /truth, /truth/PRODUCT                   what a client that missed nothing holds
    /truth/PRODUCT/trades?after=ID           its trades with higher ids, oldest first, as REST lists them

All are GETs: the server behind them reads nothing else. They are outside the venue's request limit.
"""

from collections.abc import Callable
from http import HTTPStatus
from typing import Protocol

import msgspec

from lfmesh.errors import ConfigError
from loadgen.sim.faults import Fault
from loadgen.sim.feed import Truth
from loadgen.sim.inject import BAD_FRAMES
from loadgen.sim.web import NOT_FOUND, Answer, Query, json_answer, refusal

ENDPOINTS = (
    "/products",
    "/products/ID",
    "/products/ID/book?level=1|2|3",
    "/products/ID/trades?limit=&after=&before=",
    "/truth",
    "/truth/ID",
    "/truth/ID/trades?after=",
    "/control/status",
    "/control/start",
    "/control/pause",
    "/control/resume?count=",
    "/control/fault?kind=&share=&for_s=&products=&channels=&delay_s=&count=",
    "/control/faults",
    "/control/faults/clear",
    "/control/inject?product=&kind=|text=",
)


class Controlled(Protocol):
    """The running simulator, as its control endpoints see it."""

    products: tuple[str, ...]

    def status(self) -> dict[str, object]:
        """A report of the run."""

    def start(self) -> None:
        """Begin."""

    def pause(self) -> None:
        """Stand still."""

    def resume(self, more: int | None = None) -> None:
        """Go on."""

    def truth(self, product: str) -> Truth:
        """What a client that missed nothing holds; KeyError for an unknown product."""

    def trades_after(self, product: str, after: int) -> list[bytes]:
        """Its trades with higher ids, oldest first, as rows of the REST API; KeyError for an unknown product."""

    def begin_fault(self, fault: Fault) -> int:
        """Begin a fault; returns its number."""

    def clear_faults(self) -> int:
        """End all faults; returns how many there were."""

    def active_faults(self) -> dict[int, Fault]:
        """By number."""

    def inject(self, product: str, text: str) -> int:
        """Send a frame verbatim to a product's subscribers; returns how many."""


class Control:
    """Answers the endpoints above."""

    def __init__(self, sim: Controlled) -> None:
        self._sim = sim

    def answer(self, query: Query) -> Answer | None:
        """The answer; None for a path that belongs to something else."""
        match query.segments:
            case ():
                return json_answer({"endpoints": ENDPOINTS})
            case ("truth",):
                return json_answer([self._sim.truth(product) for product in self._sim.products])
            case ("truth", product):
                return json_answer(self._sim.truth(product)) if product in self._sim.products else NOT_FOUND
            case ("truth", product, "trades"):
                return self._trades(product, query.params)
            case ("control", *rest):
                return self._control(tuple(rest), query.params)
            case _:
                return None

    def _trades(self, product: str, params: dict[str, str]) -> Answer:
        after = params.get("after", "0")
        if product not in self._sim.products:
            return NOT_FOUND
        if not (after.isascii() and after.isdigit()):
            return refusal(HTTPStatus.BAD_REQUEST, f"after is a trade id, not {after!r}")
        return json_answer([msgspec.Raw(row) for row in self._sim.trades_after(product, int(after))])

    def _control(self, segments: tuple[str, ...], params: dict[str, str]) -> Answer:
        acts: dict[tuple[str, ...], Callable[[dict[str, str]], Answer]] = {
            ("status",): self._status,
            ("start",): self._start,
            ("pause",): self._pause,
            ("resume",): self._resume,
            ("fault",): self._fault,
            ("faults",): self._faults,
            ("faults", "clear"): self._clear,
            ("inject",): self._inject,
        }
        act = acts.get(segments)
        return NOT_FOUND if act is None else act(params)

    def _status(self, _params: dict[str, str]) -> Answer:
        return json_answer(self._sim.status())

    def _start(self, params: dict[str, str]) -> Answer:
        self._sim.start()
        return self._status(params)

    def _pause(self, params: dict[str, str]) -> Answer:
        self._sim.pause()
        return self._status(params)

    def _resume(self, params: dict[str, str]) -> Answer:
        count = params.get("count")
        if count is not None and not (count.isascii() and count.isdigit()):
            return refusal(HTTPStatus.BAD_REQUEST, f"count is a number of messages, not {count!r}")
        self._sim.resume(None if count is None else int(count))
        return self._status(params)

    def _faults(self, _params: dict[str, str]) -> Answer:
        faults = self._sim.active_faults()
        return json_answer([{"number": number, **fault.described()} for number, fault in faults.items()])

    def _clear(self, _params: dict[str, str]) -> Answer:
        return json_answer({"cleared": self._sim.clear_faults()})

    def _fault(self, params: dict[str, str]) -> Answer:
        try:
            fault = Fault.of(params)
        except ConfigError as error:
            return refusal(HTTPStatus.BAD_REQUEST, str(error))
        unknown = fault.products - set(self._sim.products)
        if unknown:
            return refusal(HTTPStatus.BAD_REQUEST, f"fault: unknown product {', '.join(sorted(unknown))}")
        return json_answer({"number": self._sim.begin_fault(fault), **fault.described()})

    def _inject(self, params: dict[str, str]) -> Answer:
        product = params.get("product", "")
        if product not in self._sim.products:
            return refusal(HTTPStatus.BAD_REQUEST, f"inject: product is one of those listed, not {product!r}")
        text, kind = params.get("text"), params.get("kind", "")
        if text is None:
            if kind not in BAD_FRAMES:
                return refusal(HTTPStatus.BAD_REQUEST, f"inject: give text, or kind: one of {', '.join(BAD_FRAMES)}")
            text = BAD_FRAMES[kind](product)
        return json_answer({"sent_to": self._sim.inject(product, text), "bytes": len(text.encode())})
