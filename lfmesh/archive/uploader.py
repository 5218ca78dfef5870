"""From the spool to the object store, in order of time, one after the other.

While the store is down it is tried again with growing pauses, and everything waits in the spool, which is bounded.
An object leaves the spool when the store has it: a crash in between uploads it again under the same key, which changes
nothing.
"""

import math
import random
import time
from collections.abc import Callable
from typing import Annotated

import msgspec

from lfmesh.archive.spool import Spool
from lfmesh.core.backoff import Backoff
from lfmesh.errors import StoreUnavailable
from lfmesh.ports import Clock, ObjectStore

_RETRY_BASE_S = 0.5
_RETRY_MAX_S = 10.0


class UploaderStatistics(msgspec.Struct, frozen=True):
    """Totals count since the process started. `fault` says why the store can't be used, empty while it can."""

    uploaded_total: Annotated[int, msgspec.Meta(description="Objects brought to the object store")]
    uploaded_bytes_total: Annotated[int, msgspec.Meta(description="Bytes of them")]
    errors_total: Annotated[int, msgspec.Meta(description="Failed attempts to upload an object")]
    last_upload_ns: Annotated[int, msgspec.Meta(description="When the last object was uploaded; 0 before the first")]
    spool_objects: Annotated[int, msgspec.Meta(description="Objects that wait for the object store")]
    spool_bytes: Annotated[int, msgspec.Meta(description="Bytes of them")]
    spool_dropped_total: Annotated[int, msgspec.Meta(description="Tape segments dropped because the spool was full")]
    spool_dropped_bytes_total: Annotated[int, msgspec.Meta(description="Bytes of them")]
    spool_superseded_total: Annotated[int, msgspec.Meta(description="Snapshots that a newer one replaced in the spool")]
    spool_damaged_total: Annotated[int, msgspec.Meta(description="Waiting files found damaged, and set aside")]
    fault: str = ""


class Uploader:
    """Uploads what waits in `spool`. The owner calls `upload` in a thread of its own, whenever something waits."""

    def __init__(
        self, spool: Spool, objects: ObjectStore, clock: Clock = time.time_ns,
        *, random: Callable[[], float] = random.random,
    ) -> None:  # fmt: skip
        self._spool = spool
        self._objects = objects
        self._clock = clock
        self._backoff = Backoff(_RETRY_BASE_S, _RETRY_MAX_S, random, first_at_once=False)
        self._deadline = math.inf
        self._uploaded = self._uploaded_bytes = self._errors = self._last_ns = 0
        self._fault = ""

    @property
    def fault(self) -> str:
        """Why the store can't be used; empty while it can."""
        return self._fault

    def statistics(self) -> UploaderStatistics:
        """The figures of now. From any thread."""
        spool = self._spool
        return UploaderStatistics(
            self._uploaded, self._uploaded_bytes, self._errors, self._last_ns, len(spool), spool.size_bytes,
            spool.dropped_total, spool.dropped_bytes_total, spool.superseded_total, spool.damaged_total, self._fault,
        )  # fmt: skip

    def end(self, drain_s: float = 0.0) -> None:
        """From now on `upload` has this long, in all; an attempt under way is not cut short. From any thread."""
        self._deadline = time.monotonic() + drain_s

    def upload(self) -> float | None:
        """Upload all that waits, in order of time. The pause in s before the next attempt if the store can't be used;
        None if there is nothing more to do, or no time for it."""
        if not self._spool.uploading.acquire(blocking=False):
            return None
        try:
            waiting = self._spool.after(None)
            while waiting is not None and time.monotonic() < self._deadline:
                self._upload(waiting.key)
                waiting = self._spool.after(waiting)
        except StoreUnavailable as error:
            self._errors += 1
            self._fault = str(error)
            return self._backoff.next_pause()
        finally:
            self._spool.uploading.release()
        return None

    # Inside -----------------------------------------------------------------------------------------------------

    def _upload(self, key: str) -> None:
        body = self._spool.take(key)
        if body is None:
            return
        try:
            self._objects.put(key, body)
        except StoreUnavailable:
            self._spool.again(key)
            raise
        self._spool.done(key)
        self._uploaded += 1
        self._uploaded_bytes += len(body)
        self._last_ns = self._clock()
        self._fault = ""
        self._backoff.reset()
