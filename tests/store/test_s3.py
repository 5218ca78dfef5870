"""What the S3 store makes of answers: a server with fixed ones, and the real one with wrong credentials."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random
from threading import Barrier

import pytest

from lfmesh.config import Config
from lfmesh.errors import ObjectMissing, StoreMisconfigured, StoreUnavailable
from lfmesh.store.aws.s3 import LARGE_BYTES, PART_BYTES, S3ObjectStore
from lfmesh.store.opening import open_objects
from loadgen.stores.server import SECRET_KEY
from tests import stores
from tests.store.wire import Answer, Asked, Canned, each, error

LISTING = """<?xml version="1.0"?><ListBucketResult><IsTruncated>false</IsTruncated>{}</ListBucketResult>"""


@pytest.fixture(autouse=True)
def _credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    endpoint = stores.Endpoint("s3", "")
    stores.use(monkeypatch, endpoint)


def canned(server: Canned, *, large_bytes: int = LARGE_BYTES, **store: object) -> S3ObjectStore:
    keys = {"s3_endpoint": server.url, "path_style": True, "attempts": 1, "request_timeout_s": 5.0, **store}
    return S3ObjectStore(Config().override({"store": keys}).store, large_bytes=large_bytes)


def told(kind: type[StoreUnavailable], text: str, call: Callable[[], object]) -> None:
    """The call fails in one line that says this, and holds nothing secret."""
    with pytest.raises(kind, match=text) as raised:
        call()
    assert isinstance(raised.value, StoreMisconfigured) == (kind is StoreMisconfigured)
    assert "\n" not in str(raised.value)
    assert "Hush" not in str(raised.value)
    assert SECRET_KEY not in str(raised.value)


@pytest.mark.parametrize(
    ("status", "code", "text"),
    [
        (503, "SlowDown", r"wants fewer requests \(SlowDown\)"),
        (503, "ServiceUnavailable", "answered 503 ServiceUnavailable"),
        (500, "InternalError", "answered 500 InternalError"),
        (507, "XMinioStorageFull", "answered 507 XMinioStorageFull"),
        (400, "SomethingNew", "answered 400 SomethingNew"),
    ],
)
def test_trouble_that_may_pass(status: int, code: str, text: str) -> None:
    with Canned(each([error(status, code)])) as server:
        store = canned(server)
        told(StoreUnavailable, text, store.check)
        told(StoreUnavailable, text, lambda: store.put("a", b""))
        told(StoreUnavailable, text, lambda: store.get("a"))
        told(StoreUnavailable, text, lambda: list(store.list()))
        told(StoreUnavailable, text, lambda: store.delete(["a"]))


@pytest.mark.parametrize(
    ("status", "code", "text"),
    [
        (403, "AccessDenied", "access denied"),
        (400, "ExpiredToken", "the credentials have expired: renew AWS_ACCESS_KEY_ID"),
        (403, "RequestTimeTooSkewed", "set the clock"),
        (404, "NoSuchBucket", r'S3 bucket "lfmesh" \(http://127.*\) does not exist: make it with `lfmesh store init`'),
        (400, "AuthorizationHeaderMalformed", "it is in another region: set store.region"),
        (403, "SignatureDoesNotMatch", "the secret key does not belong to the access key"),
    ],
)
def test_trouble_that_somebody_must_mend(status: int, code: str, text: str) -> None:
    with Canned(each([error(status, code)])) as server:
        store = canned(server)
        told(StoreMisconfigured, text, store.check)
        told(StoreMisconfigured, text, lambda: store.put("a", b""))
        told(StoreMisconfigured, text, lambda: store.get("a"))


@pytest.mark.parametrize("body", [b"", b"<ListBucketResult>", b"not at all XML", b'{"json": true}'])
def test_an_answer_that_is_none(body: bytes) -> None:
    with Canned(each([Answer(500, body), Answer(200, body)])) as server:
        store = canned(server)
        for _ in range(2):
            told(StoreUnavailable, r"answered 500|can't be read", lambda: list(store.list()))


def test_passing_trouble_is_waited_out() -> None:
    with Canned(each([error(503, "SlowDown"), Answer(200, b"body")])) as server:
        assert canned(server, attempts=2).get("a") == b"body"
        assert len(server.asked) == 2


def test_a_body_that_ends_too_early_is_read_again() -> None:
    half = Answer(200, b"ha", length=4)
    with Canned(each([half, Answer(200, b"half")])) as server:
        assert canned(server, attempts=2).get("a") == b"half"
    with Canned(each([half])) as server:
        told(StoreUnavailable, "ended the connection before", lambda: canned(server, attempts=2).get("a"))
        assert len(server.asked) == 2


def test_an_answer_that_was_lost_means_that_the_key_is_taken() -> None:
    with Canned(each([None, error(412, "PreconditionFailed")])) as server:
        assert not canned(server, attempts=2, request_timeout_s=0.1).put("a", b"")
        assert [asked.headers.get("If-None-Match") for asked in server.asked] == ["*", "*"]


def test_what_a_torn_upload_left_is_replaced_and_nothing_else() -> None:
    stored = b""

    def answer(asked: Asked) -> Answer:
        nonlocal stored
        if asked.headers.get("If-None-Match"):
            return error(412, "PreconditionFailed")
        if asked.method == "PUT":
            stored = asked.body
        return Answer(200, length=len(stored)) if asked.method == "HEAD" else Answer(200)

    with Canned(answer) as server:
        store = canned(server)
        assert store.put("a", b"body")
        assert stored == b"body"
        assert not store.put("a", b"other")
        assert stored == b"body"


def test_a_conflict_with_another_writer_is_tried_again() -> None:
    with Canned(each([error(409, "ConditionalRequestConflict"), Answer(200)])) as server:
        assert canned(server).put("a", b"body")
        assert [asked.body for asked in server.asked] == [b"body", b"body"]
    with Canned(each([error(409, "ConditionalRequestConflict")])) as server:
        told(StoreUnavailable, "others write a at the same time", lambda: canned(server).put("a", b""))


def test_a_server_without_conditions_is_asked_first() -> None:
    taken = False

    def answer(asked: Asked) -> Answer:
        nonlocal taken
        if asked.headers.get("If-None-Match"):
            return error(501, "NotImplemented")
        if asked.method == "HEAD":
            return Answer(200, length=4) if taken else Answer(404)
        taken = True
        return Answer(200)

    with Canned(answer) as server:
        store = canned(server)
        assert store.put("a", b"body")
        assert not store.put("a", b"other")
        assert [asked.method for asked in server.asked] == ["PUT", "HEAD", "PUT", "HEAD"]


def test_a_large_object_that_fails_is_taken_back() -> None:
    def answer(asked: Asked) -> Answer:
        if asked.method == "HEAD":
            return Answer(404)
        if asked.method == "POST":
            return Answer(
                200, b"<InitiateMultipartUploadResult><UploadId>upload</UploadId></InitiateMultipartUploadResult>"
            )
        return Answer(204) if asked.method == "DELETE" else error(500, "InternalError")

    with Canned(answer) as server:
        told(StoreUnavailable, "answered 500", lambda: canned(server, large_bytes=1).put("a", b"body"))
        assert [(asked.method, asked.path) for asked in server.asked][-1] == ("DELETE", "/lfmesh/a?uploadId=upload")


def test_what_killed_writers_left_is_cleared_away() -> None:
    def upload(key: str, initiated: str) -> str:
        return f"<Upload><Key>{key}</Key><UploadId>{key}-id</UploadId><Initiated>{initiated}</Initiated></Upload>"

    uploads = upload("old", "2021-04-17T00:00:00.000Z") + upload("young", "2999-01-01T00:00:00.000Z")

    def answer(asked: Asked) -> Answer:
        if "uploads" in asked.path:
            return Answer(200, f"<ListMultipartUploadsResult>{uploads}</ListMultipartUploadsResult>".encode())
        return Answer(204) if asked.method == "DELETE" else Answer(200, LISTING.format("").encode())

    with Canned(answer) as server:
        canned(server).check()
        assert [asked.path for asked in server.asked if asked.method == "DELETE"] == ["/lfmesh/old?uploadId=old-id"]


def test_a_bucket_that_may_not_be_made_is_told() -> None:
    def answer(asked: Asked) -> Answer:
        return error(403, "AccessDenied") if asked.method == "PUT" else error(404, "NoSuchBucket")

    with Canned(answer) as server:
        told(StoreMisconfigured, "access denied", lambda: canned(server).create())
        told(StoreMisconfigured, "access denied", lambda: canned(server, create=True).check())
        told(StoreMisconfigured, "does not exist", lambda: canned(server).check())


def test_a_bucket_is_made_in_its_region() -> None:
    """Only AWS is told where; servers of one's own have but one region."""
    with Canned(each([Answer(200)])) as server:
        assert canned(server, region="eu-west-1").create() is not None
        assert server.asked[0].body == b""
    with Canned(each([error(409, "BucketAlreadyOwnedByYou")])) as server:
        assert canned(server).create() is None


