"""VTW's search for the layer from which visual tokens can be withdrawn."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import kl_div

from dyrate.errors import DyrateError
from dyrate.families import family_of
from dyrate.methods.none import NoReduction
from dyrate.methods.vtw import VTW


@dataclass(frozen=True)
class LayerSearch:
    """The outcome: the mean divergence per layer, and the first layer at or below the threshold."""

    eta: float
    samples: int
    divergence: Mapping[int, float]

    @property
    def layer(self) -> int | None:
        """The first layer whose divergence is at most eta, None if there is none."""
        return next((layer for layer, value in sorted(self.divergence.items()) if value <= self.eta), None)

    def to_json(self) -> str:
        """Return the outcome as JSON text, layers in order."""
        document = {
            "schema": "dyrate.vtw_search",
            "version": 1,
            "eta": self.eta,
            "samples": self.samples,
            "layer": self.layer,
            "divergence": {str(layer): value for layer, value in sorted(self.divergence.items())},
        }
        return json.dumps(document, indent=2) + "\n"


def divergence(full: Tensor, dropped: Tensor) -> Tensor:
    """KL(dropped || full) of logits [batch, vocabulary], mean over the batch.

    The official code's KLDivLoss(batchmean)(log_softmax(full), softmax(dropped)); the paper's text
    (arXiv:2405.05803, section 3.3) does not say which way round.
    """
    return kl_div(full.float().log_softmax(-1), dropped.float().softmax(-1), reduction="batchmean")


@torch.no_grad()
def search_layer(
    model: nn.Module,
    inputs: Iterable[Mapping[str, Tensor]],
    *,
    eta: float,
    first_layer: int = 5,
) -> LayerSearch:
    """Compare last-token logits with and without visual tokens from each layer on, mean over `inputs`.

    Layers from `first_layer` on are tried; the official code starts at 5. `inputs` are one prompt each,
    as the processor makes them, on the model's device. Raises `DyrateError` if there are none, or if the
    model is no deeper than `first_layer`.
    """
    num_layers = len(family_of(model).layers)
    if not 1 <= first_layer < num_layers:
        raise DyrateError(f"first layer {first_layer}: expected 1..{num_layers - 1}, the model's layers")
    totals = torch.zeros(num_layers, dtype=torch.float64)
    samples = 0
    for prompt in inputs:
        with NoReduction()(model):
            full = model(**prompt, logits_to_keep=1).logits[:, -1]
        for layer in range(first_layer, num_layers):
            with VTW(layer=layer)(model):
                dropped = model(**prompt, logits_to_keep=1).logits[:, -1]
            totals[layer] += divergence(full, dropped).item()
        samples += 1
    if not samples:
        raise DyrateError("the layer search needs at least one question with an image")
    means = (totals / samples).tolist()
    return LayerSearch(eta, samples, {layer: means[layer] for layer in range(first_layer, num_layers)})
