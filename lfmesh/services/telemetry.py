"""Telemetry: every service publishes its figures each second, and at once to each new subscriber.

telemetry   tm. NUL msgpack of `lfmesh.messages.Telemetry`
"""

import asyncio
from collections.abc import Callable

from lfmesh.core import topics
from lfmesh.core.codec import split_topic
from lfmesh.messages import Telemetry, decode_telemetry, encode
from lfmesh.transport import Publisher, Transport

INTERVAL_S = 1.0
_HWM = 100


def unpack(frame: bytes) -> Telemetry:
    """The telemetry message of a frame; BadMeshFrame if it is none."""
    _, offset = split_topic(frame)
    return decode_telemetry(frame[offset:])


class TelemetryPublisher:
    """Publishes what `measure()` returns."""

    def __init__(self, transport: Transport, endpoint: str, measure: Callable[[], Telemetry]) -> None:
        self._measure = measure
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._publisher = Publisher(
            transport,
            endpoint,
            hwm=_HWM,
            on_subscription=lambda _, subscribed: self._publish() if subscribed else None,
        )

    @property
    def endpoint(self) -> str:
        """Where it is bound."""
        return self._publisher.endpoint

    def start(self) -> None:
        """Publish now, and each second."""
        self._publish()
        self._timer = self._loop.call_later(INTERVAL_S, self.start)

    def close(self) -> None:
        """Publish no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._publisher.close()

    def _publish(self) -> None:
        self._publisher.publish(topics.TELEMETRY + b"\0" + encode(self._measure()))
        self._publisher.settle()
