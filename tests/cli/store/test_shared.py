"""`lfmesh store` on DynamoDB and S3, both real."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from lfmesh.cli.root import execute
from lfmesh.cli.toml import to_toml
from lfmesh.config import Config
from lfmesh.core.state_objects import name_state
from lfmesh.ports import StoredState
from lfmesh.store.aws.dynamo import DynamoStateStore
from lfmesh.store.aws.s3 import S3ObjectStore
from lfmesh.types import InputPosition, Position
from tests.archive.published import BTC, ETH, NOW, SECOND, increments, opening
from tests.archive.shelf import VENUE, upload
from tests.stores import dynamodb, s3, use


class Mesh:
    """The stores of a mesh, and `lfmesh store …` on them."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        states, objects = dynamodb(), s3()
        stores = {**states.store(), **objects.store(), "attempts": 1}
        self.config = Config().override({"mesh": {"data_dir": folder}, "store": stores})
        self.file = folder / "mesh.toml"
        self.file.write_text(to_toml(self.config))
        self._capsys = capsys

    def __call__(self, *arguments: str) -> tuple[int, str, str]:
        self._capsys.readouterr()
        code = execute(["store", *arguments, "--config", str(self.file)])
        shown = self._capsys.readouterr()
        return code, shown.out, shown.err

    def json(self, *arguments: str) -> Any:  # noqa: ANN401 - JSON
        code, out, err = self(*arguments)
        assert code == 0, err
        return json.loads(out)

    def objects(self) -> S3ObjectStore:
        return S3ObjectStore(self.config.store)

    def states(self, inline_bytes: int = 400_000) -> DynamoStateStore:
        return DynamoStateStore(
            self.config, self.config.mesh.products, partial(S3ObjectStore, self.config.store), inline_bytes=inline_bytes
        )


@pytest.fixture
def mesh(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Mesh:
    use(monkeypatch, s3())  # both servers take the same credentials
    return Mesh(tmp_path, capsys)


def test_from_nothing_to_a_rebuilt_table(mesh: Mesh) -> None:
    for command in ("ls", "verify", "gc", "rebuild"):
        code, out, err = mesh(command)
        assert code == 1
        assert "does not exist: make it with `lfmesh store init`" in err
        assert err.count("\n") == 1
        assert out == ""
    code, out, _ = mesh("init")
    assert code == 0
    assert f'made the DynamoDB table "{mesh.config.store.table}"' in out
    assert f'made the S3 bucket "{mesh.config.store.bucket}"' in out
    assert "is there" in mesh("init")[1]
    assert mesh.json("ls", "--json")["objects"] == 0

    objects = mesh.objects()
    for stream in (BTC, BTC._replace(product="ETH-USD")):
        entries = [opening(stream, Position(10, 0), ts_event=NOW - SECOND), increments(stream, Position(10, 1), 60)]
        upload(objects, stream, entries, max_bytes=4000)  # type: ignore[arg-type] # a store like the other
    objects.close()
    assert mesh("verify")[0] == 0
    assert mesh("rebuild")[0] == 0
    listed = mesh.json("ls", "--json")
    assert {(row["product"], row["seq"]) for row in listed["states"]} == {("BTC-USD", 60), ("ETH-USD", 60)}
    assert [row["lines"] for row in listed["tape"]] == [61, 61]


def test_states_that_are_objects(mesh: Mesh) -> None:
    """verify misses what the table refers to, gc leaves it alone, and takes only what nothing refers to and is old."""
    mesh("init")
    store = mesh.states(inline_bytes=10)
    store.write([StoredState(BTC, 1, Position(1, 5), InputPosition(1, 2, 3), 4, b"x" * 100)])
    (held,) = store.pointers().values()
    store.close()
    objects = mesh.objects()
    body = b"left over"
    orphan = name_state(VENUE, ETH, 1, Position(1, 1), body).key
    objects.put(orphan, body)
    assert mesh.json("ls", "--json")["state_objects"]["objects"] == 2
    assert mesh("verify")[0] == 0
    assert "0 objects deleted" in mesh("gc", "--max-age", "0.001")[1], "the orphan is young, the other one is in use"
    assert [one.key for one in objects.list("states/")] == sorted((held, orphan))
    objects.delete([held])
    objects.close()
    code, out, _ = mesh("verify", "--quick")
    assert code == 1
    assert f"damaged: {held}: is missing, and the state store refers to it" in out


def test_wrong_credentials_are_one_line(mesh: Mesh, monkeypatch: pytest.MonkeyPatch) -> None:
    mesh("init")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-secret")
    code, _, err = mesh("verify")
    assert code == 1
    assert "the secret key does not belong to the access key" in err
    assert "wrong-secret" not in err
    assert err.count("\n") == 1
