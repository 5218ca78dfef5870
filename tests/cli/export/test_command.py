"""`lfmesh export` as it is typed."""

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from lfmesh.cli.root import cli
from tests.cli.export.archives import BTC_BOOK, BTC_TRADES, DAY, SECOND, Stream, archive

FIRST, LAST = "2021-04-17T00:00:00.000000001Z", "2021-04-17T00:00:05.000000000Z"


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    trades, book = Stream(BTC_TRADES), Stream(BTC_BOOK)
    trades.snapshot('{"trades":[]}', at=1)
    for number in range(1, 6):
        trades.trade(number, "1.50", "2", at=number * SECOND)
    book.lose(3)
    book.book(("1", "2"), at=2)
    book.lose()
    book.book(("1", "2"), at=3)
    archive(tmp_path, trades, book)
    return tmp_path


def lfmesh_export(data_dir: Path, *arguments: str) -> Result:
    return CliRunner().invoke(
        cli,
        ["export", "--data-dir", str(data_dir), "--out", str(data_dir / "out"), "--format", "csv", *arguments],
    )


def test_it_tells_what_it_wrote_and_what_the_archive_lacks(data_dir: Path) -> None:
    done = lfmesh_export(data_dir)
    assert done.exit_code == 0, done.output
    out = data_dir / "out"
    assert done.stdout.splitlines() == [
        f"{out}/trades: 5 rows in 1 file",
        f"{out}/book: 4 rows in 1 file; places where the archive lacks messages: 1",
    ]


def test_range_products_and_channels_narrow_it(data_dir: Path) -> None:
    moments = ("--from", "2021-04-17T00:00:02Z", "--to", str(DAY + 4 * SECOND))
    done = lfmesh_export(data_dir, *moments, "--products", "btc-usd", "--channels", "trades,ticker")
    assert done.stdout == f"{data_dir}/out/trades: 3 rows in 1 file\n"


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["--from", "2021-04-17T00:00:02"], 2, "names no zone"),
        (["--from", "2", "--to", "1"], 2, "--from is later than --to"),
        (["--channels", "trade"], 2, "trade is no channel: ticker, trades, book"),
        (["--products", "DOGE-USD"], 1, "the archive has no DOGE-USD; it has BTC-USD"),
        (["--channels", "ticker"], 1, "nothing to export: the archive has none of these channels"),
        (
            ["--channels", "trades", "--to", "5"],
            1,
            f"nothing to export: what the archive has of these is from {FIRST} to {LAST}",
        ),
    ],
)
def test_what_cannot_be_is_one_line(data_dir: Path, arguments: list[str], code: int, told: str) -> None:
    done = lfmesh_export(data_dir, *arguments)
    assert not (data_dir / "out").exists()
    if code == 2:
        assert (done.exit_code, told in done.output) == (2, True), done.output
    else:
        assert str(done.exception) == told


def test_an_empty_archive_is_one_line(tmp_path: Path) -> None:
    assert f"in the folder {tmp_path} is empty" in str(lfmesh_export(tmp_path).exception)
