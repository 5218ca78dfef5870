"""Between a feed's sockets and its reader: what has come waits here, bounded, until it is worked off.

- While somebody reads, it is worked off at their pace, an event at a time: the state is always that of the event that
  was just given out. Who reads too slowly slows the socket down, and nothing is dropped.
- While nobody does, the desk works it off by itself (when somebody asks, when much has come, and a few times a second),
  so that the state is what it is now. A bounded number of events is kept for who reads later; beyond it they are
  counted, and told as `Skipped`.
- While a call waits for its answer, it is worked off at once; what comes of it is given out later, in order.
"""

import asyncio
from collections import deque
from collections.abc import Callable

from lfmesh.client.connection import Item, Opened, Over, Text
from lfmesh.client.conversation import Answer, Conversation
from lfmesh.client.errors import FeedClosed, NoGateway
from lfmesh.client.events import Event, Skipped
from lfmesh.client.link import Route

_LASTED_NS = 1_000_000_000
_RAW_ITEMS = 1024
_RAW_BYTES = 8 * 1024 * 1024
_KEPT_EVENTS = 10_000
_KEPT_BYTES = 64 * 1024 * 1024


class Desk:
    """See the module's docstring. `is_read` tells whether somebody reads; `wake` makes the sender look what is due."""

    def __init__(
        self, conversation: Conversation, route: Route, is_read: Callable[[], bool], *, keeps_events: bool
    ) -> None:
        self.last_reason = "no attempt yet"
        """Why the last connection ended, or attempt failed."""
        self.wake: Callable[[], None] = _nothing
        self._conversation = conversation
        self._route = route
        self._is_read = is_read
        self._keeps_events = keeps_events
        self._raw: deque[Item] = deque()
        self._raw_bytes = 0
        self._events: deque[Event] = deque()
        self._events_bytes = 0
        self._skipped = 0
        self._calls: dict[int, asyncio.Future[Answer]] = {}
        self._waiting = 0
        self._changed = asyncio.Event()
        self._room = asyncio.Event()
        self._retry_in_s = 0.0
        self._given_up: NoGateway | None = None
        self._ended = False
        self._failure: BaseException | None = None

    @property
    def unread(self) -> int:
        """Messages and events that wait."""
        return len(self._raw) + len(self._events)

    @property
    def full(self) -> bool:
        """No more events are kept."""
        return len(self._events) >= _KEPT_EVENTS or self._events_bytes >= _KEPT_BYTES

    # The sockets' side ------------------------------------------------------------------------------------------

    def put(self, item: Item) -> None:
        """Something has come."""
        self._raw.append(item)
        if isinstance(item, Text):
            self._raw_bytes += len(item.text)
        if self._waiting or (not self._is_read() and (not isinstance(item, Text) or self._no_room())):
            self.work_off()
        self._changed.set()

    async def room(self) -> None:
        """Wait until there is room for more."""
        while self._no_room():
            self._room.clear()
            await self._room.wait()

    async def worked_off(self) -> float:
        """Wait until all has been; the pause before the next attempt. NoGateway: there is to be none."""
        while self._raw:
            self._room.clear()
            await self._room.wait()
        if self._given_up is not None:
            raise self._given_up
        return self._retry_in_s

    def due(self, now: int) -> tuple[list[str], str | None, float | None]:
        """What the sender is to do."""
        self.catch_up()
        conversation = self._conversation
        if not self._raw:
            conversation.tick(now)
            self._settle(0)
        leave_in_s = None if conversation.leave_at is None else (conversation.leave_at - now) / 1e9
        return conversation.take_requests(now), conversation.broken, leave_in_s

    def end(self, failure: BaseException | None) -> None:
        """Nothing more will come, and why: None if that was wanted."""
        self._failure = self._failure or failure
        self._ended = True
        error = self._failure or FeedClosed("the feed is closed")
        for future in self._calls.values():
            if not future.done():
                future.set_exception(error)
                future.exception()  # whoever awaits it gets it; nobody else is to be warned
        self._calls.clear()
        self._changed.set()
        self._room.set()

    # The reader's side ------------------------------------------------------------------------------------------

    async def read(self) -> Event:
        """The next event; StopAsyncIteration at the end, or why there is one."""
        while True:
            if self._skipped:
                count, self._skipped = self._skipped, 0
                return Skipped(count=count)
            if self._events:
                event = self._events.popleft()
                if not self._events:
                    self._events_bytes = 0
                return event
            if self._raw:
                self._step()
                continue
            if self._failure is not None:
                raise self._failure
            if self._ended:
                raise StopAsyncIteration
            self._changed.clear()
            await self._changed.wait()

    def check(self) -> None:
        """FeedClosed, or what ended it, at the end."""
        if self._ended:
            raise self._failure or FeedClosed("the feed is closed")

    def catch_up(self) -> None:
        """Know all that has come, unless somebody reads it at their own pace."""
        if self._raw and not self._is_read():
            self.work_off()

    def work_off(self) -> None:
        """Know all that has come, as far as events can be kept."""
        while self._raw and not (self._is_read() and self.full):
            self._step()

    async def answer(self, number: int, timeout_s: float | None) -> Answer | None:
        """What the gateway answers to a wish; None if nothing in time."""
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._calls[number] = future
        self._settle(0)
        self._hurry()
        self._waiting += 1
        try:
            self.work_off()
            async with asyncio.timeout(timeout_s):
                return await future
        except TimeoutError:
            return None
        finally:
            self._waiting -= 1
            self._calls.pop(number, None)
            self._conversation.forget(number)

    async def until(self, condition: Callable[[], bool], timeout_s: float | None) -> bool:
        """Whether it became true in time. FeedClosed, or what ended the feed."""
        self._waiting += 1
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    self.work_off()
                    if condition():
                        return True
                    self.check()
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            return False
        finally:
            self._waiting -= 1

    # Inside -----------------------------------------------------------------------------------------------------

    def _no_room(self) -> bool:
        return len(self._raw) >= _RAW_ITEMS or self._raw_bytes >= _RAW_BYTES

    def _step(self) -> None:
        """Work off one item."""
        item = self._raw.popleft()
        conversation = self._conversation
        size = 0
        match item:
            case Text(text, at):
                size = len(text)
                self._raw_bytes -= size
                if conversation.connected and conversation.broken is None:
                    conversation.receive(text, at)
            case Opened(url, at):
                conversation.opened(url, at)
            case Over():
                self._over(item)
        self._settle(size)
        self._hurry()
        self._room.set()

    def _over(self, item: Over) -> None:
        conversation, route = self._conversation, self._route
        connected = conversation.connected
        well = connected and conversation.useful > 0 and item.lasted_ns >= _LASTED_NS
        if connected and conversation.useful:
            route.served(well=well)
        self.last_reason = item.reason
        wait_s = None
        if connected and conversation.leave_at is not None:
            wait_s = max(0.0, (conversation.leave_at - item.at) / 1e9)
        try:
            if item.failure is not None:
                self._retry_in_s = route.failed(item.failure)
            else:
                self._retry_in_s = route.lost(wait_s, well=well)
        except NoGateway as error:
            self._given_up = error
        failures = 0 if connected else route.failures
        conversation.closed(item.url, item.reason, self._retry_in_s, item.code, failures, item.at)

    def _settle(self, size: int) -> None:
        """Give out what has come of it."""
        conversation = self._conversation
        events = conversation.take_events()
        if events and self._keeps_events:
            if not self._is_read() and (self._skipped or self.full):
                self._skipped += len(self._events) + len(events)
                self._events.clear()
                self._events_bytes = 0
            else:
                self._events.extend(events)
                self._events_bytes += size
        for answer in conversation.take_answers():
            future = self._calls.pop(answer.number, None)
            if future is not None and not future.done():
                future.set_result(answer)
        self._changed.set()

    def _hurry(self) -> None:
        """Have the sender look at once, if there is something for it to do."""
        conversation = self._conversation
        if conversation.has_unsent or conversation.broken is not None or conversation.leave_at is not None:
            self.wake()


def _nothing() -> None:
    """Nobody is to be woken yet."""
