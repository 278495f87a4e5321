"""What is known of a batch of prompts while they are read: tokens, images, questions."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256

import torch
from torch import Tensor

from dyrate.encoded_images import EncodedImages
from dyrate.errors import DyrateError
from dyrate.families import Family
from dyrate.needs import Needs, TowerPlace
from dyrate.question_reader import QuestionReader
from dyrate.tokens import TokenClass, TokenLayout
from dyrate.tower_layer import SeenTokens, TowerLayer


@dataclass(frozen=True, eq=False)
class Prompt:
    """A batch of prompts; B rows, V the largest number of visual tokens of a row."""

    family: Family
    needs: Needs
    input_ids: Tensor
    """LongTensor [B, columns]."""
    layout: TokenLayout
    image_tokens: Sequence[int]
    """Image tokens of each row, whether the attention mask shows them or not."""
    find_images: Callable[[], EncodedImages | None]
    """Returns the prompt's images once they are encoded; None where they are not known one by one."""
    reader: QuestionReader | None
    count_macs: Callable[[int], None]
    label: str
    """The method's, for errors."""

    @cached_property
    def images(self) -> EncodedImages:
        """The prompt's images; a `DyrateError` where they are not known."""
        images = self.find_images()
        if images is None:
            raise DyrateError(
                f"{self.label} works on the vision encoder, but the visual features of this prompt were not "
                "made inside the with block; pass pixel_values, and after an earlier torch.compile call "
                "torch.compiler.reset()"
            )
        return images

    @cached_property
    def filled(self) -> Tensor:
        """BoolTensor [B, V]: the visual tokens that a feature stands in."""
        tokens = self._tokens_of_images
        return self.images.filled.to(tokens.device)[tokens.clamp_min(0)] & (tokens >= 0)

    @cached_property
    def grid(self) -> Tensor:
        """LongTensor [B, V, 3]: picture, row and column of each visual token; see `PrefillView.grid`."""
        places, pictures = [], 0
        for of_image in self.images.find_positions():
            places.append(of_image + torch.tensor([pictures, 0, 0]))
            pictures += int(of_image[:, 0].max()) + 1
        tokens = self._tokens_of_images.cpu()
        found = torch.cat(places)[tokens.clamp_min(0)]
        found[..., 0] -= found[:, :1, 0].clone()  # counted from each row's first one
        return found.masked_fill((tokens < 0)[..., None], -1).to(self.layout.visual_tokens.device)

    def tower(self, layer: TowerPlace) -> TowerLayer:
        """Return a layer of the vision tower, as `needs` asks for it."""
        states = self.images.hidden_states
        at = self.family.tower.layer(layer)
        if states is None or at is None:
            raise DyrateError(
                f"{self.label}: layer {layer} of the vision tower was not kept: needs.tower must name it"
            )
        return TowerLayer(self.seen, at, states[at], states[at + 1])

    def project(self, features: Tensor) -> Tensor:
        """Return features of the tower as the connector projects them; [B, n, width] -> [B, n, hidden].

        Raises `DyrateError` where the model projects another layer than those that the method asks for.
        """
        tower = self.family.tower
        depth, right = len(tower.layers), tower.projected_layer
        asked = {tower.layer(layer) for layer, parts in self.needs.tower.items() if "states" in parts}
        if right not in asked:
            named = ", ".join(str(layer) for layer in range(depth) if layer in asked) or "none"
            raise DyrateError(
                f"{self.label} projects the vision tower's layer {named} of 0..{depth - 1}, and this model's "
                f"projector reads another: vision_feature_layer={tower.feature_layer}"
            )
        projected = tower.project(features).to(features.device)
        weights = sum(weight.numel() for weight in tower.projector.parameters() if weight.dim() == 2)
        self.count_macs(features.shape[0] * features.shape[1] * weights)
        return projected

    @cached_property
    def seen(self) -> SeenTokens:
        """What the tower saw, by visual token."""
        tokens = self._tokens_of_images
        sources = torch.cat(self.family.sources(self.images.inputs, self.images.places)).to(tokens.device)
        return SeenTokens(
            self.family.tower,
            self.needs,
            self.images.inputs,
            sources[tokens.clamp_min(0)].masked_fill((tokens < 0)[..., None], -1),
            self.count_macs,
            self.beside_questions,
        )

    @cached_property
    def questions(self) -> list[str]:
        """The text of each row's instruction."""
        if not self.needs.question:
            raise DyrateError(f"{self.label} reads the question, which its needs must ask for: question=True")
        reader = self._known_reader
        rows = zip(self.input_ids.tolist(), (self.layout.classes == TokenClass.INS).tolist(), strict=True)
        texts = [reader.text([id for id, own in zip(*row, strict=True) if own]) for row in rows]
        return [self.family.question(text) for text in texts]

    @cached_property
    def question_features(self) -> Tensor:
        """FloatTensor [B, D]: the questions as the text encoder has them."""
        questions = self.questions
        return self._known_reader.features(questions).to(self.layout.visual_tokens.device)

    def beside_questions(self, states: Tensor) -> Tensor:
        """Return states of the tower [..., width] where CLIP has the question's features, [..., D]."""
        found = self._known_reader.beside_features(self.family.tower.norm(states))
        self.count_macs(states.numel() * found.shape[-1])
        return found

    @property
    def _known_reader(self) -> QuestionReader:
        if self.reader is None:
            raise DyrateError(
                f"{self.label} reads the question: attach it with a reader, `method(model, "
                "questions=QuestionReader.of(processor.tokenizer))`"
            )
        return self.reader

    def row_seeds(self, seed: int) -> list[int]:
        """Return one seed per row, made of `seed` and the row's own tokens and pixels, not of its batch.

        Raises `DyrateError` for a prompt with images whose pixels are not known.
        """
        images = self.find_images()
        if images is None and any(self.image_tokens):
            raise DyrateError(
                "the random choice depends on the images, which are not known one by one: their features "
                "were made outside the with block, or by a tower that packs them; pass pixel_values to a "
                "CLIP tower"
            )
        ids, classes = self.input_ids.cpu().long(), self.layout.classes.cpu()
        rows = images.of_rows(self.image_tokens) if images is not None else [range(0)] * len(ids)
        seeds = []
        for tokens, its_classes, own in zip(ids, classes, rows, strict=True):
            digest = sha256(str(seed).encode())
            digest.update(tokens[its_classes != TokenClass.PADDING].numpy().tobytes())
            if images is not None:
                for pixels in images.pixels[own.start : own.stop]:
                    digest.update(pixels.contiguous().cpu().view(torch.uint8).numpy().tobytes())
            seeds.append(int.from_bytes(digest.digest()[:8], "big") >> 1)
        return seeds

    @cached_property
    def _tokens_of_images(self) -> Tensor:
        return self.images.tokens_of(self.layout, self.image_tokens)
