"""Qwen3-VL: as Qwen2.5-VL, without windows, and with features added after the first language layers."""

from typing import Any

from torch import Tensor, nn

from dyrate.families.qwen2_5_vl import Qwen25VL


class Qwen3VL(Qwen25VL):
    """DeepStack: layers of the tower are tapped, and after language layer i each visual token that is left
    gets what the i-th tap has for its own place, whatever was merged into it.
    """

    name = "qwen3_vl"
    models = ("Qwen3VLForConditionalGeneration",)
    text_models = ("qwen3_vl_text",)

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self.taps = len(self.encoder_owner.visual.deepstack_visual_indexes)

    def injected(self, inputs: dict[str, Any]) -> list[Tensor]:
        """Take the taps' features out of the text model's keywords, and put them in their columns."""
        places, found = inputs.pop("visual_pos_masks", None), inputs.pop("deepstack_visual_embeds", None)
        if places is None or found is None:
            return []
        states: Tensor = inputs["inputs_embeds"]
        return [
            states.new_zeros(states.shape).masked_scatter(places[..., None].to(states.device), tap.to(states))
            for tap in found
        ]

    def _mergers(self, visual: Any) -> list[nn.Module]:
        return [visual.merger, *visual.deepstack_merger_list]

    def _pairs(self, layer: int, rows: int, columns: int) -> int:
        return (rows * columns) ** 2
