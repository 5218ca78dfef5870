"""The object store in an S3 bucket: of AWS, MinIO, SeaweedFS or another compatible server.

An object is stored with one conditional request (`If-None-Match: *`,
https://docs.aws.amazon.com/AmazonS3/latest/userguide/conditional-writes.html), a large one in parts that become an
object by one such request at the end: nothing is ever there in half, and of two writers of a key one wins. A server
that does not know the condition is asked before whether the key is taken; keys that carry a checksum make that safe.

Where a request was answered but the answer lost, the second try finds the key taken: `put` then says False.

Needs the permissions s3:ListBucket, GetObject, PutObject, DeleteObject, AbortMultipartUpload and, to clear away what
crashed writers left, ListBucketMultipartUploads; `create` also CreateBucket.
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from botocore.exceptions import BotoCoreError, ClientError

from lfmesh.config import StoreSection
from lfmesh.errors import StoreMisconfigured, StoreUnavailable
from lfmesh.ports import StoredObject
from lfmesh.store.aws.faults import NotMade, code_of, explained, of_code, status_of
from lfmesh.store.aws.session import bucket_subject, s3_client
from lfmesh.store.bodies import opened
from lfmesh.store.keys import can_begin, checked, checked_folder

if TYPE_CHECKING:
    from mypy_boto3_s3.type_defs import CompletedPartTypeDef, ListObjectsV2OutputTypeDef, ObjectTypeDef

LARGE_BYTES = 64 * 1024 * 1024
"""A larger object goes in parts: no request takes for ever, and what fails is not much."""
PART_BYTES = 8 * 1024 * 1024
"""Of this size, if that makes no more than `_MAX_PARTS`; S3 wants 5 MiB at least."""
_MAX_PARTS = 9_000
"""S3 takes 10,000."""
_DELETE_KEYS = 1000
_UNFINISHED = timedelta(days=1)
"""Parts that wait for the rest of their object for longer have no writer any more."""
_ONE_BY_ONE = frozenset(("NotImplemented", "501", "MissingContentMD5", "InvalidRequest"))
"""Servers that don't take a list of keys to delete."""
_OURS_ALREADY = ("BucketAlreadyOwnedByYou", "BucketAlreadyExists")


