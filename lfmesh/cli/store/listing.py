"""What the stores hold, added up: the figures of `lfmesh store ls`, as text and as JSON."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from lfmesh.cli.store.states import Held
from lfmesh.cli.store.units import moment, plural, size
from lfmesh.core.archive import SNAPSHOTS, TAPE, parse_segment, parse_snapshot
from lfmesh.core.state_objects import STATES, parse_state
from lfmesh.core.times import format_time
from lfmesh.ports import ObjectStore
from lfmesh.types import Channel, StreamKey

KINDS = ("tape", "snapshots", "states")


@dataclass
class Row:
    """Objects of one kind and name; times in ns: of the data, and of the newest writing."""

    name: tuple[str, ...]
    objects: int = 0
    bytes: int = 0
    lines: int = 0
    first_ts: int | None = None
    last_ts: int | None = None
    written: int | None = None

    def add(self, size: int, written: int, lines: int, first_ts: int, last_ts: int) -> None:
        """One more object."""
        self.objects += 1
        self.bytes += size
        self.lines += lines
        self.first_ts = first_ts if self.first_ts is None else min(self.first_ts, first_ts)
        self.last_ts = last_ts if self.last_ts is None else max(self.last_ts, last_ts)
        self.written = written if self.written is None else max(self.written, written)


@dataclass
class Contents:
    """Everything that was found. `states` are the states' objects, `held` what the state store itself holds."""

    place: str
    venue: str
    tape: list[Row] = field(default_factory=list)
    snapshots: list[Row] = field(default_factory=list)
    states: Row = field(default_factory=lambda: Row(()))
    held: list[Held] = field(default_factory=list)

    @property
    def objects(self) -> int:
        """How many objects, of all kinds."""
        return sum(row.objects for row in (*self.tape, *self.snapshots, self.states))

    @property
    def bytes(self) -> int:
        """And their size."""
        return sum(row.bytes for row in (*self.tape, *self.snapshots, self.states))


@dataclass(frozen=True)
class Wish:
    """What to list; empty: all."""

    kinds: Collection[str] = KINDS
    products: Collection[str] = ()
    channels: Collection[Channel] = ()

    def wants(self, stream: StreamKey) -> bool:
        """True if the stream is asked for."""
        return (not self.products or stream.product in self.products) and (
            not self.channels or stream.channel in self.channels
        )


def gather(objects: ObjectStore, contents: Contents, wish: Wish) -> None:
    """Add up what the object store holds; StoreUnavailable."""
    venue = contents.venue
    if "tape" in wish.kinds:
        folders = [f"{TAPE}venue={venue}/product={product}/" for product in wish.products] or [f"{TAPE}venue={venue}/"]
        contents.tape = list(_tape(objects, folders, wish))
    if "snapshots" in wish.kinds and not wish.products and not wish.channels:
        contents.snapshots = list(_snapshots(objects, venue))
    if "states" in wish.kinds:
        for stored in objects.list(f"{STATES}venue={venue}/"):
            name = parse_state(stored.key)
            if name is not None and wish.wants(name.stream):
                contents.states.add(stored.size, stored.written_ns, 1, stored.written_ns, stored.written_ns)


def _tape(objects: ObjectStore, folders: Iterable[str], wish: Wish) -> Iterator[Row]:
    row: Row | None = None
    for folder in folders:
        for stored in objects.list(folder):
            name = parse_segment(stored.key)
            if name is None or not wish.wants(name.stream):
                continue
            if row is None or row.name != name.stream:
                if row is not None:
                    yield row
                row = Row(name.stream)
            row.add(stored.size, stored.written_ns, name.lines, name.first_ts, name.last_ts)
    if row is not None:
        yield row


def _snapshots(objects: ObjectStore, venue: str) -> Iterator[Row]:
    row: Row | None = None
    for stored in objects.list(f"{SNAPSHOTS}venue={venue}/"):
        name = parse_snapshot(stored.key)
        if name is None:
            continue
        shard = (str(name.shard), str(name.shards))
        if row is None or row.name != shard:
            if row is not None:
                yield row
            row = Row(shard)
        row.add(stored.size, stored.written_ns, name.streams, name.ts, name.ts)
    if row is not None:
        yield row


# As text ------------------------------------------------------------------------------------------------------------


