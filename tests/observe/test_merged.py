"""The metrics of several processes as one text."""

from typing import Annotated

import msgspec
from prometheus_client.parser import text_string_to_metric_families

from lfmesh.observe.metrics import merged, statistics_text


class Few(msgspec.Struct, frozen=True):
    seen_total: Annotated[int, msgspec.Meta(description="How many")]
    depth: Annotated[dict[str, int], msgspec.Meta(description="How deep", extra_json_schema={"label": "queue"})]


class Own(msgspec.Struct, frozen=True):
    depth: Annotated[dict[str, int], msgspec.Meta(description="How deep", extra_json_schema={"label": "queue"})]
    more: Annotated[float, msgspec.Meta(description="More")]


def text(instance: str, statistics: msgspec.Struct) -> str:
    return statistics_text("x_", {"instance": instance}, statistics).decode()


def test_each_family_is_there_once_with_the_samples_of_all() -> None:
    found = merged(
        [text("a", Few(1, {"in": 2})), text("b", Few(3, {"in": 4, "\u2028# HELP out": 5})), text("s", Own({}, 0.5))]
    )
    assert found.count("# HELP x_depth ") == found.count("# TYPE x_depth gauge\n") == 1
    samples = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(found)
        for sample in family.samples
    }
    assert samples == {
        ("x_seen_total", "a"): 1.0,
        ("x_seen_total", "b"): 3.0,
        ("x_depth", "a", "in"): 2.0,
        ("x_depth", "b", "in"): 4.0,
        ("x_depth", "b", "\u2028# HELP out"): 5.0,
        ("x_more", "s"): 0.5,
    }


def test_one_text_stays_as_it_is() -> None:
    one = text("a", Few(1, {"in": 2}))
    assert merged([one]) == one
