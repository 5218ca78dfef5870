"""A conversation with a gateway that a test plays: messages in, events and requests out, time in whole steps."""

import json

from lfmesh.client.conversation import Answer, Conversation
from lfmesh.client.events import Event
from lfmesh.types import Channel, StreamKey
from tests.client.server import Json, P, subscribed

SECOND = 1_000_000_000
TICKER, TRADES, BOOK = (StreamKey(P, channel) for channel in Channel)


class Talk:
    """A connected conversation."""

    def __init__(self, *keys: StreamKey, connected: bool = True) -> None:
        self.now = SECOND
        self.conversation = Conversation(lambda: 0.0)
        self.answers: list[Answer] = []
        if connected:
            self.connect()
        if keys:
            self.conversation.subscribe(keys)
            self.accept()

    def connect(self) -> list[Event]:
        self.conversation.opened("ws://h/ws", self.now)
        return self.conversation.take_events()

    def lose(self) -> list[Event]:
        self.conversation.closed("ws://h/ws", "broken", 0.0, None, 0, self.now)
        return self.conversation.take_events()

    def requests(self) -> list[Json]:
        return [json.loads(text) for text in self.conversation.take_requests(self.now)]

    def request(self) -> Json:
        (request,) = self.requests()
        return request

    def accept(self) -> Json:
        """Answer the one request under way."""
        request = self.request()
        self.give(subscribed(request))
        return request

    def give(self, *texts: str | list[str]) -> list[Event]:
        for text in texts:
            for one in [text] if isinstance(text, str) else text:
                self.now += 1
                self.conversation.receive(one, self.now)
        self.answers += self.conversation.take_answers()
        return self.conversation.take_events()

    def wait(self, seconds: float) -> list[Event]:
        self.now += round(seconds * SECOND)
        self.conversation.tick(self.now)
        self.answers += self.conversation.take_answers()
        return self.conversation.take_events()

    def names(self, *texts: str | list[str]) -> list[str]:
        return [type(event).__name__ for event in self.give(*texts)]
