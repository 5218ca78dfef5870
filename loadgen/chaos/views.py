"""What a role is told of the others, with addresses of its own for each of them.

Between each role and each registry replica stands a relay that rewrites the replica's answers and changes, so that a
role is led to relays that nobody else uses: the harness can then break one link and no other.
"""

from collections.abc import Mapping

import msgspec

from lfmesh.core.codec import split_topic
from lfmesh.errors import BadMeshFrame
from lfmesh.messages import RegistryChange, ServiceRecord, View, decode_registry_change, decode_reply, encode
from loadgen.chaos.zmtp import message_of, parts_of

Addresses = Mapping[str, str]
"""Endpoint as it is announced → endpoint under which one role is to find it."""

_REPLY_PARTS = 2


def rewritten(message: bytes, addresses: Addresses) -> bytes:
    """A message from a registry replica (reply or change) with other addresses; anything else as it is."""
    parts = parts_of(message)
    if len(parts) == _REPLY_PARTS:
        parts[1] = _reply(parts[1], addresses)
    elif len(parts) == 1:
        parts[0] = _change(parts[0], addresses)
    return message_of(parts)


def _reply(payload: bytes, addresses: Addresses) -> bytes:
    try:
        header = decode_reply(payload)
    except BadMeshFrame:
        return payload
    if not isinstance(header, View):
        return payload
    return encode(msgspec.structs.replace(header, services=_records(header.services, addresses)))


def _change(frame: bytes, addresses: Addresses) -> bytes:
    try:
        _, offset = split_topic(frame)
        change: RegistryChange = decode_registry_change(frame[offset:])
    except BadMeshFrame:
        return frame
    return frame[:offset] + encode(msgspec.structs.replace(change, joined=_records(change.joined, addresses)))


def _records(records: list[ServiceRecord], addresses: Addresses) -> list[ServiceRecord]:
    return [
        msgspec.structs.replace(
            record, endpoints={name: addresses.get(endpoint, endpoint) for name, endpoint in record.endpoints.items()}
        )
        for record in records
    ]
