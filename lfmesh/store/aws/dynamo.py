"""The state store in a DynamoDB table, for snapshotters on several machines. `items` tells how states lie in it.

Writes are conditional on the item's `version`, so that (term, epoch, seq) never goes back whoever writes. Two ways:

- *Together*: up to 25 conditional UPDATEs in one BatchExecuteStatement, each with an outcome of its own
  (https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/ql-reference.multiplestatements.batching.html).
  BatchWriteItem knows no conditions, and a transaction costs twice the write units and fails as a whole. Measured
  against DynamoDB Local, tickers: 0.17 ms of our CPU a state, where a PutItem each takes 1.6 ms.
- *Alone*, by PutItem: new items (an UPDATE makes none), large ones, and those that have to do with an object.

A state over DynamoDB's limit is put into the object store first, then its item is written with the object's key, then
the object that the item named before is deleted. A crash in between leaves an object that nothing points to;
`lfmesh store gc` removes it.

Needs the permissions dynamodb:DescribeTable, BatchGetItem, PutItem and PartiQLUpdate; `create` also CreateTable.
"""

import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from functools import partial
from itertools import batched
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from lfmesh.config import Config
from lfmesh.core.archive import checksum
from lfmesh.core.state_objects import parse_state
from lfmesh.errors import ObjectMissing, StatesLeft, StoreMisconfigured, StoreUnavailable
from lfmesh.ports import ObjectStore, StoredState
from lfmesh.store.aws import faults, items
from lfmesh.store.aws.items import Attributes, Prepared, Record
from lfmesh.store.aws.patience import Patience
from lfmesh.store.aws.session import dynamodb_client, table_subject
from lfmesh.types import CHANNELS, StreamKey

if TYPE_CHECKING:
    from mypy_boto3_dynamodb.type_defs import BatchStatementRequestTypeDef, KeysAndAttributesUnionTypeDef

_THREADS = 4
_STATEMENTS = 25
"""BatchExecuteStatement takes so many."""
_KEYS = 100
"""BatchGetItem takes so many."""
_TOGETHER_BYTES = 64 * 1024
"""A larger state is written alone, and so many bytes times four are written together."""
_READS = 5
"""So often an item is read again whose object was superseded while we read."""
_OBJECTS_PAUSE_S = 10.0
"""An object store that has refused a state is left alone for so long."""
_CREATION_ASKED_S = 1
_CREATION_ASKED = 60

_IN_USE = "ResourceInUseException"
_STALE = "ConditionalCheckFailedException"
_CODES = {
    "ResourceNotFound": "ResourceNotFoundException",
    "AccessDenied": "AccessDeniedException",
}
"""Codes of single statements by the names that whole requests have for them."""
_PASSING = frozenset(("ThrottlingError", "InternalServerError", "TransactionConflict"))


class _ObjectRefused(StoreUnavailable):
    """The object store, not this one, can't be used."""


