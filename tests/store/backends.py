"""Backends that the state stores' contract runs against: one more entry in BACKENDS is all that a new one needs.

A backend is made for a test with a scratch folder, and then opens the store of PRODUCTS as often as wished, on the same
data. `program` is what another process runs to open it.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest

from lfmesh.config import Config
from lfmesh.ports import StateStore
from lfmesh.store.aws.dynamo import DynamoStateStore
from lfmesh.store.embedded import SqliteStateStore, state_path
from lfmesh.store.folder import FolderObjectStore
from tests.stores import dynamodb, use

PRODUCTS = ("BTC-USD", "ETH-USD", *(f"P{number}-USD" for number in range(8)))

OpenStore = Callable[[], StateStore]


@dataclass(frozen=True)
class Backend:
    """`open` opens the store; `program` is Python that makes `store`, given `environment`."""

    open: OpenStore
    program: str
    environment: dict[str, str] = field(default_factory=dict)


def sqlite(folder: Path, _: pytest.MonkeyPatch) -> Backend:
    path = state_path(folder, 0)
    program = f"""
from pathlib import Path
from lfmesh.store.embedded import SqliteStateStore
store = SqliteStateStore(Path({str(path)!r}), 0)
"""
    return Backend(partial(SqliteStateStore, path, 0), program=program)


def dynamo(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Backend:
    endpoint = dynamodb()
    use(monkeypatch, endpoint)
    config = endpoint.config(folder)
    changes = {"mesh": {"data_dir": str(folder)}, "store": config.store.model_dump(mode="json")}
    program = f"""
from lfmesh.config import Config
from tests.store.backends import open_dynamo
store = open_dynamo(Config().override({changes!r}))
store.create()
"""

    def open_it() -> DynamoStateStore:
        store = open_dynamo(config)
        if not made:
            made.append(store.create())
        return store

    made: list[str | None] = []
    return Backend(open_it, program=program, environment=endpoint.environment)


def open_dynamo(config: Config) -> DynamoStateStore:
    """The store in DynamoDB, oversize states in a folder."""
    return DynamoStateStore(config, PRODUCTS, partial(FolderObjectStore, config.mesh.data_dir / "objects"))


BACKENDS: dict[str, Callable[[Path, pytest.MonkeyPatch], Backend]] = {"sqlite": sqlite, "dynamodb": dynamo}
SHARED = ("dynamodb",)
"""Those that any number of processes may have open at once; of the others a second one is refused."""
