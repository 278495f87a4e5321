"""A LLaVA with another connector: what `transformers` loads, changed in place."""

from collections.abc import Sequence
from functools import lru_cache, wraps
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import AddedToken, LlavaForConditionalGeneration

from dyrate.connectors.connector import Connector, Question, Sizes
from dyrate.connectors.projector import Projector
from dyrate.errors import DyrateError
from dyrate.families import family_of


def sizes_of(model: Any) -> Sizes:
    """Return the sizes that a connector of a LLaVA needs."""
    vision = model.config.vision_config
    side = vision.image_size // vision.patch_size
    return Sizes(vision.hidden_size, model.config.text_config.hidden_size, side)


def join(
    processor: Any,
    model: LlavaForConditionalGeneration,
    connector: Connector,
    words: Tokenizer | None = None,
) -> None:
    """Put a connector in the place of a LLaVA's own, and let its processor leave as many places for an image.

    The model goes on being what it was to all that knows a LLaVA; one whose connector reads questions takes
    them from `input_ids`, of `generate()` and of a forward with images; by the tokenizer `words` (see
    `questions`), if not by the processor's.

    Raises `DyrateError` for a connector of other sizes, and for layers that the vision tower does not have.
    """
    family_of(model).patches(f"connector {connector.name}")
    found, depth = sizes_of(model), model.config.vision_config.num_hidden_layers
    if connector.sizes != found:
        raise DyrateError(f"connector {connector.name} is for {connector.sizes}, and the model has {found}")
    for layer in connector.layers:
        if not -depth - 1 <= layer <= depth:
            raise DyrateError(
                f"connector {connector.name} takes the tower's hidden states {connector.layers}, and a tower "
                f"of {depth} layers has none of index {layer}"
            )
    strategy = "full" if connector.class_token else "default"
    layers: Any = list(connector.layers)
    model.config.vision_feature_layer = layers[0] if len(layers) == 1 else layers
    model.config.vision_feature_select_strategy = processor.vision_feature_select_strategy = strategy
    if isinstance(connector, Projector):  # LLaVA's own: what works on its patches works on
        _fill(model, connector)
        return
    weight = model.model.multi_modal_projector.linear_1.weight
    place = _Place(connector).to(weight.device, weight.dtype).eval()
    model.model.multi_modal_projector = place
    set_tokens(processor, model, connector.tokens)
    if connector.appended:
        _append(processor, model, connector)
    if connector.reads_questions:
        cue = family_of(model).answer_cue
        model.__class__ = _Asking
        tokenizer = processor.tokenizer
        model._reading = _Reading(tokenizer, words or tokenizer, model.config.image_token_id, cue, place)


def _fill(model: Any, connector: Projector) -> None:
    """Give a LLaVA's own projector the weights of a connector."""
    config = model.config
    kind = config.projector_hidden_act, config.multimodal_projector_bias
    if kind != ("gelu", True):
        raise DyrateError(
            f"connector {connector.name} is two layers with biases and a GELU between them, and the model's "
            f"has projector_hidden_act {kind[0]!r} and multimodal_projector_bias {kind[1]}"
        )
    for name, trained in (("linear_1", 0), ("linear_2", 2)):
        linear = model.model.multi_modal_projector.get_submodule(name)
        linear.load_state_dict(connector.mlp[trained].state_dict())


def set_tokens(processor: Any, model: Any, tokens: int) -> None:
    """Let the processor leave `tokens` places in the prompt for every image."""
    # It counts the patches of an image, of which the whole image is to be one, and adds what it is told.
    processor.patch_size = model.config.vision_config.image_size
    dropped = processor.vision_feature_select_strategy == "default"
    processor.num_additional_image_tokens = tokens - 1 + dropped


def _append(processor: Any, model: Any, connector: Any) -> None:
    """Let the processor put compression tokens behind each image's, and the language model embed them."""
    text = "<voco>"
    processor.tokenizer.add_tokens([AddedToken(text, normalized=False, special=True)])
    found = processor.tokenizer.convert_tokens_to_ids(text)
    rows = model.get_input_embeddings().weight
    if found != connector.token or found >= len(rows):
        raise DyrateError(
            f"connector {connector.name} has the token id {connector.token}; {text} is {found} in this "
            "tokenizer, and "
            f"the model embeds the ids 0..{len(rows) - 1}"
        )
    if model.get_output_embeddings().weight is rows:
        raise DyrateError(
            f"connector {connector.name} embeds the token {found}, and this model's head has its embeddings: "
            "the logits of that token would change as well"
        )
    with torch.no_grad():
        rows[found] = connector.embedding.to(rows)
    images = processor.image_token * connector.tokens + text * connector.appended
    processor.replace_image_token = lambda *args, **kwargs: images


