"""What boto reports, translated once: StoreUnavailable, StoreMisconfigured, ObjectMissing, each one line that says how
to mend it. No line holds a credential, or what the server wrote in its own words, but for its error code.

Sources: https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html,
https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/Programming.Errors.html and `botocore/exceptions.py`.
"""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import NamedTuple

import urllib3.exceptions
from botocore import exceptions as boto
from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError

from lfmesh.errors import LfmeshError, ObjectMissing, StoreMisconfigured, StoreUnavailable


class Service(StrEnum):
    """Which of AWS's services, and how a fault names what is used of it."""

    DYNAMODB = "DynamoDB table"
    S3 = "S3 bucket"


class Subject(NamedTuple):
    """What a fault is about: a table or bucket by name, and where it is (for people)."""

    service: Service
    name: str
    place: str

    def __str__(self) -> str:
        return f'{self.service} "{self.name}" ({self.place})'


class NotMade(StoreMisconfigured):
    """The table or bucket does not exist: what `create` mends."""


_CREDENTIALS = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, the AWS profile or the role"
_NOT_MADE = frozenset(("NoSuchBucket", "ResourceNotFoundException"))

_MISCONFIGURED: dict[str, str] = {
    **dict.fromkeys(
        ("InvalidAccessKeyId", "UnrecognizedClientException", "InvalidClientTokenId", "IncompleteSignature",
         "MissingAuthenticationToken", "MissingAuthenticationTokenException", "InvalidToken", "InvalidTokenId",
         "AuthFailure", "InvalidSecurity", "NotSignedUp"),
        f"the access key is not known there: check {_CREDENTIALS}",
    ),
    **dict.fromkeys(
        ("SignatureDoesNotMatch", "InvalidSignatureException"),
        f"the secret key does not belong to the access key: check {_CREDENTIALS}",
    ),
    **dict.fromkeys(
        ("ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired"),
        f"the credentials have expired: renew {_CREDENTIALS}",
    ),
    **dict.fromkeys(
        ("RequestTimeTooSkewed", "RequestExpired", "RequestInTheFuture"),
        "this machine's clock and the server's differ too much: set the clock",
    ),
    **dict.fromkeys(
        ("AccessDenied", "AccessDeniedException", "AllAccessDisabled", "AccountProblem", "OptInRequired",
         "Forbidden", "403", "KMSAccessDeniedException", "KMS.DisabledException"),
        f"access denied: give the user its permissions, or check {_CREDENTIALS}",
    ),
    **dict.fromkeys(("Unauthorized", "401"), f"the credentials are refused: check {_CREDENTIALS}"),
    **dict.fromkeys(
        ("PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException",
         "InvalidRegionName", "301"),
        "it is in another region: set store.region (or AWS_DEFAULT_REGION)",
    ),
    **dict.fromkeys(
        ("BucketAlreadyExists", "InvalidBucketName"),
        "the name is taken by somebody else, or not allowed: choose another one for store.bucket",
    ),
}  # fmt: skip
"""Error codes after which asking again is of no use, and what to do."""

_THROTTLED = frozenset((
    "ProvisionedThroughputExceededException", "ProvisionedThroughputExceeded", "ThrottlingException", "Throttling",
    "ThrottledException", "RequestThrottledException", "RequestThrottled", "RequestLimitExceeded", "TooManyRequests",
    "TooManyRequestsException", "BandwidthLimitExceeded", "LimitExceededException", "SlowDown",
    "PriorRequestNotComplete", "TransactionInProgressException", "EC2ThrottledException", "429",
))  # fmt: skip
_MISSING = frozenset(("NoSuchKey", "404", "NotFound"))

