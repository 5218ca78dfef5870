"""Metrics from statistics: names, kinds, labels and help, read back with Prometheus's own parser."""

import importlib
import re
from typing import Annotated, Any, NamedTuple, get_type_hints

import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from lfmesh.observe.metrics import FIGURES_HELP, MetricsText, statistics_fields
from lfmesh.ports import Figures, Vitals
from lfmesh.types import Role

Count = Annotated[int, msgspec.Meta(description="Frames\nwith a \\ in the help")]


class Some(msgspec.Struct, frozen=True):
    frames_total: Count = 3
    rejected_total: Annotated[
        dict[str, int], msgspec.Meta(description="Refused", extra_json_schema={"label": "reason"})
    ] = {}
    queue_bytes: Annotated[int, msgspec.Meta(description="Waiting")] = 2**53
    lag_s: Annotated[float | None, msgspec.Meta(description="Lag")] = None
    attached: Annotated[bool, msgspec.Meta(description="Attached")] = True
    gaps_total: Annotated[int, msgspec.Meta(description="The service's own word on gaps")] = 9


class Sample:
    role = Role.NORMALIZER
    instance = 'normalizer-"0"\n'

    def __init__(self, shard: int | None = 0, reasons: tuple[str, ...] = (), **statistics: Any) -> None:  # noqa: ANN401
        self.shard = shard
        self.reasons = list(reasons)
        self.some = Some(**statistics)

    def statistics(self) -> Some:
        return self.some

    def figures(self) -> Figures:
        return Figures(messages_in_total=10, gaps_total=1, lag_ms=2.5)

    def readiness(self) -> list[str]:
        return self.reasons

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    def endpoints(self) -> dict[str, str]:
        return {}

    def on_peers(self, peers: object) -> None: ...


class Family(NamedTuple):
    kind: str
    help: str
    samples: list[tuple[dict[str, str], float]]


def samples(service: Sample, vitals: Vitals | None = None) -> dict[str, Family]:
    rendered = MetricsText(service, lambda: vitals or Vitals()).render().decode()
    return {
        family.name: Family(family.type, family.documentation, [(one.labels, one.value) for one in family.samples])
        for family in text_string_to_metric_families(rendered)
    }


LABELS = {"instance": 'normalizer-"0"\n', "shard": "0"}


def test_totals_are_counters_and_the_rest_are_gauges() -> None:
    found = samples(Sample())
    assert found["lfmesh_normalizer_frames"][:2] == ("counter", "Frames\nwith a \\ in the help")
    assert found["lfmesh_normalizer_frames"].samples == [(LABELS, 3)]
    assert found["lfmesh_normalizer_queue_bytes"][:2] == ("gauge", "Waiting")
    assert found["lfmesh_normalizer_queue_bytes"].samples == [(LABELS, 2**53)]
    assert found["lfmesh_normalizer_attached"][:2] == ("gauge", "Attached")
    assert found["lfmesh_normalizer_attached"].samples == [(LABELS, 1)]


def test_a_dict_has_a_sample_for_each_key() -> None:
    kind, _, values = samples(Sample(rejected_total={"garbled": 2, 'od"d\n': 1}))["lfmesh_normalizer_rejected"]
    assert kind == "counter"
    assert values == [({**LABELS, "reason": "garbled"}, 2), ({**LABELS, "reason": 'od"d\n'}, 1)]


def test_what_is_not_known_has_no_sample_but_is_described() -> None:
    assert samples(Sample())["lfmesh_normalizer_lag_s"][:2] == ("gauge", "Lag")
    assert samples(Sample())["lfmesh_normalizer_lag_s"].samples == []
    assert samples(Sample(lag_s=0.5))["lfmesh_normalizer_lag_s"].samples == [(LABELS, 0.5)]


def test_figures_are_metrics_unless_the_statistics_have_them() -> None:
    found = samples(Sample())
    assert found["lfmesh_normalizer_messages_in"].samples == [(LABELS, 10)]
    assert found["lfmesh_normalizer_lag_ms"].samples == [(LABELS, 2.5)]
    assert found["lfmesh_normalizer_clients"].samples == []
    assert found["lfmesh_normalizer_gaps"][:2] == ("counter", "The service's own word on gaps")
    assert found["lfmesh_normalizer_gaps"].samples == [(LABELS, 9)]


