"""The watcher's plain form: one line an event, for pipes and logs. Columns by position, so that awk can read them."""

from lfmesh.client import (
    Book,
    Event,
    Goaway,
    Increment,
    Level,
    Missing,
    Quote,
    Refused,
    ReplayStatus,
    Skipped,
    Snapshot,
    StatusChanged,
    Tick,
    Ticker,
    TickerSnapshot,
    Trade,
    TradeEvent,
    TradesSnapshot,
    Violation,
)
from lfmesh.core.times import format_time
from lfmesh.watch.render import clock
from lfmesh.watch.state import StreamView, spread


def line(event: Event, view: StreamView | None) -> str | None:
    """What to print for an event, given its product's picture after it; None for what a reader need not see."""
    match event:
        case StatusChanged():
            return f"{clock(event.since)} {event.product} {event.channel} is {event.state}: {event.reason}"
        case Missing(product=product, from_trade_id=first, to_trade_id=last):
            return f"{clock(event.ts_received)} {product} trades {first}-{last} are missing"
        case Snapshot() | Increment():
            return f"{_head(event)} {_content(event, view)} {_tail(event)}"
        case _:
            return None


def _content(event: Snapshot | Increment, view: StreamView | None) -> str:
    match event:
        case Tick(ticker=ticker) | TickerSnapshot(ticker=ticker):
            return _ticker(ticker)
        case TradeEvent(trade=trade):
            return _trade(trade)
        case TradesSnapshot(trades=trades):
            return f"{len(trades)} trades so far" + (f", last {_trade(trades[-1])}" if trades else "")
        case _:
            return _book(view.book) if view else "-"


def said(event: Event) -> str | None:
    """What is said beside the data; None for anything else."""
    match event:
        case Refused(code=code, msg=msg):
            return f"refused: {code}: {msg}"
        case Goaway(reason=reason, reconnect_ms=pause):
            return f"the gateway is going away ({reason}); it may be back in {pause} ms"
        case Violation(kind=kind, product=product, channel=channel, detail=detail):
            where = f" in {product} {channel}" if product else ""
            return f"the gateway breaks its protocol{where}: {kind}: {detail}"
        case ReplayStatus(state=state, at=at, speed=speed):
            fast = "as fast as it can" if speed is None else f"at speed {speed:g}"
            return f"a replay, {state} at {format_time(at)}, {fast}"
        case Skipped(count=count):
            return f"{count} events were skipped"
        case _:
            return None


def _head(event: Snapshot | Increment) -> str:
    when = event.ts_event or event.ts_publish if isinstance(event, Increment) else event.ts_snapshot
    return f"{clock(when)} {event.product} {event.channel}"


def _tail(event: Snapshot | Increment) -> str:
    if isinstance(event, Snapshot):
        return f"seq {event.position.seq} snapshot ({event.reason})"
    merged = f" of {event.merged}" if event.merged > 1 else ""
    return f"seq {event.position.seq} {event.continuity}{merged}"


def _ticker(ticker: Ticker) -> str:
    last = f"last {_trade(ticker.last_trade)}" if ticker.last_trade else "last -"
    bid, ask = ticker.best_bid, ticker.best_ask
    gap = spread(bid.px_text, ask.px_text) if bid and ask else None
    return f"{last} bid {_level(bid)} ask {_level(ask)} spread {gap or '-'}"


def _trade(trade: Trade) -> str:
    return f"{trade.px_text} x {trade.qty_text} {trade.side} id {trade.trade_id}"


def _level(level: Level | Quote | None) -> str:
    return "-" if level is None else f"{level.px_text} x {level.qty_text or '?'}"


def _book(book: Book) -> str:
    bid, ask = book.best_bid, book.best_ask
    gap = spread(bid.px_text if bid else None, ask.px_text if ask else None)
    bids, asks = book.depth
    return f"bid {_level(bid)} ask {_level(ask)} spread {gap or '-'} levels {bids}/{asks}"
