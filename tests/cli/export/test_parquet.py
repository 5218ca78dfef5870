"""The Parquet export, read by pyarrow and by DuckDB, and the README's statements on both kinds of files."""

import json
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import pyarrow as pa  # type: ignore[import-untyped]  # it has no types
import pyarrow.parquet as pq  # type: ignore[import-untyped]  # nor here
import pytest

from lfmesh.cli.export.parquet_files import ParquetFormat
from lfmesh.core import encode
from lfmesh.errors import LfmeshError
from lfmesh.types import Channel, StreamKey
from tests.cli.export.archives import BTC_BOOK, BTC_TICKER, BTC_TRADES, DAY, Stream, archive, entries_of, keep
from tests.cli.export.exports import exported
from tests.loadgen.sim.kit import recorded_tape

README = Path(__file__).parents[3] / "README.md"


def parquet(folder: Path, stream: StreamKey) -> Any:  # noqa: ANN401 - a pyarrow.Table
    (path,) = folder.glob(f"{stream.channel}/product={stream.product}/*/*.parquet")
    return pq.ParquetFile(path).read()


def test_columns_are_typed_and_exact(tmp_path: Path) -> None:
    trades, ticker, book = Stream(BTC_TRADES), Stream(BTC_TICKER), Stream(BTC_BOOK)
    trades.snapshot('{"trades":[]}', at=1)
    trades.trade(1, "61234.10", "0.00000001", at=2)
    trades.trade(2, "12345678901234567890.12", "2.0000000000", at=3)
    ticker.snapshot(encode.ticker_fields("null", encode.level(("1.5", None)), "null"), at=1)
    book.snapshot(encode.book_fields([("9", "1.0")], []), at=1)
    exported(archive(tmp_path, trades, ticker, book), tmp_path / "out", ParquetFormat("coinbase"))
    table = parquet(tmp_path / "out", BTC_TRADES)
    assert table.schema.field("px").type == pa.decimal128(38, 8)
    assert table.schema.field("ts_event").type == pa.timestamp("ns", "UTC")
    assert table.schema.field("ts_event_ns").type == table.schema.field("epoch").type == pa.int64()
    assert table.schema.metadata[b"product"] == b"BTC-USD"
    assert table.column("px").to_pylist() == [Decimal("61234.1"), Decimal("12345678901234567890.12")]
    assert table.column("qty").to_pylist() == [Decimal("0.00000001"), Decimal(2)]
    assert table.column("ts_event").cast(pa.int64()).to_pylist() == [DAY + 2, DAY + 3]
    assert table.column("continuity").to_pylist() == ["unverified"] * 2
    (row,) = (
        parquet(tmp_path / "out", BTC_TICKER).drop_columns(["time", "ts_event", "ts_ingest", "ts_publish"]).to_pylist()
    )
    assert row["bid_px"] == Decimal("1.5")
    assert {row[name] for name in ("trade_px", "trade_id", "bid_qty", "ask_px", "continuity", "ts_event_ns")} == {None}
    assert parquet(tmp_path / "out", BTC_BOOK).column("kind").to_pylist() == ["clear", "snapshot"]


def test_all_files_of_a_table_have_the_digits_that_one_of_them_needs(tmp_path: Path) -> None:
    usual, fine = Stream(BTC_TRADES), Stream(StreamKey("PEPE-USD", Channel.TRADES))
    for stream, px in ((usual, "1.25"), (fine, "0.00000123456")):
        stream.snapshot('{"trades":[]}', at=1)
        stream.trade(1, px, "1", at=2)
    kept, out = archive(tmp_path, usual, fine), tmp_path / "out"
    done = exported(kept, out, ParquetFormat("coinbase"))
    assert (done[Channel.TRADES].rows, done[Channel.TRADES].files) == (2, 2)
    for stream in (usual, fine):
        schema = parquet(out, stream.key).schema
        assert (schema.field("px").type.scale, schema.field("qty").type.scale) == (11, 8)
    assert query(f"SELECT sum(px) FROM '{out}/trades/**/*.parquet'") == [(Decimal("1.25000123456"),)]
    exported(kept, out, ParquetFormat("coinbase"), force=True)  # what is there has room

    exported(archive(tmp_path / "first", usual), tmp_path / "two", ParquetFormat("coinbase"))
    with pytest.raises(LfmeshError, match=r"decimals have more digits \(px 11\) than the files that are there"):
        exported(archive(tmp_path / "second", fine), tmp_path / "two", ParquetFormat("coinbase"))
    assert not (tmp_path / "two/trades/product=PEPE-USD").exists()

    (path,) = (tmp_path / "two").rglob("*.parquet")
    path.write_bytes(b"something else")
    with pytest.raises(LfmeshError, match="is no file of an export: move it away"):
        exported(archive(tmp_path / "third", fine), tmp_path / "two", ParquetFormat("coinbase"))


