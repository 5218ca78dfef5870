"""Object stores that the contract suite runs against: one more entry in OBJECT_BACKENDS is all that a new one needs.

A backend is a callable that gets a scratch folder and returns a configuration of an empty store, which `open_objects`
opens as often as wished, also in another process with `environment`.
"""

import secrets
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from lfmesh.config import Config
from tests import stores


class ObjectBackend(NamedTuple):
    """A store to test: how it is opened, and what a process needs for that."""

    config: Config
    environment: dict[str, str]


def folder(scratch: Path) -> ObjectBackend:
    return ObjectBackend(Config().override({"mesh": {"data_dir": scratch / "data"}}), {})


def s3(scratch: Path) -> ObjectBackend:
    """All in one bucket, which is quicker than a bucket each, and shows that a prefix keeps meshes apart."""
    endpoint = stores.s3()
    own = {"bucket": "contract", "create": True, "prefix": f"our/mesh-{secrets.token_hex(8)}/"}
    return ObjectBackend(endpoint.config(scratch, **own), endpoint.environment)


OBJECT_BACKENDS: dict[str, Callable[[Path], ObjectBackend]] = {"folder": folder, "s3": s3}
