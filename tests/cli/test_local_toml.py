"""configs/local.toml and lfmesh.config name the same keys with the same defaults, each explained."""

import re
import tomllib
from itertools import pairwise
from pathlib import Path

from lfmesh.config import Config, load

LOCAL_TOML = Path(__file__).parents[2] / "configs" / "local.toml"


def test_every_key_is_there_and_has_the_classes_default() -> None:
    written = tomllib.loads(LOCAL_TOML.read_text())
    defaults = Config().model_dump()
    assert list(written) == list(defaults), "sections, in the order of the class"
    for section, keys in defaults.items():
        assert list(written[section]) == list(keys), f"keys of [{section}], in the order of its class"
    assert load(LOCAL_TOML) == Config()


def test_every_key_and_section_has_a_comment_above_it() -> None:
    lines = LOCAL_TOML.read_text().splitlines()
    bare = [
        line for before, line in pairwise(lines) if re.match(r"(\[\w+\]|\w+ = )", line) and not before.startswith("#")
    ]
    assert bare == []


def test_the_other_configurations_are_valid() -> None:
    config = load(LOCAL_TOML.parent / "sim.toml")
    assert config.venue.ws_url.startswith("ws://127.0.0.1:")
    assert config.venue.rest_url.removeprefix("http") == config.venue.ws_url.removeprefix("ws")
