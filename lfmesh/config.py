"""Configuration: a TOML file and LFMESH_… variables, typed, units in the names, unknown keys refused.

Precedence: command line, environment (`LFMESH_GATEWAY__PORT=9000`, section and key joined by two underscores),
file, default.
`configs/local.toml` has every key with a comment. Endpoints are ZeroMQ addresses; `{shard}` in them is
replaced, a TCP port of 0 lets the system choose (the registry tells the others).
"""

import os
import tomllib
from collections.abc import Iterable
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, SettingsError

from lfmesh.errors import ConfigError
from lfmesh.types import Line, Role

PRODUCT_PATTERN = r"^[A-Z0-9]{1,20}(-[A-Z0-9]{1,20}){1,3}$"

Product = Annotated[str, Field(pattern=PRODUCT_PATTERN)]
Endpoint = Annotated[str, Field(pattern=r"^(tcp|ipc)://\S+$")]


def _with_host(url: str) -> str:
    parts = urlsplit(url)
    if not parts.hostname or parts.port == 0:  # a port that is no number or too large is a ValueError itself
        raise ValueError("a URL needs a host, and a port other than 0 if it names one")
    parts.hostname.encode("idna")
    return url


WebSocketUrl = Annotated[str, Field(pattern=r"^wss?://\S+$"), AfterValidator(_with_host)]
HttpUrl = Annotated[str, Field(pattern=r"^https?://\S+$"), AfterValidator(_with_host)]
VenueChannel = Literal["heartbeat", "ticker", "ticker_batch", "matches", "level2", "level2_batch"]


def _distinct(values: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(values)) != len(values):
        repeated = sorted({value for value in values if values.count(value) > 1})
        raise ValueError(f"each may be named once; repeated: {', '.join(repeated)}")
    return values


class Section(BaseModel):
    """A table of the configuration: frozen, and a key it does not know is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class MeshSection(Section):
    """What the whole mesh agrees on: every process must be given the same."""

    products: Annotated[tuple[Product, ...], Field(min_length=1, max_length=2000), AfterValidator(_distinct)] = (
        "BTC-USD",
        "ETH-USD",
        "SOL-USD",
        "XRP-USD",
    )
    """Products to carry."""
    shards: Annotated[int, Field(ge=1, le=1024)] = 2
    """How many shards the products are spread over."""
    data_dir: Path = Path(".lfmesh")
    """Folder of everything that is kept on disk."""
    advertise_host: str = ""
    """Host under which others reach sockets that listen on every interface; empty: this machine's name."""


class VenueSection(Section):
    """The exchange."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.-]{0,39}$")] = "coinbase"
    """Under this name its data is kept: `venue=…` in the archive's keys, and part of the state store's."""
    ws_url: WebSocketUrl = "wss://ws-feed.exchange.coinbase.com"
    """WebSocket feed."""
    rest_url: HttpUrl = "https://api.exchange.coinbase.com"
    """REST API."""
    channels: Annotated[tuple[VenueChannel, ...], Field(min_length=1), AfterValidator(_distinct)] = (
        "heartbeat",
        "ticker",
        "matches",
        "level2_batch",
    )
    """Channels to subscribe at the venue."""
    products_per_connection: Annotated[int, Field(ge=1, le=500)] = 25
    """Products are spread over connections of at most this many."""
    open_timeout_s: Annotated[float, Field(gt=0, le=60)] = 10.0
    """Connecting and the opening handshake may take this long."""
    subscribe_timeout_s: Annotated[float, Field(gt=0, le=60)] = 5.0
    """The venue must have confirmed our subscription by then."""
    watchdog_s: Annotated[float, Field(gt=0, le=3600)] = 10.0
    """A connection that brought nothing for this long is closed and made anew."""
    backoff_max_s: Annotated[float, Field(gt=0, le=30)] = 3.0
    """Longest pause between two attempts to connect; the first retry is at once. All share ws_requests_per_s."""
    refused_max_s: Annotated[float, Field(gt=0, le=600)] = 30.0
    """Longest pause before what the venue has refused, or left out, is asked for again."""
    compression: bool = False
    """Offer permessage-deflate: less traffic, several times the CPU a frame."""
    max_frame_bytes: Annotated[int, Field(ge=65536, le=48 * 1024 * 1024)] = 32 * 1024 * 1024
    """A larger frame closes the connection. Book snapshots can be several MB."""
    ws_requests_per_s: Annotated[float, Field(gt=0, le=1000)] = 8.0
    """The venue's limit for an address: connections opened, subscriptions made and ended, over all connections."""
    ws_burst: Annotated[int, Field(ge=1, le=1000)] = 20
    """So many of them at once."""
    rest_requests_per_s: Annotated[float, Field(gt=0, le=1000)] = 10.0
    """The venue's limit for an address: REST requests, by which lost trades are fetched."""
    rest_burst: Annotated[int, Field(ge=1, le=1000)] = 15
    """So many of them at once."""
    rest_timeout_s: Annotated[float, Field(gt=0, le=60)] = 3.0
    """A REST request must be answered by then."""
    ingestors_per_address: Annotated[int, Field(ge=1, le=16)] = 1
    """How many ingestors reach the venue from one address: each takes its share of the venue's limits."""


