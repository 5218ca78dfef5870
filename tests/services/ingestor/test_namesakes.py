from dataclasses import dataclass, field

import msgspec
import structlog
from structlog.testing import LogCapture

from lfmesh.messages import ServiceRecord
from lfmesh.services.ingestor.namesakes import Namesakes
from lfmesh.types import Line, Role
from tests.services.ingestor.ends import service_record


@dataclass
class Watch:
    log: LogCapture = field(default_factory=LogCapture)

    def __post_init__(self) -> None:
        log = structlog.wrap_logger(None, processors=[self.log], wrapper_class=structlog.make_filtering_bound_logger(0))
        self.namesakes = Namesakes("ingestor-A", "A", ("BTC-USD", "ETH-USD"), 1000, log)

    def events(self) -> list[str]:
        return [entry["event"] for entry in self.log.entries]


def ingestor(
    instance: str, incarnation: int, line: Line | None, products: tuple[str, ...] = ("BTC-USD",)
) -> ServiceRecord:
    record = service_record(instance, None, "tcp://127.0.0.1:1", incarnation, Role.INGESTOR)
    return msgspec.structs.replace(record, line=line, products=list(products))


OURS = ingestor("ingestor-A", 1000, "A")


def test_a_pair_as_it_should_be() -> None:
    watch = Watch()
    others = (ingestor("ingestor-B", 2000, "B"), ingestor("elsewhere", 2000, "A", ("SOL-USD",)))
    watch.namesakes.observe([OURS, *others, service_record("normalizer-0", 0, "tcp://127.0.0.1:1")])
    assert (watch.namesakes.problems(), watch.namesakes.conflicts, watch.events()) == ([], 0, [])


def test_a_newer_process_of_our_name() -> None:
    watch = Watch()
    for _ in range(2):
        watch.namesakes.observe([ingestor("ingestor-A", 2000, "A")])
        (problem,) = watch.namesakes.problems()
        assert "another process is ingestor-A as well (pid 1 on test)" in problem
        assert "ingestor.instance" in problem
    assert watch.namesakes.conflicts == 1
    watch.namesakes.observe([OURS])
    assert watch.namesakes.problems() == []
    assert watch.events() == ["another ingestor has our name", "no other ingestor has our name any more"]


def test_what_is_left_of_our_own_earlier_process() -> None:
    watch = Watch()
    watch.namesakes.observe([ingestor("ingestor-A", 900, "A")])
    assert (watch.namesakes.problems(), watch.namesakes.conflicts) == ([], 0)


def test_another_of_our_line() -> None:
    watch = Watch()
    for _ in range(2):
        watch.namesakes.observe([OURS, ingestor("ingestor-X", 1, "A", ("SOL-USD", "ETH-USD"))])
        assert watch.namesakes.conflicts == 1
        assert watch.namesakes.problems() == []
    watch.namesakes.observe([OURS])
    assert watch.events() == [
        "ingestors of one line carry the same products; a pair has ingestor.line A and B",
        "no other ingestor of our line carries our products any more",
    ]
    assert watch.log.entries[0]["others"] == ["ingestor-X"]


def test_a_peer_of_the_configuration_says_nothing_of_products() -> None:
    watch = Watch()
    watch.namesakes.observe([ingestor("ingestor-A", 0, "A", ()), ingestor("other", 0, "A", ())])
    assert watch.namesakes.conflicts == 0
