"""Prometheus text from what a service says of itself, so that metrics, `lfmesh top` and tests read the same figures.

    lfmesh_<role>_<field>{instance="…", shard="…"}     each field of `statistics()` and of `figures()`
    lfmesh_<role>_<field>{…, <label>="…"}              a dict field, one sample a key
    lfmesh_<role>_ready, _process_cpu_seconds_total, _process_resident_memory_bytes, _loop_lag_seconds
    lfmesh_build_info{version="…", python="…"}

`shard` is there for sharded roles only. A figure that is not known (None) has no sample.
"""

import platform
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from typing import NamedTuple

import msgspec
from msgspec import inspect
from prometheus_client import generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric

from lfmesh import __version__
from lfmesh.observe import process
from lfmesh.ports import Figures, Service, Vitals

FIGURES_HELP = {
    "messages_in_total": "Messages taken in since the process started",
    "messages_out_total": "Messages given out since the process started",
    "gaps_total": "Gaps found in what came in, since the process started",
    "queue_messages": "Messages that have arrived and are not yet dealt with",
    "lag_ms": "How far the newest output is behind the venue or the input, in milliseconds",
    "clients": "Connected clients",
}
_LABELS = ("instance", "shard")
_NUMBERS = (inspect.IntType, inspect.FloatType, inspect.BoolType)


class StatisticsField(NamedTuple):
    """One field of a statistics Struct as a metric; `label` names what the keys of a dict field are."""

    name: str
    help: str
    label: str | None

    @property
    def counter(self) -> bool:
        """A counter grows only; everything else is a gauge."""
        return self.name.endswith("_total")


@lru_cache
def statistics_fields(kind: type[msgspec.Struct]) -> tuple[StatisticsField, ...]:
    """The metrics of a statistics Struct; TypeError if a field has no description or can be no metric."""
    info = inspect.type_info(kind)
    assert isinstance(info, inspect.StructType)
    return tuple(_field(f"{kind.__name__}.{field.name}", field) for field in info.fields)


def _field(where: str, field: inspect.Field) -> StatisticsField:
    annotated = field.type
    notes = (annotated.extra_json_schema or {}) if isinstance(annotated, inspect.Metadata) else {}
    kind = annotated.type if isinstance(annotated, inspect.Metadata) else annotated
    description, label = notes.get("description"), notes.get("label")
    if not description:
        raise TypeError(f"{where} has no description: Annotated[…, msgspec.Meta(description=…)]")
    if isinstance(kind, inspect.DictType):
        if not isinstance(kind.key_type, inspect.StrType) or not isinstance(kind.value_type, _NUMBERS):
            raise TypeError(f"{where}: a dict metric maps str to a number")
        if not label or label in _LABELS:
            raise TypeError(f'{where} needs a label of its own: Meta(…, extra_json_schema={{"label": …}})')
        return StatisticsField(field.name, description, label)
    kinds = kind.types if isinstance(kind, inspect.UnionType) else (kind,)
    if not all(isinstance(one, (*_NUMBERS, inspect.NoneType)) for one in kinds):
        raise TypeError(f"{where} is neither a number nor a dict of numbers")
    return StatisticsField(field.name, description, None)


class MetricsText:
    """The /metrics of one service; pass `context.vitals` as `vitals` to have the loop's lag among them."""

    def __init__(self, service: Service, vitals: Callable[[], Vitals] = process.vitals) -> None:
        self._service = service
        self._vitals = vitals

    def render(self) -> bytes:
        """Prometheus text format, version 0.0.4."""
        return generate_latest(self)

    def collect(self) -> Iterator[Metric]:
        """The metric families of now; `prometheus_client` calls it."""
        service = self._service
        labels = {"instance": service.instance}
        if service.shard is not None:
            labels["shard"] = str(service.shard)
        prefix = f"lfmesh_{service.role}_"
        statistics = service.statistics()
        own = statistics_fields(type(statistics))
        for field in own:
            yield _family(prefix, field, labels, getattr(statistics, field.name))
        named = {field.name for field in own}
        figures = service.figures()
        for name in Figures.__struct_fields__:
            if name not in named:
                yield _family(prefix, StatisticsField(name, FIGURES_HELP[name], None), labels, getattr(figures, name))
        for field, value in self._process():
            if field.name not in named:
                yield _family(prefix, field, labels, value)
        build = {**labels, "version": __version__, "python": platform.python_version()}
        yield _family("lfmesh_", StatisticsField("build_info", "Version of the software; always 1", None), build, 1)

    def _process(self) -> Iterator[tuple[StatisticsField, float | None]]:
        vitals = self._vitals()
        for name, text, value in (
            ("ready", "1 if the service can do its work now, else 0", not self._service.readiness()),
            ("process_cpu_seconds_total", "User and system CPU time of the process", vitals.cpu_s),
            ("process_resident_memory_bytes", "Resident memory of the process", vitals.rss_bytes),
            ("loop_lag_seconds", "Longest delay of the event loop within the last 10 seconds", vitals.loop_lag_s),
        ):
            yield StatisticsField(name, text, None), value


def statistics_text(prefix: str, labels: dict[str, str], statistics: msgspec.Struct) -> bytes:
    """The metrics of a statistics Struct alone, for what is no service: `<prefix><field>{labels}`."""
    return generate_latest(_Alone(prefix, labels, statistics))


class _Alone(NamedTuple):
    prefix: str
    labels: dict[str, str]
    statistics: msgspec.Struct

    def collect(self) -> Iterator[Metric]:
        for field in statistics_fields(type(self.statistics)):
            yield _family(self.prefix, field, self.labels, getattr(self.statistics, field.name))


def merged(texts: Iterable[str]) -> str:
    """Several texts of this module's form as one: HELP and TYPE once for each family, then the samples of all.

    A family that is in several texts must mean the same in each, and no sample may be in two.
    """
    families: dict[str, list[str]] = {}
    for each in texts:
        lines: list[str] = []
        known = False
        for line in each.removesuffix("\n").split("\n"):  # no other line break is one here
            if line.startswith("# HELP "):
                name = line.split(" ", 3)[2]
                known = name in families
                lines = families.setdefault(name, [])
            if not (known and line.startswith("# ")):
                lines.append(line + "\n")
    return "".join("".join(lines) for lines in families.values())


def _family(
    prefix: str, field: StatisticsField, labels: dict[str, str], value: float | dict[str, int] | None
) -> Metric:
    keys = [*labels, field.label] if field.label else [*labels]
    make = CounterMetricFamily if field.counter else GaugeMetricFamily
    family = make(prefix + field.name, field.help, labels=keys)
    if isinstance(value, dict):
        for key, count in value.items():
            family.add_metric([*labels.values(), key], count)
    elif value is not None:
        family.add_metric([*labels.values()], float(value))
    return family
