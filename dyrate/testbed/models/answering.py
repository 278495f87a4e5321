"""What a testbed model is trained for: answers to packed questions about images."""

from contextlib import nullcontext

import torch
from torch import Tensor
from transformers import LlavaProcessor

from dyrate.testbed.models.architecture import build_model, build_processor, size_of
from dyrate.testbed.models.held_out import Accuracy, HeldOut
from dyrate.testbed.models.packing import PackedBatch, Packer, normalise, packed_logits, packed_loss
from dyrate.testbed.models.recipe import ModelRecipe
from dyrate.testbed.models.stream import TrainingStream, world_tokenizer
from dyrate.testbed.world.examples import validation_example


class Answering:
    """A LLaVA of random weights with its processor, its data, their loss, and its score on held-out data.

    The training loop knows `recipe`, `device`, `model`, `stream`, `loss`, `held_out` and `score` alone.
    """

    def __init__(self, recipe: ModelRecipe, device: torch.device) -> None:
        self.recipe, self.device = recipe, device
        self.tokenizer = world_tokenizer(recipe.tokenizer_examples)
        self.processor: LlavaProcessor = build_processor(self.tokenizer)
        self.model = build_model(size_of(recipe.model), self.tokenizer, recipe.seed).to(device)
        self.packer = Packer(self.tokenizer, recipe.pack_length)
        self.stream = TrainingStream(self.packer, recipe.seed, recipe.batch_size)
        images = self.processor.image_processor
        self._mean = torch.tensor(images.image_mean, device=device)
        self._std = torch.tensor(images.image_std, device=device)

    def logits(self, batch: PackedBatch) -> Tensor:
        """Return the logits, [B, S, vocabulary], of a batch that may lie on another device."""
        batch = batch.to(self.device)
        bfloat16 = self.recipe.precision == "bfloat16"
        with torch.autocast(self.device.type, torch.bfloat16) if bfloat16 else nullcontext():
            return packed_logits(self.model, batch, normalise(batch.images, self._mean, self._std))

    def loss(self, batch: PackedBatch) -> Tensor:
        """Return the loss, a scalar, of a batch that may lie on another device."""
        batch = batch.to(self.device)
        return packed_loss(self.logits(batch), batch)

    def held_out(self, examples: int) -> HeldOut:
        """Return the first `examples` of the validation split, packed."""
        held_out = [validation_example(self.recipe.seed, index) for index in range(examples)]
        return HeldOut(self.packer, held_out, batch_size=min(self.recipe.batch_size, 128))

    def score(self, held_out: HeldOut) -> Accuracy:
        """Score the current weights."""
        self.model.eval()
        with torch.compiler.set_stance("force_eager"):  # other shapes, no gradients: not worth a compilation
            accuracy = held_out.score(self.logits)
        self.model.train()
        return accuracy
