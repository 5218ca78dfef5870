"""Conditions on a report's figures, such as `latency_p99_ms<=10`, `gaps==0` or `closes.4001==0`.

A name leads into the report (`LoadReport`) by dots. Counts by name (`closes`, `violations`, `outcomes` …) are 0 where
nothing was counted; where their names are known beforehand, others are refused. A figure without samples meets no
condition: what no message was checked for is unknown, and so is a counter of which the gateway does not tell.

Who expects anything expects that all have joined, unless a condition says otherwise: what nobody got is easily right.
"""

import operator
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, get_args

import msgspec
from msgspec import inspect

from lfmesh.models.requests import ErrorCode
from lfmesh.types import SnapshotReason, StreamState
from loadgen.client.violations import Kind
from loadgen.load.config import Behaviour, Outcome
from loadgen.load.report import LoadReport

_COMPARE = {
    "<=": operator.le,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    ">": operator.gt,
}
_form = re.compile(r"\s*([A-Za-z][\w.\-]*)\s*(<=|>=|==|!=|<|>)\s*(-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)\s*").fullmatch
_NUMBERS = (inspect.IntType, inspect.FloatType)
_JOINING = ("joined", "not_joined")
_OF_CHECKED = ("violations", "snapshots", "statuses", "conflations", "merged", "trades_missing")
_KEYS: dict[str, tuple[str, ...]] = {
    "groups": tuple(Behaviour),
    "outcomes": tuple(Outcome),
    "violations": tuple(Kind),
    "snapshots": get_args(SnapshotReason),
    "statuses": get_args(StreamState),
    "errors": get_args(ErrorCode),
}
"""The names of counts by name, where these are known beforehand."""
_CLOSE_CODES = ("unfinished", "1001", "4001")
_close_code = re.compile(r"[1-4]\d{3}|unfinished").fullmatch


class BadCondition(ValueError):
    """It can't be understood, or asks for what no report has."""


class Condition(NamedTuple):
    """One expectation."""

    name: str
    compare: str
    limit: float

    def __str__(self) -> str:
        return f"{self.name}{self.compare}{self.limit:g}"


class Verdict(NamedTuple):
    """What became of an expectation; `value` is None where nothing was measured."""

    condition: Condition
    value: float | None
    met: bool

    def __str__(self) -> str:
        value = "no samples" if self.value is None else f"{self.value:g}"
        return f"{self.condition}: {'met' if self.met else 'NOT MET'} ({value})"


def parse(text: str) -> Condition:
    """A condition; BadCondition with what is known."""
    found = _form(text)
    if found is None:
        raise BadCondition(f"{text!r} is no condition: NAME, one of {' '.join(_COMPARE)}, a number; gaps==0")
    name, compare, limit = found.groups()
    if not any(_matches(name, known) for known in names()):
        raise BadCondition(f"no figure is called {name!r}; there are {', '.join(names())}")
    _check_keys(name)
    return Condition(name, compare, float(limit))


def implied(conditions: Sequence[Condition]) -> list[Condition]:
    """The conditions and what goes without saying: if there are any, that all have joined."""
    silent = not conditions or any(one.name in _JOINING for one in conditions)
    return [*conditions] if silent else [*conditions, Condition("not_joined", "==", 0)]


def names() -> list[str]:
    """Every figure that can be asked for; `*` stands for any name."""
    info = inspect.type_info(LoadReport)
    assert isinstance(info, inspect.StructType)
    return list(_names("", info))


def judge(condition: Condition, report: LoadReport) -> Verdict:
    """Whether a report meets a condition."""
    path = condition.name.split(".")
    if path[0] in _OF_CHECKED and not report.checked_messages:
        value = None
    elif path[0] == "gateway":
        value = _counter(report.gateway, ".".join(path[1:]))
    else:
        value = _value(msgspec.to_builtins(report), path)
    met = value is not None and bool(_COMPARE[condition.compare](value, condition.limit))
    return Verdict(condition, value, met)


def _check_keys(name: str) -> None:
    """BadCondition if a name asks for a count by a name that can't be."""
    path = name.split(".")
    for at, part in enumerate(path[:-1]):
        key = path[at + 1]
        if part in _KEYS and key not in _KEYS[part]:
            raise BadCondition(f"no figure is called {name!r}: {part} are of {', '.join(_KEYS[part])}")
        if part == "closes" and not _close_code(key):
            raise BadCondition(f"no figure is called {name!r}: closes are by code, such as {', '.join(_CLOSE_CODES)}")
        if part in ("roles", "gateway"):
            return


def _counter(counters: Mapping[str, float], name: str) -> float | None:
    """By how much a gateway's counter grew: one of its labels, or all of them; None where it has no such counter."""
    if name in counters:
        return counters[name]
    base, dot, _ = name.partition(".")
    labelled = [value for known, value in counters.items() if known.partition(".")[0] == base]
    if not labelled:
        return None
    return 0.0 if dot else sum(labelled)


def _names(prefix: str, kind: inspect.Type) -> Iterator[str]:
    match kind:
        case inspect.StructType():
            for field in kind.fields:
                yield from _names(f"{prefix}.{field.name}" if prefix else field.name, field.type)
        case inspect.DictType():
            yield from _names(f"{prefix}.*", kind.value_type)
        case inspect.UnionType():
            if any(isinstance(one, _NUMBERS) for one in kind.types):
                yield prefix
        case inspect.IntType() | inspect.FloatType():
            yield prefix
        case _:
            return


def _matches(name: str, known: str) -> bool:
    """Whether a name is one of the known ones; a name that stands for `*` may have dots itself."""
    pattern = re.escape(known).replace(r"\*", r"[\w.\-]+")
    return re.fullmatch(pattern, name) is not None


def _value(found: object, path: list[str]) -> float | None:
    if not path:
        return float(found) if isinstance(found, int | float) else None
    if not isinstance(found, Mapping):
        return None
    for length in range(len(path), 0, -1):  # a name may have dots itself, such as closes_total.4001 of a gateway
        name = ".".join(path[:length])
        if name in found:
            return _value(found[name], path[length:])
    return 0.0 if _counts(found) else None


def _counts(found: Mapping[object, object]) -> bool:
    """Whether a mapping counts by name, so that what is not there is 0."""
    return all(isinstance(value, int | float) for value in found.values())
