"""The watcher's plain form: one line a message, for pipes and logs. Columns by position, so that awk can read them."""

from lfmesh.client.messages import Book, Goaway, Message, Other, Refused, Status, Subscribed, Ticker, Trade, Update
from lfmesh.watch.render import clock
from lfmesh.watch.state import StreamView, spread


def line(message: Message, view: StreamView | None) -> str | None:
    """What to print for a message, given its product's picture after it; None for what a reader need not see."""
    match message:
        case Update():
            return _update(message, view)
        case Status():
            return f"{clock(message.since)} {message.product} {message.channel} is {message.state}: {message.reason}"
        case Refused():
            return f"refused: {message.code}: {message.msg}"
        case Goaway():
            return f"the gateway is going away ({message.reason}); it may be back in {message.reconnect_ms} ms"
        case Subscribed() | Other():
            return None


def _update(update: Update, view: StreamView | None) -> str | None:
    if update.part < update.parts:
        return None
    when = clock(update.ts_event or update.ts_publish)
    verdict = update.continuity or f"snapshot ({update.reason})"
    lost = f" missing trades {update.missing[0]}-{update.missing[1]}" if update.missing else ""
    head, tail = f"{when} {update.product} {update.channel}", f"seq {update.seq} {verdict}{lost}"
    match update.content:
        case Ticker() as ticker:
            return f"{head} {_ticker(ticker)} {tail}"
        case Book():
            return f"{head} {_book(view)} {tail}"
        case trades if update.op == "incr":
            return "\n".join(f"{head} {_trade(trade)} {tail}" for trade in trades)
        case trades:
            return f"{head} {len(trades)} trades so far{f', last {_trade(trades[-1])}' if trades else ''} {tail}"


def _ticker(ticker: Ticker) -> str:
    last = f"last {_trade(ticker.last_trade)}" if ticker.last_trade else "last -"
    bid = ticker.best_bid
    ask = ticker.best_ask
    gap = spread(bid[0], ask[0]) if bid and ask else None
    return f"{last} bid {_level(bid)} ask {_level(ask)} spread {gap or '-'}"


def _trade(trade: Trade) -> str:
    return f"{trade.px} x {trade.qty} {trade.side} id {trade.trade_id}"


def _level(level: tuple[str, str | None] | None) -> str:
    return "-" if level is None else f"{level[0]} x {level[1] or '?'}"


def _book(view: StreamView | None) -> str:
    if view is None:
        return "-"
    bids, asks = view.book.best_bids(1), view.book.best_asks(1)
    best = f"bid {_level(bids[0] if bids else None)} ask {_level(asks[0] if asks else None)}"
    gap = spread(bids[0][0] if bids else None, asks[0][0] if asks else None)
    return f"{best} spread {gap or '-'} levels {len(view.book.bids)}/{len(view.book.asks)}"
