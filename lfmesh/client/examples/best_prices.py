"""Print the best prices of some books whenever they change.

python -m lfmesh.client.examples.best_prices BTC-USD ETH-USD --conflate-ms 100
"""

import argparse
import asyncio
import sys
from contextlib import suppress

from lfmesh.client import BookSnapshot, BookUpdate, Connected, Disconnected, StatusChanged, Violation, connect


async def main(url: str, products: list[str], lines: int, conflate_ms: int = 0) -> None:
    """Follow the books until so many lines are printed (0: for ever)."""
    shown: dict[str, object] = {}
    async with connect(url) as feed:
        await feed.subscribe(products, channels=["book"], conflate_ms=conflate_ms)
        async for event in feed:
            match event:
                case BookSnapshot(product=product) | BookUpdate(product=product):
                    book = feed.book(product)
                    best = (book.best_bid, book.best_ask)
                    if shown.get(product) == best:
                        continue
                    shown[product] = best
                    bid, ask = best
                    sys.stdout.write(f"{product}  {bid.px if bid else '-'} / {ask.px if ask else '-'}  {book.spread}\n")
                    lines -= 1
                    if lines == 0:
                        return
                case StatusChanged():
                    sys.stdout.write(f"{event.product} is {event.state}: {event.reason}\n")
                case Connected() | Disconnected() | Violation():
                    sys.stderr.write(f"{event}\n")
                case _:
                    pass


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("products", nargs="+")
    parser.add_argument("--url", default="ws://127.0.0.1:8000/ws")
    parser.add_argument("--lines", type=int, default=0, help="end after so many; 0: never")
    parser.add_argument(
        "--conflate-ms", type=int, default=0, help="each book at most once in this time; 0: every change"
    )
    options = parser.parse_args()
    with suppress(KeyboardInterrupt):
        asyncio.run(main(options.url, options.products, options.lines, options.conflate_ms))
