"""Backends that the contract suite runs against: one more entry in BACKENDS is all that a new one needs.

A backend is a callable that gets a scratch folder and returns how to open the store of shard 0, as often as wished, on
the same data.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from lfmesh.ports import StateStore
from lfmesh.store.embedded import SqliteStateStore, state_path

OpenStore = Callable[[], StateStore]


def sqlite(folder: Path) -> OpenStore:
    return partial(SqliteStateStore, state_path(folder, 0), 0)


BACKENDS: dict[str, Callable[[Path], OpenStore]] = {"sqlite": sqlite}
