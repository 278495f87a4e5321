"""Where the four token classes stand in each row of a prompt, and which of its columns are visual tokens."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import IntEnum

import torch
from torch import Tensor

from dyrate.errors import DyrateError


class TokenClass(IntEnum):
    """The classes whose attention mass is measured, and padding, which has none."""

    PADDING = -1
    SYS = 0
    IMG = 1
    INS = 2
    RES = 3


@dataclass(frozen=True, eq=False)
class TokenLayout:
    """The prompt of a batch, as far as token reduction must know it.

    A column is a position of the padded prompt [batch, columns]. Text before a row's first image token is
    `SYS`, all other text is `INS`, also between two images and in a row that has no image.
    """

    classes: Tensor
    """LongTensor [batch, columns] of `TokenClass` values."""
    visual_index: Tensor
    """LongTensor [batch, columns]: which visual token of its row a column is (0..V-1), -1 if none."""
    visual_tokens: Tensor
    """LongTensor [batch]: V of each row."""
    num_visual: int
    """The largest V of the batch: the width of every [batch, V] tensor."""
    most_text: int
    """The most text tokens of a row."""
    padded: bool
    """Whether any column of any row is padding."""
    compression: Tensor
    """BoolTensor [batch, columns]: compression tokens, whose class is that of the text around them."""

    @classmethod
    def from_prompt(
        cls,
        input_ids: Tensor,
        attention_mask: Tensor | None,
        image_token_id: int,
        compression_tokens: Sequence[int] = (),
    ) -> "TokenLayout":
        """Read the layout off token ids [batch, columns] and a mask of the same shape (1 = token, 0 =
        padding).

        Raises `DyrateError` for an empty prompt, a mask of another shape or with other values, and for right
        padding, under which the newest token is not in the last column.
        """
        if input_ids.dim() != 2 or not input_ids.numel():
            raise DyrateError(
                f"input_ids has shape {tuple(input_ids.shape)}; at least one row of at "
                "least one token is expected"
            )
        device = input_ids.device
        input_ids = input_ids.cpu()  # where small operations are faster than on a GPU
        if attention_mask is None:
            valid = torch.ones_like(input_ids, dtype=torch.bool)
        else:
            valid = _tokens_of(attention_mask, input_ids)
        image = (input_ids == image_token_id) & valid
        seen = image.cumsum(dim=1)
        visual_tokens = seen[:, -1]
        if not valid[:, -1].all():
            rows = (~valid[:, -1]).nonzero().flatten().tolist()
            raise DyrateError(
                f"the last column of attention_mask has padding in rows {rows}: pad on the left "
                "(tokenizer.padding_side = 'left')"
            )
        before_image = (seen == 0) & (visual_tokens > 0)[:, None]
        classes = torch.full_like(input_ids, TokenClass.INS)
        classes.masked_fill_(before_image, TokenClass.SYS)
        classes.masked_fill_(image, TokenClass.IMG)
        classes.masked_fill_(~valid, TokenClass.PADDING)
        return cls(
            classes=classes.to(device),
            visual_index=torch.where(image, seen - 1, -1).to(device),
            visual_tokens=visual_tokens.to(device),
            num_visual=int(visual_tokens.max()),
            most_text=int((valid & ~image).sum(dim=1).max()),
            padded=not valid.all(),
            compression=torch.isin(input_ids, torch.tensor(compression_tokens, dtype=input_ids.dtype)).to(
                device
            ),
        )

    @property
    def valid(self) -> Tensor:
        """BoolTensor [batch, V]: which entries of a [batch, V] tensor stand for a visual token."""
        indices = torch.arange(self.num_visual, device=self.visual_tokens.device)
        return indices < self.visual_tokens[:, None]

    @property
    def text_tokens(self) -> Tensor:
        """LongTensor [batch]: tokens of each row that are neither visual nor padding."""
        return ((self.classes != TokenClass.IMG) & (self.classes != TokenClass.PADDING)).sum(dim=1)

    def select_rows(self, rows: Tensor) -> "TokenLayout":
        """Return the layout of the batch made of `rows` (LongTensor [new batch]) of this one."""
        return replace(
            self,
            classes=self.classes[rows],
            visual_index=self.visual_index[rows],
            visual_tokens=self.visual_tokens[rows],
            compression=self.compression[rows],
        )


def _tokens_of(attention_mask: Tensor, input_ids: Tensor) -> Tensor:
    """BoolTensor [batch, columns]: what the mask calls a token."""
    shape = tuple(attention_mask.shape)
    if shape != tuple(input_ids.shape):
        raise DyrateError(
            f"attention_mask has shape {shape}, the prompt {tuple(input_ids.shape)}; a 2-D mask of the "
            "prompt's shape is expected, not a 4-D one"
        )
    mask = attention_mask.cpu()
    other = mask[(mask != 0) & (mask != 1)]
    if len(other):
        raise DyrateError(
            f"attention_mask holds {other[0].item()}; 1 for a token and 0 for padding are expected, not what "
            "is added to attention scores"
        )
    return mask.bool()
