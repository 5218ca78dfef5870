"""One recorded session for all tests here, which only read it."""

from pathlib import Path

import pytest

from lfmesh.types import StreamKey
from tests.archive.market import Market
from tests.cli.archive.recorded import keep, markets


@pytest.fixture(scope="session")
def known() -> dict[StreamKey, Market]:
    """The streams of two products."""
    return markets("BTC-USD", "ETH-USD")


@pytest.fixture(scope="session")
def data_dir(known: dict[StreamKey, Market], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where they are archived."""
    folder = tmp_path_factory.mktemp("recorded")
    keep(folder, known)
    return folder