def test_a_server_that_lists_no_uploads_is_not_asked_for_more() -> None:
    def answer(asked: Asked) -> Answer:
        return error(501, "NotImplemented") if "uploads" in asked.path else Answer(200, LISTING.format("").encode())

    with Canned(answer) as server:
        canned(server).check()


def test_keys_out_of_order_are_told() -> None:
    def stored(key: str) -> str:
        return f"<Contents><Key>{key}</Key><Size>1</Size><LastModified>2021-04-17T00:00:00Z</LastModified></Contents>"

    listing = LISTING.format(stored("a/x") + stored("a-b/x")).encode()
    with Canned(each([Answer(200, listing)])) as server:
        told(StoreMisconfigured, "lists keys out of order", lambda: list(canned(server).list()))
    listing = LISTING.format(stored("p/a-b/x") + stored("p/a/x")).encode()
    with Canned(each([Answer(200, listing)])) as server:
        assert [(one.key, one.written_ns) for one in canned(server, prefix="p/").list()] == [
            ("a-b/x", 1_618_617_600_000_000_000), ("a/x", 1_618_617_600_000_000_000)
        ]  # fmt: skip


def test_one_flat_listing_where_the_server_sorts() -> None:
    """A request for a thousand keys, and not one for each hour's folder."""
    with Canned(each([Answer(200, LISTING.format("").encode())])) as server:
        assert list(canned(server).list("tape/", "tape/a")) == []
        paths = [asked.path for asked in server.asked if "max-keys" not in asked.path]
        assert len(paths) == 1
        assert "start-after=tape%2Fa" in paths[0]
        assert "delimiter" not in paths[0]


