"""Generation on fused kernels and captured graphs, under any reduction method, with the usual run."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from dyrate.attention import Step
from dyrate.engine.decode import Backbone, Decoder, Ending, Sampler
from dyrate.engine.memory import Memory, SlotCache
from dyrate.engine.prefill import fused_layers
from dyrate.engine.weights import fuse
from dyrate.errors import DyrateError
from dyrate.families import family_of
from dyrate.hooks import Attachment
from dyrate.record import Run
from dyrate.reduction import ReductionMethod

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
        self._weights = fuse(self.family)
        text = model.model.language_model
        positions = torch.arange(text.config.max_position_embeddings, device=model.device)[None]
        with torch.inference_mode():
            cos, sin = self.family.rotary(text.embed_tokens.weight[:1, None], positions)
        self._backbone = Backbone(
            embed=text.embed_tokens.weight,
            layers=self._weights,
            norm=text.norm.weight,
            head=model.lm_head.weight,
            head_bias=model.lm_head.bias,
            cos=cos[0].clone(),
            sin=sin[0].clone(),
        )
        self._memory: Memory | None = None
        self._decoder: tuple[tuple[Any, ...], Decoder] | None = None

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
        if max_new_tokens < 1:
            raise DyrateError(f"max_new_tokens={max_new_tokens}: expected at least 1")
        ids = inputs["input_ids"]
        positions = len(self._backbone.cos)
        if ids.shape[1] + max_new_tokens > positions:
            raise DyrateError(
                f"a prompt of {ids.shape[1]} tokens and {max_new_tokens} new ones: the model has {positions} "
                "positions"
            )
        attachment = method(self.model, record)
        if not isinstance(attachment, Attachment):
            raise DyrateError(f"{method}: attaches to models in a way of its own; use engine='transformers'")
        memory = self._memory_for(attachment, len(ids))
        attachment.new_cache = partial(SlotCache, memory, max_new_tokens)
        ending = self._ending(eos_token_id, pad_token_id)
        notify = on_step or (lambda: None)
        with attachment as run:
            logits = self._prefill(inputs)
            notify()
            decoder = self._decoder_for(attachment, ending, sampler is None, max_new_tokens)
            decoder.begin(logits.float() if sampler is None else sampler(ids, logits.float()))
            steps = self._decode(decoder, attachment, ids, max_new_tokens, sampler, notify)
            made = decoder.made[:, : len(steps) + 1].clone()
            for step, seen in steps:
                run.finish_step(step.statistics, seen)
        return torch.cat([ids, made], dim=1), run

    def _prefill(self, inputs: dict[str, Tensor]) -> Tensor:
        """Return the logits [batch, vocabulary] after the prompt."""
        mask = inputs.get("attention_mask")
        mask = torch.ones_like(inputs["input_ids"]) if mask is None else mask
        position_ids = (mask.long().cumsum(dim=1) - 1).clamp_min(0)
        with fused_layers(self.family, self._weights):
            found = self.model(**inputs, position_ids=position_ids, use_cache=True, logits_to_keep=1)
        logits: Tensor = found.logits[:, -1]
        return logits

    def _decode(
        self,
        decoder: Decoder,
        attachment: Attachment,
        ids: Tensor,
        max_new_tokens: int,
        sampler: Sampler | None,
        notify: Callable[[], None],
    ) -> list[tuple[Step, list[Tensor]]]:
        """Decode until every row has ended; return each step and, per layer, the visual tokens it saw."""
        cache, memory = attachment.cache, decoder.memory
        stages = [list(cache.stages)]
        steps: list[tuple[Step, list[Tensor]]] = []
        ended = decoder.finished[None].clone()
        while len(steps) < max_new_tokens - 1:
            if len(steps) % _LOOK_EVERY == 0 and bool(ended[-1].all()):
                break
            step = decoder.step(attachment)
            if sampler is not None:
                so_far = torch.cat([ids, decoder.made[:, : len(steps) + 1]], dim=1)
                decoder.accept(sampler(so_far, decoder.logits))
            notify()
            counts = [section.seen_counts() for section in memory.sections]
            seen = [count for count, part in zip(counts, memory.sections, strict=True) for _ in part.layers]
            steps.append((step, seen))
            stages.append(list(cache.stages))
            ended = torch.cat([ended, decoder.finished[None]])
        # Steps after the one that ended the last row were made in vain: generate() makes none.
        needed = int((~ended.all(dim=1)).sum())
        needed = min(needed, len(steps))
        cache.seen -= len(steps) - needed
        cache.stages = stages[needed]
        return steps[:needed]

    def _ending(self, eos_token_id: int | Sequence[int] | None, pad_token_id: int | None) -> Ending:
        config = self.model.generation_config
        ends = config.eos_token_id if eos_token_id is None else eos_token_id
        ends = () if ends is None else (ends,) if isinstance(ends, int) else tuple(ends)
        padding = config.pad_token_id if pad_token_id is None else pad_token_id
        return Ending(ends, padding if padding is not None else (ends[0] if ends else 0))

    def _memory_for(self, attachment: Attachment, batch: int) -> Memory:
        """The memory of the last batch if it fits this one, else a new one in its place."""
        boundaries = (0, *sorted(layer for layer in attachment.prune_layers if layer))
        found = self._memory
        if found is None or found.batch != batch or found.boundaries != boundaries:
            self._memory = self._decoder = found = None  # free it first
            found = Memory(batch, boundaries, len(self._weights), self.model.device)
            self._memory = found
        return found

    def _decoder_for(self, attachment: Attachment, ending: Ending, greedy: bool, new_tokens: int) -> Decoder:
        memory = self._memory
        assert memory is not None
        key = memory, attachment.observed, ending, greedy
        if self._decoder is not None and self._decoder[0] == key:
            found = self._decoder[1]
            if found.made.shape[1] >= new_tokens:
                return found
        self._decoder = None
        found = Decoder(self._backbone, memory, attachment.observed, ending, greedy, new_tokens)
        self._decoder = key, found
        return found