class RegistrySection(Section):
    """How services find each other."""

    endpoints: tuple[Endpoint, ...] = ("tcp://127.0.0.1:7400",)
    """Request addresses of every registry replica; each service announces itself to all of them."""
    instance: str = "registry-0"
    """Stable name of this replica; each replica needs its own."""
    bind_requests: Endpoint = "tcp://127.0.0.1:7400"
    """Where a replica takes announcements and lookups."""
    bind_changes: Endpoint = "tcp://127.0.0.1:7401"
    """Where a replica publishes changes."""
    bind_telemetry: Endpoint = "tcp://127.0.0.1:0"
    """Where it publishes its figures."""
    lease_ttl_s: Annotated[float, Field(ge=0.1, le=60)] = 3.0
    """A service that has not announced itself for this long is dropped."""
    announce_interval_s: Annotated[float, Field(ge=0.02, le=20)] = 1.0
    """Services announce themselves this often."""
    static_peers: tuple["StaticPeer", ...] = ()
    """If given, these replace the registry altogether."""

    @model_validator(mode="after")
    def _interval_fits_the_lease(self) -> "RegistrySection":
        if self.announce_interval_s * 2 > self.lease_ttl_s:
            raise ValueError(
                "announce_interval_s must be at most half of lease_ttl_s, or leases end between announcements"
            )
        return self


class StaticPeer(Section):
    """One service at a fixed address."""

    role: Role
    instance: Annotated[str, Field(min_length=1, max_length=100)]
    shard: Annotated[int, Field(ge=0, le=1023)] | None = None
    line: Line | None = None
    endpoints: dict[str, Endpoint]
    """Addresses by socket name: requests, raw, market_data, telemetry."""


class IngestorSection(Section):
    """The venue's feed into the mesh."""

    instance: str = "ingestor-A"
    """Stable name of this ingestor."""
    line: Line = "A"
    """Which of two lines it is, when two ingestors carry the same products."""
    products: Annotated[tuple[Product, ...], AfterValidator(_distinct)] = ()
    """Products that this ingestor carries; empty: all of the mesh."""
    bind_requests: Endpoint = "tcp://127.0.0.1:0"
    """Where normalizers ask for replay, backfill and resync."""
    bind_telemetry: Endpoint = "tcp://127.0.0.1:0"
    """Where it publishes its figures."""
    replay_ring_bytes: Annotated[int, Field(ge=65536)] = 64 * 1024 * 1024
    """Raw frames kept for replay, per shard."""
    replay_ring_age_s: Annotated[float, Field(gt=0)] = 600.0
    """Raw frames older than this are forgotten."""
    push_hwm_messages: Annotated[int, Field(ge=1)] = 200
    """Batches queued towards one normalizer; past it they are left to replay."""
    backfill_queue_requests: Annotated[int, Field(ge=1, le=100_000)] = 2000
    """Backfills that may wait; past it they are refused, and asked again by the normalizer."""
    backfill_max_s: Annotated[float, Field(gt=0, le=600)] = 30.0
    """A backfill that has not all of its trades after this long ends with what came."""
    batch_max_frames: Annotated[int, Field(ge=1, le=65536)] = 512
    """Largest batch."""


