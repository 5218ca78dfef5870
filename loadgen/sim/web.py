"""HTTP on the simulator's port: a request's path split, an answer as a value."""

from http import HTTPStatus
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec

from loadgen.sim.frames import encode_json


class Query(msgspec.Struct, frozen=True):
    """A GET request: decoded path segments and parameters (the last one wins where a name recurs)."""

    segments: tuple[str, ...]
    params: dict[str, str]

    @classmethod
    def of(cls, target: str) -> "Query":
        """From the request target."""
        parts = urlsplit(target)
        segments = tuple(unquote(part) for part in parts.path.split("/") if part)
        return cls(segments, dict(parse_qsl(parts.query, keep_blank_values=True)))


class Answer(msgspec.Struct, frozen=True):
    """An HTTP answer with a JSON body."""

    status: HTTPStatus
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()


def json_answer(value: object, headers: tuple[tuple[str, str], ...] = ()) -> Answer:
    """200 with `value` as JSON."""
    return Answer(HTTPStatus.OK, encode_json(value), headers)


def refusal(status: HTTPStatus, message: str) -> Answer:
    """An error as the venue words it: `{"message": …}`."""
    return Answer(status, encode_json({"message": message}))


NOT_FOUND = refusal(HTTPStatus.NOT_FOUND, "NotFound")