class S3ObjectStore:
    """`lfmesh.ports.ObjectStore` in a bucket, under `store.prefix`; StoreMisconfigured with an unusable AWS profile.

    Nothing is asked before the first call. `check` makes a missing bucket if `store.create` says so.
    Objects of more than `large_bytes` go in parts.
    """

    def __init__(self, section: StoreSection, *, large_bytes: int = LARGE_BYTES) -> None:
        self._large_bytes = large_bytes
        self._section = section
        self._bucket = section.bucket
        self._prefix = section.prefix
        self._subject = bucket_subject(section)
        self._client = s3_client(section)
        self._conditional = True
        self._by_folder: bool | None = None

    def create(self) -> str | None:
        """Make the bucket; a line that says so, None if it was there."""
        region = self._client.meta.region_name
        place: dict[str, Any] = {}
        if not self._section.s3_endpoint and region not in ("us-east-1", "aws-global"):
            place = {"CreateBucketConfiguration": {"LocationConstraint": region}}
        try:
            with explained(self._subject, passing=_OURS_ALREADY):
                self._client.create_bucket(Bucket=self._bucket, **place)
        except ClientError:
            return None  # it is there; whether it is ours, `check` tells
        return f"made the {self._subject}"

    def check(self) -> None:
        """Reach the bucket, and clear away the parts that killed writers have left."""
        try:
            self._reach()
        except NotMade:
            if not self._section.create:
                raise
            self.create()
            self._reach()
        self._sweep()

    def put(self, key: str, body: bytes | Path) -> bool:
        """Store an object; False if the key is taken. ValueError for a key that may not be."""
        name = self._prefix + checked(key)
        with opened(body) as (source, size), explained(self._subject):
            for _ in range(self._section.attempts + 1):
                source.seek(0)
                try:
                    return self._put(name, source, size)
                except ClientError as error:
                    match code_of(error):
                        case "PreconditionFailed" | "412":
                            return self._mended(name, source, size)
                        case "NotImplemented" | "501" if self._conditional:
                            self._conditional = False
                        case "ConditionalRequestConflict" | "409":
                            pass  # another writer of the key was at work: AWS asks to try again
                        case "NoSuchUpload" if self._taken(name, size):
                            return False  # an answer was lost: the parts have become the object before
                        case _:
                            raise
        raise StoreUnavailable(f"{self._subject}: others write {key} at the same time, again and again")

    def get(self, key: str) -> bytes:
        """An object's bytes; ObjectMissing."""
        name = self._prefix + checked(key)
        tries = self._section.attempts
        with explained(self._subject, key=key):
            while True:
                tries -= 1
                answer = self._client.get_object(Bucket=self._bucket, Key=name)
                try:
                    return answer["Body"].read()
                except BotoCoreError:  # boto tries requests again, but not the reading of what they bring
                    if tries <= 0:
                        raise
                finally:
                    answer["Body"].close()

    def list(self, prefix: str = "", after: str = "") -> Iterator[StoredObject]:
        """Objects in order of their keys; what comes or goes meanwhile may be listed or not."""
        if not can_begin(prefix):
            return
        with explained(self._subject):
            if self._lists_by_folder():
                yield from self._walk(prefix, after)
            else:
                yield from self._scan(prefix, after)

    def folders(self, prefix: str) -> Sequence[str]:
        """The distinct `prefix…/` one level below, in order; only those that hold an object."""
        checked_folder(prefix)
        with explained(self._subject):
            found = sorted(name for name, stored in self._level(prefix) if stored is None)
            if self._lists_by_folder():  # it shows a folder for a while after the last object in it is gone
                return [name for name in found if next(self._walk(name, ""), None)]
            return found

    def delete(self, keys: Sequence[str]) -> int:
        """Delete objects, a thousand in one request."""
        names = [self._prefix + checked(key) for key in keys]
        for start in range(0, len(names), _DELETE_KEYS):
            self._delete(names[start : start + _DELETE_KEYS])
        return len(names)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    # Writing ----------------------------------------------------------------------------------------------------

    def _put(self, name: str, source: BinaryIO, size: int) -> bool:
        large = size > self._large_bytes
        if (large or not self._conditional) and self._taken(name, size):
            return False
        if large:
            self._put_parts(name, source, max(PART_BYTES, -(-size // _MAX_PARTS)))
        elif self._conditional:
            self._client.put_object(Bucket=self._bucket, Key=name, Body=source, IfNoneMatch="*")
        else:
            self._client.put_object(Bucket=self._bucket, Key=name, Body=source)
        return True

    def _put_parts(self, name: str, source: BinaryIO, part_bytes: int) -> None:
        upload = self._client.create_multipart_upload(Bucket=self._bucket, Key=name)["UploadId"]
        try:
            parts: list[CompletedPartTypeDef] = []
            for number, part in enumerate(iter(lambda: source.read(part_bytes), b""), start=1):
                answer = self._client.upload_part(
                    Bucket=self._bucket, Key=name, UploadId=upload, PartNumber=number, Body=part
                )
                parts.append({"ETag": answer["ETag"], "PartNumber": number})
            condition: dict[str, Any] = {"IfNoneMatch": "*"} if self._conditional else {}
            self._client.complete_multipart_upload(
                Bucket=self._bucket, Key=name, UploadId=upload, MultipartUpload={"Parts": parts}, **condition
            )
        except BaseException:
            self._abort(name, upload)
            raise

    def _abort(self, name: str, upload: str) -> None:
        """Have the server forget what came of an object; what can't be said now, `check` does later."""
        with suppress(BotoCoreError, ClientError):
            self._client.abort_multipart_upload(Bucket=self._bucket, Key=name, UploadId=upload)

    def _mended(self, name: str, source: BinaryIO, size: int) -> bool:
        """The key is taken: False, unless by nothing (see `_taken`), which is then replaced."""
        if size == 0 or self._taken(name, size):
            return False
        source.seek(0)
        self._client.put_object(Bucket=self._bucket, Key=name, Body=source)
        return True

    def _taken(self, name: str, size: int) -> bool:
        """Whether there is such an object. An empty one, where `size` bytes are to be stored, does not count: a server
        can keep that of a writer that died after the headers (SeaweedFS 4.48, seen when it had been stopped)."""
        try:
            found = self._client.head_object(Bucket=self._bucket, Key=name)["ContentLength"]
        except ClientError as error:
            if status_of(error) == HTTPStatus.NOT_FOUND:
                return False
            raise
        return found > 0 or size == 0

    def _sweep(self) -> None:
        """Best effort: not every server lists unfinished uploads, and not everybody may see them."""
        oldest = datetime.now(UTC) - _UNFINISHED
        with explained(self._subject), suppress(ClientError):
            pages = self._client.get_paginator("list_multipart_uploads")
            for page in pages.paginate(Bucket=self._bucket, Prefix=self._prefix):
                for upload in page.get("Uploads", ()):
                    if upload["Initiated"] < oldest:
                        self._abort(upload["Key"], upload["UploadId"])

    def _delete(self, names: Sequence[str]) -> None:
        with explained(self._subject):
            try:
                answer = self._client.delete_objects(
                    Bucket=self._bucket, Delete={"Objects": [{"Key": name} for name in names], "Quiet": True}
                )
            except ClientError as error:
                if code_of(error) not in _ONE_BY_ONE:
                    raise
                for name in names:
                    self._client.delete_object(Bucket=self._bucket, Key=name)
                return
        for fault in answer.get("Errors", ()):
            if fault.get("Code") != "NoSuchKey":
                raise of_code(str(fault.get("Code", "unknown")), 0, self._subject)

    # Reading ----------------------------------------------------------------------------------------------------

    def _reach(self) -> None:
        with explained(self._subject):
            answer = self._client.list_objects_v2(Bucket=self._bucket, Prefix=self._prefix, MaxKeys=1)
        self._whole(answer)
        self._by_folder = _sorts_bare_names(answer)

    def _lists_by_folder(self) -> bool:
        if self._by_folder is None:
            self._reach()
        return bool(self._by_folder)

    def _scan(self, prefix: str, after: str) -> Iterator[StoredObject]:
        """One listing of all keys, as the server gives them; a server that doesn't sort them is told of."""
        last = ""
        pages = self._client.get_paginator("list_objects_v2")
        for page in pages.paginate(
            Bucket=self._bucket, Prefix=self._prefix + prefix, StartAfter=self._prefix + after if after else ""
        ):
            self._whole(page)
            for stored in map(self._stored, page.get("Contents", ())):
                if stored.key < last:
                    raise StoreMisconfigured(f"{self._subject} lists keys out of order: use another kind of bucket")
                last = stored.key
                if last > after:
                    yield stored

    def _walk(self, folder: str, after: str) -> Iterator[StoredObject]:
        """Keys that begin with `folder`, one level after the other, in order."""
        for name, stored in sorted(self._level(folder), key=lambda pair: pair[0]):
            if stored is not None:
                if name > after:
                    yield stored
            elif name > after or after.startswith(name):
                yield from self._walk(name, after)

    def _level(self, prefix: str) -> Iterator[tuple[str, StoredObject | None]]:
        """Objects and folders (ending with a slash, no object) one level below a prefix."""
        pages = self._client.get_paginator("list_objects_v2")
        for page in pages.paginate(Bucket=self._bucket, Prefix=self._prefix + prefix, Delimiter="/"):
            self._whole(page)
            for found in page.get("CommonPrefixes", ()):
                yield found["Prefix"].removeprefix(self._prefix), None
            for stored in map(self._stored, page.get("Contents", ())):
                if not stored.key.endswith("/"):
                    yield stored.key, stored

    def _whole(self, page: "ListObjectsV2OutputTypeDef") -> None:
        """An answer without a body would pass for a listing without objects: a listing says whether it has an end."""
        if "IsTruncated" not in page:
            raise StoreUnavailable(f"{self._subject} gave a listing that can't be read")

    def _stored(self, found: "ObjectTypeDef") -> StoredObject:
        written = round(found["LastModified"].timestamp() * 1000) * 1_000_000
        return StoredObject(found["Key"].removeprefix(self._prefix), found["Size"], written)


def _sorts_bare_names(answer: "ListObjectsV2OutputTypeDef") -> bool:
    """True for SeaweedFS, which lists `a/x` before `a-b/x`, and nothing of `a/` after `a`: folder by folder it is
    right."""
    return answer["ResponseMetadata"]["HTTPHeaders"].get("server", "").startswith("SeaweedFS")