class NormalizerSection(Section):
    """Validation, books, positions."""

    instance: str = "normalizer-{shard}"
    """Stable name of this normalizer."""
    bind_raw: Endpoint = "tcp://127.0.0.1:0"
    """Where ingestors push raw frames."""
    bind_market_data: Endpoint = "tcp://127.0.0.1:0"
    """Where it publishes market data and beacons."""
    bind_requests: Endpoint = "tcp://127.0.0.1:0"
    """Where consumers ask for retransmission and snapshots."""
    bind_telemetry: Endpoint = "tcp://127.0.0.1:0"
    """Where it publishes its figures."""
    retransmit_ring_bytes: Annotated[int, Field(ge=65536)] = 256 * 1024 * 1024
    """Published frames kept for retransmission."""
    retransmit_ring_age_s: Annotated[float, Field(gt=0)] = 600.0
    """Published frames older than this are forgotten."""
    raw_hwm_messages: Annotated[int, Field(ge=1)] = 200
    """Raw batches that may wait before ingestors are held back."""
    standby_raw_bytes: Annotated[int, Field(ge=65536)] = 16 * 1024 * 1024
    """While it stands by or starts, so much of what ingestors send waits; older frames are asked for again."""
    publish_hwm_messages: Annotated[int, Field(ge=1)] = 100_000
    """Frames queued towards one subscriber; past it they are dropped and must be asked for."""
    subscribe_hwm_messages: Annotated[int, Field(ge=1)] = 100_000
    """Frames of the active normalizer that may wait to be followed."""
    restore_timeout_s: Annotated[float, Field(ge=0, le=30)] = 3.0
    """A starting normalizer waits this long for another one that publishes, and for a snapshotter to tell where the
    streams stood."""
    stale_after_s: Annotated[float, Field(gt=0)] = 10.0
    """A product of which the venue says nothing for this long is reported stale, and its book asked anew."""
    backfill_after_s: Annotated[float, Field(ge=0, le=60)] = 1.0
    """Another line, or a trade that a heartbeat has announced, may take this long before REST is asked for it."""
    backfill_timeout_s: Annotated[float, Field(gt=0, le=600)] = 10.0
    """Missing trades that nobody has given after this long are declared."""
    hold_max_trades: Annotated[int, Field(ge=1, le=1_000_000)] = 10_000
    """Trades of one product that may wait for missing ones; past it the oldest gap is declared."""
    hold_max_bytes: Annotated[int, Field(ge=4096)] = 4 * 1024 * 1024
    """And so much memory of them."""
    line_lag_s: Annotated[float, Field(gt=0, le=60)] = 0.5
    """A line whose trades are this much later than another's is left: its book is published from the other."""


class SnapshotterSection(Section):
    """State of every stream, and its durable copy."""

    instance: str = "snapshotter-{shard}"
    """Stable name of this snapshotter."""
    bind_requests: Endpoint = "tcp://127.0.0.1:0"
    """Where snapshots are asked for."""
    bind_telemetry: Endpoint = "tcp://127.0.0.1:0"
    """Where it publishes its figures."""
    subscribe_hwm_messages: Annotated[int, Field(ge=1)] = 100_000
    """Frames that may wait to be applied."""
    write_interval_ms: Annotated[int, Field(ge=10, le=60_000)] = 250
    """Changed tickers and trades are written at most this often."""
    book_write_interval_s: Annotated[float, Field(ge=0.1, le=3600)] = 10.0
    """Changed books are written at most this often."""


