"""The simulated exchange as the harness drives it: its market, its misbehaviour, its truth."""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from http.client import HTTPException
from typing import Any
from urllib.parse import urlencode

import msgspec

from lfmesh.client.http import fetch_json
from lfmesh.errors import LfmeshError
from loadgen.chaos.plan import Kind
from loadgen.client.state import TradeLine

_TIMEOUT_S = 10.0
_NUMBERED = "matches,ticker,heartbeat"
"""Channels whose frames are numbered. A lost or late update of the book leaves no trace: nobody could mend it."""
_LOSS = {"kind": "lose", "share": 0.02, "channels": _NUMBERED}


class ProductTruth(msgspec.Struct, frozen=True):
    """What a client that missed nothing holds of one product, see `loadgen.sim.feed.Truth`."""

    product: str
    bids: list[tuple[str, str]]
    asks: list[tuple[str, str]]
    best_bid: tuple[str, str] | None
    best_ask: tuple[str, str] | None
    last_trade_id: int | None
    trades: int
    trades_hash: str


class _Row(msgspec.Struct):
    trade_id: int
    side: str
    size: str
    price: str


_TAKER = {"buy": "sell", "sell": "buy"}


class Venue:
    """Asks and tells the simulator; `url` is the base of its HTTP."""

    def __init__(self, url: str) -> None:
        self._url = url

    async def ask(self, path: str, **params: object) -> Any:  # noqa: ANN401 - JSON
        """One of its endpoints; LfmeshError."""
        query = f"?{urlencode(params)}" if params else ""
        try:
            return await fetch_json(f"{self._url}/{path}{query}", timeout_s=_TIMEOUT_S)
        except HTTPException as error:
            raise LfmeshError(f"the simulator's answer to {path} breaks off: {error}") from error

    async def start(self) -> None:
        """Let the market begin."""
        await self.ask("control/start")

    async def pause(self) -> None:
        """Let the market stand still: whoever has applied everything holds the truth."""
        await self.ask("control/pause")

    async def resume(self) -> None:
        """Let it go on."""
        await self.ask("control/resume")

    async def status(self) -> dict[str, Any]:
        """How far it is."""
        found: dict[str, Any] = await self.ask("control/status")
        return found

    async def truth(self) -> dict[str, ProductTruth]:
        """By product."""
        listed = msgspec.convert(await self.ask("truth"), list[ProductTruth])
        return {one.product: one for one in listed}

    async def last_trade_ids(self) -> dict[str, int]:
        """The newest trade of each product that has one."""
        found = await self.truth()
        return {product: one.last_trade_id for product, one in found.items() if one.last_trade_id is not None}

    async def trades_after(self, product: str, trade_id: int) -> list[TradeLine]:
        """Every trade with a higher id, oldest first, as a client holds it."""
        rows = msgspec.convert(await self.ask(f"truth/{product}/trades", after=trade_id), list[_Row])
        return [TradeLine(row.trade_id, row.price, row.size, _TAKER[row.side]) for row in rows]

    # Misbehaviour --------------------------------------------------------------------------------------------------

    async def misbehave(self, kind: Kind, seconds: float, amount: float, products: Sequence[str]) -> None:
        """Do what the card says, and return when it is over."""
        match kind:
            case Kind.DISCONNECT:
                await self.ask("control/fault", kind="drop")
            case Kind.CROSS:
                for product in products[: max(1, int(amount))]:
                    await self._cross(product)
                await asyncio.sleep(seconds)
            case Kind.REFUSE:
                # Refused is what is asked, and nobody asks without having lost a connection.
                await self._faults(seconds, {"kind": "refuse", "share": 0.5}, {"kind": "drop"})
            case Kind.AWAY:
                await self._faults(seconds, {"kind": "drop"}, lasting=True)
            case Kind.STALL:
                await self._faults(seconds, {"kind": "stall"})
            case Kind.DUPLICATE | Kind.GARBLE:
                await self._faults(seconds, {"kind": str(kind), "share": amount})
            case Kind.LOSE | Kind.REORDER:
                await self._faults(seconds, {"kind": str(kind), "share": amount, "channels": _NUMBERED})
            # The REST API fails while it is needed: trades are lost at the same time.
            case Kind.SLOW:
                await self._faults(seconds, {"kind": "slow", "delay_s": amount}, _LOSS)
            case Kind.HIDE:
                await self._faults(seconds, {"kind": "hide", "count": int(amount)}, _LOSS)
            case Kind.LIMIT | Kind.FAIL:
                await self._faults(
                    seconds, {"kind": str(kind)}, {"kind": "lose", "share": amount, "channels": _NUMBERED}
                )
            case _:
                raise ValueError(f"{kind} is no misbehaviour of the exchange")

    async def _faults(self, seconds: float, *faults: Mapping[str, object], lasting: bool = False) -> None:
        for fault in faults:
            passing = fault["kind"] == "drop" and not lasting
            await self.ask("control/fault", **fault, **({} if passing else {"for_s": seconds}))
        await asyncio.sleep(seconds)
        await self.ask("control/faults/clear")

    async def _cross(self, product: str) -> None:
        """An update that lifts the best bid over the best ask: proof that something is wrong with the book."""
        truth = (await self.truth())[product]
        if truth.best_ask is None:
            return
        update = {
            "type": "l2update",
            "product_id": product,
            "changes": [["buy", truth.asks[len(truth.asks) // 2][0], "1.00000000"]],
            "time": datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z"),
        }
        await self.ask("control/inject", product=product, text=msgspec.json.encode(update).decode())
