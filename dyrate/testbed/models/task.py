"""What a testbed model is trained for: answers to packed questions about images, by eyes like CLIP's."""

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import CLIPModel, LlavaForConditionalGeneration, LlavaProcessor
from transformers.models.clip.modeling_clip import CLIPEncoderLayer
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from dyrate.clip_folder import FOLDER
from dyrate.testbed.models.architecture import build_clip, build_model, build_processor, size_of
from dyrate.testbed.models.contrast import LARGEST_SCALE, Retrieval, contrastive_loss, similarities
from dyrate.testbed.models.held_out import Accuracy, HeldOut
from dyrate.testbed.models.packing import PackedBatch, Packer, normalise, packed_logits, packed_loss
from dyrate.testbed.models.recipe import ModelRecipe, Stage
from dyrate.testbed.models.stream import TrainingStream, world_tokenizer
from dyrate.testbed.models.tokenizer import VICUNA, Dialogue, caption_tokenizer
from dyrate.testbed.world.examples import validation_example

SHARD_SIZE = "14MB"


class Seen(NamedTuple):
    """What a vision tower makes of B images."""

    features: Tensor  # what `Task.answer` takes: of a LLaVA the layer that the projector reads, class token
    # first, [B, 1 + V, width]
    pooled: Tensor  # of a LLaVA the class token after the last layer and norm, [B, width]


class Task:
    """A model and a CLIP with one vision tower, random at first; their data, losses and scores.

    What stands here is right for a LLaVA.
    """

    dialogue: Dialogue = VICUNA
    packer_class: type[Packer] = Packer

    def __init__(self, recipe: ModelRecipe, device: torch.device) -> None:
        self.recipe, self.device = recipe, device
        self.tokenizer = world_tokenizer(recipe.tokenizer_examples, self.dialogue)
        self.processor, self.model = self._build()
        captions = caption_tokenizer(self.tokenizer)
        self.clip: CLIPModel = build_clip(size_of(recipe.model), captions, recipe.seed)
        self.parts = nn.ModuleDict({"llava": self.model, "clip": self.clip}).to(device)
        self.packer = self.packer_class(self.tokenizer, recipe.pack_length)
        self.stream = TrainingStream(self.packer, recipe.seed, recipe.batch_size, recipe.least_spacing)
        images = self.processor.image_processor
        self._mean = torch.tensor(images.image_mean, device=device)
        self._std = torch.tensor(images.image_std, device=device)

    def _build(self) -> tuple[Any, Any]:
        """Return the processor and the model."""
        processor: LlavaProcessor = build_processor(self.tokenizer)
        model: LlavaForConditionalGeneration = build_model(
            size_of(self.recipe.model), self.tokenizer, self.recipe.seed
        )
        return processor, model

    def compile(self) -> None:
        """Compile layer by layer: all of one kind share one compilation, which takes seconds, not minutes."""
        for module in self.parts.modules():
            if isinstance(module, (CLIPEncoderLayer, LlamaDecoderLayer)):
                module.compile()

    def eyes(self) -> list[nn.Parameter]:
        """Return the parameters of both of CLIP's towers, and of what compares them."""
        return [*self.model.model.vision_tower.parameters(), *self.clip.parameters()]

    def logits(self, batch: PackedBatch) -> Tensor:
        """Return the logits, [B, S, vocabulary], of a batch that may lie on another device."""
        batch = batch.to(self.device)
        with self._arithmetic():
            return self.answer(batch, self.see(batch).features)

    def loss(self, batch: PackedBatch, stage: Stage) -> Tensor:
        """Return a stage's loss, a scalar, of a batch that may lie on another device."""
        batch = batch.to(self.device)
        with self._arithmetic():
            with torch.set_grad_enabled(stage.eyes > 0):
                seen = self.see(batch)
            loss = torch.zeros((), device=self.device)
            if stage.contrast > 0:
                scores = similarities(self.clip, seen.pooled, batch.captions)
                loss = stage.contrast * contrastive_loss(scores, batch.captioned)
            if stage.rest > 0:
                loss = loss + packed_loss(self.answer(batch, seen.features), batch)
        return loss

    def answer(self, batch: PackedBatch, features: Tensor) -> Tensor:
        """Return the logits, [B, S, vocabulary], of a batch on this device, whose images were seen as
        `features`.
        """
        return packed_logits(self.model, batch, features)

    def save(self, folder: Path) -> None:
        """Write the model, its processor and, in `clip/`, CLIP's other half, in half precision."""
        folder.mkdir(parents=True, exist_ok=True)
        self.model.half().save_pretrained(folder, max_shard_size=SHARD_SIZE)
        self.processor.save_pretrained(folder)
        self.clip.half().save_pretrained(folder / FOLDER)
        caption_tokenizer(self.tokenizer).save_pretrained(folder / FOLDER)

    def settle(self) -> None:
        """Keep the temperature within CLIP's bounds, after a step of the optimiser."""
        with torch.no_grad():
            self.clip.logit_scale.clamp_(max=LARGEST_SCALE)

    def pixels(self, batch: PackedBatch) -> Tensor:
        """Return the image processor's pixel values, [B, 3, H, W]."""
        return normalise(batch.images, self._mean, self._std)

    def see(self, batch: PackedBatch) -> Seen:
        """Run the vision tower, layer by layer: hooks that keep hidden states do not compile."""
        tower = self.model.model.vision_tower
        states = [tower.pre_layrnorm(tower.embeddings(self.pixels(batch)))]
        for layer in tower.encoder.layers:
            states.append(layer(states[-1], None))
        return Seen(states[self.model.config.vision_feature_layer], tower.post_layernorm(states[-1][:, 0]))

    def _arithmetic(self) -> AbstractContextManager[None]:
        bfloat16 = self.recipe.precision == "bfloat16"
        return torch.autocast(self.device.type, torch.bfloat16) if bfloat16 else nullcontext()

    def held_out(self, examples: int) -> HeldOut:
        """Return the first `examples` of the validation split, packed."""
        held_out = [validation_example(self.recipe.seed, index) for index in range(examples)]
        return HeldOut(self.packer, held_out, batch_size=min(self.recipe.batch_size, 128))

    def score(self, held_out: HeldOut) -> Accuracy:
        """Score the current weights' answers."""
        self.parts.eval()
        with torch.compiler.set_stance("force_eager"):  # other shapes, no gradients: not worth a compilation
            accuracy = held_out.score(self.logits)
        self.parts.train()
        return accuracy

    def retrieval(self, held_out: HeldOut, pairs: int = 256) -> Retrieval:
        """Find the first `pairs` pictures that have captions by these, and the captions by the pictures."""
        self.parts.eval()
        pooled, captions = [], []
        with torch.inference_mode(), torch.compiler.set_stance("force_eager"), self._arithmetic():
            for batch, _ in held_out.batches:
                batch = batch.to(self.device)
                pooled.append(self.see(batch).pooled[batch.captioned])
                captions.append(batch.captions[batch.captioned])
            scores = similarities(self.clip, torch.cat(pooled)[:pairs], torch.cat(captions)[:pairs])
        self.parts.train()
        return Retrieval.of(scores)