class _Place(nn.Module):
    """Where LLaVA keeps its projector, which is called with the tower's states alone."""

    def __init__(self, connector: Connector) -> None:
        super().__init__()
        self.connector = connector
        self.question: Question | None = None
        """Of the call to come; each serves one."""
        self.asked: Question | None = None
        """Of the last call."""
        self._macs = lru_cache(maxsize=None)(connector.macs)

    def forward(self, states: Tensor) -> Tensor:
        """Return visual tokens [images, tokens, hidden] for states [images, n, width of all layers]."""
        if self.connector.reads_questions and (
            self.question is None or len(self.question.ids) != len(states)
        ):
            raise DyrateError(
                f"connector {self.connector.name} reads questions: images are encoded by generate(), or by a "
                "forward that is given input_ids beside them"
            )
        self.question, self.asked = None, self.question
        found: Tensor = self.connector(states, self.asked)
        self._images = len(states)
        return found

    def macs(self) -> int:
        """Return the multiply-accumulates of the last call, padding of questions not counted."""
        if not self.connector.reads_questions:
            return self._images * self._macs(0)
        assert self.asked is not None
        return sum(map(self._macs, self.asked.mask.sum(1).tolist()))


class _Reading:
    """Tells a connector what is asked about each image of a batch."""

    def __init__(self, tokenizer: Any, words: Any, image_token: int, cue: str, place: _Place) -> None:
        self.tokenizer, self.words = tokenizer, words
        self.image_token, self.cue, self.place = image_token, cue, place

    def read(self, ids: Tensor | None) -> None:
        """Read the questions of a batch of prompts, [rows, tokens]."""
        self.place.question = None
        if ids is None:
            return
        connector = self.place.connector
        texts: list[str] = []
        for row in ids.tolist():
            images, rest = divmod(row.count(self.image_token), connector.tokens)
            if rest:
                raise DyrateError(
                    f"a prompt has {row.count(self.image_token)} image tokens, and connector "
                    f"{connector.name} "
                    f"makes {connector.tokens} of an image"
                )
            if images:
                after = row[len(row) - row[::-1].index(self.image_token) :]
                text = str(self.tokenizer.decode(after, skip_special_tokens=True)).strip()
                texts += [text.removesuffix(self.cue).strip()] * images
        if texts:
            self.place.question = questions(self.words, texts, connector).to(ids.device)


def questions(tokenizer: Any, texts: Sequence[str], connector: Connector) -> Question:
    """Return texts as a connector reads them: by a language model's tokenizer without special tokens, cut to
    its `words`; by one of its own as that makes and cuts them.
    """
    if isinstance(tokenizer, Tokenizer):
        rows = [one.ids for one in tokenizer.encode_batch(list(texts))]
    else:
        rows = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
        rows = [row[-connector.words :] if connector.keeps_end else row[: connector.words] for row in rows]
    longest = max(map(len, rows))
    ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows], dtype=torch.long)
    mask = torch.arange(longest) < torch.tensor([len(row) for row in rows])[:, None]
    return Question(ids.view(len(rows), longest), mask)


class _Asking(LlavaForConditionalGeneration):  # type: ignore[misc]
    """A LLaVA whose connector reads questions."""

    family_name = "LlavaForConditionalGeneration"
    _reading: _Reading

    def generate(self, inputs: Tensor | None = None, *args: Any, **kwargs: Any) -> Any:
        """As transformers', after the prompts' questions have been read: images are encoded before any
        forward.
        """
        self._reading.read(inputs if inputs is not None else kwargs.get("input_ids"))
        return super().generate(inputs, *args, **kwargs)

    @wraps(LlavaForConditionalGeneration.forward)  # whose arguments transformers looks up
    def forward(self, input_ids: Tensor | None = None, *args: Any, **kwargs: Any) -> Any:
        """As transformers', after the questions have been read where images come with them."""
        if kwargs.get("pixel_values") is not None:
            self._reading.read(input_ids)
        return super().forward(input_ids, *args, **kwargs)
