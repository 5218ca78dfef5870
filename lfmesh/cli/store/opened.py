"""The stores that the configuration names, opened for a command that only looks: nothing that is missing is made."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from lfmesh.archive.places import objects_folder
from lfmesh.cli.archive import meant
from lfmesh.cli.options import effective_config
from lfmesh.config import Config
from lfmesh.core.state_objects import STATES
from lfmesh.errors import LfmeshError
from lfmesh.ports import ObjectStore
from lfmesh.store.opening import open_objects
from lfmesh.types import StreamKey

_PRODUCT = "product="


def configuration(path: Path | None, data_dir: Path | None) -> Config:
    """The configuration of a command. Where mesh.data_dir has no archive and that of a simulated or recorded session in
    it has, the latter is meant, and said on standard error."""
    changes = {} if data_dir is None else {"mesh": {"data_dir": data_dir}}
    return meant(effective_config(path, {"store": {"create": False}}, changes))


def has_archive(config: Config) -> bool:
    """False if the archive is a folder that is not there."""
    return config.store.objects != "folder" or objects_folder(config.mesh.data_dir).is_dir()


def place(config: Config) -> str:
    """Where the archive is, for people."""
    if config.store.objects == "folder":
        return f"folder {objects_folder(config.mesh.data_dir)}"
    prefix = f", prefix {config.store.prefix}" if config.store.prefix else ""
    return f'S3 bucket "{config.store.bucket}"{prefix}'


@contextmanager
def opened_objects(config: Config) -> Iterator[ObjectStore]:
    """The object store, reached; LfmeshError where there is none."""
    if not has_archive(config):
        folder = objects_folder(config.mesh.data_dir)
        raise LfmeshError(
            f"there is no archive in {folder}: a mesh makes one when it runs; --data-dir or --config names another"
        )
    objects = open_objects(config)
    try:
        if config.store.objects != "folder":
            objects.check()
        yield objects
    finally:
        objects.close()


@contextmanager
def opened_pointers(config: Config, objects: ObjectStore) -> Iterator[Callable[[], Mapping[StreamKey, str]] | None]:
    """What reads which of the states' objects the state store refers to; None if the state store keeps none there."""
    if config.store.state != "dynamodb":
        yield None
        return
    from lfmesh.store.aws.dynamo import DynamoStateStore

    folder = f"{STATES}venue={config.venue.name}/"
    products = [key.removeprefix(folder + _PRODUCT).rstrip("/") for key in objects.folders(folder)]
    store = DynamoStateStore(config, distinct([*config.mesh.products, *products]), partial(open_objects, config))
    try:
        store.check()
        yield store.pointers
    finally:
        store.close()


def distinct(names: Sequence[str]) -> tuple[str, ...]:
    """Each name once, in order of first mention."""
    return tuple(dict.fromkeys(names))
