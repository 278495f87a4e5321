"""The testbed's models: their sizes; LLaVA's architecture and processor in small, in Hugging Face format."""

from dataclasses import dataclass

import torch
from transformers import (
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPTextConfig,
    CLIPVisionConfig,
    GenerationConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from dyrate.errors import DyrateError

IMAGE_SIZE = 168
PATCH_SIZE = 14
VISUAL_TOKENS = (IMAGE_SIZE // PATCH_SIZE) ** 2

# LLaVA-1.5's conversation; a message's content is a string with the image token in it, or typed parts.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ message['role'].upper() + ': ' }}"
    "{% if message['content'] is string %}{{ message['content'] + ' ' }}"
    "{% else %}"
    "{% for part in message['content'] if part['type'] == 'image' %}{{ '<image>\n' }}{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] + ' ' }}{% endfor %}"
    "{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)


@dataclass(frozen=True)
class Size:
    """Depth and width of a testbed model: CLIP's two towers, equally wide, a text model; 32-wide heads."""

    vision_layers: int
    vision_width: int
    caption_layers: int  # of CLIP's text tower
    text_layers: int
    text_width: int
    text_feed_forward: int


@dataclass(frozen=True)
class MergedSize(Size):
    """Of one in Qwen2.5-VL's architecture: several heads share a key and a value, and some layers of the
    tower attend to the whole image, the others to their window.
    """

    vision_feed_forward: int
    whole_layers: tuple[int, ...]
    key_value_heads: int


SIZES = {
    "testbed-tiny": Size(2, 32, 1, 2, 32, 64),
    "testbed-q-tiny": MergedSize(2, 32, 1, 2, 64, 64, 64, (1,), 1),
    "testbed-q": MergedSize(6, 96, 4, 8, 192, 208, 256, (2, 5), 2),
    "testbed-s": Size(6, 160, 4, 8, 192, 512),
    "testbed-m": Size(7, 192, 4, 12, 256, 608),
}
HEAD_WIDTH = 32


def size_of(name: str) -> Size:
    """Return the `Size` of a testbed model by name.

    Raises:
        DyrateError: for a name that is not in `SIZES`.
    """
    if name not in SIZES:
        raise DyrateError(f"unknown testbed model {name!r}; there are {', '.join(SIZES)}")
    return SIZES[name]


def build_processor(tokenizer: PreTrainedTokenizerFast) -> LlavaProcessor:
    """Return the processor: 168x168 pixels through Pillow (the same on every machine), 144 image tokens."""
    image_processor = CLIPImageProcessorPil(
        size={"shortest_edge": IMAGE_SIZE}, crop_size={"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    )
    return LlavaProcessor(
        image_processor=image_processor,
        tokenizer=tokenizer,
        patch_size=PATCH_SIZE,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,  # the class token, which "default" takes away again
        chat_template=CHAT_TEMPLATE,
    )


def vision_config(size: Size) -> CLIPVisionConfig:
    """Return the configuration of the vision tower of this size."""
    return CLIPVisionConfig(
        hidden_size=size.vision_width,
        intermediate_size=4 * size.vision_width,
        num_hidden_layers=size.vision_layers,
        num_attention_heads=size.vision_width // HEAD_WIDTH,
        image_size=IMAGE_SIZE,
        patch_size=PATCH_SIZE,
        projection_dim=size.vision_width,
    )


def build_model(size: Size, tokenizer: PreTrainedTokenizerFast, seed: int) -> LlavaForConditionalGeneration:
    """Return a model of this size with random float32 weights drawn from `seed`."""
    special_tokens = {
        name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")
    }
    text = LlamaConfig(
        vocab_size=-(-len(tokenizer) // 64) * 64,  # matrix units like multiples of 64
        hidden_size=size.text_width,
        intermediate_size=size.text_feed_forward,
        num_hidden_layers=size.text_layers,
        num_attention_heads=size.text_width // HEAD_WIDTH,
        num_key_value_heads=size.text_width // HEAD_WIDTH,
        max_position_embeddings=2048,
        **special_tokens,
        tie_word_embeddings=False,
    )
    config = LlavaConfig(
        vision_config=vision_config(size),
        text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=VISUAL_TOKENS,
        vision_feature_layer=-2,  # LLaVA-1.5's: the last layer is the class token's alone
        vision_feature_select_strategy="default",
        tie_word_embeddings=False,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlavaForConditionalGeneration(config)
    model.generation_config = GenerationConfig(**special_tokens)
    return model


def build_clip(size: Size, tokenizer: PreTrainedTokenizerFast, seed: int) -> CLIPModel:
    """Return CLIP's other half, random float32 weights: all but the vision tower, the model's own.

    Args:
        size: of the testbed model.
        tokenizer: that of captions.
        seed: of the weights.
    """
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=size.vision_width,
        intermediate_size=4 * size.vision_width,
        num_hidden_layers=size.caption_layers,
        num_attention_heads=size.vision_width // HEAD_WIDTH,
        max_position_embeddings=tokenizer.model_max_length,
        projection_dim=size.vision_width,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    config = CLIPConfig(
        text_config=text.to_dict(),
        vision_config=vision_config(size).to_dict(),
        projection_dim=size.vision_width,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        clip = CLIPModel(config)
    clip.vision_model = None
    return clip
