"""YAML or JSON files that say each thing once, in values that JSON has."""

import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from dyrate.errors import DyrateError
from dyrate.files import parse_json, read_bytes

# Far more than a study needs, and far less than what takes long: aliases of aliases multiply.
_DEEPEST, _MOST = 20, 100_000
_LONGEST_NAME = 255  # bytes, in most file systems
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def read_plain(path: Path, kind: type[DyrateError] = DyrateError) -> Any:
    """Read a YAML or JSON file; an error of that kind names it, and the line where a key stands twice."""
    data = read_bytes(path, kind)
    try:
        text = data.decode()
        return parse_json(text, str(path), kind) if path.suffix == ".json" else _yaml(text)
    except kind:
        raise
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # what is no UTF-8, a 13th month
        raise kind(f"{path} is no YAML: {' '.join(str(error).split())}") from None


def plain_problems(config: Any) -> Iterator[str]:
    """Yield a line, with its key, for what is no plain value: JSON has neither dates nor numbers for keys."""
    waiting: list[tuple[str, int, Any]] = [("", 0, config)]
    for _ in range(_MOST):
        if not waiting:
            return
        where, depth, value = waiting.pop()
        place = where or "the config"
        if isinstance(value, Mapping | list | tuple):
            if depth == _DEEPEST:
                yield f"{place:.200}: nested too deeply"
                return
            entries = value.items() if isinstance(value, Mapping) else enumerate(value)
            for key, inner in entries:
                if isinstance(value, Mapping) and (not isinstance(key, str) or _CONTROL.search(key)):
                    yield f"{place}: {key!r:.80} is no key: keys are text, in quotes where YAML sees none"
                else:
                    waiting.append((f"{where}.{key}" if where else str(key), depth + 1, inner))
        elif isinstance(value, str):
            if _CONTROL.search(value):
                yield f"{place}: {value!r:.200} has line breaks or other control characters"
            elif max(map(len, value.encode().split(b"/"))) > _LONGEST_NAME:
                yield f"{place}: {value!r:.80}... is too long to be the name of anything"
        elif isinstance(value, float):
            if not math.isfinite(value):
                yield f"{place}: {value} is no number to go by"
        elif value is not None and not isinstance(value, bool | int):
            yield f"{place}: YAML reads {str(value)!r:.80} as a {type(value).__name__}: write it in quotes"
    yield f"the config has more than {_MOST} values"


def _yaml(text: str) -> Any:
    return yaml.load(text, Loader=_OnceLoader)  # noqa: S506 - a SafeLoader


class _OnceLoader(yaml.SafeLoader):
    """Refuses a key that a mapping has twice; what `<<` merges may be overridden."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    line = key.start_mark.line + 1
                    raise yaml.YAMLError(f"line {line}: the key {key.value!r} stands there twice")
                seen.add(key.value)
        return node

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        super().flatten_mapping(node)
        # Each key once, the last: merges of merges would multiply.
        node.value = list({f"{key.tag} {key.value}": (key, value) for key, value in node.value}.values())
