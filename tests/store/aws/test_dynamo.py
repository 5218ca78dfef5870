"""What is DynamoDB's own: its faults and limits, states that lie in the object store, the table itself."""

import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import pytest

from lfmesh.config import Config
from lfmesh.core.state_objects import parse_state
from lfmesh.errors import StatesLeft, StoreMisconfigured, StoreUnavailable
from lfmesh.ports import StoredObject, StoredState
from lfmesh.store.aws.dynamo import DynamoStateStore
from lfmesh.store.folder import FolderObjectStore
from lfmesh.types import Channel, InputPosition, Position, StreamKey
from tests.store.aws.relay import DROPPED, Answer, Relay, Request, fault, passing, relay
from tests.stores import Endpoint, dynamodb, use

PRODUCTS = tuple(f"P{number}-USD" for number in range(40))
BOOK = StreamKey(PRODUCTS[0], Channel.BOOK)
SMALL = 100
"""So many bytes fit into an item, in tests of what does not."""


def state(stream: StreamKey, seq: int, text: bytes = b"{}", term: int = 1) -> StoredState:
    return StoredState(stream, term, Position(1, seq), InputPosition(1, 2, 3), 4, text)


def tickers(seq: int) -> list[StoredState]:
    return [state(StreamKey(product, Channel.TICKER), seq) for product in PRODUCTS]


def deep(seq: int, filler: str = "x") -> StoredState:
    """A state that is more than SMALL; its compressed form, too."""
    return state(BOOK, seq, (filler + "".join(map(str, range(200)))).encode() + str(seq).encode())


