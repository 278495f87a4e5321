"""Tiny random checkpoints of the other families, as files of the hub: processor, tokenizer, template."""

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    GenerationConfig,
    GotOcr2ImageProcessorPil,
    LlavaNextImageProcessorPil,
    LlavaOnevisionImageProcessorPil,
    PreTrainedTokenizerFast,
    Qwen2VLImageProcessorPil,
)

from tests.tiny_families import TINY

_QWEN = {
    "image_token": "<|image_pad|>",
    "video_token": "<|video_pad|>",
    "vision_start_token": "<|vision_start|>",
    "vision_end_token": "<|vision_end|>",
}
_INTERN = {
    "context_image_token": "<IMG_CONTEXT>",
    "video_token": "<video>",
    "start_image_token": "<img>",
    "end_image_token": "</img>",
}
_LLAVA = {"image_token": "<image>", "video_token": "<video>"}

# As the checkpoints' own, but for what they say of videos and tools.
_QWEN_TEMPLATE = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}<|im_start|>system\n"
    "You are a helpful assistant.<|im_end|>\n{% endif %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}<|im_end|>\n{% else %}"
    "{% for content in message['content'] %}{% if content['type'] == 'image' %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% elif 'text' in content %}{{ content['text'] }}{% endif %}"
    "{% endfor %}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_INTERN_TEMPLATE = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n'}}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for content in message['content'] %}{% if content['type'] == 'image' %}{{ '<IMG_CONTEXT>\n' }}"
    "{% elif content['type'] == 'text' %}{{ content['text'] }}{% endif %}{% endfor %}{% endif %}"
    "{{'<|im_end|>\n'}}{% endfor %}{% if add_generation_prompt %}{{'<|im_start|>assistant\n' }}{% endif %}"
)
_ONEVISION_TEMPLATE = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + ' '}}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}"
    "{% endfor %}{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{{ '\n' + content['text'] }}{% endfor %}{{'<|im_end|>'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_NEXT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'].upper() + ': ' + message['content'] + ' ' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
_PINPOINTS = [[16, 32], [32, 16], [32, 32]]
_SQUARE = {"size": {"height": 16, "width": 16}}
_FAMILIES: dict[str, tuple[str, dict[str, str], str, Any, dict[str, Any]]] = {
    "llava_next": (
        "LlavaNextProcessor",
        _LLAVA,
        _NEXT_TEMPLATE,
        LlavaNextImageProcessorPil(
            size={"shortest_edge": 16}, crop_size=_SQUARE["size"], image_grid_pinpoints=_PINPOINTS
        ),
        {"patch_size": 4, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1},
    ),
    "llava_onevision": (
        "LlavaOnevisionProcessor",
        _LLAVA,
        _ONEVISION_TEMPLATE,
        LlavaOnevisionImageProcessorPil(**_SQUARE, image_grid_pinpoints=_PINPOINTS),
        {"num_image_tokens": 16, "vision_feature_select_strategy": "full"},
    ),
    "internvl": (
        "InternVLProcessor",
        _INTERN,
        _INTERN_TEMPLATE,
        GotOcr2ImageProcessorPil(size={"height": 32, "width": 32}, max_patches=4, crop_to_patches=True),
        {"image_seq_length": 16},
    ),
    "qwen": (
        "Qwen2_5_VLProcessor",
        _QWEN,
        _QWEN_TEMPLATE,
        Qwen2VLImageProcessorPil(
            patch_size=4, merge_size=2, temporal_patch_size=2, min_pixels=8 * 8, max_pixels=40 * 40
        ),
        {},
    ),
}


def family_checkpoint(name: str, folder: Path) -> Path:
    """The family of `TINY` by that name, whose tokens are bytes."""
    key = next(key for key in _FAMILIES if name.startswith(key))
    kind, marks, template, images, settings = _FAMILIES[key]
    tokenizer = _tokenizer(marks, template)
    known = tokenizer.get_vocab()
    ids = {
        "image_token_id": known[marks.get("image_token", marks.get("context_image_token", ""))],
        "video_token_id": known[marks["video_token"]],
        **{f"{word}_id": known[mark] for word, mark in marks.items() if word.startswith("vision_")},
    }
    tiny = TINY[name].config
    text = {
        **tiny["text_config"],
        "vocab_size": len(tokenizer),
        "pad_token_id": known["<pad>"],
        "bos_token_id": known["<s>"],
        "eos_token_id": known["</s>"],
        "max_position_embeddings": 2048,
        "initializer_range": 0.3,  # large, so that answers depend on the picture
    }
    config = AutoConfig.for_model(**{**tiny, "text_config": text, **ids})
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(config)
    model.generation_config = GenerationConfig(
        bos_token_id=known["<s>"], eos_token_id=known["</s>"], pad_token_id=known["<pad>"]
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    images.save_pretrained(folder)
    kind = "Qwen3VLProcessor" if name == "qwen3_vl" else kind
    (folder / "processor_config.json").write_text(json.dumps({"processor_class": kind, **settings}))
    if key != "llava_next":  # settings of what no other family here has, and transformers wants
        video = {"video_processor_type": f"{kind.removesuffix('Processor')}VideoProcessor"}
        (folder / "video_preprocessor_config.json").write_text(json.dumps(video))
    return folder


def _tokenizer(marks: dict[str, str], template: str) -> PreTrainedTokenizerFast:
    special = ["<unk>", "<s>", "</s>", "<pad>", "<|im_start|>", "<|im_end|>", *marks.values()]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(
        models.BPE(vocab={token: i for i, token in enumerate([*special, *letters])}, merges=[])
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    found = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        extra_special_tokens={**marks, "turn_start": "<|im_start|>", "turn_end": "<|im_end|>"},
    )
    found.chat_template = template
    return found