class DynamoStateStore:
    """`lfmesh.ports.StateStore` for the streams of `products`, in the table store.table.

    `objects` opens the store of oversize states, at the first need; it is closed with this one. `write`, `load` and
    `pointers` may come from any thread, one at a time. `pause` waits before a retry, seconds.
    """

    def __init__(
        self,
        config: Config,
        products: Sequence[str],
        objects: Callable[[], ObjectStore],
        *,
        pause: Callable[[float], None] = time.sleep,
        inline_bytes: int = items.INLINE_BYTES,
    ) -> None:
        section = config.store
        self._table = section.table
        self._venue = config.venue.name
        self._subject = table_subject(section)
        self._patience = partial(Patience, section.attempts, section.request_timeout_s, pause, random.random)
        self._inline_bytes = inline_bytes
        self._keys = [items.key_of(self._venue, StreamKey(one, channel)) for one in products for channel in CHANNELS]
        self._open_objects = objects
        self._objects: ObjectStore | None = None
        self._objects_fault = ""
        self._objects_again_at = 0.0
        self._lock = threading.Lock()
        self._pointing: dict[StreamKey, str] = {}
        self._client = dynamodb_client(section)
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="dynamodb")
        fields = " ".join(f'SET "{name}"=?' for name in items.FIELDS)
        self._update = f'UPDATE "{self._table}" {fields} WHERE "{items.KEY}"=? AND "{items.VERSION}"<?'

    # The table --------------------------------------------------------------------------------------------------

    def create(self) -> str | None:
        """Make the table, paid by request; a line that says so, None if it was there."""
        with faults.explained(self._subject, passing=(_IN_USE, "ResourceNotFoundException")):
            try:
                self._client.describe_table(TableName=self._table)
            except self._client.exceptions.ResourceNotFoundException:
                return self._create()
            return None

    def check(self) -> None:
        """Reach the table with our credentials, and see that it is ours."""
        with faults.explained(self._subject):
            table = self._client.describe_table(TableName=self._table)["Table"]
        keys = [(key["AttributeName"], key["KeyType"]) for key in table["KeySchema"]]
        if keys != [(items.KEY, "HASH")]:
            raise StoreMisconfigured(
                f"{self._subject} is a table of something else (its key is {keys[0][0]}, not {items.KEY}):"
                " choose another name for store.table"
            )
        if table["TableStatus"] in ("CREATING", "DELETING"):
            raise StoreUnavailable(f"{self._subject} can't be used yet: it is {table['TableStatus'].lower()}")

    def _create(self) -> str | None:
        try:
            self._client.create_table(
                TableName=self._table,
                BillingMode="PAY_PER_REQUEST",
                KeySchema=[{"AttributeName": items.KEY, "KeyType": "HASH"}],
                AttributeDefinitions=[{"AttributeName": items.KEY, "AttributeType": "S"}],
            )
        except self._client.exceptions.ResourceInUseException:  # another one makes it at this moment
            made = None
        else:
            made = f"made the {self._subject}"
        self._client.get_waiter("table_exists").wait(
            TableName=self._table, WaiterConfig={"Delay": _CREATION_ASKED_S, "MaxAttempts": _CREATION_ASKED}
        )
        return made

    # Reading ----------------------------------------------------------------------------------------------------

    def load(self) -> list[StoredState]:
        """Everything stored for the products, ordered by stream.

        A state whose object is gone or damaged is left out, as if it had never been stored: the running mesh writes
        it anew. `lfmesh store verify` tells of it.
        """
        records = [self._read(item) for item in self._items(self._keys)]
        self._pointing = {record.stored.stream: record.pointer for record in records if record.pointer is not None}
        found = self._pool.map(self._whole, records)
        return sorted((stored for stored in found if stored is not None), key=lambda stored: stored.stream)

    def pointers(self) -> dict[StreamKey, str]:
        """Keys of the objects that hold states, by stream, without reading them."""
        records = map(self._read, self._items(self._keys))
        return {record.stored.stream: record.pointer for record in records if record.pointer is not None}

    def _items(self, keys: Iterable[str]) -> Iterator[Attributes]:
        for some in batched(keys, _KEYS):
            patience = self._patience()
            wanted: list[dict[str, Any]] = [{items.KEY: {"S": key}} for key in some]
            while wanted:
                request: KeysAndAttributesUnionTypeDef = {"Keys": wanted, "ConsistentRead": True}
                with faults.explained(self._subject):
                    answer = self._client.batch_get_item(RequestItems={self._table: request})
                found = answer["Responses"].get(self._table, [])
                if found:
                    patience.progressed()
                yield from found
                rest = answer["UnprocessedKeys"].get(self._table)
                wanted = list(rest["Keys"]) if rest is not None else []
                if wanted and not patience.again():
                    raise faults.of_code("ProvisionedThroughputExceeded", 0, self._subject)

    def _read(self, item: Attributes) -> Record:
        try:
            return items.read(item)
        except ValueError as error:
            raise StoreUnavailable(
                f"{self._subject}: the item {item.get(items.KEY, {}).get('S')} can't be read ({error}): delete it; a"
                " new one is then written by the running mesh"
            ) from error

    def _whole(self, record: Record) -> StoredState | None:
        """The state with its text; None where its object is gone or damaged, and no newer one has come."""
        for _ in range(_READS):
            stored, pointer = record
            if pointer is None:
                return stored
            name = parse_state(pointer)
            with suppress(ObjectMissing, ValueError):
                body = self._object_store().get(pointer)
                if name is not None and checksum(body) == name.checksum:
                    return StoredState(
                        stored.stream, stored.term, stored.position, stored.input, stored.ts, items.unpacked(body)
                    )
            again = next(self._items([items.key_of(self._venue, stored.stream)]), None)
            if again is None or items.pointer_of(again) == pointer:
                return None
            record = self._read(again)  # it was superseded between our reading the item and its object
        return None

    # Writing ----------------------------------------------------------------------------------------------------

    def write(self, states: Sequence[StoredState]) -> int:
        """Write what is newer than what is stored, of each stream the newest; how many were written.

        Throttled requests are made again as long as some come through. When it fails, what was written stays. Where
        only the object store can't be used, all states but those that need it are written: StatesLeft.
        """
        newest: dict[StreamKey, StoredState] = {}
        for state in states:
            known = newest.get(state.stream)
            if known is None or (state.term, state.position) > (known.term, known.position):
                newest[state.stream] = state
        together: list[Prepared] = []
        alone: list[Prepared] = []
        for state in newest.values():
            prepared = items.prepare(self._venue, state, self._inline_bytes)
            lonely = prepared.pointer or prepared.stream in self._pointing or prepared.size > _TOGETHER_BYTES
            (alone if lonely else together).append(prepared)
        patience = self._patience()
        jobs = [partial(self._write_together, group, patience) for group in _groups(together)]
        left: dict[StreamKey, str] = {}
        jobs += [partial(self._write_with_object, one, patience, left) for one in alone]
        written = self._run(jobs)
        if left:
            fault = next(iter(left.values()))
            raise StatesLeft(
                f"{len(left)} states over an item's 400 KB wait for the object store: {fault}", frozenset(left), written
            )
        return written

    def _run(self, jobs: Sequence[Callable[[], int]]) -> int:
        """Do all jobs in the pool's threads; after a failure none is begun any more, and the first one is raised."""
        failed = threading.Event()

        def run(job: Callable[[], int]) -> int:
            if failed.is_set():
                return 0
            try:
                return job()
            except BaseException:
                failed.set()
                raise

        if len(jobs) == 1:
            return run(jobs[0])
        running = [self._pool.submit(run, job) for job in jobs]
        wait(running)
        return sum(future.result() for future in running)

    def _write_together(self, group: Sequence[Prepared], patience: Patience) -> int:
        written = 0
        waiting = list(group)
        while waiting:
            statements = [self._statement(one) for one in waiting]
            with faults.explained(self._subject):
                responses = self._client.batch_execute_statement(Statements=statements)["Responses"]
            again: list[Prepared] = []
            code = ""
            for one, response in zip(waiting, responses, strict=True):
                error = response.get("Error")
                if error is None:
                    written += 1
                    patience.progressed()
                elif error.get("Code") == "ConditionalCheckFailed":
                    # With the item where it holds something newer; without, where there is none yet.
                    written += 0 if error.get("Item") else self._write_alone(one, patience)
                    patience.progressed()
                else:
                    code = _CODES.get(error["Code"], error["Code"])
                    if not (code in _PASSING or faults.throttled(code)):
                        raise faults.of_code(code, 0, self._subject)
                    again.append(one)
            waiting = again
            if waiting and not patience.again():
                raise faults.of_code(code, 0, self._subject)
        return written

    def _statement(self, one: Prepared) -> "BatchStatementRequestTypeDef":
        key = {"S": items.key_of(self._venue, one.stream)}
        return {
            "Statement": self._update,
            "Parameters": [*one.fields, key, {"S": one.version}],
            "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
        }

    def _write_with_object(self, one: Prepared, patience: Patience, left: dict[StreamKey, str]) -> int:
        """While the object store is down, what needs it is `left` at once, and all else is written."""
        if one.pointer is None:
            return self._write_alone(one, patience)
        if time.monotonic() < self._objects_again_at:
            left[one.stream] = self._objects_fault
            return 0
        try:
            return self._write_alone(one, patience)
        except _ObjectRefused as error:
            self._objects_fault, self._objects_again_at = str(error), time.monotonic() + _OBJECTS_PAUSE_S
            left[one.stream] = self._objects_fault
            return 0

    def _write_alone(self, one: Prepared, patience: Patience) -> int:
        if one.pointer is not None and one.body is not None:
            try:
                self._object_store().put(one.pointer, one.body)
            except StoreUnavailable as error:
                raise _ObjectRefused(str(error)) from error
        before = self._pointing.get(one.stream)
        with faults.explained(self._subject, passing=(_STALE,)):
            try:
                replaced = self._put(one, patience, whole=bool(one.pointer or before))
            except ClientError as error:
                held: Any = error.response.get("Item", {})
                self._superseded(one.pointer, held)
                return 0
        if one.pointer is not None:
            self._pointing[one.stream] = one.pointer
        else:
            self._pointing.pop(one.stream, None)
        old = items.pointer_of(replaced)
        self._delete(old, unless=one.pointer)
        return 1

    def _put(self, one: Prepared, patience: Patience, *, whole: bool) -> Attributes:
        """Write an item if it is newer; what it replaced, if `whole`."""
        key = {"S": items.key_of(self._venue, one.stream)}
        while True:
            try:
                answer = self._client.put_item(
                    TableName=self._table,
                    Item={items.KEY: key, **dict(zip(items.FIELDS, one.fields, strict=True))},
                    ConditionExpression="attribute_not_exists(#key) OR #version < :version",
                    ExpressionAttributeNames={"#key": items.KEY, "#version": items.VERSION},
                    ExpressionAttributeValues={":version": {"S": one.version}},
                    ReturnValues="ALL_OLD" if whole else "NONE",
                    ReturnValuesOnConditionCheckFailure="ALL_OLD" if one.pointer else "NONE",
                )
            except ClientError as error:
                if not faults.throttled(faults.code_of(error)) or not patience.again():
                    raise
            else:
                patience.progressed()
                return answer.get("Attributes", {})

    def _superseded(self, pointer: str | None, item: Attributes) -> None:
        """Our write came too late: the object that we made for it is of no use, unless the item that holds names it
        (an equal write of another). It can't come to be named later, since versions only grow."""
        if pointer is not None and item:
            self._delete(pointer, unless=items.pointer_of(item))

    def _delete(self, key: str | None, unless: str | None) -> None:
        if key is not None and key != unless:
            with suppress(StoreUnavailable):  # what stays is an orphan, as after a crash: gc removes it
                self._object_store().delete([key])

    # The rest ---------------------------------------------------------------------------------------------------

    def _object_store(self) -> ObjectStore:
        with self._lock:
            if self._objects is None:
                self._objects = self._open_objects()
            return self._objects

    def close(self) -> None:
        """Close connections and threads; idempotent."""
        self._pool.shutdown()
        self._client.close()
        with self._lock:
            if self._objects is not None:
                self._objects.close()
                self._objects = None


def _groups(prepared: Iterable[Prepared]) -> Iterator[list[Prepared]]:
    """What is written together: at most 25 states, of at most so many bytes."""
    group: list[Prepared] = []
    size = 0
    for one in prepared:
        if group and (len(group) == _STATEMENTS or size + one.size > 4 * _TOGETHER_BYTES):
            yield group
            group, size = [], 0
        group.append(one)
        size += one.size
    if group:
        yield group
