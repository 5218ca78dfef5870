"""The ingestor's figures. Totals count since the process started."""

from collections.abc import Iterable, Mapping
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from lfmesh.services.ingestor.backfills import BackfillCounters, Backfills
from lfmesh.venues.coinbase.connection import FeedConnection


class IngestorStatistics(msgspec.Struct, frozen=True):
    """What the ingestor has done and where it stands; see `lfmesh.ports.Service.statistics`."""

    frames_received_total: Annotated[int, Meta(description="Frames received from the venue")]
    bytes_received_total: Annotated[int, Meta(description="Bytes of frames received from the venue, uncompressed")]
    frames_unrouted_total: Annotated[
        dict[str, int],
        Meta(
            description="Frames from the venue that name no product of their connection, by reason; "
            "of these only those that cannot be read at all are forwarded, to every shard of the connection",
            extra_json_schema={"label": "reason"},
        ),
    ]
    records_published_total: Annotated[
        int, Meta(description="Records numbered for the normalizers: frames, and changes of venue connections")
    ]
    batches_published_total: Annotated[int, Meta(description="Batches of records made for the normalizers")]
    pushes_total: Annotated[int, Meta(description="Batches queued towards normalizers, beacons not counted")]
    pushes_dropped_total: Annotated[
        int, Meta(description="Batches not queued because a normalizer was away or behind; left to replay")
    ]
    connections: Annotated[int, Meta(description="Venue connections that the products are spread over")]
    connections_up: Annotated[int, Meta(description="Venue connections that are subscribed to all of their products")]
    connects_total: Annotated[int, Meta(description="Venue connections opened")]
    connect_failures_total: Annotated[int, Meta(description="Attempts to connect to the venue that failed")]
    reconnects_total: Annotated[int, Meta(description="Venue connections opened after the first of each")]
    links_lost_total: Annotated[int, Meta(description="Subscribed venue connections that ended")]
    watchdog_trips_total: Annotated[int, Meta(description="Venue connections closed because nothing came")]
    frames_too_large_total: Annotated[int, Meta(description="Venue connections closed by a frame over max_frame_bytes")]
    venue_errors_total: Annotated[int, Meta(description="Error frames from the venue")]
    products_refused: Annotated[
        int, Meta(description="Products of which the venue has refused or left out something that we asked for")
    ]
    resyncs_total: Annotated[int, Meta(description="Book snapshots fetched anew by subscribing again, in products")]
    venue_requests_total: Annotated[
        int, Meta(description="Connections opened to the venue's feed, and requests made on them")
    ]
    venue_requests_delayed_total: Annotated[
        int, Meta(description="Times that a connection or a request had to wait for the venue's limit")
    ]
    backfill_requests_total: Annotated[int, Meta(description="Requests for lost trades from normalizers")]
    backfill_known_total: Annotated[
        int, Meta(description="Requests for lost trades that were waited for or under way already")
    ]
    backfill_turned_away_total: Annotated[
        dict[str, int],
        Meta(description="Requests for lost trades not taken up, by reason", extra_json_schema={"label": "reason"}),
    ]
    backfills_waiting: Annotated[int, Meta(description="Backfills that wait or are under way")]
    backfills_finished_total: Annotated[
        int, Meta(description="Backfills carried out: the venue has told all that it has")
    ]
    backfills_unfinished_total: Annotated[
        dict[str, int],
        Meta(description="Backfills ended without all of it, by reason", extra_json_schema={"label": "reason"}),
    ]
    backfill_pages_total: Annotated[int, Meta(description="Pages of trades fetched over REST")]
    backfill_trades_total: Annotated[int, Meta(description="Trades fetched over REST")]
    backfill_rows_refused_total: Annotated[
        dict[str, int],
        Meta(
            description="Trades that REST listed and that could not be used, by reason",
            extra_json_schema={"label": "reason"},
        ),
    ]
    rest_requests_total: Annotated[int, Meta(description="REST requests to the venue")]
    rest_limited_total: Annotated[int, Meta(description="REST requests that the venue answered with 429")]
    rest_failures_total: Annotated[
        dict[str, int],
        Meta(
            description="REST requests that failed, 429 not counted, by reason", extra_json_schema={"label": "reason"}
        ),
    ]
    rest_down: Annotated[int, Meta(description="1 while the venue's REST API counts as down, else 0")]
    namesakes: Annotated[
        int, Meta(description="Other ingestors that have our name, or our line and some of our products")
    ]
    replay_requests_total: Annotated[int, Meta(description="Requests for replay from normalizers")]
    replay_frames_total: Annotated[int, Meta(description="Batches given again from the ring")]
    replay_unavailable_total: Annotated[int, Meta(description="Requests for replay that the ring could not serve")]
    ring_bytes: Annotated[int, Meta(description="Bytes held in the replay rings, with their overhead")]
    ring_batches: Annotated[int, Meta(description="Batches held in the replay rings")]
    ring_evicted_total: Annotated[int, Meta(description="Batches that have left the replay rings")]
    links_rebuilt_total: Annotated[
        int, Meta(description="Links to normalizers made anew because nothing arrived there any more")
    ]
    normalizers_attached: Annotated[int, Meta(description="Normalizers that take what is pushed to them")]
    batch_delay_ms: Annotated[
        float, Meta(description="From the arrival of the newest batch's first record to its push, in ms")
    ]


