"""Lost trades fetched over REST: asked for by normalizers, answered in the numbered stream, within the venue's limit.

One schedule holds all requests of the process to the venue's limit, of which the ingestors of an address have equal
shares; 429 empties it for as long as the venue says, or ever longer where it does not. A request that fails is tried
again after a pause. When `DOWN_AFTER` in a row have failed, whoever's they were, REST counts as down until one does
not: one request at a time is made, ever more rarely. What waits goes on waiting for `PATIENCE_S`, since most troubles
are short, and is then ended with the reason, so that normalizers can turn to another ingestor; past `LONG_DOWN_S` what
is asked for is turned away at once, but for what is needed to see whether REST is back.
"""

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from lfmesh.config import IngestorSection, VenueSection
from lfmesh.core.backoff import Backoff
from lfmesh.core.limits import RequestSchedule
from lfmesh.core.repeat import Repeats
from lfmesh.errors import VenueLimited, VenueRefused, VenueUnavailable
from lfmesh.messages import BackfillPage, BackfillRequest, Rejected, Reply, ReplyHeader, Unavailable
from lfmesh.services.ingestor.fetches import Asked, Batch, Fetches
from lfmesh.venues.coinbase.rest import TradesPage

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

MAX_UNDER_WAY = 4
"""Requests at once: enough to use the venue's limit up to 0.4 s an answer."""

DOWN_AFTER = 4
"""REST is down when so many requests in a row have failed."""

PATIENCE_S = 1.5
"""So long a backfill waits for a REST API that is down."""

LONG_DOWN_S = 5.0
"""Past this nothing new is taken while something waits."""

MAX_TRADE_ID = 2**53 - 1

_LIMITED_BASE_S, _LIMITED_MAX_S = 0.5, 10.0
_PROBE_BASE_S, _PROBE_MAX_S = 0.25, 1.0
_QUIET_S = 5.0
"""So long after the last 429 a request that passes shows that the venue takes them again."""

_LONGEST_DOZE_S = 0.25


class TradesSource(Protocol):
    """Where trades of the past are had; `lfmesh.venues.coinbase.rest.RestClient`."""

    async def open(self) -> None:
        """Be ready; called once, before the first request."""

    async def trades(self, product: str, after: int, limit: int) -> TradesPage:
        """The newest `limit` trades below `after`. VenueLimited, VenueRefused or VenueUnavailable."""

    async def close(self) -> None:
        """Release what is held."""


@dataclass(slots=True)
class BackfillCounters:
    """What was asked, made of it, and given, since the start."""

    asked: int = 0
    known: int = 0
    turned_away: Counter[str] = field(default_factory=Counter)
    requests: int = 0
    limited: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    pages: int = 0
    trades: int = 0
    refused_rows: Counter[str] = field(default_factory=Counter)
    finished: int = 0
    unfinished: Counter[str] = field(default_factory=Counter)


