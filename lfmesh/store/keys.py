"""Which keys objects may have: those that every store takes and tells apart, and that name one file in a folder.

    key      = segment *( "/" segment )        at most 1000 bytes
    segment  = 1 to 255 printable ASCII characters but backslash, neither "." nor ".."

The first segment does not begin with a dot: such folders are the store's own.
"""

import re

_MAX_BYTES = 1000
_CHARACTERS = re.compile(r"[ -\[\]-~]*")
_SEGMENT = re.compile(r"[ -\[\]-~]{1,255}")


def checked(key: str) -> str:
    """The key itself; ValueError for one that may not be."""
    segments = key.split("/")
    if len(key) > _MAX_BYTES or key.startswith(".") or not all(map(_may_be, segments)):
        raise ValueError(f"not a key of an object: {key[:_MAX_BYTES]!r}")
    return key


def checked_folder(prefix: str) -> str:
    """The prefix itself, which is empty or ends with a slash; ValueError for one that no key can begin with."""
    if prefix:
        if not prefix.endswith("/"):
            raise ValueError(f"not a folder of objects, which ends with a slash: {prefix[:_MAX_BYTES]!r}")
        checked(prefix[:-1])
    return prefix


def can_begin(prefix: str) -> bool:
    """True if there may be keys that begin with it: not all servers take another prefix as it is."""
    *segments, last = prefix.split("/")
    return not prefix.startswith(".") and all(map(_may_be, segments)) and _CHARACTERS.fullmatch(last) is not None


def _may_be(segment: str) -> bool:
    # `fullmatch` would take a trailing newline with `$`; the class has none of the control characters.
    return _SEGMENT.fullmatch(segment) is not None and segment not in (".", "..")
