"""One connector in training, with its own adapter on its own copy of the language model."""

import warnings
from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

from dyrate.connectors.connector import Connector
from dyrate.connectors.join import sizes_of
from dyrate.testbed.connectors.packing import questions_of, with_visual_tokens
from dyrate.testbed.connectors.recipe import ConnectorRecipe
from dyrate.testbed.models.packing import PackedBatch, answer_logits, packed_loss

LINEARS = r".*language_model.*\.(q|k|v|o|gate|up|down)_proj"
"""The linear layers of a language model."""


class Student:
    """A connector, its adapter and their optimiser."""

    def __init__(self, recipe: ConnectorRecipe, model: Any, ends: tuple[int, int]) -> None:
        self.recipe, self.ends = recipe, ends
        torch.manual_seed(recipe.seed)
        device = model.device
        self.connector: Connector = recipe.build(sizes_of(model)).to(device)
        config = LoraConfig(r=recipe.rank, lora_alpha=2 * recipe.rank, target_modules=LINEARS, bias="none")
        with warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", ".*is_gradient_checkpointing", FutureWarning
            )  # asked by peft itself
            self.model: Any = get_peft_model(deepcopy(model), config).to(device)
        self.adapter = [part for part in self.model.parameters() if part.requires_grad]
        self.parts = nn.ModuleDict({"connector": self.connector, "model": self.model})
        self.optimizer = torch.optim.AdamW(
            [
                {"params": list(self.connector.parameters()), "alone": True},
                {"params": self.adapter, "alone": False},
            ],
            lr=recipe.peak_learning_rate,
            betas=(0.9, 0.95),
            weight_decay=0.0,
            fused=device.type == "cuda",
        )

    @property
    def scales(self) -> Sequence[int]:
        """What a nested connector is trained at, all at once; of others a single one."""
        return getattr(self.connector, "kernels", (0,))

    def logits(
        self, batch: PackedBatch, states: Sequence[Tensor], scale: int = 0
    ) -> tuple[PackedBatch, Tensor]:
        """Return the batch with this connector's visual tokens, and its logits.

        `states`: the vision tower's hidden states, [rows, class token and patches, width] each.
        """
        connector: Any = self.connector
        if scale:
            connector.kernel = scale
        seen = torch.cat([states[layer] for layer in connector.layers], dim=-1)
        seen = seen if connector.class_token else seen[:, 1:]
        if not connector.reads_questions:
            features = connector(seen)
            if connector.appended:
                behind = connector.embedding.expand(len(features), connector.appended, -1)
                features = torch.cat([features, behind.to(features.dtype)], dim=1)
            batch = with_visual_tokens(batch, features.shape[1])
        else:
            turns = int(batch.segments.max())
            question = questions_of(batch, turns, self.ends, connector)
            features = connector(seen.repeat_interleave(turns, 0), question)
            features = features.unflatten(0, (-1, turns)).flatten(1, 2)
            batch = with_visual_tokens(batch, connector.tokens, turns)
        hidden = batch.first_visual_token + connector.tokens if connector.appended else 0
        return batch, answer_logits(self.model.get_base_model(), batch, features, hidden)

    def loss(self, batch: PackedBatch, states: Sequence[Tensor]) -> Tensor:
        """Return the loss, a scalar: over all scales, their mean."""
        losses = [
            packed_loss(logits, packed)
            for packed, logits in (self.logits(batch, states, scale) for scale in self.scales)
        ]
        return torch.stack(losses).mean()

    def learn(self, batch: PackedBatch, states: Sequence[Tensor], step: int) -> Tensor:
        """Take the optimiser's step number `step`; return the loss, still on the device."""
        rate = self.recipe.learning_rate(step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate if group["alone"] or step >= self.recipe.alone else 0.0
        bfloat16 = self.recipe.precision == "bfloat16"
        with torch.autocast(batch.images.device.type, torch.bfloat16, enabled=bfloat16):
            loss = self.loss(batch, states)
        torch.autograd.backward(loss)
        trained = [*self.connector.parameters(), *self.adapter]
        torch.nn.utils.clip_grad_norm_(trained, self.recipe.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss.detach()
