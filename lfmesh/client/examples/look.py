"""Look at a product, without `async`: as one would in a notebook.

python -m lfmesh.client.examples.look BTC-USD
"""

import argparse
import sys

from lfmesh.client import TradeEvent
from lfmesh.client.sync import connect


def main(url: str, product: str, trades: int) -> None:
    """Show the top of the book, the ticker, and the next trades."""
    with connect(url) as feed:
        feed.subscribe(product, channels=["book", "ticker", "trades"])
        book = feed.wait_for_book(product)
        for level in reversed(book.best_asks(5)):
            sys.stdout.write(f"{level.qty_text:>30} at {level.px_text}\n")
        sys.stdout.write(f"{'spread':>30}    {book.spread}\n")
        for level in book.best_bids(5):
            sys.stdout.write(f"{level.qty_text:>30} at {level.px_text}\n")
        feed.wait_for(product, "ticker")
        last = feed.ticker(product).last_trade
        sys.stdout.write(
            f"last trade {last.px if last else '-'}; {feed.ping() * 1000:.2f} ms to the gateway and back\n"
        )
        for event in feed:
            if isinstance(event, TradeEvent):
                sys.stdout.write(f"{event.side:>4} {event.qty} at {event.px}, {event.continuity}\n")
                trades -= 1
                if trades == 0:
                    break


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("product")
    parser.add_argument("--url", default="ws://127.0.0.1:8000/ws")
    parser.add_argument("--trades", type=int, default=5)
    options = parser.parse_args()
    main(options.url, options.product, options.trades)