def test_a_role_without_a_shard_has_no_such_label() -> None:
    assert samples(Sample(shard=None))["lfmesh_normalizer_frames"].samples == [({"instance": LABELS["instance"]}, 3)]


@pytest.mark.parametrize(("reasons", "value"), [((), 1), (("no input",), 0)])
def test_readiness_is_a_metric(reasons: tuple[str, ...], value: int) -> None:
    assert samples(Sample(reasons=reasons))["lfmesh_normalizer_ready"].samples == [(LABELS, value)]


def test_the_process_is_told_of_with_units() -> None:
    found = samples(Sample(), Vitals(cpu_s=1.5, rss_bytes=1000, loop_lag_s=0.25))
    assert found["lfmesh_normalizer_process_cpu_seconds"].kind == "counter"
    assert found["lfmesh_normalizer_process_cpu_seconds"].samples == [(LABELS, 1.5)]
    assert found["lfmesh_normalizer_process_resident_memory_bytes"].samples == [(LABELS, 1000)]
    assert found["lfmesh_normalizer_loop_lag_seconds"].samples == [(LABELS, 0.25)]
    assert samples(Sample())["lfmesh_normalizer_loop_lag_seconds"].samples == []


def test_a_services_own_word_goes_before_the_runtimes() -> None:
    class Own(msgspec.Struct):
        ready: Annotated[int, msgspec.Meta(description="Own")] = 7

    class Service(Sample):
        def statistics(self) -> Any:  # noqa: ANN401
            return Own()

    assert samples(Service())["lfmesh_normalizer_ready"].samples == [(LABELS, 7)]


def test_the_build_is_told_of() -> None:
    kind, _, ((labels, value),) = samples(Sample())["lfmesh_build_info"]
    assert (kind, value) == ("gauge", 1)
    assert labels.keys() == {"instance", "shard", "version", "python"}


def test_every_metric_has_help_and_a_type_once() -> None:
    rendered = MetricsText(Sample()).render().decode()
    helped, typed = (re.findall(rf"^# {word} (\S+) .", rendered, re.MULTILINE) for word in ("HELP", "TYPE"))
    named = set(re.findall(r"^(\w+)\{", rendered, re.MULTILINE))
    assert helped == typed
    assert len(set(helped)) == len(helped)
    assert named <= set(helped)


def test_every_figure_has_a_help_text() -> None:
    assert set(FIGURES_HELP) == set(Figures.__struct_fields__)


class Undescribed(msgspec.Struct):
    frames_total: int


class Text(msgspec.Struct):
    state: Annotated[str, msgspec.Meta(description="State")]


class Unlabelled(msgspec.Struct):
    frames_total: Annotated[dict[str, int], msgspec.Meta(description="Frames")]


class Mislabelled(msgspec.Struct):
    frames_total: Annotated[dict[str, int], msgspec.Meta(description="Frames", extra_json_schema={"label": "instance"})]


class Nested(msgspec.Struct):
    frames: Annotated[dict[str, str], msgspec.Meta(description="Frames", extra_json_schema={"label": "reason"})]


@pytest.mark.parametrize(
    ("kind", "word"),
    [
        (Undescribed, "no description"),
        (Text, "neither a number"),
        (Unlabelled, "needs a label"),
        (Mislabelled, "needs a label"),
        (Nested, "str to a number"),
    ],
)
def test_statistics_that_can_be_no_metrics_are_a_clear_error(kind: type[msgspec.Struct], word: str) -> None:
    with pytest.raises(TypeError, match=word):
        statistics_fields(kind)


@pytest.mark.parametrize("role", list(Role))
def test_the_statistics_of_every_role_are_metrics_with_units(role: Role) -> None:
    try:
        package = importlib.import_module(f"lfmesh.services.{role}")
    except ModuleNotFoundError as error:
        if not str(error.name).startswith("lfmesh.services"):
            raise
        pytest.skip(f"the {role} is not there")
    service = getattr(package, f"{role.capitalize()}Service")
    kind = get_type_hints(service.statistics)["return"]
    fields = statistics_fields(kind)
    assert fields
    for field in fields:
        assert re.fullmatch(r"[a-z][a-z0-9_]*", field.name), field
        assert field.help == field.help.strip()
