"""The watcher's screen as a function of its state and the time."""

from datetime import UTC, datetime

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from lfmesh.types import Channel, Continuity
from lfmesh.watch.state import StreamView, WatchState, spread

QUIET_S = 5.0
"""A stream that brought nothing for this long has its age shown in a warning colour."""
_CHANGE = {1: "green", 0: "", -1: "red"}
_CONTINUITY = {"verified": "green", "unverified": "yellow", "backfilled": "cyan"}
_STATE = {"live": "green", "recovering": "yellow", "stale": "red"}
_FRAME_LINES = 5
_NONE = "–"


def render(state: WatchState, now: int, height: int = 50, levels: int = 10) -> RenderableType:
    """Everything, fitted into `height` lines; `levels` book levels a side."""
    room = max(1, height - _FRAME_LINES - len(state.notes))
    body: RenderableType
    match state.channel:
        case Channel.TICKER:
            body = _tickers(state, now, room)
        case Channel.TRADES:
            body = _trades(state, room)
        case Channel.BOOK:
            body = _books(state, now, room, levels)
    return Group(_heading(state), body, *(Text(note, style="yellow") for note in state.notes))


def _heading(state: WatchState) -> Text:
    link = Text(state.link, style="green" if state.connected else "bold red")
    return Text.assemble(("lfmesh watch", "bold"), f"  {state.channel}  {state.url}  ", link, ("   Ctrl-C ends", "dim"))


def age(ns: int) -> str:
    """A duration for people: 0.3s, 12s, 4m10s, 3h02m."""
    seconds = max(0, ns) / 1e9
    if seconds < 10:
        return f"{seconds:.1f}s"
    if seconds < 60:
        return f"{seconds:.0f}s"
    minutes, rest = divmod(int(seconds), 60)
    if minutes < 60:
        return f"{minutes}m{rest:02d}s"
    return f"{minutes // 60}h{minutes % 60:02d}m"


def clock(ns: int) -> str:
    """Time of day in UTC with milliseconds; a dash where there is no time."""
    if not ns:
        return _NONE
    return datetime.fromtimestamp(ns // 1_000_000_000, UTC).strftime("%H:%M:%S") + f".{ns // 1_000_000 % 1000:03d}"


def _continuity(continuity: Continuity | None) -> Text:
    return Text(continuity or _NONE, style=_CONTINUITY.get(continuity or "", "dim"))


def _state(view: StreamView, now: int) -> Text:
    if not view.received_ns:
        return Text("waiting for data", style="dim")
    if view.state != "live":
        return Text(f"{view.state}: {view.state_reason} for {age(now - view.state_since)}", style=_STATE[view.state])
    if view.missing_trades:
        return Text(f"live; {view.missing_trades} trades are lost for good", style="yellow")
    return Text("live", style="green")


def _age(view: StreamView, now: int) -> Text:
    if not view.received_ns:
        return Text(_NONE, style="dim")
    quiet = now - view.received_ns
    return Text(age(quiet), style="yellow" if quiet > QUIET_S * 1e9 else "")


def _quote(level: tuple[str, str | None] | None) -> tuple[str, str]:
    return (_NONE, _NONE) if level is None else (level[0], level[1] or _NONE)


def _more(table: Table, hidden: int, what: str) -> None:
    if hidden > 0:
        table.caption = f"… and {hidden} more {what}; name those that you want, or make the window taller"
        table.caption_justify = "left"


def _tickers(state: WatchState, now: int, room: int) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold dim")
    table.add_column("product", no_wrap=True)
    for name in ("last", "size", "bid size", "bid", "ask", "ask size", "spread", "age"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("continuity")
    table.add_column("state")
    shown = list(state.views.values())
    if len(shown) > room:
        _more(table, len(shown) - room + 1, "products")
        shown = shown[: room - 1]
    for view in shown:
        ticker = view.ticker
        last = ticker.last_trade if ticker else None
        bid, bid_qty = _quote(ticker.best_bid if ticker else None)
        ask, ask_qty = _quote(ticker.best_ask if ticker else None)
        gap = spread(ticker.best_bid[0], ticker.best_ask[0]) if ticker and ticker.best_bid and ticker.best_ask else None
        table.add_row(
            view.product,
            Text(last.px if last else _NONE, style=_CHANGE[view.change]),
            Text(last.qty if last else _NONE, style="green" if last and last.side == "buy" else "red" if last else ""),
            bid_qty,
            bid,
            ask,
            ask_qty,
            gap or _NONE,
            _age(view, now),
            _continuity(view.continuity),
            _state(view, now),
        )
    return table


def _trades(state: WatchState, room: int) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold dim")
    table.add_column("time (UTC)", no_wrap=True)
    table.add_column("product", no_wrap=True)
    for name in ("price", "size"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("taker")
    table.add_column("trade id", justify="right")
    table.add_column("continuity")
    recent = [
        (ts_event, view.product, trade, continuity)
        for view in state.views.values()
        for ts_event, trade, continuity in view.trades
    ]
    recent.sort(key=lambda row: (row[0], row[2].trade_id), reverse=True)
    for ts_event, product, trade, continuity in recent[:room]:
        side = "green" if trade.side == "buy" else "red"
        table.add_row(
            clock(ts_event),
            product,
            Text(trade.px, style=side),
            trade.qty,
            Text(trade.side, style=side),
            str(trade.trade_id),
            _continuity(continuity),
        )
    if not recent:
        table.add_row(Text("no trade yet", style="dim"))
    return table


def _books(state: WatchState, now: int, room: int, levels: int) -> RenderableType:
    each = max(1, min(levels, room // max(1, len(state.views)) - 3))
    return Group(*(part for view in state.views.values() for part in _book(view, now, each)))


def _book(view: StreamView, now: int, levels: int) -> tuple[Text, Table]:
    bids, asks = view.book.best_bids(levels), view.book.best_asks(levels)
    gap = spread(bids[0][0] if bids else None, asks[0][0] if asks else None)
    heading = Text.assemble(
        (view.product, "bold"),
        f"  spread {gap or _NONE}  levels {len(view.book.bids)} bid, {len(view.book.asks)} ask  age ",
        _age(view, now),
        "  ",
        _continuity(view.continuity),
        "  ",
        _state(view, now),
    )
    table = Table(box=None, pad_edge=False, header_style="bold dim")
    table.add_column("bid size", justify="right", min_width=16)
    table.add_column("bid", justify="right", min_width=14, style="green")
    table.add_column("ask", justify="left", min_width=14, style="red")
    table.add_column("ask size", justify="left", min_width=16)
    for row in range(max(len(bids), len(asks), 1)):
        bid = bids[row] if row < len(bids) else ("", "")
        ask = asks[row] if row < len(asks) else ("", "")
        table.add_row(bid[1], bid[0], ask[0], ask[1])
    return heading, table
