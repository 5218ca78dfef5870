"""What the workers of a gateway and their supervisor (`lfmesh.cli.crew`) say to each other.

Each worker has a socket pair of its own with the supervisor; a message is a JSON object on a line, in both directions.

    worker ──► supervisor     Admit, Leave: connections, which are counted over all workers
                              Started, Failed: how its start went
                              Ask: what do the others say?          Answer: to an Ask
    supervisor ──► worker     Admitted                              Ask: what do you say?
                              Answers: what they have said, within `ASK_TIMEOUT_S`
"""

from typing import Literal

import msgspec

from lfmesh.messages import ServiceRecord

What = Literal["ready", "metrics"]
"""What can be asked: reasons why a worker is not ready, or its metrics as Prometheus text (one item)."""

ASK_TIMEOUT_S = 1.0
"""A worker that has not answered by then is told of as one that does not."""


class Admit(msgspec.Struct, frozen=True, tag="admit"):
    """May one more client of this address connect? `number` comes back with the answer."""

    number: int
    address: str


class Admitted(msgspec.Struct, frozen=True, tag="admitted"):
    """It may and is counted (`refusal` is empty), or why not (`lfmesh.ports.Admission`)."""

    number: int
    refusal: str


class Leave(msgspec.Struct, frozen=True, tag="leave"):
    """A connection that was admitted has ended."""

    address: str


class Started(msgspec.Struct, frozen=True, tag="started"):
    """Everything is bound; this is what is announced."""

    record: ServiceRecord


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """It can't be started: class and line of the error (`lfmesh.errors`)."""

    kind: str
    line: str


class Ask(msgspec.Struct, frozen=True, tag="ask"):
    """From a worker: of all others; from the supervisor: of you. `number` comes back with the answer."""

    number: int
    what: What


class Answer(msgspec.Struct, frozen=True, tag="answer"):
    """A worker's answer."""

    number: int
    items: list[str]


class Told(msgspec.Struct, frozen=True):
    """What one worker has said, or in `silence` why it has said nothing."""

    worker: str
    items: list[str] = []
    silence: str = ""


class Answers(msgspec.Struct, frozen=True, tag="answers"):
    """What the others have said; of metrics the supervisor's own are among it."""

    number: int
    told: list[Told]


FromWorker = Admit | Leave | Started | Failed | Ask | Answer
ToWorker = Admitted | Ask | Answers

_from_worker = msgspec.json.Decoder(FromWorker)
_to_worker = msgspec.json.Decoder(ToWorker)


def decode_from_worker(text: bytes) -> FromWorker:
    """A line that a worker has sent."""
    message: FromWorker = _from_worker.decode(text)
    return message


def decode_to_worker(text: bytes) -> ToWorker:
    """A line that the supervisor has sent."""
    message: ToWorker = _to_worker.decode(text)
    return message


def line(message: FromWorker | ToWorker) -> bytes:
    """A message as it is sent."""
    return msgspec.json.encode(message) + b"\n"


class Lines:
    """Puts lines together from what comes in pieces."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that are whole by now, without their ends."""
        *whole, rest = data.split(b"\n")
        if whole:
            whole[0] = b"".join((*self._pieces, whole[0]))
            self._pieces.clear()
        if rest:
            self._pieces.append(rest)
        return whole
