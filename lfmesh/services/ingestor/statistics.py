"""The ingestor's figures. Totals count since the process started."""

from typing import Annotated

import msgspec
from msgspec import Meta


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
    replay_requests_total: Annotated[int, Meta(description="Requests for replay from normalizers")]
    replay_frames_total: Annotated[int, Meta(description="Batches given again from the ring")]
    replay_unavailable_total: Annotated[int, Meta(description="Requests for replay that the ring could not serve")]
    ring_bytes: Annotated[int, Meta(description="Bytes held in the replay rings, with their overhead")]
    ring_batches: Annotated[int, Meta(description="Batches held in the replay rings")]
    ring_evicted_total: Annotated[int, Meta(description="Batches that have left the replay rings")]
    normalizers_attached: Annotated[int, Meta(description="Normalizers that take what is pushed to them")]
    batch_delay_ms: Annotated[
        float, Meta(description="From the arrival of the newest batch's first record to its push, in ms")
    ]
