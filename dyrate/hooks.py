"""Attaches a reduction method to a stock model by hooks, for the length of a `with` block, and drives it."""

import inspect
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from functools import partial
from threading import Lock
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn

from torch import Tensor, nn

from dyrate.attention import ATTENTION, STEP_KEYWORD, Statistics, Step
from dyrate.cache import ReducedCache, gather_tokens
from dyrate.declaration import layers_from, layers_of
from dyrate.eager import eager
from dyrate.encoder import EncoderHooks, row_seeds
from dyrate.errors import DyrateError
from dyrate.families import family_of
from dyrate.finite import NotFiniteError, witness
from dyrate.guard import guard_entry_points, guarded
from dyrate.limits import (
    check_attended,
    check_attention,
    check_checkpointing,
    check_decode,
    check_forward,
    check_keep,
    check_places,
    check_prefill_cache,
    check_prompt,
)
from dyrate.record import Run
from dyrate.tokens import TokenLayout
from dyrate.turn import Turn
from dyrate.view import View

if TYPE_CHECKING:
    from dyrate.reduction import ReductionMethod

Inputs = tuple[tuple[Any, ...], dict[str, Any]]

_ENTERING = Lock()
"""Of two threads that enter blocks of one model at once, the second shall see that the first is inside."""


class Attachment:
    """`with Attachment(method, model) as run:` every forward of `model` is one of a reduced model.

    A forward without a reduced cache is a prefill, one with the cache of the last prefill is a decode step.
    Logits are those of the tokens that reach the last layer; the newest token is always last.
    """

    def __init__(self, method: "ReductionMethod", model: nn.Module, record: Iterable[int] = ()):
        self.method = method
        self.model = model
        self.family = family_of(model)
        self.encoder = EncoderHooks(method, self.family)
        num_layers = len(self.family.layers)
        self.prune_layers = frozenset(layers_of(method, "prune_layers", num_layers))
        self.observed = frozenset(layers_of(method, "statistics_layers", num_layers))
        self.observed |= frozenset(layers_from(record, num_layers, "record"))
        self.run = Run(method.reported_layer(num_layers))
        self.new_cache: Callable[[int, TokenLayout, Callable[[Tensor], None]], ReducedCache] = ReducedCache
        """Makes the cache of each prompt; whoever decodes by other means puts a cache of its own here."""
        self._forward_parameters = tuple(inspect.signature(model.forward).parameters)
        self._undo = ExitStack()
        self._turn = Turn()
        self._cache: ReducedCache | None = None
        self._replaced: Any = None
        self._step: Step | None = None
        self._previous: dict[int, Statistics] = {}
        self._state: dict[str, Tensor] = {}
        self._positions: tuple[tuple[Tensor, Tensor], Tensor] | None = None
        self._row_seeds: Callable[[int], list[int]] = _no_seeds_at_decode

    @property
    def cache(self) -> ReducedCache:
        """The cache of the last prompt."""
        assert self._cache is not None
        return self._cache

    @property
    def state(self) -> dict[str, Tensor]:
        """What the method remembers."""
        return self._state

    @property
    def statistics(self) -> dict[int, Statistics]:
        """Statistics of the last forward, by layer."""
        assert self._step is not None
        return self._step.statistics

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
            self.encoder.attach(undo)
            first = min(
                {0, *self.prune_layers} if self.method.reduces_encoder else self.prune_layers, default=None
            )
            if first is not None:
                for index, layer in enumerate(self.family.layers[first:], start=first):
                    hook = layer.register_forward_pre_hook(
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
        if self._cache is not None:
            self._cache.release()
        self._cache = self._replaced = self._step = None
        self._previous, self._state = {}, {}
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
        check_forward(inputs, (module.config, self.family.text_config))
        check_attention(self.family)
        check_checkpointing(self.family.layers)
        cache = inputs.get("past_key_values")
        if isinstance(cache, ReducedCache) and cache is self._cache:
            check_decode(inputs, cache)
            self._begin_decode(cache)
        else:
            check_prefill_cache(cache, self._replaced)
            self._replaced = cache
            self._begin_prefill(inputs)
        # Padding is the stages' business, and positions are already made; the model needs no mask of its own.
        inputs |= {"past_key_values": self._cache, "use_cache": True, "attention_mask": None}
        inputs[STEP_KEYWORD] = self._step
        return (), inputs

    def _begin_prefill(self, inputs: dict[str, Any]) -> None:
        self.check_finite()  # of the prompt before this one, whose record goes
        input_ids: Tensor = inputs["input_ids"]
        image = self.family.image_token_id
        layout = TokenLayout.from_prompt(input_ids, inputs.get("attention_mask"), image)
        image_tokens: list[int] = (input_ids == image).sum(dim=1).tolist()
        whole: Any = self.model
        check_prompt(inputs, layout, sum(image_tokens), whole.get_input_embeddings().num_embeddings)
        drops, renumbers = bool(self.prune_layers), self.method.position_policy == "contiguous"
        check_places(inputs, layout, drops or self.method.reduces_encoder, renumbers)
        self.encoder.begin(image_tokens, (inputs.get("mm_encoder_outputs") or {}).get("image"))
        if self._cache is not None:
            self._cache.release()
        self._cache = self.new_cache(len(self.family.layers), layout, self._move_rows)
        self._step = Step(0, self._cache.stages, 0, self.observed)
        self._previous, self._state, self._positions = {}, {}, None
        self._row_seeds = lambda seed: row_seeds(seed, input_ids, layout, self.encoder.images, image_tokens)
        self.run.begin(self._cache)

    def _begin_decode(self, cache: ReducedCache) -> None:
        assert self._step is not None
        cache.incoming = 1
        self._previous = self._step.statistics
        self._step = Step(self._step.index + 1, cache.stages, cache.generated + 1, self.observed)
        self._positions = None

    @eager
    def _before_layer(
        self, layer: int, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Inputs | None:
        assert self._step is not None
        assert self._cache is not None
        check_attended(self._step, layer)
        try:
            if self._step.index:
                self._enter_at_decode(layer, args[0], self._step, self._cache)
            else:
                args = (self._enter_at_prefill(layer, args[0], kwargs, self._step, self._cache), *args[1:])
        except NotFiniteError as error:  # of a ranking, which does not know where it is
            raise NotFiniteError(error.name, error.row, self._step.index, self._cause) from None
        if self._positions is not None:
            kwargs["position_embeddings"], kwargs["position_ids"] = self._positions
        return args, kwargs

    def _enter_at_prefill(
        self, layer: int, hidden: Tensor, kwargs: dict[str, Any], step: Step, cache: ReducedCache
    ) -> Tensor:
        """Drop what the encoder or the method drops here; return the hidden states of what is left."""
        if not cache.layout.num_visual:
            return hidden
        if layer == 0 and self.method.reduces_encoder:
            if self.encoder.images is None:
                raise DyrateError(
                    f"{self.method} works on the vision encoder, but the visual features of this prompt were "
                    "not made inside the with block; pass pixel_values, and after an earlier torch.compile "
                    "call torch.compiler.reset()"
                )
            filled = self.encoder.images.filled(cache.layout, self.encoder.image_tokens)
            hidden = self._drop(layer, hidden, filled, kwargs, step, cache)
        if layer in self.prune_layers:
            view = self._view(layer, hidden)
            keep = self.method.prefill(view)
            if keep is not None:
                check_keep(self.method, keep, view.present)
                hidden = self._merge(view, keep)
                hidden = self._drop(layer, hidden, keep, kwargs, step, cache)
        return hidden

    def _merge(self, view: View, keep: Tensor) -> Tensor:
        """Return the hidden states with those of the visual tokens as the method wants them."""
        features = self.method.merge(view, keep)
        if features is None:
            return view.hidden_states
        hidden = view.hidden_states.clone()
        rows, tokens = view.present.nonzero(as_tuple=True)
        hidden[rows, view.stage.visual_slots[rows, tokens]] = features[rows, tokens].to(hidden.dtype)
        return hidden

    def _drop(
        self,
        layer: int,
        hidden: Tensor,
        keep: Tensor,
        kwargs: dict[str, Any],
        step: Step,
        cache: ReducedCache,
    ) -> Tensor:
        """Let layers from this one on hold only `keep` of the visual tokens, at the right positions."""
        renumber = self.method.position_policy == "contiguous"
        stage, columns = cache.stages[layer].restrict(keep, renumber=renumber)
        if stage is cache.stages[layer]:
            return hidden
        cache.hold(layer, stage)
        step.attend(layer, stage)
        if columns is not None:
            hidden = gather_tokens(hidden, columns)
        if renumber:
            self._positions = self.family.rotary(hidden, stage.position_ids), stage.position_ids
        else:
            # The model hands every layer the positions of the whole prompt.
            slots, batch = stage.slots.clamp_min(0), len(hidden)
            cos, sin = (part.expand(batch, -1, -1) for part in kwargs["position_embeddings"])
            position_ids = kwargs["position_ids"].expand(batch, -1).gather(1, slots)
            self._positions = (gather_tokens(cos, slots), gather_tokens(sin, slots)), position_ids
        return hidden

    def _enter_at_decode(self, layer: int, hidden: Tensor, step: Step, cache: ReducedCache) -> None:
        """Ask the method what this step may see from this layer on."""
        if layer not in self.prune_layers and layer:
            return
        stage = cache.stages[layer]
        if self.method.decode_mode != "none" and layer in self.prune_layers and stage.layout.num_visual:
            keep = self.method.decode(self._view(layer, hidden))
            if keep is not None:
                check_keep(self.method, keep, stage.present)
                if self.method.decode_mode == "evict":
                    cache.evict(layer, keep)
                    step.stages[layer:] = cache.stages[layer:]
                else:
                    step.select(layer, cache.stages, keep)
        if stage.next_position is not None:
            position_ids = (stage.next_position + step.generated - 1)[:, None]
            self._positions = self.family.rotary(hidden, position_ids), position_ids

    def _view(self, layer: int, hidden: Tensor) -> View:
        assert self._step is not None
        assert self._cache is not None
        return View(
            layer=layer,
            step=self._step.index,
            stage=self._cache.stages[layer],
            hidden_states=hidden,
            statistics=self._step.statistics,
            previous=self._previous,
            state=self._state,
            row_seeds=self._row_seeds,
            witnesses=self._step.witnesses,
        )

    @eager
    def _end_forward(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """Clear away after a forward, failed ones included."""
        self.encoder.reading = False
        self._turn.end("forward")

    @eager
    def _after_forward(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        assert self._step is not None
        assert self._cache is not None
        check_attended(self._step, len(self.family.layers))
        self._cache.incoming = 0
        if not self._step.index:
            if self.encoder.images is not None:
                self.run.encoded = len(self.encoder.images.pixels), self.encoder.images.patches
            # What belongs to the prompt alone is not needed any more.
            self.encoder.forget()
            self._row_seeds = _no_seeds_at_decode
            self.run.finish_prefill(stage.present for stage in self._cache.stages)
        mass = {layer: found.class_mass.detach() for layer, found in self._step.statistics.items()}
        logits = output["logits"] if isinstance(output, dict) else output[0]
        self._step.witnesses["logits"] = witness(logits.detach())
        self.run.finish_step(mass, [stage.visual_counts for stage in self._step.stages], self._step.witnesses)

    def check_finite(self) -> None:
        """Raise `NotFiniteError` if a step since the last check made numbers that are not finite."""
        self.run.check_finite(self._cause)

    @property
    def _cause(self) -> str:
        return f"{self.method.label} in {self.model.dtype}".replace("torch.", "")

    def _move_rows(self, rows: Tensor) -> None:
        """Follow a change of rows between two steps (beam search)."""
        assert self._step is not None
        self._step.statistics = {
            layer: found.select_rows(rows) for layer, found in self._step.statistics.items()
        }
        self._state.update({name: value[rows] for name, value in self._state.items()})
        self.run.move_rows(rows)


def _no_seeds_at_decode(seed: int) -> list[int]:
    raise RuntimeError("row seeds exist at prefill only: keep what you need of them in view.state")
