"""The shard's last snapshot on this disk, from which a start goes on with the journal.

    checkpoint/INSTANCE/{chunk}_{ts}_{term}_{streams}_{checksum}.ndjson.zst

It is the object that is uploaded, too (`lfmesh.archive.states`). Everything in the journal's chunks up to `chunk` is in
it. Written whole or not at all; the one before it is deleted after that.
"""

import re
from pathlib import Path
from typing import NamedTuple

from lfmesh.archive import files
from lfmesh.archive.states import read_states
from lfmesh.core.archive import SUFFIX, SnapshotName, StateLine

_NAME = re.compile(r"(\d{12})_(\d{19})_(\d{16})_(\d+)_([0-9a-f]{16})" + re.escape(SUFFIX))
_TEMPORARY = ".tmp"
"""What a crash has left of one that was being written (`files.replace_whole`)."""


class Checkpoint(NamedTuple):
    """The shard's streams, and the last of the journal's chunks that is wholly in them."""

    chunk: int
    lines: list[StateLine]


class Checkpoints:
    """Those of one snapshotter. To be called from one thread at a time; a disk's refusal is StoreUnavailable."""

    def __init__(self, folder: Path, venue: str, shards: int, shard: int) -> None:
        self._folder = folder
        self._shard = (venue, shards, shard)

    def newest(self) -> Checkpoint | None:
        """The last one; None if there is none. BadArchive if it is damaged."""
        found = self._found()
        if not found:
            return None
        chunk, name, path = found[-1]
        with files.explained(path):
            body = path.read_bytes()
        return Checkpoint(chunk, list(read_states(name, body)))

    def write(self, chunk: int, name: SnapshotName, body: bytes) -> None:
        """From now on a start goes on from this one, and the chunks after `chunk`."""
        digits = f"{name.ts:019d}_{name.term:016d}_{name.streams}_{name.checksum}"
        path = self._folder / f"{chunk:012d}_{digits}{SUFFIX}"
        with files.explained(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
            earlier = [one for _, _, one in self._found()]
            files.replace_whole(path, body)
            for one in (*earlier, *self._folder.glob(f"*{_TEMPORARY}")):
                if one != path:
                    one.unlink(missing_ok=True)

    def _found(self) -> list[tuple[int, SnapshotName, Path]]:
        found = []
        for path in sorted(self._folder.glob(f"*{SUFFIX}")):
            match = _NAME.fullmatch(path.name)
            if match is not None:
                chunk, ts, term, streams = map(int, match.groups()[:4])
                found.append((chunk, SnapshotName(*self._shard, ts, term, streams, match[5]), path))
        return found
