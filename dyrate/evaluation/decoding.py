"""Decoding strategies by name, and sampling whose draws belong to the request and not to the batch."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from dyrate import registry
from dyrate.errors import DyrateError
from dyrate.typed import Natural, Record

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import LogitsProcessorList

ENGINES = ("auto", "transformers", "graph")
"""What can generate; see `generator`."""
_BEAM = re.compile(r"beam-([2-9]|[1-9][0-9]|100)")


class _TopP(Record):
    """Settings of `top_p`.

    Below 0.001, float32 logits overflow or all but one token is cut off anyway.
    """

    top_p: Annotated[float, Field(ge=0.001, le=1)] = 0.9
    temperature: Annotated[float, Field(ge=0.001, le=1000)] = 1.0
    seed: Annotated[Natural, Field(lt=2**63)] = 0


_TOP_P: dict[str, float | int] = _TopP().model_dump()


def decoding_spec(spec: str | Mapping[str, Any]) -> dict[str, Any]:
    """Fill in a decoding strategy: a name, or a mapping with `name` and its settings.

    `greedy`; `beam-2`, `beam-5`, any `beam-<n>` up to 100; `top_p` with `top_p` in [0.001, 1], `temperature`
    in [0.001, 1000] and `seed`. Raises `DyrateError` for anything else.
    """
    given = {"name": spec} if isinstance(spec, str) else spec
    name = given.get("name") if isinstance(given, Mapping) else None
    if not isinstance(name, str):
        raise DyrateError(f"decoding {spec!r} has no name; try {{'name': 'greedy'}}")
    if name == "greedy":
        full: dict[str, Any] = {"name": name, "num_beams": 1, "do_sample": False}
    elif match := _BEAM.fullmatch(name):
        full = {"name": name, "num_beams": int(match[1]), "do_sample": False}
    elif name == "top_p":
        full = {"name": name, "num_beams": 1, "do_sample": True, **_TOP_P}
    else:
        raise DyrateError(
            f"unknown decoding {name!r}; known: greedy, beam-2, beam-5 (any beam-<n> up to 100), top_p"
        )
    settings = _TOP_P if name == "top_p" else {}
    for key, value in given.items():
        if key not in full:
            known = f"its settings are {', '.join(settings)}" if settings else "it has no settings"
            raise DyrateError(f"decoding {name!r} has no setting {key!r}; {known}")
        if key not in settings and value != full[key]:
            raise DyrateError(f"decoding {name!r} means {key}={full[key]!r}, not {value!r}")
    asked = {key: value for key, value in given.items() if key in settings}
    return {**full, **_TopP.of(asked, "decoding top_p: {}".format).model_dump()} if settings else full


def decoding_slug(spec: Mapping[str, Any]) -> str:
    """File name of a strategy: its name, and what it sets otherwise than by default: `top_p-top_p=0.7`."""
    settings = _TOP_P if spec["name"] == "top_p" else {}
    given = {key: type(default)(spec[key]) for key, default in settings.items() if key in spec}
    changed = {key: value for key, value in given.items() if value != settings[key]}
    return registry.slug({"name": spec["name"], **changed})


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

    Drawing from scores that are no distribution (NaN, infinity, nothing left) is a `DyrateError`.
    """
    if not spec["do_sample"]:
        return None
    import torch
    from transformers import LogitsProcessor, LogitsProcessorList, TemperatureLogitsWarper, TopPLogitsWarper

    class _Gumbel(LogitsProcessor):  # type: ignore[misc]
        def __init__(self, streams: list[torch.Generator]) -> None:
            self._streams = streams
            self._step = 0

        def __call__(self, input_ids: torch.LongTensor, scores: torch.Tensor) -> torch.Tensor:
            _check_drawable(scores, self._step)
            self._step += 1
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


def _check_drawable(scores: "Tensor", step: int) -> None:
    """Refuse rows without a highest score: argmax would take token 0. Cut tokens score -infinity."""
    best = scores.amax(-1)  # NaN if any is
    if wrong := (~best.isfinite()).nonzero().flatten().tolist():
        dtype = str(scores.dtype).removeprefix("torch.")
        raise DyrateError(
            f"step {step}, row {wrong[0]} of the batch: the best score is {best[wrong[0]].item()} "
            f"({dtype}): the model's logits are not finite"
        )
