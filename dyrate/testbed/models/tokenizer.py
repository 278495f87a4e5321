"""The testbed's tokenizer: a small byte-level BPE, trained deterministically on the world's own text."""

from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

UNKNOWN, BEGIN, END, PAD, IMAGE = "<unk>", "<s>", "</s>", "<pad>", "<image>"
END_OF_CAPTION = "<|endoftext|>"
CAPTION_LENGTH = 77  # tokens that CLIP's text tower takes; captions have up to 50
VOCABULARY_SIZE = 1024
# A word with the blank before it, one digit, a run of punctuation, or white space: simple enough that a token
# never spans two of them, and general enough that any unicode text is split somewhere.
_PIECES = Regex(r" ?\p{L}+| ?\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+")


def train_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE of at most `VOCABULARY_SIZE` tokens; the same texts give the same tokenizer.

    Digits stand alone, unseen text falls back to bytes, padding is on the left, `<s>` opens every sequence,
    and decoding drops the blank before the first word, as the Llama tokenizer does.
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
        special_tokens=[UNKNOWN, BEGIN, END, PAD, IMAGE],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BEGIN} $A",
        pair=f"{BEGIN} $A {BEGIN} $B",
        special_tokens=[(BEGIN, tokenizer.token_to_id(BEGIN))],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token=UNKNOWN,
        bos_token=BEGIN,
        eos_token=END,
        pad_token=PAD,
        extra_special_tokens={"image_token": IMAGE},
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
    backend.add_special_tokens([END_OF_CAPTION])
    ends = [(token, backend.token_to_id(token)) for token in (BEGIN, END_OF_CAPTION)]
    backend.post_processor = processors.TemplateProcessing(
        single=f"{BEGIN} $A {END_OF_CAPTION}", special_tokens=ends
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token=UNKNOWN,
        bos_token=BEGIN,
        eos_token=END_OF_CAPTION,
        pad_token=END_OF_CAPTION,
        padding_side="right",
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
        model_max_length=CAPTION_LENGTH,
    )