_FAILURES: tuple[tuple[tuple[type[BotoCoreError], ...], type[StoreUnavailable], str], ...] = (
    ((boto.NoRegionError,), StoreMisconfigured, "no region is given: set store.region or AWS_DEFAULT_REGION"),
    ((boto.InvalidRegionError,), StoreMisconfigured, "no such region: mend store.region or AWS_DEFAULT_REGION"),
    ((boto.NoCredentialsError,), StoreMisconfigured, f"no credentials: give {_CREDENTIALS}"),
    (
        (boto.PartialCredentialsError, boto.ProfileNotFound, boto.ConfigNotFound, boto.ConfigParseError,
         boto.SSOError, boto.TokenRetrievalError, boto.UnknownCredentialError),
        StoreMisconfigured, f"no usable credentials: check {_CREDENTIALS}",
    ),
    ((boto.ConnectTimeoutError, boto.ReadTimeoutError), StoreUnavailable, "it does not answer in time"),
    ((boto.SSLError,), StoreUnavailable, "no TLS connection: check the address and AWS_CA_BUNDLE"),
    ((boto.EndpointConnectionError,), StoreUnavailable, "it cannot be reached: is it running, is the address right?"),
    (
        (boto.ConnectionClosedError, boto.ResponseStreamingError, boto.IncompleteReadError),
        StoreUnavailable, "it ended the connection before the answer was whole",
    ),
)  # fmt: skip
"""What can go wrong without an answer; the first line whose types fit counts."""


@contextmanager
def explained(subject: Subject, passing: Collection[str] = (), key: str = "") -> Iterator[None]:
    """Calls of boto within it raise our errors, chained.

    A ClientError whose code is in `passing` goes through as it is. ObjectMissing is raised only where `key` tells
    which object was asked for. A request that boto itself finds malformed is a fault of the program and goes through.
    """
    try:
        yield
    except ClientError as error:
        if code_of(error) in passing:
            raise
        raise _answered(error, subject, key) from error
    except (boto.ParamValidationError, boto.UnknownParameterError, boto.OperationNotPageableError):
        raise
    except (ResponseParserError, urllib3.exceptions.HTTPError) as error:  # which boto lets through
        raise StoreUnavailable(f"{subject} gave an answer that can't be read ({type(error).__name__})") from error
    except BotoCoreError as error:
        raise _failed(error, subject) from error


def code_of(error: ClientError) -> str:
    """The error code of an answer, such as `ConditionalCheckFailedException`; of an answer without a body its HTTP
    status."""
    return str(error.response.get("Error", {}).get("Code", "") or status_of(error))


def status_of(error: ClientError) -> int:
    """The HTTP status of an answer; 0 where it has none."""
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def throttled(code: str) -> bool:
    """True for the code of an answer that wants fewer requests."""
    return code in _THROTTLED


def of_code(code: str, status: int, subject: Subject, key: str = "") -> LfmeshError:
    """Our error for an error code of DynamoDB or S3 (`key`: see `explained`)."""
    if key and code in _MISSING:
        return ObjectMissing(f"{subject} has no object {key}")
    if code == "404" and subject.service is Service.S3:  # HEAD of a bucket: an answer without a body
        code = "NoSuchBucket"
    if code in _NOT_MADE:
        key = "table" if subject.service is Service.DYNAMODB else "bucket"
        return NotMade(f"{subject} does not exist: make it with `lfmesh store init`, or mend store.{key}")
    mend = _MISCONFIGURED.get(code)
    if mend is not None:
        return StoreMisconfigured(f"{subject}: {mend}")
    if throttled(code):
        return StoreUnavailable(f"{subject} wants fewer requests ({code})")
    answer = code if code == str(status) or not status else f"{status} {code}"
    return StoreUnavailable(f"{subject} answered {answer[:100]}")


def _answered(error: ClientError, subject: Subject, key: str) -> LfmeshError:
    return of_code(code_of(error), status_of(error), subject, key)


def _failed(error: BotoCoreError, subject: Subject) -> LfmeshError:
    for types, ours, text in _FAILURES:
        if isinstance(error, types):
            return ours(f"{subject}: {text}")
    return StoreUnavailable(f"{subject} cannot be used ({type(error).__name__})")
