"""Decoding strategies by name, and sampling whose draws belong to the request and not to the batch."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dyrate import registry
from dyrate.errors import DyrateError

if TYPE_CHECKING:
    from transformers import LogitsProcessorList

ENGINES = ("auto", "transformers", "graph")
"""What can generate; see `generator`."""
_BEAM = re.compile(r"beam-([2-9]|[1-9][0-9]+)")
_TOP_P: dict[str, float | int] = {"top_p": 0.9, "temperature": 1.0, "seed": 0}


def decoding_spec(spec: str | Mapping[str, Any]) -> dict[str, Any]:
    """Fill in a decoding strategy: a name, or a mapping with `name` and its settings.

    `greedy`; `beam-2`, `beam-5`, any `beam-<n>`; `top_p` with `top_p` in (0, 1], `temperature` > 0 and
    `seed`. Raises `DyrateError` for anything else.
    """
    given = {"name": spec} if isinstance(spec, str) else dict(spec)
    name = given.get("name")
    if not isinstance(name, str):
        raise DyrateError(f"decoding {spec!r} has no name; try {{'name': 'greedy'}}")
    if name == "greedy":
        full: dict[str, Any] = {"name": name, "num_beams": 1, "do_sample": False}
    elif match := _BEAM.fullmatch(name):
        full = {"name": name, "num_beams": int(match[1]), "do_sample": False}
    elif name == "top_p":
        full = {"name": name, "num_beams": 1, "do_sample": True, **_TOP_P}
    else:
        raise DyrateError(f"unknown decoding {name!r}; known: greedy, beam-2, beam-5 (any beam-<n>), top_p")
    settings = _TOP_P if name == "top_p" else {}
    for key, value in given.items():
        if key not in full:
            known = f"its settings are {', '.join(settings)}" if settings else "it has no settings"
            raise DyrateError(f"decoding {name!r} has no setting {key!r}; {known}")
        if key not in settings and value != full[key]:
            raise DyrateError(f"decoding {name!r} means {key}={full[key]!r}, not {value!r}")
        full[key] = value
    if name == "top_p":
        _check_top_p(full)
    return full


def decoding_slug(spec: Mapping[str, Any]) -> str:
    """File name of a strategy: its name, and what it sets otherwise than by default: `top_p-top_p=0.7`."""
    settings = _TOP_P if spec["name"] == "top_p" else {}
    changed = {key: spec[key] for key in settings if key in spec and spec[key] != settings[key]}
    return registry.slug({"name": spec["name"], **changed})


def _check_top_p(spec: Mapping[str, Any]) -> None:
    def number(key: str) -> bool:
        return isinstance(spec[key], int | float) and not isinstance(spec[key], bool)

    if not number("top_p") or not 0 < spec["top_p"] <= 1:
        raise DyrateError(f"decoding top_p: top_p is {spec['top_p']!r}; it should be in (0, 1]")
    if not number("temperature") or not spec["temperature"] > 0:
        raise DyrateError(f"decoding top_p: temperature is {spec['temperature']!r}; it should be above 0")
    if not isinstance(spec["seed"], int) or isinstance(spec["seed"], bool):
        raise DyrateError(f"decoding top_p: seed is {spec['seed']!r}; it should be an integer")


def generation_arguments(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of `generate()` for a full spec; for sampling, `seeded_sampling` goes with them."""
    return {
        "do_sample": False,
        "num_beams": spec["num_beams"],
        "temperature": None,
        "top_p": None,
        "top_k": None,
    }


def seeded_sampling(spec: Mapping[str, Any], requests: Sequence[str]) -> "LogitsProcessorList | None":
    """Logits processors that sample row i from its own random stream, seeded by the spec and `requests[i]`.

    They add Gumbel noise to the tempered, top-p-filtered log-probabilities, so that greedy search draws from
    exactly that distribution. What a request draws thus depends on neither its neighbours nor its place in a
    batch; it still depends on its logits, whose last bits may differ between batch sizes, so a near tie can
    fall either way. None where the spec does not sample.
    """
    if not spec["do_sample"]:
        return None
    import torch
    from transformers import LogitsProcessor, LogitsProcessorList, TemperatureLogitsWarper, TopPLogitsWarper

    class _Gumbel(LogitsProcessor):  # type: ignore[misc]
        def __init__(self, streams: list[torch.Generator]) -> None:
            self._streams = streams

        def __call__(self, input_ids: torch.LongTensor, scores: torch.Tensor) -> torch.Tensor:
            vocabulary = scores.shape[-1]
            uniform = torch.stack(
                [torch.rand(vocabulary, generator=stream, dtype=torch.float64) for stream in self._streams]
            )
            noise = -torch.log(-torch.log(uniform.clamp(1e-300, 1 - 1e-16)))
            return scores.double().log_softmax(-1) + noise.to(scores.device)

    def stream(request: str) -> torch.Generator:
        digest = hashlib.sha256(f"{spec['seed']}\0{request}".encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big", signed=True))

    return LogitsProcessorList(
        [
            TemperatureLogitsWarper(float(spec["temperature"])),
            TopPLogitsWarper(float(spec["top_p"])),
            _Gumbel([stream(request) for request in requests]),
        ]
    )
