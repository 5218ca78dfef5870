"""What the commands of `lfmesh store` do."""

import json
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from typing import Any

import click

from lfmesh.archive.coverage import Gap
from lfmesh.archive.rebuild import Rebuild, Rebuilt
from lfmesh.archive.retention import Doomed, Retention, delete
from lfmesh.archive.verify import Counts, Damage, Finding, Foreign, Verification
from lfmesh.cli.archive import nothing_archived
from lfmesh.cli.store import listing
from lfmesh.cli.store.opened import configuration, has_archive, opened_objects, opened_pointers, place
from lfmesh.cli.store.states import held_states
from lfmesh.cli.store.units import moment, plural, size
from lfmesh.config import Config
from lfmesh.core.sharding import shard_of
from lfmesh.core.times import format_time
from lfmesh.errors import LfmeshError
from lfmesh.ports import StateStore, StoredState
from lfmesh.store.opening import open_state

_FOLDER_THREADS = 2
_S3_THREADS = 8
_BATCH = 100
_BATCH_BYTES = 16 * 1024 * 1024

Options = Mapping[str, Any]


def _config(options: Options) -> Config:
    return configuration(options["config_path"], options["data_dir"])


def show(options: Options) -> None:
    """`lfmesh store ls`."""
    config = _config(options)
    wish = listing.Wish(options["kinds"] or listing.KINDS, options["products"] or (), options["channels"] or ())
    contents = listing.Contents(place(config), config.venue.name)
    if "states" in wish.kinds:
        contents.held = list(held_states(config))
    if has_archive(config) or not contents.held:  # a mesh whose archive is switched off has states alone
        with opened_objects(config) as objects:
            listing.gather(objects, contents, wish)
    if options["as_json"]:
        click.echo(json.dumps(listing.document(contents, wish)))
    else:
        for line in listing.lines(contents, wish):
            click.echo(line)


# verify -------------------------------------------------------------------------------------------------------------


def check(options: Options) -> int:
    """`lfmesh store verify`; the exit code."""
    config = _config(options)
    with opened_objects(config) as objects, opened_pointers(config, objects) as pointers:
        verification = Verification(
            objects,
            config.venue.name,
            products=options["products"] or (),
            pointers=pointers or dict,
            quick=options["quick"],
            threads=options["threads"] or (_FOLDER_THREADS if config.store.objects == "folder" else _S3_THREADS),
        )
        for finding in verification.run():
            click.echo(json.dumps(_finding(finding)) if options["as_json"] else _sentence(finding))
    counts = verification.counts
    if counts.whole and not (counts.segments or counts.snapshots or counts.states or options["products"]):
        raise nothing_archived(config)  # a check that was pointed at the wrong place is not to say that all is well
    if options["as_json"]:
        click.echo(json.dumps({"kind": "counts", "whole": counts.whole, **vars(counts)}))
    else:
        for line in _verdict(config, counts, quick=options["quick"]):
            click.echo(line)
    return 0 if counts.whole else 1


def _sentence(finding: Finding) -> str:
    match finding:
        case Gap(stream=stream, after=after, until=until):
            known = finding.messages
            missing = "messages" if known is None else plural(known, "message")
            between = f"between {format_time(finding.after_ts)} and {format_time(finding.until_ts)}"
            return (
                f"gap: {stream.product} {stream.channel}: {missing} missing after {after.epoch}/{after.seq}, up to"
                f" {until.epoch}/{until.seq}; {between}"
            )
        case Damage(key=key, reason=reason):
            return f"damaged: {key}: {reason}"
        case Foreign(key=key):
            return f"not of the archive: {key}"


def _finding(finding: Finding) -> dict[str, Any]:
    match finding:
        case Gap(stream=stream, after=after, until=until):
            return {
                "kind": "gap", "product": stream.product, "channel": str(stream.channel), "messages": finding.messages,
                "after": {"epoch": after.epoch, "seq": after.seq}, "until": {"epoch": until.epoch, "seq": until.seq},
                "from": format_time(finding.after_ts), "to": format_time(finding.until_ts),
            }  # fmt: skip
        case Damage(key=key, reason=reason):
            return {"kind": "damaged", "key": key, "reason": reason}
        case Foreign(key=key):
            return {"kind": "foreign", "key": key}


def _verdict(config: Config, counts: Counts, *, quick: bool) -> Iterator[str]:
    looked = f"names of {size(counts.bytes)}" if quick else size(counts.bytes)
    yield (
        f"{place(config)}, venue {config.venue.name}: {plural(counts.segments, 'segment')} of"
        f" {plural(counts.streams, 'stream')} ({plural(counts.epochs, 'epoch')}, {plural(counts.lines, 'line')}),"
        f" {plural(counts.snapshots, 'snapshot')}, {plural(counts.states, 'state')}; {looked}"
    )
    if counts.unproven:
        yield f"{plural(counts.unproven, 'epoch')} begin without word of what came before: no gap can be shown there"
    if counts.foreign:
        yield f"{plural(counts.foreign, 'object')} in the archive's folders not of the archive"
    if counts.whole:
        yield "whole: no gap by their names, which were all that was looked at" if quick else "whole: no gap, no damage"
    else:
        yield f"NOT WHOLE: {plural(counts.gaps, 'gap')}, {plural(counts.damaged, 'damaged object')}"