class StoreSection(Section):
    """Where states and the archive are kept. Credentials come the usual AWS ways, never from here."""

    state: Literal["embedded", "dynamodb"] = "embedded"
    """Latest states: a SQLite file a shard in mesh.data_dir, or a DynamoDB table."""
    objects: Literal["folder", "s3"] = "folder"
    """Archive: the folder `objects` in mesh.data_dir, or an S3 bucket."""
    table: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{3,255}$")] = "lfmesh-state"
    """DynamoDB table."""
    dynamodb_endpoint: HttpUrl | Literal[""] = ""
    """Address of DynamoDB Local or the like; empty: AWS."""
    bucket: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$")] = "lfmesh"
    """S3 bucket."""
    prefix: Annotated[str, Field(pattern=r"^([A-Za-z0-9_.=-]+/)*$")] = ""
    """Before every key in the bucket, ending with a slash; empty: none."""
    s3_endpoint: HttpUrl | Literal[""] = ""
    """Address of MinIO or another S3 server; empty: AWS."""
    path_style: bool = False
    """Name the bucket in the path and not in the host's name, as MinIO and the like need it."""
    region: Annotated[str, Field(pattern=r"^[a-z0-9-]{0,40}$")] = ""
    """AWS region; empty: the usual AWS ways."""
    create: bool = False
    """Make a table or bucket that is missing, at start. For local stores; elsewhere `lfmesh store init` does it."""
    connect_timeout_s: Annotated[float, Field(gt=0, le=60)] = 2.0
    """Connecting to a store may take this long."""
    request_timeout_s: Annotated[float, Field(gt=0, le=300)] = 10.0
    """A store must answer within this time."""
    attempts: Annotated[int, Field(ge=1, le=10)] = 3
    """So often one request is tried before the store counts as down."""

    @model_validator(mode="after")
    def _only_local_stores_are_made(self) -> "StoreSection":
        if self.create:
            remote = [
                key
                for key, used in (
                    ("dynamodb_endpoint", self.state == "dynamodb"),
                    ("s3_endpoint", self.objects == "s3"),
                )
                if used and not getattr(self, key)
            ]
            if remote:
                raise ValueError(
                    f"create is for local stores, and without {' and '.join(remote)} the store is AWS: make it with"
                    " `lfmesh store init` and leave create out"
                )
        return self


class ArchiveSection(Section):
    """The archive: every published message (tape) and full states (snapshots), by the snapshotters."""

    enabled: bool = True
    """Keep it. Without it there is no replay, no state as of a moment, and no resuming past the rings."""
    flush_interval_s: Annotated[float, Field(gt=0, le=5)] = 0.25
    """What was published reaches the local journal at least this often: what a killed process can lose."""
    flush_bytes: Annotated[int, Field(ge=4096, le=5 * 1024 * 1024)] = 1024 * 1024
    """And at least each so many bytes."""
    sync_interval_s: Annotated[float, Field(gt=0, le=60)] = 5.0
    """And the disk itself this often: what a loss of power can cost."""
    segment_max_age_s: Annotated[float, Field(ge=1, le=3600)] = 900.0
    """Segments are cut from the journal and uploaded this often: what the loss of a whole machine can cost."""
    segment_max_bytes: Annotated[int, Field(ge=65536, le=1024 * 1024 * 1024)] = 64 * 1024 * 1024
    """And when one stream has so many bytes of text."""
    journal_max_bytes: Annotated[int, Field(ge=1024 * 1024)] = 1024 * 1024 * 1024
    """And when the whole journal has so many."""
    snapshot_interval_s: Annotated[float, Field(ge=1, le=86400)] = 60.0
    """The full state of a shard is stored this often, and at shutdown."""
    spool_max_bytes: Annotated[int, Field(ge=1024 * 1024)] = 4 * 1024 * 1024 * 1024
    """What waits on local disk for an object store that is down; past it the oldest tape is dropped, and counted."""
    compression_level: Annotated[int, Field(ge=1, le=19)] = 3
    """Of zstd."""
    drain_s: Annotated[float, Field(ge=0, le=300)] = 2.0
    """At shutdown cutting and uploading may take this long; what is left then is done at the next start."""
    retention_age_s: Annotated[float, Field(ge=0)] = 0.0
    """Archived objects are deleted so long after they were written; 0: kept."""
    retention_bytes: Annotated[int, Field(ge=0)] = 0
    """The oldest ones are deleted when all of the archive is larger than this; 0: no bound."""
    resume_max_bytes: Annotated[int, Field(ge=0)] = 256 * 1024 * 1024
    """So much of one stream is read from the archive for a client that resumes from further back than the rings."""


