"""Generation on fused kernels and captured graphs, under any reduction method, with the usual run."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from dyrate.engine.decode import Decoder, Setting
from dyrate.engine.encoder import FusedEncoder
from dyrate.engine.memory import Memory, SlotCache
from dyrate.engine.prefill import fused_layers, places_known
from dyrate.engine.weights import Backbone
from dyrate.errors import DyrateError
from dyrate.families import family_of
from dyrate.hooks import Attachment
from dyrate.record import Run
from dyrate.reduction import ReductionMethod

Sampler = Callable[[Tensor, Tensor], Tensor]
"""(ids so far [batch, n], logits [batch, vocabulary]) -> scores [batch, vocabulary], whose best is taken."""

_LOOK_EVERY = 8
"""Steps after which the host waits for the device, to see whether all rows have ended."""


class Engine:
    """Generates with one model, greedily or by a sampler; no beams.

    The first call with a batch size and a method captures CUDA graphs; later ones reuse them and the memory.
    The model's own weights become views of fused ones; otherwise it stays as it is. Raises `DyrateError` for
    models that it cannot run: see `families` and `weights`.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self.family = family_of(model)
        self._backbone = Backbone.of(model, self.family)
        self._encoder = FusedEncoder(self.family.vision_tower)
        self._memory: Memory | None = None
        self._decoder: Decoder | None = None

    def release(self) -> None:
        """Give back the memory and the graphs that are kept for the next prompt."""
        self._memory = self._decoder = None
        self._encoder.release()

    @torch.inference_mode()
    def generate(
        self,
        method: ReductionMethod,
        inputs: dict[str, Tensor],
        *,
        max_new_tokens: int,
        eos_token_id: int | Sequence[int] | None = None,
        pad_token_id: int | None = None,
        sampler: Sampler | None = None,
        record: Iterable[int] = (),
        on_step: Callable[[], None] | None = None,
    ) -> tuple[Tensor, Run]:
        """Return prompts and new tokens [batch, columns], as `model.generate()` does, and the run.

        `inputs` are the processor's: input_ids, attention_mask, pixel_values; padding on the left.
        `eos_token_id` and `pad_token_id` default to the model's generation config. Without `sampler` the best
        token is taken, else the best of what it makes of the logits. `on_step` is called after each forward
        has been asked for. Raises `DyrateError` for a prompt with its answer too long for the model.
        """
        ids = inputs["input_ids"]
        self._check_room(ids.shape[1], max_new_tokens)
        attachment = method(self.model, record)
        if not isinstance(attachment, Attachment):
            raise DyrateError(f"{method} attaches to models in a way of its own; use engine='transformers'")
        memory = self._memory_for(attachment, len(ids))
        attachment.new_cache = partial(SlotCache, memory, max_new_tokens)
        ends, padding = self._ending(eos_token_id, pad_token_id)
        setting = Setting(
            method, attachment.prune_layers, attachment.observed, ends, padding, greedy=sampler is None
        )
        notify = on_step or (lambda: None)
        with attachment as run:
            logits = self._prefill(inputs)
            memory.load()
            notify()
            decoder = self._decoder_for(memory, setting, max_new_tokens)
            decoder.begin(attachment, logits if sampler is None else sampler(ids, logits))
            steps = self._decode(decoder, ids, max_new_tokens, sampler, notify)
            made = decoder.made[:, : steps + 1].clone()
            self._report(decoder, attachment, steps)
        return torch.cat([ids, made], dim=1), run

    def _prefill(self, inputs: dict[str, Tensor]) -> Tensor:
        """Return the logits [batch, vocabulary] after the prompt, in float32."""
        mask = inputs.get("attention_mask")
        mask = torch.ones_like(inputs["input_ids"]) if mask is None else mask
        position_ids = (mask.long().cumsum(dim=1) - 1).clamp_min(0)
        places = places_known(self.model.model, inputs["input_ids"], self.family.image_token_id)
        with places, self._encoder.active(), fused_layers(self.family, self._backbone.layers):
            found = self.model(**inputs, position_ids=position_ids, use_cache=True, logits_to_keep=1)
        return found.logits[:, -1].float()  # type: ignore[no-any-return]

    def _decode(
        self,
        decoder: Decoder,
        ids: Tensor,
        max_new_tokens: int,
        sampler: Sampler | None,
        notify: Callable[[], None],
    ) -> int:
        """Decode until every row has ended; return after how many steps that was."""
        last = max_new_tokens - 1
        for step in range(last):
            if step % _LOOK_EVERY == 0 and bool(decoder.finished.all()):
                break
            decoder.step()
            if sampler is not None:
                so_far = torch.cat([ids, decoder.made[:, : step + 1]], dim=1)
                decoder.accept(sampler(so_far, decoder.logits.float()))
            notify()
        # Steps after the one that ended the last row were made in vain: generate() makes none.
        ends = torch.tensor(decoder.setting.ends, device=ids.device)
        ended = (decoder.made[:, :max_new_tokens, None] == ends).any(dim=2).cumsum(dim=1) > 0
        return min(last, int((~ended.all(dim=0)).sum()))

    def _report(self, decoder: Decoder, attachment: Attachment, steps: int) -> None:
        """Put the steps into the run, and into the cache what they left of it."""
        mass = {layer: log[: steps + 1].clone() for layer, log in decoder.class_mass.items()}
        witnesses = {name: log[: steps + 1].clone() for name, log in decoder.witnesses.items()}
        seen = decoder.seen[: steps + 1].long()
        sections = decoder.memory.sections
        for step in range(1, steps + 1):
            counts = [
                count for count, section in zip(seen[step], sections, strict=True) for _ in section.layers
            ]
            attachment.run.finish_step(
                {layer: log[step] for layer, log in mass.items()},
                counts,
                {name: log[step] for name, log in witnesses.items()},
            )
        cache = attachment.cache
        assert isinstance(cache, SlotCache)
        cache.seen += steps
        if steps and decoder.setting.method.decode_mode == "evict":
            cache.evicted = list(seen[steps])

    def _check_room(self, prompt: int, new_tokens: int) -> None:
        if new_tokens < 1:
            raise DyrateError(f"max_new_tokens={new_tokens}: expected at least 1")
        positions = len(self._backbone.cos)
        if prompt + new_tokens > positions:
            raise DyrateError(
                f"a prompt of {prompt} tokens and {new_tokens} new ones: the model has {positions} positions"
            )

    def _ending(
        self, eos_token_id: int | Sequence[int] | None, pad_token_id: int | None
    ) -> tuple[tuple[int, ...], int]:
        config = self.model.generation_config
        ends = config.eos_token_id if eos_token_id is None else eos_token_id
        ends = () if ends is None else (ends,) if isinstance(ends, int) else tuple(ends)
        padding = config.pad_token_id if pad_token_id is None else pad_token_id
        return ends, padding if padding is not None else (ends[0] if ends else 0)

    def _memory_for(self, attachment: Attachment, batch: int) -> Memory:
        """The memory of the last batch if it fits this one, else a new one in its place."""
        boundaries = (0, *sorted(layer for layer in attachment.prune_layers if layer))
        if self._memory is None or (self._memory.batch, self._memory.boundaries) != (batch, boundaries):
            self._memory = self._decoder = None  # before anything new is asked for
            self._memory = Memory(batch, boundaries, len(self._backbone.layers), self.model.device)
        return self._memory

    def _decoder_for(self, memory: Memory, setting: Setting, new_tokens: int) -> Decoder:
        found = self._decoder
        if found is None or found.setting != setting or found.made.shape[1] < new_tokens:
            found = self._decoder = None
            found = self._decoder = Decoder(self._backbone, memory, setting, new_tokens)
        return found
