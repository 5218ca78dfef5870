"""Answers subscribe and unsubscribe requests: joins sessions to the audience, echoes, greets."""

from loadgen.sim.audience import Audience, VenueChannel
from loadgen.sim.faultboard import FaultBoard
from loadgen.sim.feed import Feed, Instant
from loadgen.sim.frames import error_frame, framed, subscriptions_frame
from loadgen.sim.requests import BadRequest, SubscriptionRequest, parse_request
from loadgen.sim.session import Session
from loadgen.sim.status import status_frame

REFUSAL = "the venue refuses this subscription"


class SubscriptionDesk:
    """Carries requests out. A request with anything unknown in it is refused whole, as the venue does.

    A subscriber joins its streams in the same step in which it gets their state, so it misses nothing and gets
    nothing twice. Subscribing to what one is subscribed to changes nothing; for a fresh snapshot unsubscribe first.
    """

    def __init__(self, feed: Feed, audience: Audience, board: FaultBoard) -> None:
        self._feed = feed
        self._audience = audience
        self._board = board
        self._index = {product: index for index, product in enumerate(feed.products)}

    def serve(self, session: Session, raw: str | bytes, now: Instant) -> bool:
        """Answer one client message; returns whether it was a subscribe request, be it refused."""
        try:
            request = parse_request(raw)
            streams = self._resolved(request)
        except BadRequest as error:
            session.answer(error_frame(error.message, error.reason))
            return False
        if request.action == "unsubscribe":
            for channel, indexes in streams:
                self._leave(session, channel, indexes)
            self._echo(session)
            return False
        products = {self._feed.products[index] for _, indexes in streams for index in indexes or ()}
        if self._board.refuses(products):
            session.answer(error_frame("Failed to subscribe", REFUSAL))
            self._echo(session)
            return True
        joined = [
            (channel, index)
            for channel, indexes in streams
            for index in indexes or ()
            if self._join(session, channel, index)
        ]
        self._echo(session)
        for channel, index in joined:
            self._greet(session, channel, index, now)
        self._feed.audience_changed(now)
        return True

    def _resolved(self, request: SubscriptionRequest) -> list[tuple[VenueChannel, list[int] | None]]:
        resolved: list[tuple[VenueChannel, list[int] | None]] = []
        for channel, products in request.streams:
            if channel is VenueChannel.STATUS:
                resolved.append((channel, [0]))
                continue
            for product in products or ():
                if product not in self._index:
                    raise BadRequest(f"Failed to {request.action}", f"{product} is not a valid product")
            resolved.append((channel, None if products is None else [self._index[product] for product in products]))
        return resolved

    def _join(self, session: Session, channel: VenueChannel, index: int) -> bool:
        held = session.subscriptions.setdefault(channel, {})
        if index in held:
            return False
        held[index] = None
        self._audience.join(session, channel, index)
        return True

    def _leave(self, session: Session, channel: VenueChannel, indexes: list[int] | None) -> None:
        held = session.subscriptions.get(channel, {})
        for index in list(held) if indexes is None else indexes:
            if index in held:
                del held[index]
                self._audience.leave(session, channel, index)
        if not held:
            session.subscriptions.pop(channel, None)

    def leave_all(self, session: Session) -> None:
        """The connection has ended."""
        for channel in list(session.subscriptions):
            self._leave(session, channel, None)

    def _echo(self, session: Session) -> None:
        listed = [
            (
                channel.echoed,
                [] if channel is VenueChannel.STATUS else [self._feed.products[index] for index in indexes],
            )
            for channel, indexes in session.subscriptions.items()
        ]
        session.answer(subscriptions_frame(listed))

    def _greet(self, session: Session, channel: VenueChannel, index: int, now: Instant) -> None:
        if channel is VenueChannel.STATUS:
            payload: bytes | None = status_frame(self._feed)
        else:
            payload = self._feed.greeting(channel, index, now)
        if payload is not None:
            session.push(framed(payload), channel, index)
