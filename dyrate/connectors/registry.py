"""Connectors by their names; imported one by one, so that the hash of what answers has the code of each."""

from collections.abc import Mapping
from typing import Any

from dyrate.connectors.compression import CompressionTokens
from dyrate.connectors.connector import Connector, Sizes
from dyrate.connectors.context import ContextToken
from dyrate.connectors.ldp import DownsampleProjector
from dyrate.connectors.nested_pool import NestedPool
from dyrate.connectors.projector import Projector
from dyrate.connectors.qformer import InstructQFormer, QFormer
from dyrate.connectors.resampler import Resampler
from dyrate.connectors.token_packer import TokenPacker
from dyrate.errors import DyrateError

_ALL: tuple[type[Connector], ...] = (
    CompressionTokens,
    ContextToken,
    DownsampleProjector,
    InstructQFormer,
    NestedPool,
    Projector,
    QFormer,
    Resampler,
    TokenPacker,
)


def connectors() -> dict[str, type[Connector]]:
    """Return every connector by its name."""
    return dict(sorted((one.name, one) for one in _ALL))


def build(name: str, sizes: Sizes, fields: Mapping[str, Any]) -> Connector:
    """Return a new connector, its weights as the official code begins with.

    Raises `DyrateError` for an unknown name or field, and for a value that does not fit the sizes.
    """
    known = connectors()
    if name not in known:
        raise DyrateError(f"connector {name!r} is unknown; known: {', '.join(known)}")
    allowed = known[name].field_names()
    for key in fields:
        if key not in allowed:
            raise DyrateError(f"connector {name} has no field {key!r}; it has {', '.join(allowed) or 'none'}")
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()}
    return known[name](sizes, **values)
