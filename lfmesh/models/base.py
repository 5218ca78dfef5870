"""What all models of the client protocol share: frozen, strict, unknown fields ignored, decimals exact."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from lfmesh.exact import Exact
from lfmesh.types import Channel

MAX_INTEGER = 2**53 - 1
"""The largest integer that JavaScript carries exactly; only the `ts_` fields may be larger."""


class Model(BaseModel):
    """Base of every message: frozen; a wrong type is an error (`"5"` is no integer); unknown fields are ignored."""

    model_config = ConfigDict(
        frozen=True, strict=True, extra="ignore", use_attribute_docstrings=True, hide_input_in_errors=True
    )


Count = Annotated[int, Field(ge=0, le=MAX_INTEGER)]
"""An integer from 0 to 2**53 - 1."""
Nanoseconds = Annotated[int, Field(ge=0, lt=2**63)]
"""A time in ns since the Unix epoch; needs 64 bits (a BigInt in JavaScript)."""
Label = Annotated[str, Field(min_length=1, max_length=200)]
"""A short text."""
RequestId = Annotated[str, Field(max_length=200)] | Annotated[int, Field(ge=-MAX_INTEGER, le=MAX_INTEGER)]
"""Whatever a client names its request; comes back in the answer."""
ChannelName = Annotated[Channel, Field(strict=False)]
"""ticker, trades or book."""
BookLevel = Annotated[tuple[Exact, Exact], Field(strict=False)]
"""[px, qty]; a size of zero removes the level."""
