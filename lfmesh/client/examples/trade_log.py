"""Write every trade of some products to a CSV file, each once, also over restarts of this program.

    python -m lfmesh.client.examples.trade_log trades.csv BTC-USD ETH-USD

Beside the file its positions are kept. The next run goes on from there: what came meanwhile is fetched, and what can't
be had any more is written as a line of its own.
"""

import argparse
import asyncio
import csv
import json
from contextlib import suppress
from pathlib import Path

from lfmesh.client import Missing, Trade, TradeEvent, TradesSnapshot, connect


async def main(urls: list[str], path: Path, products: list[str], limit: int) -> None:
    """Write until about so many trades are written (0: for ever)."""
    places = path.with_suffix(".positions.json")
    positions: dict[str, tuple[int, int]] = json.loads(places.read_text()) if places.exists() else {}
    known = {(product, "trades"): (epoch, seq) for product, (epoch, seq) in positions.items()}
    written = 0
    async with connect(urls) as feed:
        await feed.subscribe(products, channels=["trades"], from_seq=known)
        with path.open("a", newline="") as file:
            out = csv.writer(file)
            try:
                async for event in feed:
                    match event:
                        case TradesSnapshot(product=product, new=trades):
                            out.writerows(row(product, trade) for trade in trades)
                            written += len(trades)
                            positions[product] = event.position
                        case TradeEvent(product=product, trade=trade):
                            out.writerow(row(product, trade))
                            written += 1
                            positions[product] = event.position
                        case Missing(product=product, from_trade_id=first, to_trade_id=last):
                            out.writerow([product, f"{first}-{last}", "missing", "", ""])
                        case _:
                            continue
                    if limit and written >= limit:
                        return
            finally:
                # The positions of what has been written: the feed itself may have seen more by now.
                places.write_text(json.dumps(positions))


def row(product: str, trade: Trade) -> list[str | int]:
    """A line of the file."""
    return [product, trade.trade_id, trade.side, trade.px_text, trade.qty_text]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("products", nargs="+")
    parser.add_argument("--url", action="append", help="may be given several times: alternatives")
    parser.add_argument("--trades", type=int, default=0, help="end after so many; 0: never")
    options = parser.parse_args()
    with suppress(KeyboardInterrupt):
        asyncio.run(main(options.url or ["ws://127.0.0.1:8000/ws"], options.file, options.products, options.trades))
