"""The uploader: everything reaches the store, in order of time, through outages, and leaves the spool only then."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from lfmesh.archive.spool import Spool
from lfmesh.archive.uploader import Uploader
from lfmesh.errors import ObjectMissing, StoreMisconfigured, StoreUnavailable
from lfmesh.ports import StoredObject
from tests.archive.published import ETH
from tests.archive.test_spool import put, segment, snapshot


class FakeStore:
    """Objects in memory; `faults` are raised by the next puts, before (or, `lost` answers, after) it is stored."""

    def __init__(self) -> None:
        self.stored: dict[str, bytes] = {}
        self.puts: list[str] = []
        self.faults: list[StoreUnavailable] = []
        self.lost: list[StoreUnavailable] = []
        self.before: Callable[[], object] = lambda: None

    def check(self) -> None:
        pass

    def put(self, key: str, body: bytes | Path) -> bool:
        self.before()
        self.puts.append(key)
        if self.faults:
            raise self.faults.pop(0)
        new = key not in self.stored
        self.stored.setdefault(key, body if isinstance(body, bytes) else body.read_bytes())
        if self.lost:
            raise self.lost.pop(0)
        return new

    def get(self, key: str) -> bytes:
        raise ObjectMissing(key)

    def list(self, prefix: str = "", after: str = "") -> Iterator[StoredObject]:
        raise NotImplementedError

    def folders(self, prefix: str) -> Sequence[str]:
        raise NotImplementedError

    def delete(self, keys: Sequence[str]) -> int:
        raise NotImplementedError

    def close(self) -> None:
        pass


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    opened = Spool(tmp_path)
    yield opened
    opened.close()


DOWN = StoreUnavailable("object store: connection refused")


def test_everything_is_uploaded_in_order_of_time(spool: Spool) -> None:
    segments = [segment(3, ETH), segment(1), segment(2, ETH)]
    put(spool, *segments)
    spool.put(*snapshot(0))
    store = FakeStore()
    uploader = Uploader(spool, store, lambda: 77)
    assert uploader.upload() is None
    assert store.puts == [snapshot(0)[0], *(segments[at].name.key for at in (1, 2, 0))]
    assert store.stored == dict([snapshot(0), *((name.key, body) for name, body in segments)])
    assert len(spool) == 0
    figures = uploader.statistics()
    assert (figures.uploaded_total, figures.spool_objects, figures.errors_total, figures.fault) == (4, 0, 0, "")
    assert figures.uploaded_bytes_total == sum(map(len, store.stored.values()))
    assert figures.last_upload_ns == 77


def test_while_the_store_is_down_everything_waits_and_pauses_grow(spool: Spool) -> None:
    put(spool, segment(1), segment(2))
    store = FakeStore()
    store.faults = [DOWN, DOWN, StoreMisconfigured("no bucket"), DOWN]
    uploader = Uploader(spool, store, random=lambda: 1.0)
    assert [uploader.upload() for _ in range(2)] == [0.5, 1.0]
    assert uploader.fault == str(DOWN)
    assert [uploader.upload() for _ in range(2)] == [2.0, 4.0]
    assert uploader.statistics().errors_total == 4
    assert len(spool) == 2
    assert uploader.upload() is None
    assert store.puts == [segment(1).name.key] * 5 + [segment(2).name.key]
    assert uploader.fault == ""
    put(spool, segment(3))
    store.faults = [DOWN]
    assert uploader.upload() == 0.5  # the store was back: the pauses begin anew


def test_what_the_store_has_already_leaves_the_spool(spool: Spool) -> None:
    put(spool, segment(1))
    store = FakeStore()
    store.lost = [StoreUnavailable("timed out")]
    uploader = Uploader(spool, store)
    assert uploader.upload() is not None
    assert len(spool) == len(store.stored) == 1
    assert uploader.upload() is None
    assert len(spool) == 0


def test_a_damaged_file_does_not_stop_the_others(spool: Spool) -> None:
    one, other = segment(1), segment(2)
    put(spool, one, other)
    spool.path(one.name.key).write_bytes(b"damaged")
    store = FakeStore()
    uploader = Uploader(spool, store)
    assert uploader.upload() is None
    assert list(store.stored) == [other.name.key]
    assert uploader.statistics().spool_damaged_total == 1


def test_two_never_upload_one_spool_at_once(spool: Spool) -> None:
    put(spool, segment(1), segment(2))
    store = FakeStore()
    other = Uploader(spool, store)
    store.before = other.upload
    Uploader(spool, store).upload()
    assert store.puts == [segment(1).name.key, segment(2).name.key]


def test_what_comes_meanwhile_is_uploaded_too(spool: Spool) -> None:
    put(spool, segment(1))
    store = FakeStore()
    later = [segment(2), segment(3)]

    def more() -> None:
        if later:
            put(spool, later.pop(0))

    store.before = more
    Uploader(spool, store).upload()
    assert store.puts == [segment(number).name.key for number in (1, 2, 3)]


def test_without_time_left_nothing_is_begun(spool: Spool) -> None:
    put(spool, segment(1), segment(2))
    store = FakeStore()
    uploader = Uploader(spool, store)
    store.before = uploader.end
    assert uploader.upload() is None
    assert store.puts == [segment(1).name.key]
    uploader.end(60)
    assert uploader.upload() is None
    assert len(spool) == 0
