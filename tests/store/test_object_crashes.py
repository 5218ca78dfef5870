"""Object stores when something dies: a writer in the middle of an object, the server, the way to it."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from lfmesh.errors import ObjectMissing, StoreUnavailable
from lfmesh.ports import ObjectStore
from lfmesh.store.aws.s3 import PART_BYTES
from lfmesh.store.folder import FolderObjectStore
from lfmesh.store.opening import open_objects
from tests import stores
from tests.store.object_backends import ObjectBackend, folder, s3
from tests.store.test_object_store import keys, writer
from tests.store.wire import Relay

CALLS: dict[str, Callable[[ObjectStore], object]] = {
    "check": lambda store: store.check(),
    "put": lambda store: store.put("a/b", b"body"),
    "get": lambda store: store.get("a/b"),
    "list": lambda store: list(store.list()),
    "folders": lambda store: store.folders(""),
    "delete": lambda store: store.delete(["a/b"]),
}

PUT = """
import sys
from pathlib import Path
from lfmesh.config import StoreSection
from lfmesh.store.aws.s3 import PART_BYTES, S3ObjectStore

store = S3ObjectStore(StoreSection.model_validate_json(sys.argv[1]), large_bytes=PART_BYTES)
store.put("a/b", Path(sys.argv[2]))
"""
SIZES = {
    "in one piece": (PART_BYTES // 2, PART_BYTES // 4),
    "in parts": (2 * PART_BYTES, PART_BYTES + PART_BYTES // 2),
}
"""Of an object, and how much of it has been sent when its writer is killed."""


@pytest.fixture
def s3_backend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ObjectBackend:
    stores.use(monkeypatch, stores.s3())
    return s3(tmp_path)


def through(backend: ObjectBackend, relay: Relay, **store: object) -> ObjectBackend:
    """The same store, reached by way of a relay."""
    return ObjectBackend(backend.config.override({"store": {"s3_endpoint": relay.url, **store}}), backend.environment)


def test_a_killed_writer_leaves_nothing_in_a_folder(tmp_path: Path) -> None:
    backend = folder(tmp_path)
    store = open_objects(backend.config)
    os.mkfifo(tmp_path / "body")
    with writer(backend, "a/b", str(tmp_path / "body")) as process, (tmp_path / "body").open("wb") as body:
        body.write(bytes(4 * 1024 * 1024))  # returns when almost all of it has been read
        (half,) = (tmp_path / "data" / "objects" / ".incoming").iterdir()
        assert half.stat().st_size > 0
        os.utime(half, (0, 0))
        store.check()
        assert half.exists(), "its writer lives"
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert keys(store) == []
    with pytest.raises(ObjectMissing):
        store.get("a/b")
    os.utime(half)
    store.check()
    assert half.exists(), "too young to tell"
    os.utime(half, (0, 0))
    store.check()
    assert not half.exists()
    assert store.put("a/b", b"whole")
    assert store.get("a/b") == b"whole"


@pytest.mark.parametrize(("size", "sent"), SIZES.values(), ids=SIZES.keys())
def test_a_killed_writer_leaves_nothing_in_a_bucket(
    s3_backend: ObjectBackend, tmp_path: Path, size: int, sent: int
) -> None:
    store = open_objects(s3_backend.config)
    store.check()
    (tmp_path / "body").write_bytes(bytes(size))
    with Relay(s3_backend.config.store.s3_endpoint) as relay:
        relay.hold_after(sent)
        section = s3_backend.config.override({"store": {"s3_endpoint": relay.url}}).store
        with subprocess.Popen([sys.executable, "-c", PUT, section.model_dump_json(), tmp_path / "body"]) as process:
            assert relay.stalled.wait(60)
            assert keys(store) == []
            process.send_signal(signal.SIGKILL)
    assert keys(store) == []
    with pytest.raises(ObjectMissing):
        store.get("a/b")
    assert store.put("a/b", b"whole")
    assert store.get("a/b") == b"whole"


def test_a_server_that_is_away_is_told_and_found_again(s3_backend: ObjectBackend) -> None:
    with Relay(s3_backend.config.store.s3_endpoint) as relay:
        store = open_objects(through(s3_backend, relay, attempts=1).config)
        store.check()
        assert store.put("a/b", b"body")
        relay.down()
        for call in CALLS.values():
            with pytest.raises(StoreUnavailable, match=r"^S3 bucket \"contract\" \(http://127.*: it (can|ended)"):
                call(store)
        relay.up()
        assert store.get("a/b") == b"body"
        for call in CALLS.values():
            call(store)


def test_a_server_that_says_nothing_is_not_waited_for(s3_backend: ObjectBackend) -> None:
    with Relay(s3_backend.config.store.s3_endpoint) as relay:
        store = open_objects(through(s3_backend, relay, attempts=1, request_timeout_s=0.1).config)
        relay.hold_after(0)
        for call in (CALLS["check"], CALLS["put"], CALLS["get"]):
            with pytest.raises(StoreUnavailable, match=r"does not answer in time|ended the connection"):
                call(store)
        store.close()


@pytest.mark.soak
def test_a_killed_server_is_told_and_has_kept_what_it_took(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with stores.s3(private=True) as endpoint:
        stores.use(monkeypatch, endpoint)
        store = open_objects(endpoint.config(tmp_path, create=True, attempts=2))
        store.check()
        assert store.put("a/b", b"body")
        assert store.put("a/c", bytes(PART_BYTES))
        endpoint.kill()
        with pytest.raises(StoreUnavailable, match="cannot be reached"):
            store.put("a/d", b"lost")
        endpoint.start()
        assert until_up(lambda: store.get("a/b")) == b"body"
        assert len(until_up(lambda: store.get("a/c"))) == PART_BYTES
        assert until_up(lambda: store.put("a/d", b"later"))
        assert keys(store) == ["a/b", "a/c", "a/d"]


def until_up[T](call: Callable[[], T]) -> T:
    """What a call gives once a server that has just begun to answer can do its work."""
    deadline = time.monotonic() + 60
    while True:
        try:
            return call()
        except StoreUnavailable:
            assert time.monotonic() < deadline


def test_a_folder_deleted_from_under_its_writers_is_made_again(tmp_path: Path) -> None:
    """One thread empties what others fill: `delete` takes folders away that a writer has just made."""
    store = FolderObjectStore(tmp_path / "objects")
    for number in range(20):
        assert store.put(f"a/b/c/{number}", b"")
        store.delete([f"a/b/c/{number}"])
        assert not (tmp_path / "objects" / "a").exists()
