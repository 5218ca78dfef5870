"""A configuration as TOML text that `lfmesh.config.load` reads back to the same configuration."""

import json
from pathlib import Path

from lfmesh.config import Config


def to_toml(config: Config) -> str:
    """TOML, a table a section, in the order of the classes; keys that hold nothing (None) are left out."""
    tables = []
    for section, keys in config.model_dump().items():
        lines = [f"{key} = {_value(value)}" for key, value in keys.items() if value is not None]
        tables.append("\n".join([f"[{section}]", *lines]) + "\n")
    return "\n".join(tables)


def _value(value: object) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case int() | float():
            return repr(value)
        case str():  # JSON's escapes are valid in TOML's basic strings; StrEnum is a str too
            return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
        case Path():
            return _value(str(value))
        case dict():
            pairs = [f"{_value(key)} = {_value(item)}" for key, item in value.items() if item is not None]
            return f"{{ {', '.join(pairs)} }}"
        case list() | tuple():
            return f"[{', '.join(_value(item) for item in value)}]"
        case _:
            raise TypeError(f"no TOML form for {type(value).__name__}")
