"""What rows come of which lines, as the CSV shows them."""

import csv
from pathlib import Path

import pytest

from lfmesh.archive.segments import Line
from lfmesh.cli.export.rows import rows_of
from lfmesh.cli.export.tables import TABLES, Row
from lfmesh.core import encode
from lfmesh.errors import BadArchive
from lfmesh.types import Channel, StreamKey
from tests.cli.export.archives import BTC_BOOK, BTC_TICKER, BTC_TRADES, DAY, SECOND, Stream, archive, trade_text
from tests.cli.export.exports import exported


def rows(stream: StreamKey, folder: Path, *names: str) -> list[tuple[str, ...]]:
    """These columns of all rows of a stream's files."""
    found = []
    for path in sorted(folder.glob(f"{stream.channel}/product={stream.product}/*/*.csv")):
        with path.open(newline="") as file:
            found += [tuple(row[name] for name in names) for row in csv.DictReader(file)]
    return found


def test_a_tick_is_a_row_with_nothing_where_nothing_is_known(tmp_path: Path) -> None:
    ticker = Stream(BTC_TICKER)
    ticker.snapshot(encode.ticker_fields("null", "null", "null"), at=1)
    ticker.increment(
        encode.ticker_fields(trade_text(5), encode.level(("99.90", None)), encode.level(("100", "0.10"))), at=2
    )
    exported(archive(tmp_path, ticker), tmp_path / "out")
    wanted = "kind reason trade_px trade_qty trade_side trade_id bid_px bid_qty ask_px ask_qty continuity epoch seq"
    assert rows(BTC_TICKER, tmp_path / "out", *wanted.split()) == [
        ("snapshot", "epoch", "", "", "", "", "", "", "", "", "", "7", "0"),
        ("tick", "", "100.10", "0.50", "buy", "5", "99.90", "", "100", "0.10", "unverified", "7", "1"),
    ]


def test_times_are_texts_with_nine_digits_and_the_integers_that_clients_get(tmp_path: Path) -> None:
    trades = Stream(BTC_TRADES)
    trades.snapshot('{"trades":[]}')
    trades.trade(1, "100.10", "0.50000000", at=SECOND + 1)
    exported(archive(tmp_path, trades), tmp_path / "out")
    names = [column.name for column in TABLES[Channel.TRADES] if column.name not in ("kind", "reason")][:-3]
    at = DAY + SECOND + 1
    assert rows(BTC_TRADES, tmp_path / "out", *names) == [
        (
            "2021-04-17T00:00:01.000000001Z", "2021-04-17T00:00:01.000000001Z", "2021-04-17T00:00:01.000000006Z",
            "2021-04-17T00:00:01.000000010Z", str(at), str(at + 5), str(at + 9), "1", "100.10", "0.50000000", "buy",
        )
    ]  # fmt: skip


def test_trades_that_only_a_snapshot_tells_of_are_rows_and_no_trade_is_twice(tmp_path: Path) -> None:
    trades = Stream(BTC_TRADES)
    trades.snapshot(encode.trades_state([trade_text(1), trade_text(2)]), at=1)
    trades.trade(3, "100.10", "0.50", at=2)
    trades.lose(2)
    trades.snapshot(encode.trades_state([trade_text(number) for number in (2, 3, 4, 5)], 6), at=3, reason="gap")
    trades.trade(7, "100.10", "0.50", at=4)
    trades.open(8)
    trades.snapshot(encode.trades_state([trade_text(5), trade_text(7)], 7), at=5)
    done = exported(archive(tmp_path, trades), tmp_path / "out")
    assert [row[:3] for row in rows(BTC_TRADES, tmp_path / "out", "kind", "trade_id", "reason", "ts_event_ns")] == [
        ("trade", "3", ""),
        ("snapshot", "4", "gap"),
        ("snapshot", "5", "gap"),
        ("trade", "7", ""),
    ]
    assert done[Channel.TRADES].holes == 1


def book(levels: int) -> str:
    return encode.book_fields([(str(number), "1") for number in range(levels)], [])