def rest_schedule(venue: VenueSection) -> RequestSchedule:
    """This ingestor's share of the venue's limit.

    One of the burst is left unused: a request that is on its way for longer than the next one comes closer to it than
    it was sent.
    """
    share = max(1, venue.rest_burst // venue.ingestors_per_address - 1)
    return RequestSchedule(venue.rest_requests_per_s / venue.ingestors_per_address, share)


class Backfills:
    """`run` it as a task. `publish` is given each page, at the time of its arrival."""

    def __init__(
        self,
        venue: VenueSection,
        ingestor: IngestorSection,
        source: TradesSource,
        publish: Callable[[BackfillPage], None],
        *,
        random: Callable[[], float],
        log: "FilteringBoundLogger",
    ) -> None:
        self.counters = BackfillCounters()
        self._source = source
        self._publish = publish
        self._log = log
        self._fetches = Fetches(ingestor.backfill_queue_requests, random)
        self._max_age_s = ingestor.backfill_max_s
        self._schedule = rest_schedule(venue)
        self._under_way = 0
        self._failed_in_a_row = 0
        self._down: str = ""
        self._down_since = 0.0
        self._probe_at = 0.0
        self._probes = Backoff(_PROBE_BASE_S, _PROBE_MAX_S, random, first_at_once=False)
        self._limited_until: float | None = None
        self._limits = Backoff(_LIMITED_BASE_S, _LIMITED_MAX_S, random, first_at_once=False)
        self._repeats = Repeats()
        self._wake = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    @property
    def waiting(self) -> int:
        """Backfills that are not ended."""
        return len(self._fetches)

    @property
    def down(self) -> str:
        """Why REST counts as down; empty while it does not."""
        return self._down

    def prepare(self) -> None:
        """Somebody may ask soon: be ready."""
        self._wake.set()

    def ask(self, request: BackfillRequest) -> ReplyHeader:
        """Take up a request for trades of a product that this ingestor carries."""
        self.counters.asked += 1
        if not 1 <= request.from_trade_id <= request.to_trade_id <= MAX_TRADE_ID:
            self.counters.turned_away["bad_range"] += 1
            return Rejected(f"trades {request.from_trade_id} to {request.to_trade_id}: no range of trade ids")
        now = self._loop.time()
        if self._down and now - self._down_since > LONG_DOWN_S and (self._fetches or now < self._probe_at):
            self.counters.turned_away["rest_down"] += 1
            return Unavailable(f"the venue's REST API is down: {self._down}")
        match self._fetches.ask(request, now):
            case Asked.QUEUED:
                self._wake.set()
            case Asked.KNOWN:
                self.counters.known += 1
            case Asked.FULL:
                self.counters.turned_away["queue_full"] += 1
                return Unavailable(f"{len(self._fetches)} backfills wait already")
        return Reply()

    async def run(self) -> None:
        """Until cancelled."""
        try:
            await self._wake.wait()  # whoever is never asked for anything opens nothing
            await self._source.open()
            async with asyncio.TaskGroup() as group:
                while True:
                    now = self._loop.time()
                    self._end_overdue(now)
                    batch = self._next(now)
                    if batch is not None:
                        group.create_task(self._request(batch))
                    else:
                        await self._doze(now)
        finally:
            await self._source.close()

    def _end_overdue(self, now: float) -> None:
        for fetch in self._fetches.waiting(now - self._max_age_s):
            self._tell_end(self._fetches.end(fetch, "not finished in time"), "overdue", now)
        if self._down and now - self._down_since >= PATIENCE_S:
            for fetch in self._fetches.waiting(now - PATIENCE_S):
                self._tell_end(
                    self._fetches.end(fetch, f"the venue's REST API is down: {self._down}"), "rest_down", now
                )

    def _free_at(self, now: float) -> float:
        """From when on the next request may be made, as far as the venue and we are concerned."""
        free_at = self._schedule.free_at(now)
        return max(free_at, self._probe_at) if self._down else free_at

    def _next(self, now: float) -> Batch | None:
        if self._under_way >= (1 if self._down else MAX_UNDER_WAY) or self._free_at(now) > now:
            return None
        batch = self._fetches.take(now)
        if batch is not None:
            self._schedule.reserve(1, now)
            self._under_way += 1
        return batch

    async def _doze(self, now: float) -> None:
        """Until a request may be made, or something has changed."""
        pause: float | None = None
        if self._fetches:
            pause = _LONGEST_DOZE_S
            due_at = self._fetches.due_at()
            if due_at is not None and self._under_way < MAX_UNDER_WAY:
                pause = min(pause, max(due_at, self._free_at(now)) - now)
        try:
            async with asyncio.timeout(pause):
                await self._wake.wait()
        except TimeoutError:
            pass
        self._wake.clear()

    # One request --------------------------------------------------------------------------------------------------

    async def _request(self, batch: Batch) -> None:
        self.counters.requests += 1
        try:
            page = await self._source.trades(batch.product, batch.after, batch.limit)
        except VenueLimited as error:
            self._limited(batch, error, self._loop.time())
        except VenueRefused as error:
            self._refused(batch, error, self._loop.time())
        except VenueUnavailable as error:
            self._failed(batch, error, self._loop.time())
        else:
            self._arrived(batch, page, self._loop.time())
        finally:
            self._under_way -= 1
            self._wake.set()

    def _arrived(self, batch: Batch, page: TradesPage, now: float) -> None:
        self._worked(now)
        self.counters.refused_rows.update(page.refused)
        if page.refused and (held_back := self._repeats.admit("rows", self._now_ns(now))) is not None:
            self._log.warning(
                "trades refused that REST lists", product=batch.product, rows=dict(page.refused), held_back=held_back
            )
        for told in self._fetches.arrived(batch, page):
            self.counters.pages += 1
            self.counters.trades += len(told.trades)
            self.counters.finished += told.complete
            self._publish(told)

    def _limited(self, batch: Batch, error: VenueLimited, now: float) -> None:
        self.counters.limited += 1
        self._fetches.put_back(batch)
        if self._limited_until is not None and now < self._limited_until and error.retry_after_s is None:
            return  # it was sent before we knew
        if self._limited_until is None:
            self._log.warning("the venue limits our REST requests", retry_after_s=error.retry_after_s)
        pause = error.retry_after_s if error.retry_after_s is not None else self._limits.next_pause()
        self._limited_until = max(self._limited_until or now, now + pause)
        self._schedule.hold(self._limited_until)

    def _refused(self, batch: Batch, error: VenueRefused, now: float) -> None:
        self.counters.failures["refused"] += 1
        self._worked(now)
        self._fetches.put_back(batch)
        for fetch in batch.fetches:
            self._tell_end(self._fetches.end(fetch, f"refused by the venue: {error}"), "refused", now)

    def _failed(self, batch: Batch, error: VenueUnavailable, now: float) -> None:
        self.counters.failures[error.reason] += 1
        self._failed_in_a_row += 1
        if self._failed_in_a_row < DOWN_AFTER:
            for end in self._fetches.failed(batch, str(error), now):
                self._tell_end(end, error.reason, now)
            return
        self._fetches.put_back(batch)
        if not self._down:
            self._down_since = now
            self._log.warning("the venue's REST API is down", reason=str(error), backfills=len(self._fetches))
        self._down = str(error)
        self._probe_at = now + self._probes.next_pause()

    def _worked(self, now: float) -> None:
        self._failed_in_a_row = 0
        if self._down:
            self._log.info("the venue's REST API answers again", after_s=round(now - self._down_since, 1))
            self._down = ""
            self._probes.reset()
        if self._limited_until is not None and now > self._limited_until + _QUIET_S:
            self._log.info("the venue takes our REST requests again", limited_total=self.counters.limited)
            self._limited_until = None
            self._limits.reset()

    def _tell_end(self, end: BackfillPage, why: str, now: float) -> None:
        self.counters.unfinished[why] += 1
        if (held_back := self._repeats.admit(why, self._now_ns(now))) is not None:
            self._log.warning(
                "backfill not finished",
                product=end.product, first=end.from_trade_id, last=end.to_trade_id, problem=end.problem,
                held_back=held_back,
            )  # fmt: skip
        self._publish(end)

    @staticmethod
    def _now_ns(now: float) -> int:
        return int(now * 1e9)
