"""What an object is made of: bytes, or a file."""

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def opened(body: bytes | Path) -> Iterator[tuple[BinaryIO, int]]:
    """A body to read from its beginning, and its size in bytes; OSError for a file that can't be read."""
    if isinstance(body, Path):
        with body.open("rb") as source:
            yield source, os.fstat(source.fileno()).st_size
    else:
        yield io.BytesIO(body), len(body)
