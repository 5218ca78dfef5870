"""A role is led to relays of its own, and everything else of a registry's answers stays as it is."""

from lfmesh.messages import (
    RegistryChange,
    Reply,
    ServiceRecord,
    View,
    decode_registry_change,
    decode_reply,
    encode,
)
from lfmesh.types import Role
from loadgen.chaos.views import rewritten
from loadgen.chaos.zmtp import message_of, parts_of

REAL, OTHER, RELAY = "tcp://127.0.0.1:7001", "tcp://127.0.0.1:7002", "tcp://127.0.0.1:9001"
RECORD = ServiceRecord(Role.NORMALIZER, "normalizer-0", 5, {"raw": REAL, "requests": OTHER}, "1", 7, "here", shard=0)
LED = {"raw": RELAY, "requests": OTHER}


def test_a_view_leads_to_relays() -> None:
    view = View("registry-0", False, 3.0, [RECORD], 9, 4)
    identity, payload = parts_of(rewritten(message_of([b"12345678", encode(view)]), {REAL: RELAY}))
    found = decode_reply(payload)
    assert identity == b"12345678"
    assert isinstance(found, View)
    assert found.services[0].endpoints == LED
    assert (found.version, found.incarnation) == (4, 9)


def test_a_change_leads_to_relays() -> None:
    change = RegistryChange("registry-0", 9, 5, False, 3.0, [RECORD])
    (frame,) = parts_of(rewritten(message_of([b"rg.\0" + encode(change)]), {REAL: RELAY}))
    assert frame[:4] == b"rg.\0"
    assert decode_registry_change(frame[4:]).joined[0].endpoints == LED


def test_everything_else_stays() -> None:
    for parts in ([b"12345678", encode(Reply())], [b"rg.\0nonsense"], [b"a", b"b", b"c"], [b"12345678", b"\xff"]):
        assert rewritten(message_of(parts), {REAL: RELAY}) == message_of(parts)