def lines(contents: Contents, wish: Wish) -> Iterator[str]:
    """The listing for people."""
    yield f"{contents.place}, venue {contents.venue}: {plural(contents.objects, 'object')}, {size(contents.bytes)}"
    if contents.tape:
        total = Row(("total", ""))
        for row in contents.tape:
            _add(total, row)
        head = ("TAPE", "", "SEGMENTS", "LINES", "SIZE", "FROM", "TO", "WRITTEN")
        yield ""
        yield from _table(head, [_cells(row.name, row) for row in (*contents.tape, total)], "llrrrlll")
    if contents.snapshots:
        head = ("SNAPSHOTS", "", "OBJECTS", "STATES", "SIZE", "FROM", "TO", "WRITTEN")
        rows = [_cells((f"shard {row.name[0]}", f"of {row.name[1]}"), row) for row in contents.snapshots]
        yield ""
        yield from _table(head, rows, "llrrrlll")
    if contents.states.objects:
        yield ""
        yield f"states kept as objects: {contents.states.objects:,}, {size(contents.states.bytes)}"
    for held in contents.held:
        yield ""
        yield from _held(held, wish)


def _held(held: Held, wish: Wish) -> Iterator[str]:
    states = [state for state in held.states if wish.wants(state.stream)]
    total = sum(len(state.state) for state in states)
    yield f"{held.place}: {plural(len(states), 'state')}, {size(total)} of text"
    rows = [
        (*state.stream, size(len(state.state)), str(state.position.epoch), str(state.position.seq), moment(state.ts))
        for state in states
    ]
    if rows:
        yield from _table(("STATES", "", "SIZE", "EPOCH", "SEQ", "PUBLISHED"), rows, "llrrrl")


def _cells(name: tuple[str, ...], row: Row) -> tuple[str, ...]:
    times = ("" if ns is None else moment(ns) for ns in (row.first_ts, row.last_ts, row.written))
    return (*name, f"{row.objects:,}", f"{row.lines:,}", size(row.bytes), *times)


def _add(total: Row, row: Row) -> None:
    total.objects += row.objects
    total.bytes += row.bytes
    total.lines += row.lines
    for name, choose in (("first_ts", min), ("last_ts", max), ("written", max)):
        known = [time for time in (getattr(total, name), getattr(row, name)) if time is not None]
        setattr(total, name, choose(known) if known else None)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], alignment: str) -> Iterator[str]:
    """A head and rows in columns; `alignment` has an l or r for each."""
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    for row in (head, *rows):
        cells = [
            cell.rjust(width) if side == "r" else cell.ljust(width)
            for cell, width, side in zip(row, widths, alignment, strict=True)
        ]
        yield "  ".join(cells).rstrip()


# As JSON ------------------------------------------------------------------------------------------------------------


def document(contents: Contents, wish: Wish) -> dict[str, Any]:
    """The listing for programs; times are ISO 8601 with nanoseconds, null where there are none."""
    tape = [
        {"product": row.name[0], "channel": str(row.name[1]), "segments": row.objects, "lines": row.lines, **_json(row)}
        for row in contents.tape
    ]
    snapshots = [
        {"shard": int(row.name[0]), "shards": int(row.name[1]), "snapshots": row.objects, **_json(row)}
        for row in contents.snapshots
    ]
    states = [
        {
            "product": state.stream.product, "channel": str(state.stream.channel), "place": held.place,
            "term": state.term, "epoch": state.position.epoch, "seq": state.position.seq,
            "published": format_time(state.ts), "bytes": len(state.state),
        }
        for held in contents.held for state in held.states if wish.wants(state.stream)
    ]  # fmt: skip
    return {
        "place": contents.place,
        "venue": contents.venue,
        "objects": contents.objects,
        "bytes": contents.bytes,
        "tape": tape,
        "snapshots": snapshots,
        "state_objects": {"objects": contents.states.objects, "bytes": contents.states.bytes},
        "states": states,
    }


def _json(row: Row) -> dict[str, Any]:
    def shown(ns: int | None) -> str | None:
        return None if ns is None else format_time(ns)

    return {"bytes": row.bytes, "from": shown(row.first_ts), "to": shown(row.last_ts), "written": shown(row.written)}
