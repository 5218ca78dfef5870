"""The contract of an object store, for every backend."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lfmesh.errors import ObjectMissing
from lfmesh.ports import ObjectStore
from lfmesh.store.opening import open_objects
from tests.store.object_backends import OBJECT_BACKENDS, ObjectBackend

BAD_KEYS = (
    "", "/", "/a", "a/", "a//b", ".", "..", "a/../b", "../a", "a/.", "./a", ".hidden/a", "a\\b", "a\0b", "a\nb",
    "a/b\n", "ä", "x" * 256, "/".join(["segment"] * 200), "C:\\a",
)  # fmt: skip

WRITER = """
import sys
from pathlib import Path
from lfmesh.config import Config
from lfmesh.store.opening import open_objects

store = open_objects(Config.model_validate_json(sys.argv[1]))
print("ready", flush=True)
for key, path in zip(sys.argv[2::2], sys.argv[3::2]):
    print(key, store.put(key, Path(path)), flush=True)
"""


@pytest.fixture(params=sorted(OBJECT_BACKENDS))
def backend(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ObjectBackend:
    made: ObjectBackend = OBJECT_BACKENDS[request.param](tmp_path)
    for name, value in made.environment.items():
        monkeypatch.setenv(name, value)
    return made


@pytest.fixture
def store(backend: ObjectBackend) -> Iterator[ObjectStore]:
    opened = open_objects(backend.config)
    opened.check()
    yield opened
    opened.close()


def fill(store: ObjectStore, *keys: str) -> None:
    for key in keys:
        assert store.put(key, key.encode())


def keys(store: ObjectStore, prefix: str = "", after: str = "") -> list[str]:
    return [stored.key for stored in store.list(prefix, after)]


def test_an_object_is_read_as_it_was_written(store: ObjectStore, tmp_path: Path) -> None:
    body = bytes(range(256)) * 100
    (tmp_path / "file").write_bytes(body)
    assert store.put("a/empty", b"")
    assert store.put("a/bytes", body)
    assert store.put("a/file", tmp_path / "file")
    assert [store.get(f"a/{name}") for name in ("empty", "bytes", "file")] == [b"", body, body]
    assert (tmp_path / "file").read_bytes() == body
    assert [(one.key, one.size) for one in store.list()] == [
        ("a/bytes", 25600), ("a/empty", 0), ("a/file", 25600)
    ]  # fmt: skip


def test_a_listing_tells_when_an_object_was_stored(store: ObjectStore) -> None:
    before = time.time_ns()
    fill(store, "a/b")
    (stored,) = store.list()
    # Clocks of file systems tick each few ms, those of S3 each second.
    assert before - 2_000_000_000 <= stored.written_ns <= time.time_ns() + 2_000_000_000


def test_an_object_never_changes(store: ObjectStore, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"third")
    assert store.put("a/b", b"first")
    assert not store.put("a/b", b"second")
    assert not store.put("a/b", tmp_path / "file")
    assert store.get("a/b") == b"first"


def test_a_large_object_is_stored_whole(store: ObjectStore, tmp_path: Path) -> None:
    body = random.Random(1).randbytes(1024) * 5000 + b"and a little more"
    (tmp_path / "file").write_bytes(body)
    assert store.put("large/file", tmp_path / "file")
    assert store.put("large/bytes", body)
    assert not store.put("large/bytes", body[1:])
    assert store.get("large/file") == store.get("large/bytes") == body


def test_what_is_not_there_is_missing(store: ObjectStore) -> None:
    fill(store, "a/b/c")
    for key in ("a/b/d", "a/b", "a/b/c/d", "x"):
        with pytest.raises(ObjectMissing, match=f"has no object {key}$"):
            store.get(key)


def test_bad_keys_are_refused(store: ObjectStore) -> None:
    for key in BAD_KEYS:
        for call in (lambda key: store.put(key, b""), store.get, lambda key: store.delete(["a", key])):
            with pytest.raises(ValueError, match="not a key"):
                call(key)
    for prefix in ("a", "/", "a//", "../", "a/../", ".hidden/"):
        with pytest.raises(ValueError, match="not a"):
            store.folders(prefix)
    assert keys(store) == []


def test_keys_sort_as_bytes_whatever_is_a_folder(store: ObjectStore) -> None:
    """`-` and `.` sort before the slash, digits and letters after it."""
    ordered = ["a b/x", "a-b/x", "a-b.x", "a.b/x", "a/x", "a/y/z", "a0/x", "a=b/x", "aB/x", "ab", "b/c-d/x", "b/c/x"]
    ordered.sort()
    fill(store, *reversed(ordered))
    assert keys(store) == ordered
    for after in [*ordered, "a", "a-", "a-b", "a/", "a/y", "b", "b/c", "b/c/", "b/c/x~", "~"]:
        assert keys(store, after=after) == [key for key in ordered if key > after], after
    for prefix in ("a", "a-", "a/", "a/y", "b/c", "b/c/", "x", "b/c/x", "b//", "../", "/", "."):
        assert keys(store, prefix) == [key for key in ordered if key.startswith(prefix)], prefix
    assert keys(store, "b/", "b/c-d/x") == ["b/c/x"]
    assert list(store.folders("")) == ["a b/", "a-b/", "a.b/", "a/", "a0/", "a=b/", "aB/", "b/"]
    assert list(store.folders("b/")) == ["b/c-d/", "b/c/"]
    assert list(store.folders("nothing/")) == []


def test_listings_agree_with_a_sorted_list_of_keys(store: ObjectStore) -> None:
    choose = random.Random(7)
    # Folders and objects have names of their own, so that no key is a folder of another one.
    names = ["v=1", "v=10", "v=1-2", "v", "w.x", "w"]
    known = sorted({
        "/".join([*choose.choices(names, k=choose.randrange(3)), choose.choice(["o1", "o2", "o-3"])]) for _ in range(40)
    })  # fmt: skip
    fill(store, *choose.sample(known, len(known)))
    marks = sorted({key[: choose.randrange(len(key) + 1)] for key in known})
    for _ in range(25):
        prefix, after = choose.choice(["", *marks]), choose.choice(["", *marks])
        expected = [key for key in known if key.startswith(prefix) and key > after]
        assert keys(store, prefix, after) == expected, (prefix, after)


def test_the_deleted_is_gone_and_its_key_free(store: ObjectStore) -> None:
    fill(store, "a/b/c", "a/b/d", "e/f")
    assert store.delete(["a/b/c", "a/b/d", "never/there", "e/f/g"]) == 4
    assert keys(store) == ["e/f"]
    assert list(store.folders("")) == ["e/"]
    assert list(store.folders("a/")) == []
    assert store.delete([]) == 0
    with pytest.raises(ObjectMissing):
        store.get("a/b/c")
    assert store.put("a/b/c", b"anew")
    assert store.get("a/b/c") == b"anew"


def test_any_number_of_keys_is_deleted(store: ObjectStore) -> None:
    fill(store, "k/1000", "k/0")
    assert store.delete([f"k/{number}" for number in range(1001)]) == 1001
    assert keys(store) == []


def test_a_listing_bears_that_objects_come_and_go(store: ObjectStore) -> None:
    fill(store, *(f"{folder}/{name}" for folder in "abc" for name in "xyz"))
    listing = store.list()
    assert next(listing).key == "a/x"
    store.delete([f"b/{name}" for name in "xyz"])
    fill(store, "c/zz")
    rest = [stored.key for stored in listing]
    assert rest == sorted(rest)
    assert set(rest) >= {"a/y", "a/z", "c/x", "c/y", "c/z"}


@pytest.mark.parametrize("size", [1000, 3_000_000], ids=["small", "large"])
def test_of_many_writers_of_a_key_one_wins(backend: ObjectBackend, store: ObjectStore, size: int) -> None:
    writers = 4
    begin = threading.Barrier(writers)

    def write(number: int) -> bool:
        own = open_objects(backend.config)
        begin.wait()
        try:
            return own.put("a/key", bytes([number]) * size)
        finally:
            own.close()

    with ThreadPoolExecutor(writers) as pool:
        won = list(pool.map(write, range(writers)))
    assert won.count(True) == 1
    assert store.get("a/key") == bytes([won.index(True)]) * size
    assert keys(store) == ["a/key"]


def test_threads_share_a_store(store: ObjectStore) -> None:
    def work(number: int) -> bytes:
        key = f"t{number % 4}/{number}"
        assert store.put(key, b"%d" % number)
        assert store.put(f"{key}-gone", b"")
        store.delete([f"{key}-gone"])
        return store.get(key)

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(work, range(40))) == [b"%d" % number for number in range(40)]
    assert len(keys(store)) == 40


def test_a_writer_that_ended_has_stored_what_it_said(
    backend: ObjectBackend, store: ObjectStore, tmp_path: Path
) -> None:
    (tmp_path / "body").write_bytes(b"whole")
    with writer(backend, "a/b", str(tmp_path / "body"), "a/c", "/nothing/there") as process:
        assert process.stdout is not None
        assert [process.stdout.readline() for _ in range(2)] == ["ready\n", "a/b True\n"]
        process.send_signal(signal.SIGKILL)
    assert store.get("a/b") == b"whole"


def test_reopening_finds_everything(backend: ObjectBackend, store: ObjectStore) -> None:
    fill(store, "a/b", "c")
    store.close()
    again = open_objects(backend.config)
    assert keys(again) == ["a/b", "c"]
    again.close()
    again.close()


@pytest.mark.soak
def test_thousands_of_objects_are_listed_and_deleted(store: ObjectStore) -> None:
    names = [f"many/{number % 3}/{number:05}" for number in range(2500)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: fill(store, name), names))
    assert keys(store) == sorted(names)
    assert keys(store, "many/1/", "many/1/01000") == [
        name for name in sorted(names) if name.startswith("many/1/") and name > "many/1/01000"
    ]
    assert store.delete(names) == len(names)
    assert keys(store) == []


def writer(backend: ObjectBackend, *arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, backend.config.model_dump_json(), *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env={**os.environ, **backend.environment},
    )  # fmt: skip
