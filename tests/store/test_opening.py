"""Which stores a configuration names, and that the others cost nothing."""

import subprocess
import sys
from pathlib import Path

import pytest

from lfmesh.config import Config
from lfmesh.errors import StoreMisconfigured
from lfmesh.store.embedded import SqliteStateStore
from lfmesh.store.folder import FolderObjectStore
from lfmesh.store.opening import init, open_objects, open_state, shared_objects, shared_state
from tests import stores

LIGHT = """
import sys
from pathlib import Path
from lfmesh.config import Config
from lfmesh.store.opening import open_objects, open_state
config = Config().override({"mesh": {"data_dir": Path(sys.argv[1])}})
open_objects(config).check()
open_state(config, 0).close()
print([name for name in ("boto3", "botocore", "urllib3") if name in sys.modules])
"""


def local(folder: Path) -> Config:
    return Config().override({"mesh": {"data_dir": folder}})


def test_the_default_is_local_files(tmp_path: Path) -> None:
    config = local(tmp_path)
    objects = open_objects(config)
    assert isinstance(objects, FolderObjectStore)
    objects.put("a/b", b"")
    assert (tmp_path / "objects" / "a" / "b").exists()
    for instance, name in (("", "state-shard-1.sqlite"), ("snapshotter-1-b", "state-shard-1-snapshotter-1-b.sqlite")):
        state = open_state(config, 1, instance)
        assert isinstance(state, SqliteStateStore)
        state.close()
        assert (tmp_path / name).exists()
    assert not shared_state(config)
    assert not shared_objects(config)


def test_local_files_need_no_boto(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", LIGHT, tmp_path], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_init_says_what_it_made(tmp_path: Path) -> None:
    config = local(tmp_path / "data")
    states = f"states: SQLite files in {tmp_path / 'data'}, made by the snapshotters"
    assert init(config) == [states, f"archive: made the folder {tmp_path / 'data' / 'objects'}"]
    assert init(config) == [states, f"archive: the folder {tmp_path / 'data' / 'objects'} is there"]


def test_init_makes_table_and_bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    states, objects = stores.dynamodb(), stores.s3()
    stores.use(monkeypatch, objects)
    config = objects.config(tmp_path, **states.store())
    assert shared_state(config)
    assert shared_objects(config)
    with pytest.raises(StoreMisconfigured, match="does not exist: make it with `lfmesh store init`"):
        open_state(config, 0)
    made, there = init(config), init(config)
    assert [line.split(" ")[:2] for line in made] == [["states:", "made"], ["archive:", "made"]]
    assert there == [
        f'states: the table "{config.store.table}" is there', f'archive: the bucket "{config.store.bucket}" is there'
    ]  # fmt: skip
    open_state(config, 0).close()
    open_objects(config).check()


def test_what_is_missing_is_made_where_that_is_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    states, objects = stores.dynamodb(), stores.s3()
    stores.use(monkeypatch, objects)
    config = objects.config(tmp_path, **states.store(), create=True)
    open_state(config, 0).close()
    open_objects(config).check()
