"""Attaches a reduction method to a stock model by hooks, for the length of a `with` block, and drives it."""

import inspect
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from threading import Lock
from types import TracebackType
from typing import Any, NoReturn

from torch import Tensor, nn

from dyrate.attention import ATTENTION, FORWARD_KEYWORD
from dyrate.cache import ReducedCache
from dyrate.contract import Contract
from dyrate.entry_points import guard_entry_points, guarded
from dyrate.errors import DyrateError
from dyrate.families import family_of
from dyrate.finite import NotFiniteError, witness
from dyrate.generation import Generation
from dyrate.hooks import eager
from dyrate.installation import Installation
from dyrate.needs import Queries, checked, layers_from
from dyrate.one_thread import Turn
from dyrate.prompt import Prompt
from dyrate.question_reader import QuestionReader
from dyrate.refusals import (
    check_compression,
    check_decode,
    check_forward,
    check_logits_to_keep,
    check_positions,
    check_prefill_cache,
    check_prompt,
    check_ran,
)
from dyrate.run import Run
from dyrate.tokens import TokenLayout
from dyrate.vision import VisionHooks

Inputs = tuple[tuple[Any, ...], dict[str, Any]]

_ENTERING = Lock()
"""Of two threads that enter blocks of one model at once, the second shall see that the first is inside."""


