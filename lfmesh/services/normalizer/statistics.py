"""What a normalizer says of itself: the source of its metrics, of `lfmesh top` and of tests."""

from collections import Counter
from typing import Annotated

import msgspec
from msgspec import Meta


def _by(label: str) -> dict[str, object]:
    return {"label": label}


class NormalizerStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """One normalizer's figures; totals count since the process started."""

    shard_products: Annotated[int, Meta(description="Products of this shard")]
    products_with_data: Annotated[int, Meta(description="Products of which at least one stream has data")]
    products_stale: Annotated[int, Meta(description="Products of which the venue has said nothing for too long")]
    streams_recovering: Annotated[int, Meta(description="Streams that are reported as recovering")]
    books_held: Annotated[int, Meta(description="Books that are whole, as far as known")]
    ingestors_attached: Annotated[int, Meta(description="Ingestors that are heard")]

    accepted_total: Annotated[int, Meta(description="Venue messages accepted")]
    dropped_total: Annotated[
        dict[str, int], Meta(description="Valid venue messages that were dropped", extra_json_schema=_by("reason"))
    ]
    bad_frames_total: Annotated[
        dict[str, int], Meta(description="Venue frames that could not be used", extra_json_schema=_by("reason"))
    ]
    ignored_total: Annotated[
        dict[str, int], Meta(description="Venue frames without market data", extra_json_schema=_by("kind"))
    ]
    validation_rate: Annotated[float, Meta(description="Share of venue messages that were valid, from 0 to 1")]

    raw_frames_total: Annotated[int, Meta(description="Frames received from ingestors")] = 0
    raw_bytes_total: Annotated[int, Meta(description="Bytes received from ingestors")] = 0
    raw_refused_total: Annotated[
        dict[str, int], Meta(description="Frames from ingestors that were not taken", extra_json_schema=_by("reason"))
    ]
    raw_held: Annotated[int, Meta(description="Raw records held back until those before them are replayed")]
    raw_gaps_total: Annotated[int, Meta(description="Gaps found in the numbers of raw records")]
    raw_records_dropped_total: Annotated[
        dict[str, int], Meta(description="Raw records dropped by their number", extra_json_schema=_by("reason"))
    ]
    raw_records_lost_total: Annotated[int, Meta(description="Raw records that no ring had any more")]
    replay_requests_total: Annotated[int, Meta(description="Replays asked of ingestors")]
    resync_requests_total: Annotated[int, Meta(description="Books asked anew of ingestors")]
    links_lost_total: Annotated[int, Meta(description="Venue connections reported lost")]

    trade_gaps_total: Annotated[int, Meta(description="Times that trades were found missing, by ids or heartbeats")]
    trades_recovered_total: Annotated[
        dict[str, int],
        Meta(description="Missing trades, by what brought them, or declared", extra_json_schema=_by("source")),
    ]
    trades_missing_total: Annotated[int, Meta(description="Trades that nobody gave, declared")]
    trades_behind: Annotated[int, Meta(description="Trades that the venue's heartbeats know and we do not, now")]
    trades_held: Annotated[int, Meta(description="Trades that wait for missing ones before them, now")]
    trades_discarded_total: Annotated[int, Meta(description="Trades that the venue does not know, or told in two ways")]
    trades_corrected_total: Annotated[int, Meta(description="Matches that contradicted an earlier ticker")]
    backfill_requests_total: Annotated[int, Meta(description="Requests to ingestors for missing trades")]
    backfills_refused_total: Annotated[int, Meta(description="Of these, how many were refused or not answered")]
    backfills_failed_total: Annotated[int, Meta(description="Pages of trades that came with a problem")]
    books_lost_total: Annotated[
        dict[str, int], Meta(description="Books that had to wait for a snapshot", extra_json_schema=_by("reason"))
    ]
    book_snapshots_total: Annotated[int, Meta(description="Snapshots of books that came, on any line")]
    line_changes_total: Annotated[
        dict[str, int], Meta(description="Books published from another line since", extra_json_schema=_by("reason"))
    ]
    books_published: Annotated[
        dict[str, int],
        Meta(description="Books published now, by the ingestor whose line it is", extra_json_schema=_by("ingestor")),
    ] = {}

    published_total: Annotated[dict[str, int], Meta(description="Messages published", extra_json_schema=_by("channel"))]
    published_frames_total: Annotated[int, Meta(description="Market-data frames published")]
    published_bytes_total: Annotated[int, Meta(description="Bytes of market data published")]
    publish_dropped_total: Annotated[int, Meta(description="Frames that the publishing socket did not take")] = 0
    status_messages_total: Annotated[int, Meta(description="Status messages published, repeats included")]
    beacons_total: Annotated[int, Meta(description="Beacons published")]
    ring_bytes: Annotated[int, Meta(description="Bytes retained for retransmission")]
    ring_frames: Annotated[int, Meta(description="Frames retained for retransmission")]
    ring_evicted_total: Annotated[int, Meta(description="Frames that left the retransmission ring")]
    requests_total: Annotated[dict[str, int], Meta(description="Requests answered", extra_json_schema=_by("kind"))]
    term: Annotated[int, Meta(description="Term under which it publishes, or which it follows")]

    active: Annotated[int, Meta(description="1 while it publishes, 0 while it stands by")] = 0
    takeovers_total: Annotated[int, Meta(description="Times that it took the place of a publisher that was gone")] = 0
    stepdowns_total: Annotated[int, Meta(description="Times that it left its place to another publisher")] = 0
    streams_restored: Annotated[int, Meta(description="Streams that go on in an earlier process's epoch")] = 0
    followed_streams: Annotated[int, Meta(description="Streams that it follows")] = 0
    followed_streams_gapped: Annotated[int, Meta(description="Of these, how many are known to miss something")] = 0
    followed_messages_total: Annotated[int, Meta(description="Messages that it has followed")] = 0
    followed_gaps_total: Annotated[int, Meta(description="Gaps found in what it followed")] = 0
    followed_recoveries_total: Annotated[
        dict[str, int], Meta(description="Gaps healed, by what healed them", extra_json_schema=_by("rung"))
    ] = {}
    raw_waiting_bytes: Annotated[int, Meta(description="Bytes of ingestors' frames that wait for its turn")] = 0
    raw_waiting_dropped_total: Annotated[int, Meta(description="Frames that could not wait; they are replayed")] = 0


def plain(counts: Counter[str]) -> dict[str, int]:
    """A copy with plain keys: enumeration members become their text."""
    return {str(key): count for key, count in counts.items()}


def added(before: NormalizerStatistics, now: NormalizerStatistics) -> NormalizerStatistics:
    """The figures of now, with what had been counted before in the totals."""
    changes: dict[str, int | dict[str, int]] = {}
    for name in NormalizerStatistics.__struct_fields__:
        if name.endswith("_total"):
            old, new = getattr(before, name), getattr(now, name)
            changes[name] = dict(Counter(old) + Counter(new)) if isinstance(old, dict) else old + new
    return msgspec.structs.replace(now, **changes)