def test_a_book_is_cleared_by_each_snapshot_whatever_its_parts(tmp_path: Path) -> None:
    stream = Stream(BTC_BOOK)
    stream.snapshot(encode.book_fields([("9", "1.0")], [("10", "2")]), encode.book_fields([("8", "1")], []), at=1)
    stream.book(("9", "0"), asks=[("10.0", "0.00"), ("11", "5")], at=2)
    stream.open(8)
    stream.snapshot(encode.book_fields([], []), at=3, reason="resync")
    exported(archive(tmp_path, stream), tmp_path / "out")
    assert rows(BTC_BOOK, tmp_path / "out", "kind", "reason", "side", "px", "qty", "epoch", "seq") == [
        ("clear", "epoch", "", "", "", "7", "0"),
        ("snapshot", "epoch", "bid", "9", "1.0", "7", "0"),
        ("snapshot", "epoch", "ask", "10", "2", "7", "0"),
        ("snapshot", "epoch", "bid", "8", "1", "7", "0"),
        ("change", "", "bid", "9", "0", "7", "1"),
        ("change", "", "ask", "10.0", "0.00", "7", "1"),
        ("change", "", "ask", "11", "5", "7", "1"),
        ("clear", "resync", "", "", "", "8", "0"),
    ]


def test_each_file_of_a_book_begins_with_the_book(tmp_path: Path) -> None:
    day = 86_400 * SECOND
    stream = Stream(BTC_BOOK)
    stream.snapshot(encode.book_fields([("9", "1.0")], [("10", "2")]), at=1)
    stream.book(("9", "3.50"), at=2)
    stream.book(("8", "1"), at=day - 1)
    stream.book(("8", "0"), at=day)
    exported(archive(tmp_path, stream), tmp_path / "out", start=DAY + 2)
    first = tmp_path / "out/book/product=BTC-USD/date=2021-04-17/BTC-USD_book_2021-04-17.csv"
    assert first.is_file()
    assert rows(BTC_BOOK, tmp_path / "out", "time", "kind", "reason", "px", "qty", "seq") == [
        ("2021-04-17T00:00:00.000000001Z", "clear", "base", "", "", "0"),
        ("2021-04-17T00:00:00.000000001Z", "snapshot", "base", "9", "1.0", "0"),
        ("2021-04-17T00:00:00.000000001Z", "snapshot", "base", "10", "2", "0"),
        ("2021-04-17T00:00:00.000000002Z", "change", "", "9", "3.50", "1"),
        ("2021-04-17T23:59:59.999999999Z", "change", "", "8", "1", "2"),
        ("2021-04-17T23:59:59.999999999Z", "clear", "base", "", "", "2"),
        ("2021-04-17T23:59:59.999999999Z", "snapshot", "base", "9", "3.50", "2"),
        ("2021-04-17T23:59:59.999999999Z", "snapshot", "base", "8", "1", "2"),
        ("2021-04-17T23:59:59.999999999Z", "snapshot", "base", "10", "2", "2"),
        ("2021-04-18T00:00:00.000000000Z", "change", "", "8", "0", "3"),
    ]


def test_a_book_of_which_messages_are_missing_is_emptied_until_its_next_snapshot(tmp_path: Path) -> None:
    stream = Stream(BTC_BOOK)
    stream.lose(5)
    stream.book(("9", "1"), at=1)
    stream.lose()
    stream.book(("9", "2"), at=2)
    stream.lose()
    stream.snapshot(book(1), at=3, reason="gap")
    stream.book(("9", "3"), at=4)
    done = exported(archive(tmp_path, stream), tmp_path / "out")
    assert rows(BTC_BOOK, tmp_path / "out", "kind", "reason", "qty", "seq") == [
        ("clear", "missing", "", "6"),
        ("change", "", "1", "6"),
        ("clear", "missing", "", "8"),
        ("change", "", "2", "8"),
        ("clear", "gap", "", "9"),
        ("snapshot", "gap", "1", "9"),
        ("change", "", "3", "10"),
    ]
    assert done[Channel.BOOK].holes == 2


@pytest.mark.parametrize("channel", list(Channel))
def test_a_message_of_another_form_is_told_with_its_place(channel: Channel) -> None:
    stream = StreamKey("BTC-USD", channel)
    for line in (Line(DAY, 1, 5, b'{"op":"incr","data":{}}'), Line(DAY, 1, 5, b"{", True)):
        with pytest.raises(BadArchive, match=f"BTC-USD {channel}: at 1/5: no such message"):
            rows_of(stream).of(line)


def test_rows_have_a_value_for_each_column(tmp_path: Path) -> None:
    stream = Stream(BTC_BOOK)
    stream.snapshot(book(2))
    for line in archive(tmp_path, stream).lines(BTC_BOOK):
        made: list[Row] = rows_of(BTC_BOOK).of(line)
        assert {len(row) for row in made} == {len(TABLES[Channel.BOOK])}