def test_keys_that_could_not_be_deleted_are_told() -> None:
    faults = "<DeleteResult><Error><Key>a</Key><Code>{}</Code><Message>Hush</Message></Error></DeleteResult>"
    with Canned(each([Answer(200, faults.format("AccessDenied").encode())])) as server:
        told(StoreMisconfigured, "access denied", lambda: canned(server).delete(["a"]))
    with Canned(each([Answer(200, faults.format("InternalError").encode())])) as server:
        told(StoreUnavailable, "answered InternalError", lambda: canned(server).delete(["a"]))
    with Canned(each([Answer(200, faults.format("NoSuchKey").encode())])) as server:
        assert canned(server).delete(["a"]) == 1


def test_keys_are_deleted_one_by_one_where_the_server_takes_no_lists() -> None:
    with Canned(each([error(400, "MissingContentMD5"), Answer(204)])) as server:
        assert canned(server).delete(["a", "b"]) == 2
        assert [(asked.method, asked.path) for asked in server.asked[1:]] == [
            ("DELETE", "/lfmesh/a"), ("DELETE", "/lfmesh/b")
        ]  # fmt: skip


def test_a_missing_object_is_no_trouble() -> None:
    with Canned(each([error(404, "NoSuchKey")])) as server, pytest.raises(ObjectMissing, match=r"no object a/b$"):
        canned(server).get("a/b")