def venue_figures(connections: Iterable[FeedConnection]) -> dict[str, Any]:
    """The fields that tell of the venue's feed, over all connections."""
    connections = tuple(connections)
    counters = [connection.counters for connection in connections]
    return {
        "frames_received_total": sum(each.frames for each in counters),
        "bytes_received_total": sum(each.bytes for each in counters),
        "connections": len(connections),
        "connections_up": sum(connection.up for connection in connections),
        "connects_total": sum(each.connects for each in counters),
        "connect_failures_total": sum(each.failed_attempts for each in counters),
        "reconnects_total": sum(max(0, each.connects - 1) for each in counters),
        "links_lost_total": sum(each.losses for each in counters),
        "watchdog_trips_total": sum(each.watchdog_trips for each in counters),
        "frames_too_large_total": sum(each.too_large for each in counters),
        "venue_errors_total": sum(each.venue_errors for each in counters),
        "products_refused": sum(connection.refused_products for connection in connections),
        "resyncs_total": sum(each.resyncs for each in counters),
        "venue_requests_total": sum(each.requests for each in counters),
        "venue_requests_delayed_total": sum(each.delayed for each in counters),
    }


_TURNED_AWAY = ("bad_range", "queue_full", "rest_down")
_UNFINISHED = ("bad_answer", "connection", "http_5xx", "http_other", "overdue", "refused", "rest_down", "timeout")
_FAILURES = ("bad_answer", "connection", "http_5xx", "http_other", "refused", "timeout")


def backfill_figures(backfills: Backfills | None) -> dict[str, Any]:
    """The fields that tell of trades fetched over REST; nothing has happened where there is None."""
    counters = BackfillCounters() if backfills is None else backfills.counters
    return {
        "backfill_requests_total": counters.asked,
        "backfill_known_total": counters.known,
        "backfill_turned_away_total": _by_reason(_TURNED_AWAY, counters.turned_away),
        "backfills_waiting": 0 if backfills is None else backfills.waiting,
        "backfills_finished_total": counters.finished,
        "backfills_unfinished_total": _by_reason(_UNFINISHED, counters.unfinished),
        "backfill_pages_total": counters.pages,
        "backfill_trades_total": counters.trades,
        "backfill_rows_refused_total": dict(counters.refused_rows),
        "rest_requests_total": counters.requests,
        "rest_limited_total": counters.limited,
        "rest_failures_total": _by_reason(_FAILURES, counters.failures),
        "rest_down": int(backfills is not None and bool(backfills.down)),
    }


def _by_reason(reasons: Iterable[str], counted: Mapping[str, int]) -> dict[str, int]:
    """Every reason, those that have not happened too: a counter that is there from the start can be watched."""
    return {reason: counted.get(reason, 0) for reason in reasons} | dict(counted)