class GatewaySection(Section):
    """WebSocket clients."""

    instance: str = "gateway-0"
    """Stable name of this gateway."""
    host: str = "127.0.0.1"
    """Address to listen on."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    """Port of WebSocket and HTTP; 0: the system chooses."""
    bind_telemetry: Endpoint = "tcp://127.0.0.1:0"
    """Where it publishes its figures; of several workers each takes the port, or file name, after the one before."""
    subscribe_hwm_messages: Annotated[int, Field(ge=1)] = 100_000
    """Frames of the mesh that may wait to be fanned out."""
    ring_bytes: Annotated[int, Field(ge=65536)] = 64 * 1024 * 1024
    """Messages kept for joins and `from_seq`, over all streams."""
    ring_age_s: Annotated[float, Field(gt=0)] = 600.0
    """Messages older than this are forgotten."""
    workers: Annotated[int, Field(ge=1, le=64)] = 1
    """Processes that serve clients on this port, one a core at most; more than one needs SO_REUSEPORT (Linux).

    Bounds on connections hold for all together, what is kept in memory (ring_bytes, ...) for each.
    """
    compression: bool = False
    """Offer permessage-deflate: less traffic, several times the CPU of a message (once for all clients)."""
    max_clients: Annotated[int, Field(ge=1)] = 20_000
    """Connections past this, over all workers, are refused with 1013."""
    max_clients_per_address: Annotated[int, Field(ge=0)] = 0
    """The same for one client address; 0: no bound of its own, as behind a proxy, where all have the proxy's."""
    handshake_timeout_s: Annotated[float, Field(gt=0, le=300)] = 10.0
    """A connection that has not sent its whole opening request by then is closed."""
    idle_timeout_s: Annotated[float, Field(ge=0)] = 300.0
    """A client that follows nothing and has asked nothing for this long is closed with 1008; 0: never."""
    max_subscriptions_per_client: Annotated[int, Field(ge=1)] = 5000
    """Streams one client may follow."""
    max_request_bytes: Annotated[int, Field(ge=1024, le=1024 * 1024)] = 65536
    """A larger request closes the connection with 1009."""
    request_rate_per_s: Annotated[float, Field(gt=0)] = 100.0
    """Requests per second that one client may make."""
    request_burst: Annotated[int, Field(ge=1)] = 200
    """Requests that may come at once."""
    outbox_soft_bytes: Annotated[int, Field(ge=65536)] = 1024 * 1024
    """What may wait to be sent to one client; past it the client is conflated until its socket has drained."""
    outbox_soft_age_s: Annotated[float, Field(gt=0)] = 1.0
    """And so is a client whose socket has taken nothing for so long."""
    outbox_bytes: Annotated[int, Field(ge=65536)] = 16 * 1024 * 1024
    """What may wait for a conflated client (answers to its requests); past it the client is closed with 4001."""
    outbox_age_s: Annotated[float, Field(gt=0)] = 30.0
    """And so is a client whose socket has taken nothing for so long."""
    client_messages_per_s: Annotated[float, Field(ge=0)] = 0.0
    """A client that gets more (it is looked at each 0.1 s) is conflated, and sent nothing until it is back at this rate
    on average, seconds after a big burst; 0: no limit."""
    client_bytes_per_s: Annotated[float, Field(ge=0)] = 0.0
    """The same in bytes of market data."""
    join_tail_bytes: Annotated[int, Field(ge=0)] = 256 * 1024
    """A cached snapshot whose tail of increments is longer than this is asked for anew."""
    join_snapshot_age_s: Annotated[float, Field(ge=0, le=600)] = 1.0
    """A cached snapshot that is older than this is asked for anew; joins within it share one."""
    heartbeat_interval_s: Annotated[float, Field(gt=0, le=60)] = 1.0
    """A client that was sent nothing for this long gets a heartbeat."""
    resume_wait_s: Annotated[float, Field(ge=0, le=60)] = 2.0
    """A `from_seq` ahead of the gateway's own position is awaited for this long."""
    ping_interval_s: Annotated[float, Field(gt=0)] = 20.0
    """A client from which nothing has come for so long is pinged; if it stays silent for as long again, it is closed
    with 4001."""
    drain_s: Annotated[float, Field(ge=0, le=300)] = 1.0
    """At shutdown clients are sent away one after the other over this long."""

    @model_validator(mode="after")
    def _soft_bounds_are_below_the_hard_ones(self) -> "GatewaySection":
        if self.outbox_soft_bytes > self.outbox_bytes or self.outbox_soft_age_s > self.outbox_age_s:
            raise ValueError("outbox_soft_bytes and outbox_soft_age_s must not be above outbox_bytes and outbox_age_s")
        return self


class OpsSection(Section):
    """/health, /ready and /metrics of every role but the gateway, which serves them on its own port."""

    host: str = "127.0.0.1"
    """Address to listen on."""
    port: Annotated[int, Field(ge=0, le=65535)] = 0
    """Port; 0: the system chooses. `lfmesh top` and the registry know it."""


