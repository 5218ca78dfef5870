"""The watcher's screen as a function of its state and the time."""

from collections.abc import Sequence
from datetime import UTC, datetime

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from lfmesh.client import Quote, Ticker, Trade
from lfmesh.top.columns import Column, table
from lfmesh.types import Channel, Continuity
from lfmesh.watch.state import StreamView, WatchState, spread

QUIET_S = 5.0
"""A stream that brought nothing for this long has its age shown in a warning colour."""
_CHANGE = {1: "green", 0: "", -1: "red"}
_CONTINUITY = {"verified": "green", "unverified": "yellow", "backfilled": "cyan"}
_STATE = {"live": "green", "recovering": "yellow", "stale": "red"}
_SIDE = {"buy": "green", "sell": "red"}
_UNKNOWN = Ticker()
_FRAME_LINES = 5
_NONE = "–"


def render(state: WatchState, now: int, height: int = 50, levels: int = 10, width: int = 160) -> RenderableType:
    """Everything, fitted into `height` lines of `width`; `levels` book levels a side."""
    room = max(1, height - _FRAME_LINES - len(state.notes))
    body: RenderableType
    match state.channel:
        case Channel.TICKER:
            body = _tickers(state, now, room, width)
        case Channel.TRADES:
            body = _trades(state, room, width)
        case Channel.BOOK:
            body = _books(state, now, room, levels)
    return Group(_heading(state), body, *(Text(note, style="yellow") for note in state.notes))


def _heading(state: WatchState) -> Text:
    link = Text(state.link, style="green" if state.connected else "bold red")
    slow = Text(
        f"   too slow: conflated {state.conflated}\N{MULTIPLICATION SIGN}" if state.conflated else "", style="yellow"
    )
    return Text.assemble(
        ("lfmesh watch", "bold"), f"  {state.channel}  {state.url}  ", link, slow, ("   Ctrl-C ends", "dim")
    )


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


def _certainty(state: WatchState, view: StreamView) -> Text:
    """How certain the stream is now; without a connection that is not known."""
    return _continuity(view.continuity if state.connected else None)


def _continuity(continuity: Continuity | None) -> Text:
    return Text(continuity or _NONE, style=_CONTINUITY.get(continuity or "", "dim"))


def _state(state: WatchState, view: StreamView, now: int) -> Text:
    if not view.received_ns:
        return Text("waiting for data", style="dim")
    if not state.connected:
        return Text("disconnected", style="bold red")
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


def _quote(level: Quote | None) -> tuple[str, str]:
    return (_NONE, _NONE) if level is None else (level[0], level[1] or _NONE)


def _more(made: Table, hidden: int, what: str) -> None:
    if hidden > 0:
        made.caption = f"… and {hidden} more {what}; name those that you want, or make the window taller"
        made.caption_justify = "left"


def _tickers(state: WatchState, now: int, room: int, width: int) -> Table:
    shown = list(state.views.values())
    hidden = max(0, len(shown) - room + 1) if len(shown) > room else 0
    shown = shown[: len(shown) - hidden]
    tickers = [view.ticker or _UNKNOWN for view in shown]
    lasts = [(view, ticker.last_trade) for view, ticker in zip(shown, tickers, strict=True)]
    bids, asks = [_quote(ticker.best_bid) for ticker in tickers], [_quote(ticker.best_ask) for ticker in tickers]
    made = table(
        [
            Column("product", [Text(view.product) for view in shown]),
            _right("last", [Text(last.px_text if last else _NONE, style=_CHANGE[view.change]) for view, last in lasts]),
            _right("size", [_size(last) for _, last in lasts], 5),
            _right("bid size", [Text(size) for _, size in bids], 6),
            _right("bid", [Text(px) for px, _ in bids], 1),
            _right("ask", [Text(px) for px, _ in asks], 1),
            _right("ask size", [Text(size) for _, size in asks], 6),
            _right("spread", [Text(_gap(ticker)) for ticker in tickers], 3),
            _right("age", [_age(view, now) for view in shown], 4),
            Column("continuity", [_certainty(state, view) for view in shown], 2),
            Column("state", [_state(state, view, now) for view in shown], wraps=True),
        ],
        width,
    )
    _more(made, hidden, "products")
    return made


def _right(name: str, cells: Sequence[Text], spare: int = 0) -> Column:
    return Column(name, cells, spare, "right")


def _gap(ticker: Ticker) -> str:
    bid, ask = ticker.best_bid, ticker.best_ask
    return spread(bid[0] if bid else None, ask[0] if ask else None) or _NONE


def _size(last: Trade | None) -> Text:
    return Text(_NONE) if last is None else Text(last.qty_text, style=_SIDE[last.side])


def _trades(state: WatchState, room: int, width: int) -> RenderableType:
    recent = [
        (ts_event, view.product, trade, continuity)
        for view in state.views.values()
        for ts_event, trade, continuity in view.trades
    ]
    if not recent:
        return Text("no trade yet", style="dim")
    recent.sort(key=lambda row: (row[0], row[2].trade_id), reverse=True)
    shown = recent[:room]
    return table(
        [
            Column("time (UTC)", [Text(clock(ts_event)) for ts_event, _, _, _ in shown], 1),
            Column("product", [Text(product) for _, product, _, _ in shown]),
            _right("price", [Text(trade.px_text, style=_SIDE[trade.side]) for _, _, trade, _ in shown]),
            _right("size", [Text(trade.qty_text) for _, _, trade, _ in shown]),
            Column("taker", [Text(trade.side, style=_SIDE[trade.side]) for _, _, trade, _ in shown], 3),
            _right("trade id", [Text(str(trade.trade_id)) for _, _, trade, _ in shown], 4),
            Column("continuity", [_continuity(continuity) for _, _, _, continuity in shown], 2),
        ],
        width,
    )


def _books(state: WatchState, now: int, room: int, levels: int) -> RenderableType:
    each = max(1, min(levels, room // max(1, len(state.views)) - 3))
    return Group(*(part for view in state.views.values() for part in _book(state, view, now, each)))


def _book(state: WatchState, view: StreamView, now: int, levels: int) -> tuple[Text, Table]:
    bids, asks = view.book.best_bids(levels), view.book.best_asks(levels)
    gap = spread(bids[0][0] if bids else None, asks[0][0] if asks else None)
    bid_count, ask_count = view.book.depth
    heading = Text.assemble(
        (view.product, "bold"),
        f"  spread {gap or _NONE}  levels {bid_count} bid, {ask_count} ask  age ",
        _age(view, now),
        "  ",
        _certainty(state, view),
        "  ",
        _state(state, view, now),
    )
    made = Table(box=None, pad_edge=False, header_style="bold dim")
    made.add_column("bid size", justify="right", min_width=16, overflow="fold")
    made.add_column("bid", justify="right", min_width=14, style="green", overflow="fold")
    made.add_column("ask", justify="left", min_width=14, style="red", overflow="fold")
    made.add_column("ask size", justify="left", min_width=16, overflow="fold")
    for row in range(max(len(bids), len(asks), 1)):
        bid = bids[row] if row < len(bids) else ("", "")
        ask = asks[row] if row < len(asks) else ("", "")
        made.add_row(bid[1], bid[0], ask[0], ask[1])
    return heading, made
