"""How an export's files come: all at the end, each whole, none over another unless told to; in bounded memory."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from lfmesh.archive.places import objects_folder
from lfmesh.cli.export.files import Output
from lfmesh.cli.export.run import GROUP_ROWS, TableFile
from lfmesh.cli.export.tables import Row
from lfmesh.core import encode
from lfmesh.errors import BadArchive, LfmeshError
from lfmesh.types import Channel, StreamKey
from tests.cli.export.archives import BTC_BOOK, DAY, SECOND, Stream, archive
from tests.cli.export.exports import exported


def trades_of(product: str, ids: range) -> Stream:
    stream = Stream(StreamKey(product, Channel.TRADES))
    stream.snapshot('{"trades":[]}', at=1)
    for number in ids:
        stream.trade(number, "1.5", "2", at=number * SECOND)
    return stream


def files_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_day_without_rows_has_no_file(tmp_path: Path) -> None:
    day = 86_400
    done = exported(
        archive(tmp_path, trades_of("BTC-USD", range(1, 3 * day, day)), trades_of("ETH-USD", range(0))),
        tmp_path / "out",
    )
    assert files_in(tmp_path / "out") == [
        f"trades/product=BTC-USD/date=2021-04-{date}/BTC-USD_trades_2021-04-{date}.csv" for date in (17, 18, 19)
    ]
    assert (done[Channel.TRADES].rows, done[Channel.TRADES].files) == (3, 3)


def test_only_what_is_asked_for_is_exported(tmp_path: Path) -> None:
    done = exported(
        archive(tmp_path, trades_of("BTC-USD", range(1, 10))),
        tmp_path / "out",
        start=DAY + 3 * SECOND,
        end=DAY + 5 * SECOND,
    )
    assert done[Channel.TRADES].rows == 3


def test_a_rerun_is_refused_and_replaces_when_told_to(tmp_path: Path) -> None:
    kept, out = archive(tmp_path, trades_of("BTC-USD", range(1, 4))), tmp_path / "out"
    exported(kept, out)
    (path,) = out.rglob("*.csv")
    before = path.read_bytes()
    with pytest.raises(LfmeshError, match=f"{path} is there already, of an earlier export: --force replaces"):
        exported(kept, out, end=DAY + 2 * SECOND)
    assert path.read_bytes() == before
    exported(kept, out, end=DAY + 2 * SECOND, force=True)
    assert path.read_bytes().count(b"\n") == 3
    assert files_in(out) == [str(path.relative_to(out))]


def test_a_table_has_one_format(tmp_path: Path) -> None:
    """pandas reads every file of a folder."""
    kept, out = archive(tmp_path, trades_of("BTC-USD", range(1, 4))), tmp_path / "out"
    exported(kept, out)
    with pytest.raises(LfmeshError, match=r"2021-04-17\.csv is there, of another format: export to another folder"):
        exported(kept, out, Sizes(), force=True)


def test_what_fails_half_way_leaves_nothing(tmp_path: Path) -> None:
    kept = archive(tmp_path, trades_of("BTC-USD", range(1, 4)), trades_of("ETH-USD", range(1, 4)))
    (damaged,) = objects_folder(tmp_path).glob("tape/*/product=ETH-USD/**/*.zst")
    damaged.chmod(0o644)
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"?")
    with pytest.raises(BadArchive, match="damaged"):
        exported(kept, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(LfmeshError, match=r"file/out cannot be written: Not a directory$"):
        Output(tmp_path / "file" / "out", "csv", force=False)


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    archive(tmp_path, trades_of("BTC-USD", range(1, 2000)))
    code = (
        "import resource, signal, sys\n"
        "from pathlib import Path\n"
        "from lfmesh.archive.reader import Archive\n"
        "from lfmesh.archive.places import objects_folder\n"
        "from lfmesh.store.folder import FolderObjectStore\n"
        "from tests.cli.export.exports import exported\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10000, 10000))\n"
        "folder = Path(sys.argv[1])\n"
        "try: exported(Archive(FolderObjectStore(objects_folder(folder)), 'coinbase'), folder / 'out')\n"
        "except Exception as error: print(type(error).__name__, error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout == f"LfmeshError {tmp_path / 'out'} cannot be written: File too large\n"
    assert not (tmp_path / "out").exists()


class Sizes:
    """A format that keeps nothing but how many rows came at a time."""

    suffix = "none"

    def __init__(self) -> None:
        self.rows: list[int] = []

    def begin(self, channel: Channel, existing: Sequence[Path]) -> None:  # noqa: ARG002 - the signature is Format's
        assert not existing

    def open(self, path: Path, stream: StreamKey, date: str) -> TableFile:  # noqa: ARG002 - the same
        path.touch()
        return self

    def write(self, rows: list[Row]) -> None:
        self.rows.append(len(rows))

    def close(self) -> None:
        pass


def test_rows_are_written_as_they_come(tmp_path: Path) -> None:
    book = Stream(BTC_BOOK)
    whole = encode.book_fields([(str(number), "1") for number in range(9_999)], [])
    for epoch in range(1, 15):
        book.open(epoch)
        book.snapshot(whole, at=epoch)
    sizes = Sizes()
    exported(archive(tmp_path, book), tmp_path / "out", sizes)
    assert sum(sizes.rows) == 140_000
    assert max(sizes.rows) < GROUP_ROWS + 10_000
