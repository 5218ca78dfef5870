import msgspec

from lfmesh.observe.metrics import FIGURES_HELP, MetricsText, statistics_fields
from lfmesh.services.normalizer import NormalizerStatistics
from tests.aio import eventually, run
from tests.services.normalizer.kit import match, mesh


def test_every_figure_is_a_metric_with_its_help() -> None:
    fields = statistics_fields(NormalizerStatistics)
    assert {field.name for field in fields} == {field.name for field in msgspec.structs.fields(NormalizerStatistics)}
    assert not FIGURES_HELP.keys() & {field.name for field in fields}, "the figures of every role are added to these"


def test_metrics_tell_what_came_and_what_was_refused() -> None:
    async def scenario() -> None:
        async with mesh() as here:
            await here.join()
            here.ingestor.push(match(1), match(2), match(2), b"garbage", match(1, "DOGE-USD"))
            await eventually(lambda: here.service.figures().messages_in_total == 5)
            text = MetricsText(here.service).render().decode()
            labels = 'instance="normalizer-0",'
            assert "lfmesh_normalizer_accepted_total{" in text
            for reason in ("invalid_json", "unknown_product"):
                line = next(line for line in text.splitlines() if "bad_frames_total{" in line and reason in line)
                assert labels in line
                assert line.endswith(" 1.0")
            assert "lfmesh_normalizer_validation_rate" in text
            assert "lfmesh_normalizer_trades_behind" in text

    run(scenario())
