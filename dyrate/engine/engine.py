"""Generation on fused kernels and captured graphs, under any reduction method, with the usual run."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from threading import Lock
from typing import Any

import torch
from torch import Tensor

from dyrate.attachment import Attachment
from dyrate.attention import ATTENTION
from dyrate.engine.decode import Decoder, DecodeSetting
from dyrate.engine.encoder import FusedEncoder
from dyrate.engine.memory import Memory, SlotCache
from dyrate.engine.parts import Watch, check_surroundings, text_parts
from dyrate.engine.prefill import fuse_layers, tell_places
from dyrate.engine.request import (
    check_generation_config,
    check_needs_met,
    check_new_tokens,
    checked_inputs,
    special_tokens,
)
from dyrate.engine.tokenwise import Tokenwise
from dyrate.engine.weights import Backbone
from dyrate.errors import DyrateError
from dyrate.families import family_of
from dyrate.question_reader import QuestionReader
from dyrate.reduction import ReductionMethod
from dyrate.run import Run

Sampler = Callable[[Tensor, Tensor], Tensor]
"""(ids so far [batch, n], logits [batch, vocabulary]) -> scores [batch, vocabulary], whose best is taken."""

_LOOK_EVERY = 8
"""Steps after which the host waits for the device, to see whether all rows have ended."""

_INSIDE = (
    "the model is inside a with block of a reduction method, or generates in another thread: use the engine "
    "outside of blocks, and one thread at a time"
)


class Engine:
    """Generates with one model, greedily or by a sampler; no beams.

    The first call with a batch size and a method captures CUDA graphs; later ones reuse them and the memory.
    The model's own weights become views of fused ones; otherwise it stays as it is. If it is not what it was
    at the last call (other weights, modules, hooks), it is looked at and its weights are fused anew. Raises
    `DyrateError` for models that it cannot run: see `families`, `parts` and `weights`.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self._alone = Lock()
        self._memory: Memory | None = None
        self._decoder: Decoder | None = None
        self._read()

    def _read(self) -> None:
        """Take the model as it is now."""
        self.family = family_of(self.model)
        if self.family.text_config._attn_implementation == ATTENTION:
            raise DyrateError(_INSIDE)
        self._backbone = Backbone.of(self.model, self.family)
        self._tokenwise = Tokenwise(self._backbone.layers)
        self._encoder = FusedEncoder(self.family.encoder)
        self._watch = Watch(part for _, part in text_parts(self.model))

    def _check_model(self) -> None:
        """See whether the model still is what was read; if not, read it anew."""
        if self.family.text_config._attn_implementation == ATTENTION:
            raise DyrateError(_INSIDE)
        check_surroundings(self.model.device)
        if self._watch.changed():
            self.release()
            self._read()

    def release(self) -> None:
        """Give back the memory and the graphs that are kept for the next prompt."""
        self._memory = self._decoder = None
        self._tokenwise.release()
        self._encoder.release()

    @torch.inference_mode()
    def generate(
        self,
        method: ReductionMethod,
        inputs: Mapping[str, Tensor],
        *,
        max_new_tokens: int,
        eos_token_id: int | Sequence[int] | None = None,
        pad_token_id: int | None = None,
        sampler: Sampler | None = None,
        generation_config: Any = None,
        record: Iterable[int] = (),
        questions: QuestionReader | None = None,
        on_step: Callable[[], None] | None = None,
    ) -> tuple[Tensor, Run]:
        """Return prompts and new tokens [batch, columns], as `model.generate()` does, and the run.

        `inputs` are the processor's: input_ids, attention_mask, pixel_values; padding on the left.
        `generation_config` stands in the place of the model's, as a whole; `eos_token_id` and `pad_token_id`
        default to what it says. Without `sampler` the best token is taken, else the best of what it makes of
        the logits. `on_step` is called after each forward has been asked for. Raises `DyrateError` for a
        prompt with its answer too long for the model, and for whatever `model.generate()` would heed and the
        engine cannot (see `request` and `parts`).
        """
        with self._turn():
            self._check_model()
            config = self.model.generation_config if generation_config is None else generation_config
            check_generation_config(config, sampled=sampler is not None)
            check_new_tokens(max_new_tokens)
            vocabulary = len(self._backbone.embed)
            ends, padding = special_tokens(config, eos_token_id, pad_token_id, vocabulary)
            attachment = self.attach(method, record, questions)
            prompts = checked_inputs(inputs, self.model.device, self.family, ends, padding)
            self._check_room(prompts["input_ids"].shape[1], max_new_tokens)
            setting = DecodeSetting(method, attachment.needs, ends, padding or 0, sampler is None)
            return self._generate(
                attachment, setting, prompts, max_new_tokens, sampler, on_step or (lambda: None)
            )

    def attach(
        self, method: ReductionMethod, record: Iterable[int] = (), questions: QuestionReader | None = None
    ) -> Attachment:
        """Return the method at this engine's model; a `DyrateError` for one that the engine cannot run."""
        attachment = method(self.model, record, questions)
        if not isinstance(attachment, Attachment):
            raise DyrateError(f"{method} attaches to models in a way of its own; use engine='transformers'")
        check_needs_met(method, attachment.needs, attachment.parts.embeddings, len(self._backbone.embed))
        return attachment

    @contextmanager
    def _turn(self) -> Iterator[None]:
        if not self._alone.acquire(blocking=False):
            raise DyrateError("this engine is generating already: one call at a time, from one thread")
        try:
            yield
        finally:
            self._alone.release()

    def _generate(
        self,
        attachment: Attachment,
        setting: DecodeSetting,
        inputs: dict[str, Tensor],
        max_new_tokens: int,
        sampler: Sampler | None,
        notify: Callable[[], None],
    ) -> tuple[Tensor, Run]:
        ids = inputs["input_ids"]
        memory = self._memory_for(attachment, len(ids))
        keeps_visual = ("res", "img") not in attachment.needs.blocked
        attachment.new_cache = partial(SlotCache, memory, max_new_tokens, keeps_visual)
        with attachment as run:
            logits, following = self._prefill(inputs)
            memory.load(following, ordered=setting.needs.whole_rows)
            notify()
            decoder = self._decoder_for(memory, setting, max_new_tokens)
            decoder.begin(attachment, logits if sampler is None else _sampled(sampler, ids, logits))
            steps = self._decode(decoder, ids, max_new_tokens, sampler, notify)
            made = decoder.made[:, : steps + 1].clone()
            self._report(decoder, attachment, steps)
        return torch.cat([ids, made], dim=1), run

    def _prefill(self, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return the logits [batch, vocabulary] after the prompt, in float32, and the position that comes
        next in each row (LongTensor [batch]).
        """
        # [batch, columns], or, with axes, [1 + axes, batch, columns]; a prompt ends alike on all of them.
        position_ids = self.model._prepare_position_ids_for_generation(inputs["input_ids"], inputs)
        following = position_ids[..., -1].reshape(-1, position_ids.shape[-2])[-1] + 1
        with self._encoder.active(), ExitStack() as undo:
            tell_places(self.model.model, inputs["input_ids"], self.family.image_token_id, undo)
            fuse_layers(self.family, self._backbone.layers, self._tokenwise, undo)
            found = self.model(**inputs, position_ids=position_ids, use_cache=True, logits_to_keep=1)
        return found.logits[:, -1].float(), following

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
                decoder.accept(_sampled(sampler, so_far, decoder.logits.float()))
            notify()
        # Steps after the one that ended the last row are discarded: generate() makes none.
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
        cache = attachment.generation.cache
        assert isinstance(cache, SlotCache)
        cache.seen += steps
        if steps and decoder.setting.needs.decode and decoder.setting.needs.decode_mode == "evict":
            cache.evicted = list(seen[steps])

    def _check_room(self, prompt: int, new_tokens: int) -> None:
        positions = len(self._backbone.cos)
        if prompt + new_tokens > positions:
            known = self.family.text_config.max_position_embeddings
            whose = "model" if positions == known else "graph engine"  # which ends longer tables
            raise DyrateError(
                f"a prompt of {prompt} tokens and {new_tokens} new ones: the {whose} has {positions} "
                "positions"
            )

    def _memory_for(self, attachment: Attachment, batch: int) -> Memory:
        """The memory of the last batch if it fits this one, else a new one in its place."""
        boundaries = (0, *sorted(layer for layer in attachment.needs.layers if layer))
        if self._memory is None or (self._memory.batch, self._memory.boundaries) != (batch, boundaries):
            self._memory = self._decoder = None  # before anything new is asked for
            self._memory = Memory(batch, boundaries, len(self._backbone.layers), self.model.device)
        return self._memory

    def _decoder_for(self, memory: Memory, setting: DecodeSetting, new_tokens: int) -> Decoder:
        found = self._decoder
        if found is None or found.setting != setting or found.made.shape[1] < new_tokens:
            found = self._decoder = None
            found = self._decoder = Decoder(self._backbone, memory, setting, new_tokens)
        return found


def _sampled(sampler: Sampler, ids: Tensor, logits: Tensor) -> Tensor:
    scores = sampler(ids, logits)
    if not isinstance(scores, Tensor) or scores.shape != logits.shape:
        made = f"shape {tuple(scores.shape)}" if isinstance(scores, Tensor) else type(scores).__name__
        raise DyrateError(f"the sampler returned {made}: scores of shape {tuple(logits.shape)} are expected")
    return scores