def test_an_address_with_a_password_is_told_without() -> None:
    store = S3ObjectStore(
        Config().override({"store": {"s3_endpoint": "http://user:Hush@127.0.0.1:1", "attempts": 1}}).store
    )
    told(StoreUnavailable, r"\(http://127.0.0.1:1\): it cannot be reached", store.check)


# The real server ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environment", "text"),
    [
        ({"AWS_ACCESS_KEY_ID": "nobody"}, "the access key is not known there: check AWS_ACCESS_KEY_ID"),
        ({"AWS_SECRET_ACCESS_KEY": "Hush"}, "the secret key does not belong to the access key"),
        ({"AWS_ACCESS_KEY_ID": "reader"}, "access denied"),
        ({"AWS_ACCESS_KEY_ID": ""}, "no credentials: give AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"),
        ({"AWS_SECRET_ACCESS_KEY": ""}, "no usable credentials"),
        ({"AWS_PROFILE": "nowhere"}, "no usable credentials"),
    ],
    ids=["access key", "secret key", "permission", "none", "half", "profile"],
)
def test_wrong_credentials_are_told_in_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], text: str
) -> None:
    endpoint = stores.s3()
    open_objects(endpoint.config(tmp_path, bucket="contract", create=True)).check()
    stores.use(monkeypatch, endpoint, **environment)
    config = endpoint.config(tmp_path, bucket="contract", create=True)
    told(StoreMisconfigured, text, lambda: open_objects(config).check())
    told(StoreMisconfigured, text, lambda: open_objects(config).put("a", b""))
    told(StoreMisconfigured, text, lambda: open_objects(config).get("a"))
    told(StoreMisconfigured, text, lambda: list(open_objects(config).list()))


def test_a_missing_bucket_is_told_or_made(tmp_path: Path) -> None:
    config = stores.s3().config(tmp_path)
    store = open_objects(config)
    for call in (store.check, lambda: store.put("a", b""), lambda: store.get("a"), lambda: list(store.list())):
        told(StoreMisconfigured, f'S3 bucket "{config.store.bucket}".*does not exist: make it with `lfmesh', call)
    open_objects(config.override({"store": {"create": True}})).check()
    store.check()
    assert store.put("a", b"")


def test_a_large_object_goes_in_parts_and_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    endpoint = stores.s3()
    stores.use(monkeypatch, endpoint)
    config = endpoint.config(tmp_path, create=True)
    open_objects(config).check()
    store = S3ObjectStore(config.store, large_bytes=PART_BYTES)
    body = Random(1).randbytes(1024) * (PART_BYTES // 1024) + b"and a little more"
    (tmp_path / "file").write_bytes(body)
    assert store.put("a/file", tmp_path / "file")
    assert not store.put("a/file", b"other")
    assert not store.put("a/file", bytes(PART_BYTES + 1))
    assert store.get("a/file") == body


def test_of_writers_in_parts_none_makes_a_mixture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """S3 lets one of them win; SeaweedFS can say so to more than one, and keeps the object of one."""
    endpoint = stores.s3()
    stores.use(monkeypatch, endpoint)
    config = endpoint.config(tmp_path, create=True)
    open_objects(config).check()
    begin = Barrier(3)

    def write(number: int) -> bool:
        store = S3ObjectStore(config.store, large_bytes=1)
        begin.wait()
        return store.put("a/key", bytes([number]) * (PART_BYTES + 1))

    with ThreadPoolExecutor(3) as pool:
        won = list(pool.map(write, range(3)))
    kept = open_objects(config).get("a/key")
    assert won[kept[0]]
    assert kept == bytes([kept[0]]) * (PART_BYTES + 1)
