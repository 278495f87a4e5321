"""A testbed model of a second family: Qwen2.5-VL's architecture, processor and chat template in small."""

import json
from pathlib import Path

import torch
from transformers import (
    GenerationConfig,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessorPil,
)

from dyrate import files
from dyrate.testbed.models.architecture import HEAD_WIDTH, MergedSize
from dyrate.testbed.models.qwen_packing import MERGE, PATCH, SIDES, TIMES, TOKEN, WINDOW
from dyrate.testbed.models.tokenizer import VISION_END, VISION_START
from dyrate.videoless import videoless

# Qwen2.5-VL's own, without what it says of videos and tools; content is a string with the image token in it,
# or typed parts.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if loop.first and message['role'] != 'system' %}"
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    "{% endif %}"
    "<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}"
    "{% endfor %}"
    "{% endif %}"
    "<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def build_processor(tokenizer: PreTrainedTokenizerFast) -> Qwen2_5_VLProcessor:
    """Return the processor: pixels through Pillow, sides rounded to whole tokens, from 4 of these to twice as
    many as the largest image in training.
    """
    image_processor = Qwen2VLImageProcessorPil(
        patch_size=PATCH,
        temporal_patch_size=TIMES,
        merge_size=MERGE,
        size={"shortest_edge": (2 * TOKEN) ** 2, "longest_edge": 2 * max(SIDES) ** 2},
    )
    return videoless(Qwen2_5_VLProcessor)(
        image_processor=image_processor, tokenizer=tokenizer, chat_template=CHAT_TEMPLATE
    )


def save_processor(processor: Qwen2_5_VLProcessor, folder: Path) -> None:
    """Write the processor with what transformers asks for where it also reads videos."""
    processor.save_pretrained(folder)
    path = folder / "processor_config.json"
    config = json.loads(path.read_text("utf-8"))
    images = config["image_processor"]
    alike = {name: value for name, value in images.items() if name != "image_processor_type"}
    config["video_processor"] = {**alike, "video_processor_type": "Qwen2VLVideoProcessor"}
    files.write_text(path, json.dumps(config, indent=2, sort_keys=True) + "\n")


def build_model(
    size: MergedSize, tokenizer: PreTrainedTokenizerFast, seed: int
) -> Qwen2_5_VLForConditionalGeneration:
    """Return a model of this size with random float32 weights drawn from `seed`."""
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    places = {
        name: tokenizer.convert_tokens_to_ids(token)
        for name, token in (
            ("image_token_id", tokenizer.image_token),
            ("video_token_id", tokenizer.video_token),
            ("vision_start_token_id", VISION_START),
            ("vision_end_token_id", VISION_END),
        )
    }
    text = {
        "vocab_size": -(-len(tokenizer) // 64) * 64,
        "hidden_size": size.text_width,
        "intermediate_size": size.text_feed_forward,
        "num_hidden_layers": size.text_layers,
        "num_attention_heads": size.text_width // HEAD_WIDTH,
        "num_key_value_heads": size.key_value_heads,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-6,
        # Qwen2.5-VL's shares of time, row and column: 16, 24 and 24 of 64.
        "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [4, 6, 6]},
        "bos_token_id": None,
        **ends,
        "tie_word_embeddings": True,
    }
    vision = {
        "depth": size.vision_layers,
        "hidden_size": size.vision_width,
        "intermediate_size": size.vision_feed_forward,
        "num_heads": size.vision_width // HEAD_WIDTH,
        "patch_size": PATCH,
        "spatial_merge_size": MERGE,
        "temporal_patch_size": TIMES,
        "window_size": WINDOW,
        "fullatt_block_indexes": list(size.whole_layers),
        "out_hidden_size": size.text_width,
    }
    config = Qwen2_5_VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=True, **places)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen2_5_VLForConditionalGeneration(config)
    model.generation_config = GenerationConfig(**ends)
    return model