# gc -----------------------------------------------------------------------------------------------------------------


def collect(options: Options) -> None:
    """`lfmesh store gc`."""
    config = _config(options)
    max_age_s, max_bytes = options["max_age_s"], options["max_bytes"]
    max_age_s = config.archive.retention_age_s if max_age_s is None else max_age_s
    max_bytes = config.archive.retention_bytes if max_bytes is None else max_bytes
    dry_run = options["dry_run"]
    with opened_objects(config) as objects, opened_pointers(config, objects) as pointers:
        retention = Retention(objects, config.venue.name, time.time_ns(), max_age_s=max_age_s, max_bytes=max_bytes)
        gone = Tally()
        for doomed in (retention.doomed(), retention.orphans(pointers().values()) if pointers else iter(())):
            for one in doomed if dry_run else delete(objects, doomed):
                gone.add(one)
                if dry_run:
                    click.echo(f"{one.reason}: {one.stored.key} ({size(one.stored.size)})")
    verb, left = ("would go", "would stay") if dry_run else ("deleted", "left")
    reasons = ", ".join(f"{reason} {count:,}" for reason, count in sorted(gone.reasons.items()))
    click.echo(
        f"{place(config)}, venue {config.venue.name}: {plural(gone.objects, 'object')} {verb}"
        f"{f' ({reasons})' if reasons else ''}, {size(gone.bytes)};"
        f" {size(retention.bytes_before - gone.archive_bytes)} of archive {left}"
    )
    if not max_age_s and not max_bytes:
        click.echo("no bound is set: archive.retention_age_s or retention_bytes, or --max-age, --max-size", err=True)


class Tally:
    """What went."""

    def __init__(self) -> None:
        self.objects = 0
        self.bytes = 0
        self.archive_bytes = 0
        self.reasons: Counter[str] = Counter()

    def add(self, one: Doomed) -> None:
        """An object."""
        self.objects += 1
        self.bytes += one.stored.size
        self.archive_bytes += 0 if one.reason == "orphan" else one.stored.size
        self.reasons[one.reason] += 1


# rebuild ------------------------------------------------------------------------------------------------------------


def refill(options: Options) -> None:
    """`lfmesh store rebuild`."""
    config = _config(options)
    mesh = config.mesh
    with opened_objects(config) as objects, ExitStack() as stack:
        stores: dict[int, StateStore] = {}
        if not options["dry_run"]:
            for shard in range(mesh.shards):
                stores[shard] = open_state(config, shard)
                stack.callback(stores[shard].close)
        run = Rebuild(objects, config.venue.name, mesh.products, lambda line: click.echo(line, err=True))
        filling = Filling(stores, mesh.shards)
        for rebuilt in run.states():
            filling.add(rebuilt)
        filling.flush()
    if run.others:
        names = ", ".join(sorted(run.others)[:5]) + (", …" if len(run.others) > 5 else "")
        click.echo(f"left out, not in mesh.products: {plural(len(run.others), 'product')} ({names})", err=True)
    if not filling.states:
        raise LfmeshError(
            f"the archive has nothing of the products of this mesh: {place(config)}, venue {config.venue.name}"
        )
    for line in filling.report():
        click.echo(line)


class Filling:
    """States on their way into the stores of their shards, in batches; no stores: only counted."""

    def __init__(self, stores: Mapping[int, StateStore], shards: int) -> None:
        self._stores = stores
        self._shards = shards
        self._waiting: dict[int, list[StoredState]] = {}
        self._bytes = 0
        self._found: Counter[int] = Counter()
        self._written: Counter[int] = Counter()
        self._lines: Counter[int] = Counter()
        self._snapshots: dict[int, int] = {}

    @property
    def states(self) -> int:
        """How many were found."""
        return self._found.total()

    def add(self, rebuilt: Rebuilt) -> None:
        """A stream's state; StoreUnavailable."""
        shard = shard_of(rebuilt.state.stream.product, self._shards)
        self._found[shard] += 1
        self._lines[shard] += rebuilt.lines
        if rebuilt.snapshot_ts is not None:
            self._snapshots[shard] = max(rebuilt.snapshot_ts, self._snapshots.get(shard, 0))
        waiting = self._waiting.setdefault(shard, [])
        waiting.append(rebuilt.state)
        self._bytes += len(rebuilt.state.state)
        if len(waiting) >= _BATCH or self._bytes >= _BATCH_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write what waits; StoreUnavailable."""
        waiting, self._waiting, self._bytes = self._waiting, {}, 0
        for shard, states in waiting.items():
            if shard in self._stores:
                self._written[shard] += self._stores[shard].write(states)

    def report(self) -> Iterator[str]:
        """A line a shard."""
        for shard in range(self._shards):
            found, written = self._found[shard], self._written[shard]
            taken = self._snapshots.get(shard)
            source = "from tape alone" if taken is None else f"from the snapshot of {moment(taken)}"
            source += f" and {plural(self._lines[shard], 'line')} of tape after it" if self._lines[shard] else ""
            if not found:
                yield f"shard {shard}: nothing in the archive"
            elif not self._stores:
                yield f"shard {shard}: {plural(found, 'state')} {source}"
            else:
                newer = f", {found - written:,} left as they were, being as new or newer" if found > written else ""
                yield f"shard {shard}: {plural(written, 'state')} written {source}{newer}"
