"""Opens the stores that the configuration names. What AWS needs is imported only where it is named.

Errors: StoreMisconfigured where asking again is of no use, StoreUnavailable while a store can't be reached; each one
line that says what to do. Neither holds a credential.
"""

from functools import partial
from typing import Protocol, assert_never

from lfmesh.config import Config
from lfmesh.core.sharding import products_of
from lfmesh.errors import StoreUnavailable
from lfmesh.ports import ObjectStore, StateStore
from lfmesh.store.embedded import SqliteStateStore, state_path
from lfmesh.store.folder import FolderObjectStore

OBJECTS_FOLDER = "objects"
"""Of mesh.data_dir: where the archive is, if it is kept in a folder."""


def open_state(config: Config, shard: int, instance: str = "") -> StateStore:
    """The state store of a shard, reached and ready; a table that is missing is made first if store.create says so.

    `instance` is empty for the first snapshotter of a shard; the SQLite file of a second one carries its name.
    """
    match config.store.state:
        case "embedded":
            return SqliteStateStore(state_path(config.mesh.data_dir, shard, instance), shard)
        case "dynamodb":
            from lfmesh.store.aws.dynamo import DynamoStateStore

            products = products_of(shard, config.mesh.products, config.mesh.shards)
            store = DynamoStateStore(config, products, partial(open_objects, config))
            try:
                if config.store.create:
                    store.create()
                store.check()
            except StoreUnavailable:
                store.close()
                raise
            return store
        case other:
            assert_never(other)


def open_objects(config: Config) -> ObjectStore:
    """The object store, not reached yet: `check` does that, and makes what is missing if store.create says so."""
    match config.store.objects:
        case "folder":
            return FolderObjectStore(config.mesh.data_dir / OBJECTS_FOLDER)
        case "s3":
            from lfmesh.store.aws.s3 import S3ObjectStore

            return S3ObjectStore(config.store)
        case other:
            assert_never(other)


def shared_state(config: Config) -> bool:
    """True if the snapshotters of several machines write to one state store."""
    return config.store.state == "dynamodb"


def shared_objects(config: Config) -> bool:
    """True if the snapshotters of several machines write to one object store."""
    return config.store.objects == "s3"


def init(config: Config) -> list[str]:
    """Make table, bucket or folder where they are missing; a line for each says what was done, or that it was there."""
    return [_init_state(config), _init_objects(config)]


def _init_state(config: Config) -> str:
    match config.store.state:
        case "embedded":
            return f"states: SQLite files in {config.mesh.data_dir}, made by the snapshotters"
        case "dynamodb":
            from lfmesh.store.aws.dynamo import DynamoStateStore

            store = DynamoStateStore(config, config.mesh.products, partial(open_objects, config))
            return f"states: {_made(store) or f'the table "{config.store.table}" is there'}"
        case other:
            assert_never(other)


def _init_objects(config: Config) -> str:
    match config.store.objects:
        case "folder":
            folder = config.mesh.data_dir / OBJECTS_FOLDER
            return f"archive: {_made(FolderObjectStore(folder)) or f'the folder {folder} is there'}"
        case "s3":
            from lfmesh.store.aws.s3 import S3ObjectStore

            return f"archive: {_made(S3ObjectStore(config.store)) or f'the bucket "{config.store.bucket}" is there'}"
        case other:
            assert_never(other)


class _Creatable(Protocol):
    def create(self) -> str | None: ...

    def check(self) -> None: ...

    def close(self) -> None: ...


def _made(store: _Creatable) -> str | None:
    """Make what is missing, and see that it can be used; the store is closed."""
    try:
        made = store.create()
        store.check()
    finally:
        store.close()
    return made
