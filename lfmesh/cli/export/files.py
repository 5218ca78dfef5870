"""Where an export's files go, and how they come there: all of them at the end, each whole under its name or not at all.

While they are written they are in a hidden folder beside the tables, which goes with the export, however it ends.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lfmesh.errors import LfmeshError
from lfmesh.types import Channel, StreamKey


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """The system's complaints as an LfmeshError of one line."""
    try:
        yield
    except OSError as error:
        raise LfmeshError(f"{folder} cannot be written: {error.strerror or error}") from error


class Output:
    """The files of one export into `folder`; use it as a context manager. LfmeshError where it can't be written.

    Without `force` a file that an earlier export has left is an error.
    """

    def __init__(self, folder: Path, suffix: str, *, force: bool) -> None:
        self.folder = folder
        self._suffix = suffix
        self._force = force
        self._drafts: dict[Channel, list[tuple[Path, Path]]] = {}
        with writing(folder):
            self._is_new = not folder.exists()
            folder.mkdir(parents=True, exist_ok=True)
            self._hidden = Path(tempfile.mkdtemp(prefix=".unfinished-", dir=folder))

    def draft(self, stream: StreamKey, date: str) -> Path:
        """Where to write the file of a stream and day (UTC, YYYY-MM-DD) until `publish`."""
        name = f"{stream.product}_{stream.channel}_{date}.{self._suffix}"
        final = self.table(stream.channel) / f"product={stream.product}" / f"date={date}" / name
        if final.exists() and not self._force:
            raise LfmeshError(f"{final} is there already, of an earlier export: --force replaces such files")
        draft = self._hidden / name
        self._drafts.setdefault(stream.channel, []).append((draft, final))
        return draft

    def table(self, channel: Channel) -> Path:
        """The folder of a channel's files."""
        return self.folder / str(channel)

    def existing(self, channel: Channel) -> list[Path]:
        """What earlier exports have left in a table. LfmeshError for files of another format: tools read them all."""
        found = sorted(self.table(channel).glob("product=*/date=*/*"))
        for path in found:
            if path.suffix != f".{self._suffix}":
                raise LfmeshError(f"{path} is there, of another format: export to another folder")
        return found

    def discard(self, channel: Channel) -> None:
        """Take back what was written of a table: it is made anew."""
        for draft, _ in self._drafts.pop(channel, ()):
            draft.unlink(missing_ok=True)

    def publish(self) -> None:
        """Give all files their names."""
        with writing(self.folder):
            for drafts in self._drafts.values():
                for draft, final in drafts:
                    final.parent.mkdir(parents=True, exist_ok=True)
                    _sync(draft)
                    draft.replace(final)

    def __enter__(self) -> "Output":
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self._hidden, ignore_errors=True)
        if self._is_new:
            with suppress(OSError):  # it holds something
                self.folder.rmdir()


def _sync(path: Path) -> None:
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
