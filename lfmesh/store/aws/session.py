"""Clients of DynamoDB and S3: credentials the usual AWS ways, time limits and attempts from the configuration.

A client may be used by any number of threads at once
(https://boto3.amazonaws.com/v1/documentation/api/latest/guide/clients.html#caveats).
"""

from functools import cache
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import boto3
import botocore.session
from botocore.config import Config as BotoConfig
from botocore.loaders import Loader, create_loader

from lfmesh.config import StoreSection, is_loopback
from lfmesh.store.aws.faults import Service, Subject, explained

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_s3 import S3Client

_CONNECTIONS = 16
_ANY_REGION = "us-east-1"
"""Signed with where a server of one's own is named and no region is: such servers have but one."""


def table_subject(section: StoreSection) -> Subject:
    """How a fault names the state store."""
    return Subject(Service.DYNAMODB, section.table, _place(section.dynamodb_endpoint, section.region))


def bucket_subject(section: StoreSection) -> Subject:
    """How a fault names the object store."""
    return Subject(Service.S3, section.bucket, _place(section.s3_endpoint, section.region))


def dynamodb_client(section: StoreSection) -> "DynamoDBClient":
    """A client of DynamoDB; StoreMisconfigured without a region, or with a profile that is not there."""
    with explained(table_subject(section)):
        session, arguments = _session(section, section.dynamodb_endpoint)
        return session.client("dynamodb", config=_config(section, section.dynamodb_endpoint), **arguments)


def s3_client(section: StoreSection) -> "S3Client":
    """A client of S3; StoreMisconfigured with a profile that is not there.

    Checksums beyond those that a request must have are left out: servers other than AWS do not all know them, the
    signature covers the body, and the archive's names carry a checksum of their own.
    """
    settings = BotoConfig(
        signature_version="s3v4",
        s3={"addressing_style": "path" if section.path_style else "auto", "payload_signing_enabled": True},
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    with explained(bucket_subject(section)):
        session, arguments = _session(section, section.s3_endpoint)
        config = _config(section, section.s3_endpoint).merge(settings)
        return session.client("s3", config=config, **arguments)


def _session(section: StoreSection, endpoint: str) -> tuple[boto3.session.Session, dict[str, Any]]:
    """A new one each time, which reads the credentials as they are now; boto's models of the services are kept."""
    core = botocore.session.Session()
    loader = _loader()
    core.register_component("data_loader", loader)
    session = boto3.session.Session(botocore_session=core)
    loader.search_paths[:] = dict.fromkeys(loader.search_paths)  # boto3 adds its own path each time
    region = section.region or session.region_name or (_ANY_REGION if endpoint else None)
    return session, {"region_name": region, "endpoint_url": endpoint or None}


@cache
def _loader() -> Loader:
    """Reading the models anew is most of what a client costs: 0.1 s, at each attempt to open a store that is down."""
    return create_loader()


def _config(section: StoreSection, endpoint: str) -> BotoConfig:
    local = bool(endpoint) and is_loopback(urlsplit(endpoint).hostname or "")
    return BotoConfig(
        connect_timeout=section.connect_timeout_s,
        read_timeout=section.request_timeout_s,
        retries={"total_max_attempts": section.attempts, "mode": "standard"},
        max_pool_connections=_CONNECTIONS,
        tcp_keepalive=True,
        proxies={} if local else None,  # no proxy leads to this machine
    )


def _place(endpoint: str, region: str) -> str:
    """Where a store is, for people: without user and password, which an address may hold."""
    if not endpoint:
        return f"AWS {region}" if region else "AWS"
    parts = urlsplit(endpoint)
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{parts.hostname}{port}"