class Shelf(FolderObjectStore):
    """A folder of objects that does something before it is used, if a test says so."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.before_get: Callable[[str], None] = lambda _: None
        self.before_put: Callable[[str], None] = lambda _: None
        self.before_delete: Callable[[Sequence[str]], None] = lambda _: None
        self.closed = 0

    def get(self, key: str) -> bytes:
        self.before_get(key)
        return super().get(key)

    def put(self, key: str, body: bytes | Path) -> bool:
        self.before_put(key)
        return super().put(key, body)

    def delete(self, keys: Sequence[str]) -> int:
        self.before_delete(keys)
        return super().delete(keys)

    def close(self) -> None:
        self.closed += 1

    @property
    def contents(self) -> list[StoredObject]:
        return list(self.list())

    @property
    def seqs(self) -> list[int]:
        names = [parse_state(one.key) for one in self.list()]
        return [name.position.seq for name in names if name is not None]


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Endpoint:
    server = dynamodb()
    use(monkeypatch, server)
    return server


@pytest.fixture
def config(endpoint: Endpoint, tmp_path: Path) -> Config:
    return endpoint.config(tmp_path, attempts=1, connect_timeout_s=1.0, request_timeout_s=5.0)


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path / "objects")


Open = Callable[..., DynamoStateStore]


@pytest.fixture
def open_store(config: Config, shelf: Shelf) -> Iterator[Open]:
    """Opens stores of one table, which is there."""
    opened: list[DynamoStateStore] = []

    def open_it(settings: Config = config, products: Sequence[str] = PRODUCTS, **options: object) -> DynamoStateStore:
        options = {"pause": lambda _: None, "inline_bytes": SMALL, **options}
        opened.append(DynamoStateStore(settings, products, lambda: shelf, **options))  # type: ignore[arg-type] # by name
        return opened[-1]

    first = open_it()
    first.create()
    unused = [first]
    yield lambda *given, **options: unused.pop() if unused and not given and not options else open_it(*given, **options)
    for store in opened:
        store.close()


@pytest.fixture
def between(config: Config, open_store: Open) -> Iterator[tuple[Relay, DynamoStateStore]]:
    """A store, and the relay that it reaches its table through."""
    with relay(config.store.dynamodb_endpoint) as server:
        yield server, open_store(config.override({"store": {"dynamodb_endpoint": server.url}}))


def held(store: DynamoStateStore) -> dict[StreamKey, StoredState]:
    return {one.stream: one for one in store.load()}


# The table ----------------------------------------------------------------------------------------------------------


def test_the_table_is_made_once_whoever_makes_it(config: Config, tmp_path: Path) -> None:
    stores = [DynamoStateStore(config, PRODUCTS, partial(Shelf, tmp_path)) for _ in range(3)]
    said: list[str | None] = []
    threads = [threading.Thread(target=lambda one: said.append(one.create()), args=(store,)) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for store in stores:
        store.check()
        assert store.create() is None
        store.close()
    place = config.store.dynamodb_endpoint
    assert sorted(map(str, said)) == ["None", "None", f'made the DynamoDB table "{config.store.table}" ({place})']


def test_a_missing_table_is_told_with_what_to_do(config: Config, tmp_path: Path) -> None:
    store = DynamoStateStore(config, PRODUCTS, partial(Shelf, tmp_path))
    expected = rf'DynamoDB table "{config.store.table}" \(http://127.0.0.1:\d+\) does not exist: .*`lfmesh store init`'
    for call in (store.check, store.load, partial(store.write, tickers(1)), partial(store.write, tickers(1)[:1])):
        with pytest.raises(StoreMisconfigured, match=expected):
            call()
    store.close()


def test_a_table_of_something_else_is_refused(config: Config, open_store: Open) -> None:
    store = open_store()
    other = f"{config.store.table}-other"
    store._client.create_table(
        TableName=other,
        BillingMode="PAY_PER_REQUEST",
        KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
    )
    with pytest.raises(StoreMisconfigured, match=r"a table of something else \(its key is id, not stream\)"):
        open_store(config.override({"store": {"table": other}})).check()


def test_wrong_credentials_are_told_without_them(
    endpoint: Endpoint, config: Config, open_store: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, endpoint, AWS_ACCESS_KEY_ID="wrong-key!", AWS_SECRET_ACCESS_KEY="wrong-secret!")
    store = open_store(config)
    for call in (store.check, store.load, partial(store.write, tickers(1))):
        with pytest.raises(
            StoreMisconfigured, match=r"the access key is not known there: check AWS_ACCESS_KEY_ID"
        ) as told:
            call()
        assert "wrong" not in str(told.value)
        assert "\n" not in str(told.value)


def test_no_credentials_at_all(
    endpoint: Endpoint, config: Config, open_store: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, endpoint)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(StoreMisconfigured, match=r"no credentials: give AWS_ACCESS_KEY_ID"):
        open_store(config).check()


def test_venues_share_a_table_and_a_shard_sees_its_own_products(config: Config, open_store: Open) -> None:
    first, second = open_store(), open_store(config.override({"venue": {"name": "other"}}))
    assert first.write(tickers(1)) == second.write(tickers(2)) == len(PRODUCTS)
    assert {one.position.seq for one in first.load()} == {1}
    assert {one.position.seq for one in second.load()} == {2}
    assert [one.stream.product for one in open_store(products=PRODUCTS[:2]).load()] == list(PRODUCTS[:2])


def test_an_item_that_cannot_be_read_is_told(config: Config, open_store: Open) -> None:
    store = open_store()
    store.write(tickers(1))
    key = f"coinbase/{PRODUCTS[3]}/ticker"
    store._client.put_item(TableName=config.store.table, Item={"stream": {"S": key}, "version": {"S": "nonsense"}})
    with pytest.raises(StoreUnavailable, match=rf"the item {key} can't be read .*delete it"):
        store.load()


# Faults -------------------------------------------------------------------------------------------------------------


def test_an_outage_is_told_and_afterwards_everything_is_written(between: tuple[Relay, DynamoStateStore]) -> None:
    server, store = between
    store.write(tickers(1))
    for answer, told in (
        (DROPPED, "ended the connection|cannot be reached"),
        (fault(500, "InternalServerError"), "answered 500 InternalServerError"),
        (fault(503, "ServiceUnavailable"), "answered 503 ServiceUnavailable"),
        (fault(400, "ThrottlingException"), r"wants fewer requests \(ThrottlingException\)"),
    ):
        server.rule = lambda _, answer=answer: answer  # type: ignore[misc] # mypy knows no default here
        for call in (partial(store.write, tickers(2)), store.load, store.check):
            with pytest.raises(StoreUnavailable, match=told) as error:
                call()
            assert type(error.value) is StoreUnavailable
            assert "\n" not in str(error.value)
    server.rule = passing
    assert store.write(tickers(2)) == len(PRODUCTS)
    assert {one.position.seq for one in store.load()} == {2}


def test_nobody_listens(config: Config, open_store: Open) -> None:
    with relay(config.store.dynamodb_endpoint) as server:
        gone = config.override({"store": {"dynamodb_endpoint": server.url}})
    with pytest.raises(StoreUnavailable, match="cannot be reached: is it running"):
        open_store(gone).write(tickers(1))


def test_an_answer_that_does_not_come(config: Config, open_store: Open) -> None:
    patience = threading.Event()

    def wait(_: Request) -> Answer:
        patience.wait(20)
        return DROPPED

    with relay(config.store.dynamodb_endpoint) as server:
        server.rule = wait
        store = open_store(config.override({"store": {"dynamodb_endpoint": server.url, "request_timeout_s": 0.2}}))
        with pytest.raises(StoreUnavailable, match="does not answer in time"):
            store.write(tickers(1))
        patience.set()


def test_a_write_whose_answer_is_lost_is_made_again_and_harms_nothing(between: tuple[Relay, DynamoStateStore]) -> None:
    server, store = between

    def lose(request: Request) -> Answer:
        request.forward(request.body)
        return DROPPED

    server.rule = lose
    with pytest.raises(StoreUnavailable):
        store.write(tickers(1))
    server.rule = passing
    store.write(tickers(1))
    assert held(store) == {one.stream: one for one in tickers(1)}


def test_throttled_statements_are_made_again_as_long_as_some_come_through(
    between: tuple[Relay, DynamoStateStore],
) -> None:
    server, store = between
    store.write(tickers(1))
    server.seen.clear()

    def some(request: Request) -> Answer:
        """Three statements come through, the others are throttled."""
        statements = request.body["Statements"]
        throttled = {"Error": {"Code": "ThrottlingError", "Message": "slowly"}}
        done = request.forward({**request.body, "Statements": statements[:3]})
        return Answer(200, {"Responses": done.body["Responses"] + [throttled] * len(statements[3:])})

    server.rule = some
    assert store.write(tickers(2)) == len(PRODUCTS)
    assert set(server.seen) == {"BatchExecuteStatement"}
    assert len(server.seen) == 9 + 5, "groups of 25 and 15, three at a time"
    server.rule = passing
    assert {one.position.seq for one in store.load()} == {2}


def test_throttled_for_good_ends_with_growing_pauses_and_keeps_what_came_through(
    config: Config, open_store: Open
) -> None:
    pauses: list[float] = []
    open_store().write(tickers(1))

    def first(request: Request) -> Answer:
        throttled = {"Error": {"Code": "ProvisionedThroughputExceeded", "Message": "no"}}
        if len(request.body["Statements"]) == 15:
            return request.forward(request.body)
        return Answer(200, {"Responses": [throttled] * len(request.body["Statements"])})

    with relay(config.store.dynamodb_endpoint) as server:
        server.rule = first
        settings = config.override({"store": {"dynamodb_endpoint": server.url, "attempts": 4}})
        with pytest.raises(StoreUnavailable, match="wants fewer requests"):
            open_store(settings, pause=pauses.append).write(tickers(2))
        assert 4 <= len(pauses) <= 8, "the other group may have come through in between"
        assert all(0 <= pause <= 2 for pause in pauses)
    assert sorted(one.position.seq for one in open_store().load()) == [1] * 25 + [2] * 15


def test_a_throttled_read_asks_for_the_rest_again(between: tuple[Relay, DynamoStateStore], config: Config) -> None:
    server, store = between
    store.write(tickers(1))

    def some(request: Request) -> Answer:
        """Seven of the keys are answered, the others left unprocessed."""
        table = config.store.table
        wish = request.body["RequestItems"][table]
        answer = request.forward({"RequestItems": {table: {**wish, "Keys": wish["Keys"][:7]}}})
        rest = wish["Keys"][7:]
        return Answer(200, {**answer.body, "UnprocessedKeys": {table: {**wish, "Keys": rest}} if rest else {}})

    server.rule = some
    assert held(store) == {one.stream: one for one in tickers(1)}


def test_a_read_of_which_nothing_comes_through_ends(between: tuple[Relay, DynamoStateStore]) -> None:
    server, store = between
    server.rule = lambda request: Answer(200, {"Responses": {}, "UnprocessedKeys": request.body["RequestItems"]})
    with pytest.raises(StoreUnavailable, match="wants fewer requests"):
        store.load()


def test_a_statement_that_is_denied_is_no_outage(between: tuple[Relay, DynamoStateStore]) -> None:
    server, store = between
    denied = {"Error": {"Code": "AccessDenied", "Message": "no"}}
    server.rule = lambda request: Answer(200, {"Responses": [denied] * len(request.body["Statements"])})
    with pytest.raises(StoreMisconfigured, match="access denied: give the user its permissions"):
        store.write(tickers(1))


# States that lie in the object store --------------------------------------------------------------------------------


def test_an_oversize_state_is_an_object_and_the_superseded_one_goes(open_store: Open, shelf: Shelf) -> None:
    store = open_store()
    assert store.write([deep(1), *tickers(1)]) == 1 + len(PRODUCTS)
    assert store.write([deep(2)]) == 1
    assert shelf.seqs == [2]
    assert list(store.pointers().values()) == [one.key for one in shelf.contents]
    again = open_store()
    assert held(again)[BOOK] == deep(2)
    assert again.write([state(BOOK, 3, b"small")]) == 1
    assert shelf.seqs == []
    assert held(store)[BOOK].state == b"small"


def test_a_stale_writer_leaves_no_object_behind(open_store: Open, shelf: Shelf) -> None:
    stale, successor = open_store(), open_store()
    successor.write([deep(5)])
    assert stale.write([deep(4)]) == 0
    assert shelf.seqs == [5]
    successor.write([state(BOOK, 6, b"small")])
    assert stale.write([deep(5)]) == 0
    assert shelf.seqs == []


def test_the_same_state_of_two_writers_is_one_object(open_store: Open, shelf: Shelf) -> None:
    """Both snapshotters of a shard hold the same."""
    first, second = open_store(), open_store()
    assert first.write([deep(1)]) == 1
    assert second.write([deep(1)]) == 0
    assert shelf.seqs == [1]
    assert held(second)[BOOK] == deep(1)


@pytest.mark.parametrize("step", ["before the item", "before the old object goes"])
def test_a_crash_in_between_leaves_at_most_an_orphan(
    between: tuple[Relay, DynamoStateStore], shelf: Shelf, step: str
) -> None:
    class Crash(BaseException):
        pass

    def crash(_: object) -> None:
        raise Crash

    server, store = between
    store.write([deep(1)])
    if step == "before the item":
        server.rule = lambda _: DROPPED
        with pytest.raises(StoreUnavailable):
            store.write([deep(2)])
        server.rule = passing
    else:
        shelf.before_delete = crash
        with pytest.raises(Crash):
            store.write([deep(2)])
    assert shelf.seqs == [1, 2]
    assert held(store)[BOOK] == deep(1 if step == "before the item" else 2)


def test_an_object_that_cannot_be_deleted_is_left_to_gc(open_store: Open, shelf: Shelf) -> None:
    def fail(_: object) -> None:
        raise StoreUnavailable("down")

    store = open_store()
    store.write([deep(1)])
    shelf.before_delete = fail
    assert store.write([deep(2)]) == 1
    assert shelf.seqs == [1, 2]


def test_small_states_are_written_while_the_object_store_is_down(open_store: Open, shelf: Shelf) -> None:
    def fail(_: object) -> None:
        raise StoreUnavailable("the object store is down")

    store = open_store()
    shelf.before_put = fail
    with pytest.raises(StatesLeft, match=r"1 states .* wait for the object store: the object store is down") as caught:
        store.write([deep(1), *tickers(1)])
    assert caught.value.streams == {deep(1).stream}
    assert caught.value.written == len(tickers(1))
    assert held(store) == {one.stream: one for one in tickers(1)}
    shelf.before_put = lambda _: pytest.fail("it is left alone for a while")
    with pytest.raises(StatesLeft):
        store.write([deep(2)])


@pytest.mark.parametrize("fault", ["gone", "damaged", "empty"])
def test_a_state_whose_object_is_lost_is_left_out_until_it_is_written_anew(
    open_store: Open, shelf: Shelf, tmp_path: Path, fault: str
) -> None:
    store = open_store()
    store.write([deep(1), *tickers(1)])
    path = tmp_path / "objects" / shelf.contents[0].key
    body = path.read_bytes()
    path.unlink()
    if fault != "gone":
        path.write_bytes(b"" if fault == "empty" else body[:50] + b"\0" + body[51:])
    again = open_store()
    assert set(held(again)) == {one.stream for one in tickers(1)}
    assert again.write([deep(2)]) == 1
    assert held(again)[BOOK] == deep(2)


def test_a_state_that_is_superseded_while_it_is_read_is_the_newer_one(open_store: Open, shelf: Shelf) -> None:
    reader, writer = open_store(), open_store()
    writer.write([deep(1)])

    def supersede(_: str) -> None:
        shelf.before_get = lambda _: None
        writer.write([deep(2)])

    shelf.before_get = supersede
    assert held(reader)[BOOK] == deep(2)


def test_closing_closes_the_object_store_if_it_was_opened(open_store: Open, shelf: Shelf) -> None:
    unused, used = open_store(), open_store()
    used.write([deep(1)])
    for store in (unused, used, used):
        store.close()
    assert shelf.closed == 1


@pytest.mark.soak
def test_a_server_that_is_killed_and_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """DynamoDB Local itself, in the middle of writing; what a writer was told of is there afterwards."""
    with dynamodb(private=True) as server:
        use(monkeypatch, server)
        store = DynamoStateStore(server.config(tmp_path, attempts=1), PRODUCTS, partial(Shelf, tmp_path / "objects"))
        store.create()
        told = [0]
        begun = threading.Event()

        def write_on() -> None:
            for seq in range(1, 100_000):
                store.write([*tickers(seq), deep(seq)])
                told.append(seq)
                begun.set()

        def write() -> None:
            with pytest.raises(StoreUnavailable):
                write_on()

        writer = threading.Thread(target=write)
        writer.start()
        assert begun.wait(60)
        server.kill()
        writer.join()
        server.start()
        found = {one.position.seq for one in store.load()}
        assert found <= {told[-1], told[-1] + 1}
        assert store.write(tickers(told[-1] + 2)) == len(PRODUCTS)
        store.close()