class Attachment:
    """`with Attachment(method, model) as run:` every forward of `model` is one of a reduced model.

    A forward without a reduced cache is a prefill, one with the cache of the last prefill is a decode step.
    Logits are those of the tokens that reach the last layer; the newest token is always last.
    """

    def __init__(
        self,
        method: Contract,
        model: nn.Module,
        record: Iterable[int] = (),
        questions: QuestionReader | None = None,
    ) -> None:
        self.method = method
        self.model = model
        self.family = family_of(model)
        depth = len(self.family.layers)
        needs = checked(method.needs(depth), depth, str(method))
        recorded: dict[int, Queries] = dict.fromkeys(layers_from(record, depth, "record"), "last")
        self.needs = replace(needs, attention={**recorded, **needs.observed})
        self.run = Run(needs.reported)
        self.new_cache: Callable[[int, TokenLayout, Callable[[Tensor], None]], ReducedCache] = ReducedCache
        """Makes the cache of each prompt; who decodes by other means puts one of its own here for a block."""
        self.parts = Installation(model, self.family, str(method))
        method.install(self.parts)
        self._vision = VisionHooks(self.family, needs, self.parts, str(method))
        self._questions = questions
        self._forward_parameters = tuple(inspect.signature(model.forward).parameters)
        self._undo = ExitStack()
        self._turn = Turn()
        self._generation: Generation | None = None
        self._replaced: Any = None
        """The empty cache whose place the last prefill took."""

    @property
    def generation(self) -> Generation:
        """The last prompt and what has been generated since."""
        assert self._generation is not None
        return self._generation

    def __enter__(self) -> Run:
        configs = self.family.attention_configs()
        with _ENTERING, ExitStack() as undo:
            if any(config._attn_implementation == ATTENTION for config in configs) or guarded(self.model):
                raise DyrateError(
                    "the model is already inside a with block of a reduction method, or shares its config "
                    "with one that is; blocks cannot be nested"
                )
            undo.callback(self.run.close)
            for config in configs:
                undo.callback(setattr, config, "_attn_implementation", config._attn_implementation)
                config._attn_implementation = ATTENTION
            guard_entry_points(self.model, self.family, self._turn, self.check_finite, undo)
            hook = self.model.register_forward_pre_hook(self._before_forward, with_kwargs=True)
            undo.callback(hook.remove)
            undo.callback(self.model.register_forward_hook(self._after_forward).remove)
            undo.callback(self.model.register_forward_hook(self._end_forward, always_call=True).remove)
            self.parts.attach(undo)
            self._vision.attach(undo)
            entered = {*self.needs.layers, *range(self.parts.changes_features)}
            if self.family.taps:
                hook = self.family.text.register_forward_pre_hook(self._before_text, with_kwargs=True)
                undo.callback(hook.remove)
            for index, layer in enumerate(self.family.layers[: self.family.taps]):
                undo.callback(layer.register_forward_hook(partial(self._after_layer, index)).remove)
            for index in range(min(entered, default=len(self.family.layers)), len(self.family.layers)):
                hook = self.family.layers[index].register_forward_pre_hook(
                    partial(self._before_layer, index), with_kwargs=True
                )
                undo.callback(hook.remove)
            self._undo = undo.pop_all()
        return self.run

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        running = self._turn.wait()
        self._undo.close()
        if self._generation is not None:
            self._generation.cache.release()
        self._generation = self._replaced = None
        self.new_cache = ReducedCache  # what made another holds on to its memory
        if running is not None and error is None:
            raise DyrateError(
                f"the with block was left while thread {running.name!r} was generating in it: its result is "
                "void; join the thread before leaving"
            )
        if error is None:
            self.check_finite()

    def __deepcopy__(self, memo: Any) -> NoReturn:
        """Raise `DyrateError`: the hooks of a copied model would go on reducing it after the block."""
        raise DyrateError(
            "a model, or the cache of a run, cannot be copied or pickled inside a with block; do it outside"
        )

    def __reduce__(self) -> NoReturn:
        """Raise `DyrateError`, as a copy does."""
        self.__deepcopy__(None)

    @eager
    def _before_forward(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Inputs:
        self._turn.begin("forward")
        inputs = {**dict(zip(self._forward_parameters, args, strict=False)), **kwargs}
        check_forward(inputs, module.config, self.family)
        cache = inputs.get("past_key_values")
        generation = self._generation
        if generation is not None and isinstance(cache, ReducedCache) and cache is generation.cache:
            check_decode(inputs, cache)
            generation.begin_decode()
        else:
            check_prefill_cache(cache, self._replaced)
            self._replaced = cache
            generation = self._begin_prefill(inputs)
        # Padding is in the token sets, and positions are already made; the model needs no mask of its own.
        inputs |= {"past_key_values": generation.cache, "use_cache": True, "attention_mask": None}
        inputs[FORWARD_KEYWORD] = generation.forward
        return (), inputs

    def _begin_prefill(self, inputs: dict[str, Any]) -> Generation:
        self.check_finite()  # of the prompt before this one, whose record goes
        self.family.begin(inputs)
        input_ids: Tensor = inputs["input_ids"]
        image = self.family.image_token_id
        layout = TokenLayout.from_prompt(
            input_ids, inputs.get("attention_mask"), image, self.needs.compression_tokens
        )
        image_tokens: list[int] = (input_ids == image).sum(dim=1).tolist()
        whole: Any = self.model
        vocabulary = whole.get_input_embeddings().num_embeddings
        check_prompt(inputs, layout, sum(image_tokens), vocabulary, self.parts.embeddings)
        check_compression(layout, self.needs, str(self.method))
        if self.needs.layers or self.parts.changes_features:
            check_logits_to_keep(inputs.get("logits_to_keep"), layout)
        if self.needs.positions == "contiguous":
            check_positions(inputs.get("position_ids"), layout)
        self._vision.begin(image_tokens, (inputs.get("mm_encoder_outputs") or {}).get("image"))
        if self._generation is not None:
            self._generation.cache.release()
        cache = self.new_cache(len(self.family.layers), layout, self._move_rows)
        self.run.begin(cache)
        prompt = Prompt(
            family=self.family,
            needs=self.needs,
            input_ids=input_ids,
            layout=layout,
            image_tokens=image_tokens,
            find_images=lambda: self._vision.images,
            reader=self._questions,
            count_macs=self._count_macs,
            label=str(self.method),
        )
        fewer_features = self.parts.changes_features
        self._generation = Generation(self.method, cache, prompt, fewer_features=fewer_features)
        return self._generation

    @eager
    def _before_text(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Inputs:
        self.generation.injected = self.family.injected(kwargs)
        return args, kwargs

    @eager
    def _before_layer(
        self, layer: int, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Inputs | None:
        generation = self.generation
        try:
            hidden = generation.enter(layer, args[0], kwargs)
        except NotFiniteError as error:  # of a ranking, which does not know where it is
            raise NotFiniteError(error.name, error.row, generation.forward.index, self._cause) from None
        return (hidden, *args[1:]), kwargs

    @eager
    def _after_layer(self, layer: int, module: nn.Module, args: tuple[Any, ...], hidden: Tensor) -> Tensor:
        return self.generation.leave(layer, hidden)

    @eager
    def _end_forward(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """Clear away after a forward, failed ones included."""
        self._vision.reading = False
        self._turn.end("forward")

    @eager
    def _after_forward(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        generation = self.generation
        forward, cache = generation.forward, generation.cache
        check_ran(forward, len(self.family.layers))
        cache.incoming = 0
        mass = {layer: found.class_mass.detach() for layer, found in forward.attention.items()}
        attended = [tokens.visual_counts for tokens in forward.attended]
        if not forward.index:
            images = self._vision.images
            if images is not None:
                self.run.encoded = len(images.pixels) * (images.patches > 0), images.patches
                self.run.encoding_macs = images.macs
                self.run.encoder_saved = images.tower_saved, images.unprojected
                self.run.encoder_macs += images.connector_macs
            self._vision.forget()
            queries = {
                layer: found.of_prompt.queries.sum(dim=1)
                for layer, found in forward.attention.items()
                if found.of_prompt is not None
            }
            self.run.finish_prefill((tokens.present for tokens in cache.cached), generation.merged, queries)
            generation.end_prefill()
        logits = output["logits"] if isinstance(output, dict) else output[0]
        forward.witnesses["logits"] = witness(logits.detach())
        seen = [tokens.present for tokens in forward.attended]  # there already: the counts are their sums
        self.run.finish_step(mass, attended, forward.witnesses, seen)

    def check_finite(self) -> None:
        """Raise `NotFiniteError` if a step since the last check made numbers that are not finite."""
        self.run.check_finite(self._cause)

    @property
    def _cause(self) -> str:
        return f"{self.method.label} in {self.model.dtype}".replace("torch.", "")

    def _count_macs(self, macs: int) -> None:
        self.run.encoder_macs += macs

    def _move_rows(self, rows: Tensor) -> None:
        """Follow a change of rows between two steps (beam search)."""
        self.generation.move_rows(rows)
        self.run.move_rows(rows)
