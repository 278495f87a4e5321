"""The testbed's tokenizer: a small byte-level BPE, trained deterministically on the world's own text."""

from collections.abc import Iterable
from typing import NamedTuple

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

UNKNOWN, BEGIN, END, PAD, IMAGE = "<unk>", "<s>", "</s>", "<pad>", "<image>"
END_OF_CAPTION = "<|endoftext|>"
IM_START, IM_END = "<|im_start|>", "<|im_end|>"
VISION_START, VISION_END = "<|vision_start|>", "<|vision_end|>"
IMAGE_PAD, VIDEO_PAD = "<|image_pad|>", "<|video_pad|>"
CAPTION_LENGTH = 77  # tokens that CLIP's text tower takes; captions have up to 50
VOCABULARY_SIZE = 1024
# A word with the blank before it, one digit, a run of punctuation, or white space: simple enough that a token
# never spans two of them, and general enough that any unicode text is split somewhere.
_PIECES = Regex(r" ?\p{L}+| ?\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+")


class Dialogue(NamedTuple):
    """How a family writes a question about an image, and its answer."""

    before: str  # all that stands before the visual tokens
    image: str  # the token that stands for each of them
    after: str  # between these and the question
    cue: str  # between question and answer
    lead: str  # in front of the answer's first word
    end: str  # the token that ends the answer
    specials: dict[str, str]  # by their names in transformers, in the order of their ids
    opening: str = ""  # the token that opens every text

    def written(self, text: str) -> str:
        """Return a text without special tokens, which the tokenizer need not learn."""
        for token in self.specials.values():
            text = text.replace(token, "")
        return text


VICUNA = Dialogue(
    before="USER: ",
    image=IMAGE,
    after="\n",
    cue=" ASSISTANT:",
    lead=" ",
    end=END,
    specials={
        "unk_token": UNKNOWN,
        "bos_token": BEGIN,
        "eos_token": END,
        "pad_token": PAD,
        "image_token": IMAGE,
    },
    opening=BEGIN,
)
"""LLaVA-1.5's, without its system text."""

CHATML = Dialogue(
    before=f"{IM_START}system\nYou are a helpful assistant.{IM_END}\n{IM_START}user\n{VISION_START}",
    image=IMAGE_PAD,
    after=VISION_END,
    cue=f"{IM_END}\n{IM_START}assistant\n",
    lead="",
    end=IM_END,
    specials={
        "pad_token": END_OF_CAPTION,
        "im_start_token": IM_START,
        "eos_token": IM_END,
        "vision_bos_token": VISION_START,
        "vision_eos_token": VISION_END,
        "image_token": IMAGE_PAD,
        "video_token": VIDEO_PAD,
    },
)
"""Qwen2.5-VL's."""

_NAMED = ("unk_token", "bos_token", "eos_token", "pad_token")


def train_tokenizer(texts: Iterable[str], dialogue: Dialogue = VICUNA) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE of at most `VOCABULARY_SIZE` tokens; the same texts give the same tokenizer.

    Digits stand alone, unseen text falls back to bytes, padding is on the left, the dialogue's opening token
    opens every sequence, and decoding drops the blank before the first word, as the Llama tokenizer does.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(_PIECES, behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE,
        min_frequency=2,
        special_tokens=[*dialogue.specials.values()],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    if opening := dialogue.opening:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{opening} $A",
            pair=f"{opening} $A {opening} $B",
            special_tokens=[(opening, tokenizer.token_to_id(opening))],
        )
    named = {name: token for name, token in dialogue.specials.items() if name in _NAMED}
    others = {name: token for name, token in dialogue.specials.items() if name not in _NAMED}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        **named,
        extra_special_tokens=others,
        padding_side="left",
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
        model_max_length=2048,
    )


def caption_tokenizer(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """Return a testbed model's tokenizer for CLIP's text tower: texts end, and are padded, as CLIP's are.

    The end is the last id of all, not 2: by that id transformers takes a text tower for one of the first CLIP
    checkpoints, whose configuration was wrong, and pools at the largest id.
    """
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    opening = tokenizer.bos_token or IM_START
    backend.add_special_tokens([END_OF_CAPTION])
    ends = [(token, backend.token_to_id(token)) for token in (opening, END_OF_CAPTION)]
    backend.post_processor = processors.TemplateProcessing(
        single=f"{opening} $A {END_OF_CAPTION}", special_tokens=ends
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token=tokenizer.unk_token,
        bos_token=opening,
        eos_token=END_OF_CAPTION,
        pad_token=END_OF_CAPTION,
        padding_side="right",
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
        model_max_length=CAPTION_LENGTH,
    )
