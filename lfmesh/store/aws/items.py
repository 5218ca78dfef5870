"""How states lie in the DynamoDB table. Pure.

One item a stream, alone in its partition, so that the load is spread; venues, and so meshes, can share a table.

    attribute     type    what
    stream        S       hash key: `venue/product/channel`, such as `coinbase/BTC-USD/book`
    version       S       term-epoch-seq, 16 digits each: as a text it sorts as they do, and so is what the conditions
                          of writes compare
    ingestor      N       input position: id of the ingestor (unsigned, 64 bits), …
    incarnation   N       … its incarnation …
    number        N       … and its frame
    ts            N       when the newest message in it was published, ns
    encoding      S       how `state` is written: `json`, `zstd` or `object`
    state         B or S  JSON of the snapshot's `state`; the same, zstd-compressed; or the key of an object that holds
                          it (`lfmesh.core.state_objects`)

A state is compressed where that saves a write unit, and goes into an object where the item would exceed DynamoDB's
400 KB (https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/ServiceQuotas.html).
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import zstandard

from lfmesh.core.state_objects import name_state, parse_version, version
from lfmesh.ports import StoredState
from lfmesh.types import Channel, InputPosition, StreamKey

KEY = "stream"
VERSION = "version"
INLINE_BYTES = 400_000
"""A larger state is kept as an object: an item, names of attributes included, may have 409,600 bytes."""
_UNIT_BYTES = 1024
_OTHER_BYTES = 250
"""About what an item has beside its state."""
_LEVEL = 3
_MAX_TEXT_BYTES = 1 << 30

Attributes = Mapping[str, Any]
"""Attribute values by name, in DynamoDB's JSON: `{"ts": {"N": "4"}}`."""

FIELDS = (VERSION, "ingestor", "incarnation", "number", "ts", "encoding", "state")
"""All attributes but the key, in the order of `Prepared.fields`."""


class Prepared(NamedTuple):
    """A state as it will be written: the item's `fields` (in the order of FIELDS), and what the object store gets
    first: `body` under `pointer`; both None where the state is in the item."""

    stream: StreamKey
    version: str
    fields: tuple[dict[str, Any], ...]
    size: int
    pointer: str | None
    body: bytes | None


class Record(NamedTuple):
    """An item as it was read: `text` is the state, None where it is in the object `pointer`."""

    stored: StoredState
    pointer: str | None


def key_of(venue: str, stream: StreamKey) -> str:
    """Hash key of a stream's item."""
    return f"{venue}/{stream.product}/{stream.channel}"


def prepare(venue: str, stored: StoredState, inline_bytes: int = INLINE_BYTES) -> Prepared:
    """A state in the form in which it takes least room."""
    place = version(stored.term, stored.position)
    encoding, state = "json", stored.state
    pointer = body = None
    if len(state) + _OTHER_BYTES > _UNIT_BYTES:
        packed = zstandard.compress(state, _LEVEL)
        if _units(packed) < _units(state):
            encoding, state = "zstd", packed
    if len(state) > inline_bytes:
        body = state if encoding == "zstd" else zstandard.compress(stored.state, _LEVEL)
        pointer = name_state(venue, stored.stream, stored.term, stored.position, body).key
        encoding = "object"
    source = stored.input
    fields: tuple[dict[str, Any], ...] = (
        {"S": place},
        {"N": str(source.ingestor)},
        {"N": str(source.incarnation)},
        {"N": str(source.number)},
        {"N": str(stored.ts)},
        {"S": encoding},
        {"B": state} if pointer is None else {"S": pointer},
    )
    return Prepared(stored.stream, place, fields, len(state) if pointer is None else len(pointer), pointer, body)


def read(item: Attributes) -> Record:
    """What an item says; where the state is an object, `stored.state` is empty. ValueError for an unreadable one."""
    try:
        _, product, channel = item[KEY]["S"].split("/")
        term, position = parse_version(item[VERSION]["S"])
        source = InputPosition(*(int(item[name]["N"]) for name in ("ingestor", "incarnation", "number")))
        pointer = pointer_of(item)
        state = b"" if pointer is not None else _text(item["encoding"]["S"], bytes(item["state"]["B"]))
        stored = StoredState(StreamKey(product, Channel(channel)), term, position, source, int(item["ts"]["N"]), state)
    except (KeyError, TypeError, zstandard.ZstdError) as error:
        raise ValueError(f"{type(error).__name__} {error}") from error
    return Record(stored, pointer)


def pointer_of(item: Attributes) -> str | None:
    """Key of the object that holds an item's state; None where the item holds it itself."""
    return str(item["state"]["S"]) if item.get("encoding") == {"S": "object"} else None


def unpacked(body: bytes) -> bytes:
    """The text of a compressed state; ValueError for bytes that are none."""
    try:
        return zstandard.ZstdDecompressor().decompress(body, max_output_size=_MAX_TEXT_BYTES)
    except zstandard.ZstdError as error:
        raise ValueError(str(error)) from error


def _text(encoding: str, state: bytes) -> bytes:
    match encoding:
        case "json":
            return state
        case "zstd":
            return unpacked(state)
        case _:
            raise ValueError(f"encoding {encoding!r} is not known")


def _units(state: bytes) -> int:
    """Write units that an item of this state costs."""
    return -(-(len(state) + _OTHER_BYTES) // _UNIT_BYTES)
