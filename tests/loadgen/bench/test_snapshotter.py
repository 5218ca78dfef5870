from loadgen.bench.snapshotter import Cost, _rows, _variables
from loadgen.stores.pair import Pair, Running
from loadgen.stores.process import Process


def test_each_row_is_a_ratio_to_the_same_mesh_without_an_archive() -> None:
    cost = Cost(cpu_us=60.0, core=0.08, messages_per_s=1300, p50_ms=129, p99_ms=251, rss_mb=63)
    per_message, share, memory, stored = _rows("DynamoDB and S3", cost, cost._replace(cpu_us=50.0, core=0.064))
    assert (per_message.key, per_message.value, per_message.ratio) == ("snapshotter.dynamodb", 60.0, 1.2)
    assert per_message.against == "no archive, 50.0 µs"
    assert (share.value, share.ratio, share.met) == (8.0, 1.25, True)
    assert (memory.value, memory.budget) == (63, "≤ 512 MB")
    assert (stored.value, stored.budget, stored.note) == (129, "≤ 250 ms", "p99 251 ms")


def test_the_servers_are_named_to_the_mesh_by_variables() -> None:
    process = Process(1, "0")
    pair = Pair(Running("d", "http://127.0.0.1:1", process, []), Running("s", "http://127.0.0.1:2", process, []))
    variables = _variables(pair)
    assert variables["LFMESH_STORE__DYNAMODB_ENDPOINT"] == "http://127.0.0.1:1"
    assert variables["LFMESH_STORE__S3_ENDPOINT"] == "http://127.0.0.1:2"
    assert {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"} <= variables.keys()
