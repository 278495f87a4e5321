"""What there is to say of each reduction method, read off its class: what lists and documents show."""

import dataclasses
import inspect
import textwrap
from collections.abc import Iterable
from functools import cached_property
from typing import TYPE_CHECKING, Any

from dyrate.errors import DyrateError
from dyrate.registry import built_in, class_of, schema

if TYPE_CHECKING:
    from dyrate.needs import Needs
    from dyrate.reduction import ReductionMethod

DEPTH = 32
"""Layers of the language model that entries are written for: LLaVA-1.5-7B's."""
_PLACES = {
    "projected": "the layer that the projector reads",
    "behind": "the layer behind the one that the projector reads",
}
_QUERIES = {"last": "the newest token", "instruction": "the instruction", "all": "the whole prompt"}


@dataclasses.dataclass(frozen=True)
class Entry:
    """One method under its defaults, in a language model of `DEPTH` layers."""

    name: str
    cls: "type[ReductionMethod]"

    @property
    def title(self) -> str:
        """The method in tables."""
        return self.cls.title or self.cls.__name__

    @property
    def paper(self) -> str:
        """Where it was published: `arXiv:...`; empty for what was not."""
        return self.cls.paper

    @cached_property
    def text(self) -> str:
        """The docstring."""
        return inspect.cleandoc(self.cls.__doc__ or "")

    @property
    def summary(self) -> str:
        """Its first line."""
        return self.text.partition("\n")[0]

    @cached_property
    def fields(self) -> dict[str, dict[str, Any]]:
        """JSON schema of each hyperparameter."""
        found: dict[str, dict[str, Any]] = schema(self.cls)["properties"]
        return {name: entry for name, entry in found.items() if name != "name"}

    @property
    def trained(self) -> bool:
        """Whether it needs a predictor that was trained for the model."""
        return "predictor" in self.fields

    @cached_property
    def needs(self) -> "Needs":
        """What it needs, of a method whose own answer would take a file what its base class says."""
        missing = {name for name, entry in self.fields.items() if "default" not in entry}
        given = {name: value for name, value in self.cls.examples[0].items() if name in missing}
        method = self.cls(**{**dict.fromkeys(missing, ""), **given})
        try:
            return method.needs(DEPTH)
        except DyrateError:
            return super(self.cls, method).needs(DEPTH)

    @property
    def place(self) -> str:
        """Where it is asked, and so where tokens may leave."""
        from dyrate.contract import Contract

        needs, found = self.needs, []
        if self.cls.install is not Contract.install:
            found.append("vision encoder")
        if needs.prefill == (0,):
            found.append("before the language model")
        elif needs.prefill:
            found.append(f"prefill, {_layers(needs.prefill)}")
        if needs.decode:
            found.append(f"decode, {_layers(needs.decode)} ({needs.decode_mode})")
        if ("res", "img") in needs.blocked:
            found.append("after the prefill")
        return "; ".join(found) or "nowhere"

    @property
    def reads(self) -> list[str]:
        """What it looks at, besides states and numbers of tokens."""
        needs, found = self.needs, []
        for who, name in _QUERIES.items():
            if layers := tuple(layer for layer, queries in needs.observed.items() if queries == who):
                found.append(f"attention of {name}, {_layers(layers)}")
        if needs.ahead:
            found.append(f"attention of the newest token, {_layers(needs.ahead)}, before it runs")
        if needs.keys:
            found.append(f"keys, {_layers(needs.keys)}")
        for layer, parts in needs.tower.items():
            which = f"layer at {layer} of the depth" if isinstance(layer, float) else f"layer {layer}"
            which = _PLACES.get(str(layer), which)
            found.append(f"vision tower, {which}: {', '.join(parts).replace('_', ' ')}")
        if needs.question:
            found.append("the question, by CLIP's text tower")
        if needs.compression_tokens:
            found.append("compression tokens in the prompt, for which the language model was trained")
        if self.trained:
            found.append("a trained predictor")
        return found


def entries() -> list[Entry]:
    """Return the built-in methods, in order of their names."""
    return [Entry(name, class_of(name)) for name in built_in()]


def markdown(methods: Iterable[Entry]) -> str:
    """Return the page about methods."""
    methods = list(methods)
    lines = [
        "# Reduction methods",
        "",
        "Made by `dyrate methods --markdown` from the classes in `dyrate/methods`. Layers are those of a",
        f"language model with {DEPTH}, counted from 0; those of the vision tower are counted from its end.",
        "",
        "| method | name | where | reads | paper |",
        "| --- | --- | --- | --- | --- |",
        *(
            f"| [{entry.title}](#{entry.name}) | `{entry.name}` | {entry.place} | {'; '.join(entry.reads)} | "
            f"{_link(entry.paper)} |"
            for entry in methods
        ),
    ]
    for entry in methods:
        lines += ["", f'<a id="{entry.name}"></a>', "", f"## {entry.title}", "", entry.text, ""]
        for name, field in entry.fields.items():
            default = f" Default: `{_value(field['default'])}`." if "default" in field else ""
            about = " ".join(field.get("description", "").split())
            lines += textwrap.wrap(f"- `{name}`: {about}.{default}", 118, subsequent_indent="  ")
    return "\n".join(lines).rstrip() + "\n"


def _layers(layers: tuple[int, ...]) -> str:
    return f"layer{'s' * (len(layers) > 1)} {', '.join(map(str, layers))}"


def _link(paper: str) -> str:
    number = paper.removeprefix("arXiv:")
    return f"[{paper}](https://arxiv.org/abs/{number})" if number != paper else paper


def _value(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
