"""What the state store holds, read without disturbing a mesh that uses it."""

from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

from lfmesh.config import Config
from lfmesh.ports import StoredState
from lfmesh.store.embedded import peek
from lfmesh.store.opening import open_objects


class Held(NamedTuple):
    """The states of one file or table."""

    place: str
    states: list[StoredState]


def held_states(config: Config) -> Iterator[Held]:
    """By file, for SQLite; else all that the table holds of the configured products. StoreUnavailable."""
    if config.store.state == "embedded":
        for path in sorted(config.mesh.data_dir.glob("state-shard-*.sqlite")):
            yield Held(str(path), peek(path))
        return
    from lfmesh.store.aws.dynamo import DynamoStateStore

    store = DynamoStateStore(config, config.mesh.products, partial(open_objects, config))
    try:
        store.check()
        yield Held(f'DynamoDB table "{config.store.table}"', store.load())
    finally:
        store.close()