# DuckDB, on the recorded tape -------------------------------------------------------------------------------------


type Book = dict[tuple[str, Decimal], Decimal]
"""Sizes by side and price."""


class Taped(NamedTuple):
    """What the tape holds, by plain json: nothing of the mesh."""

    trades: dict[str, list[tuple[Decimal, Decimal]]]
    changes: dict[str, list[tuple[Decimal, Decimal]]]
    levels: dict[str, int]
    books: dict[str, Book]


def put(book: Book, side: str, px: Decimal, qty: Decimal) -> None:
    if qty:
        book[side, px] = qty
    else:
        book.pop((side, px), None)


def from_the_export(table: Any) -> Book:  # noqa: ANN401 - a pyarrow.Table
    """The book at the end of a file."""
    book: Book = {}
    for kind, side, px, qty in zip(
        *(table.column(name).to_pylist() for name in ("kind", "side", "px", "qty")), strict=True
    ):
        if kind == "clear":
            book.clear()
        else:
            put(book, side, px, qty)
    return book


def straight_from_the_tape(path: Path) -> Taped:
    taped = Taped(defaultdict(list), defaultdict(list), {}, defaultdict(dict))
    for line in path.read_text().splitlines():
        frame = json.loads(line.split("\t", 1)[1])
        match frame["type"]:
            case "match":
                taped.trades[frame["product_id"]].append((Decimal(frame["price"]), Decimal(frame["size"])))
            case "l2update":
                taped.changes[frame["product_id"]] += [(Decimal(px), Decimal(qty)) for _, px, qty in frame["changes"]]
                for side, px, qty in frame["changes"]:
                    put(taped.books[frame["product_id"]], "bid" if side == "buy" else "ask", Decimal(px), Decimal(qty))
            case "snapshot":
                taped.levels[frame["product_id"]] = len(frame["bids"]) + len(frame["asks"])
                for side in ("bid", "ask"):
                    for px, qty in frame[f"{side}s"]:
                        put(taped.books[frame["product_id"]], side, Decimal(px), Decimal(qty))
            case _:
                pass
    return taped


def query(statement: str) -> list[tuple[Any, ...]]:
    relation = duckdb.sql(statement)
    assert relation is not None
    return relation.fetchall()


def turnover(rows: list[tuple[Decimal, Decimal]]) -> Decimal:
    return sum((px * qty for px, qty in rows), Decimal(0))


def readme_statements() -> Iterator[str]:
    """The SQL of the README, each statement as DuckDB gets it."""
    for statement in re.findall(r'duckdb -c "(.*?)"', README.read_text(encoding="utf-8"), re.DOTALL):
        yield str(statement)


def test_duckdb_reads_export_and_tape_segments_as_the_readme_says(tmp_path: Path) -> None:
    path = recorded_tape()
    taped = straight_from_the_tape(path)
    kept = keep(tmp_path, entries_of(path))
    done = exported(kept, tmp_path / "day", ParquetFormat("coinbase"))
    assert done[Channel.TRADES].rows == sum(map(len, taped.trades.values())) == 97

    in_export, in_tape = readme_statements()
    assert "'day/" in in_export
    assert "'.lfmesh/" in in_tape
    wanted = {product: (len(rows), turnover(rows)) for product, rows in taped.trades.items()}
    for statement in (in_export.replace("'day/", f"'{tmp_path}/day/"), in_tape.replace("'.lfmesh/", f"'{tmp_path}/")):
        assert {product: figures for product, *figures in map(list, query(statement))} == {
            product: list(figures) for product, figures in wanted.items()
        }, statement

    book = f"'{tmp_path}/day/book/**/*.parquet'"
    changes = query(
        f"SELECT product, date::VARCHAR, count(*), sum(px * qty) FROM {book} WHERE kind = 'change' GROUP BY ALL"
    )
    assert {(product, date, count, total) for product, date, count, total in changes} == {
        (product, "2021-04-17", len(rows), turnover(rows)) for product, rows in taped.changes.items()
    }
    levels = query(f"SELECT product, count(*) FROM {book} WHERE kind = 'snapshot' GROUP BY ALL")
    assert dict(levels) == taped.levels
    for product, book_at_the_end in taped.books.items():
        assert from_the_export(parquet(tmp_path / "day", StreamKey(product, Channel.BOOK))) == book_at_the_end


def test_without_pyarrow_csv_works_and_parquet_says_what_to_install(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "sys.modules['pyarrow'] = None\n"
        "from lfmesh.cli.export.command import _format\n"
        "print(_format('csv', 'coinbase').suffix)\n"
        "try: _format('parquet', 'coinbase')\n"
        "except Exception as error: print(type(error).__name__, error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.splitlines() == [
        "csv",
        "LfmeshError Parquet needs pyarrow: `pip install pyarrow` (lfmesh's extra `parquet`); or --format csv",
    ]
