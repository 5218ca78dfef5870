"""An object store that does as it is told."""

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from lfmesh.errors import ObjectMissing, StoreUnavailable
from lfmesh.ports import StoredObject


class FakeObjects:
    """Keeps what is put in `data`; `fault` is raised by every call, `gate` holds up what reads until it is set."""

    def __init__(self) -> None:
        self.data: dict[str, bytes] = {}
        self.order: list[str] = []
        self.fault: StoreUnavailable | None = None
        self.gate = threading.Event()
        self.gate.set()
        self.waiting = 0
        self.closed = 0

    def check(self) -> None:
        self._look()

    def put(self, key: str, body: bytes | Path) -> bool:
        self._look()
        fresh = key not in self.data
        self.data.setdefault(key, body if isinstance(body, bytes) else body.read_bytes())
        if fresh:
            self.order.append(key)
        return fresh

    def get(self, key: str) -> bytes:
        self._wait()
        if key not in self.data:
            raise ObjectMissing(f"there is no object {key}")
        return self.data[key]

    def list(self, prefix: str = "", after: str = "") -> Iterator[StoredObject]:
        self._wait()
        for key in sorted(self.data):
            if key.startswith(prefix) and key > after:
                yield StoredObject(key, len(self.data[key]), 0)

    def folders(self, prefix: str) -> Sequence[str]:
        self._wait()
        found = {key[: key.index("/", len(prefix)) + 1] for key in self.data if "/" in key[len(prefix) :]}
        return sorted(one for one in found if one.startswith(prefix))

    def delete(self, keys: Sequence[str]) -> int:
        self._look()
        for key in keys:
            self.data.pop(key, None)
        return len(keys)

    def close(self) -> None:
        self.closed += 1

    def _look(self) -> None:
        if self.fault is not None:
            raise self.fault

    def _wait(self) -> None:
        self._look()
        self.waiting += 1
        assert self.gate.wait(20)
        self.waiting -= 1