class LogSection(Section):
    """Logs, on standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severe level written."""
    format: Literal["console", "json"] = "console"
    """For people or for machines."""


class Config(Section):
    """The whole configuration of a process."""

    mesh: MeshSection = MeshSection()
    venue: VenueSection = VenueSection()
    registry: RegistrySection = RegistrySection()
    ingestor: IngestorSection = IngestorSection()
    normalizer: NormalizerSection = NormalizerSection()
    snapshotter: SnapshotterSection = SnapshotterSection()
    store: StoreSection = StoreSection()
    archive: ArchiveSection = ArchiveSection()
    gateway: GatewaySection = GatewaySection()
    ops: OpsSection = OpsSection()
    log: LogSection = LogSection()

    @model_validator(mode="after")
    def _ingestor_products_are_known(self) -> "Config":
        unknown = set(self.ingestor.products) - set(self.mesh.products)
        if unknown:
            raise ValueError(f"ingestor.products names products that mesh.products lacks: {', '.join(sorted(unknown))}")
        return self

    def override(self, changes: dict[str, dict[str, Any]]) -> "Config":
        """This configuration with some keys of some sections replaced, validated again; ConfigError if that fails."""
        values = self.model_dump()
        for section, keys in changes.items():
            values[section] = {**values[section], **keys}
        try:
            return Config.model_validate(values)
        except ValidationError as error:
            raise _explained(error, "command line") from error


class _Sources(BaseSettings, Config):
    """Where `load` gets its values: the environment before the file."""

    model_config = SettingsConfigDict(
        extra="forbid", frozen=True, env_prefix="LFMESH_", env_nested_delimiter="__", use_attribute_docstrings=True
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - the signature is pydantic-settings'
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Environment before the file, which comes in as init settings."""
        return env_settings, init_settings


def load(path: Path | None = None) -> Config:
    """Configuration from a TOML file (None: defaults) and the environment, or ConfigError with every fault named."""
    unknown = _unknown_variables(os.environ)
    if unknown:
        raise ConfigError(
            f"environment: {', '.join(unknown)}: no such section or key; see configs/local.toml for all keys"
        )
    values: dict[str, Any] = {}
    if path is not None:
        try:
            values = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(f"cannot read the configuration {path}: {error.strerror}") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path} is not TOML: {error}") from error
    try:
        return Config.model_validate(_Sources(**values).model_dump())
    except ValidationError as error:
        raise _explained(error, str(path) if path else "environment") from error
    except SettingsError as error:
        lists = """LFMESH_MESH__PRODUCTS='["BTC-USD"]'"""
        raise ConfigError(f"environment: {error}; lists are written as JSON, such as {lists}") from error


def _unknown_variables(names: Iterable[str]) -> list[str]:
    """Variables that have the form of a key, `LFMESH_SECTION__KEY`, and name none."""
    unknown = []
    for name in sorted(names):
        section, joined, key = name.removeprefix("LFMESH_").lower().partition("__")
        if name.startswith("LFMESH_") and joined:
            field = Config.model_fields.get(section)
            keys = getattr(field.annotation, "model_fields", {}) if field is not None else {}
            if key.partition("__")[0] not in keys:
                unknown.append(name)
    return unknown


def endpoint(template: str, *, shard: int | None = None, instance: str = "") -> str:
    """An endpoint or instance name with `{shard}` and `{instance}` filled in."""
    return template.replace("{shard}", "" if shard is None else str(shard)).replace("{instance}", instance)


def is_loopback(host: str) -> bool:
    """True if only this machine reaches the address."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _explained(error: ValidationError, source: str) -> ConfigError:
    faults = []
    for fault in error.errors(include_url=False, include_context=False):
        where = ".".join(str(part) for part in fault["loc"]) or "configuration"
        if fault["type"] == "extra_forbidden":
            faults.append(f"{where}: unknown key; see configs/local.toml for all keys")
        else:
            given = "" if isinstance(fault["input"], dict) else f" (given: {fault['input']!r})"
            faults.append(f"{where}: {fault['msg']}{given}")
    return ConfigError(f"{source}: " + "; ".join(faults), tuple(f"{source}: {fault}" for fault in faults))
