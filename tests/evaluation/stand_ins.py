"""A tiny random LLaVA with its processor, and eleven tiny benchmarks in the hub's schema."""

from pathlib import Path

import numpy as np
import torch
from datasets import Dataset, Image
from PIL import Image as PILImage
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    GenerationConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextImageProcessorPil,
    LlavaNextProcessor,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

SIZE, PATCH, LAYERS = 28, 14, 2
VISUAL = (SIZE // PATCH) ** 2
SPECIAL = ["<unk>", "<s>", "</s>", "<pad>", "<image>"]
TEMPLATE = (
    "{% for m in messages %}{{ m['role'].upper() + ': ' + m['content'] + ' ' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
PARTS_TEMPLATE = (
    "{% for m in messages %}{{ m['role'].upper() + ': ' }}"
    "{% for p in m['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}"
    "{% for p in m['content'] | selectattr('type', 'equalto', 'text') %}{{ p['text'] + ' ' }}{% endfor %}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)


def _byte_tokenizer() -> PreTrainedTokenizerFast:
    vocabulary = {
        token: i for i, token in enumerate([*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet())])
    }
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        extra_special_tokens={"image_token": "<image>"},
    )


def make_checkpoint(
    folder: Path, template: str = TEMPLATE, seed: int = 0, pinpoints: list[list[int]] | None = None
) -> Path:
    """A LLaVA, or with `pinpoints` a LLaVA-NeXT, which sees images in tiles of so many pixels together."""
    tokenizer = _byte_tokenizer()
    sides = {"height": SIZE, "width": SIZE}
    tiled = {"image_grid_pinpoints": pinpoints} if pinpoints else {}
    images = LlavaNextImageProcessorPil if tiled else CLIPImageProcessorPil
    processor = (LlavaNextProcessor if tiled else LlavaProcessor)(
        image_processor=images(size=sides, crop_size=sides, **tiled),
        tokenizer=tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=template,
    )
    tokenizer.chat_template = template
    width = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2}
    config = (LlavaNextConfig if tiled else LlavaConfig)(
        vision_config=CLIPVisionConfig(num_hidden_layers=1, image_size=SIZE, patch_size=PATCH, **width),
        text_config=LlamaConfig(
            num_hidden_layers=LAYERS,
            vocab_size=len(tokenizer),
            initializer_range=0.6,  # large, so that answers depend on the picture
            bos_token_id=1,
            eos_token_id=2,
            pad_token_id=3,
            max_position_embeddings=2048,
            **width,
        ),
        image_token_index=4,
        image_seq_length=VISUAL,
        vision_feature_layer=-1,
        **tiled,
    )
    torch.manual_seed(seed)
    model = (LlavaNextForConditionalGeneration if tiled else LlavaForConditionalGeneration)(config)
    model.generation_config = GenerationConfig(bos_token_id=1, eos_token_id=2, pad_token_id=3)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def _image(seed: int) -> PILImage.Image:
    return PILImage.fromarray(np.random.default_rng(seed).integers(0, 256, (SIZE, SIZE, 3), np.uint8))


def _texts(words: str, count: int) -> list[str]:
    return [f"a {words} picture number {index} with one thing" for index in range(count)]


def _rows(benchmark: str, count: int) -> list[dict]:
    """About `count` rows in the columns that lmms-eval's task reads."""
    yes_no = [("yes", "no")[i % 2] for i in range(count)]
    answers = [f"word {i % 3}" for i in range(count)]
    match benchmark:
        case "gqa":
            return [{"question": f"What is {i}?", "answer": answers[i]} for i in range(count)]
        case "vizwiz" | "textvqa":
            return [
                {
                    "question_id": str(i),
                    "question": f"what is {i}?",
                    "answers": [answers[i]] * 9 + ["unanswerable"],
                }
                for i in range(count)
            ]
        case "sqa":
            return [
                {
                    "question": f"Which, {i}?",
                    "choices": ["one", "two"],
                    "answer": i % 2,
                    "hint": "" if i % 2 else "A hint.",
                }
                for i in range(count)
            ]
        case "vqav2":
            given = [{"answer": "yes", "answer_confidence": "yes", "answer_id": k} for k in range(10)]
            return [{"question_id": i, "question": f"Is it {i}?", "answers": given} for i in range(count)]
        case "pope":
            return [
                {
                    "question_id": str(i),
                    "question": f"Is there a {i}?",
                    "answer": yes_no[i],
                    "category": "random",
                }
                for i in range(count)
            ]
        case "mmb":
            return [
                {
                    "index": question + turn * 1_000_000,
                    "question": f"Which, {question}?",
                    "hint": "nan",
                    "answer": "ABCD"[turn],
                    **{letter: f"option {(k - turn) % 4}" for k, letter in enumerate("ABCD")},
                    "category": "color",
                    "L2-category": "perception",
                    "source": "tiny",
                    "split": "dev",
                }
                for turn in range(4)
                for question in range(-(-count // 4))
            ]
        case "mme":
            return [
                {
                    "question_id": f"{category}/{pair}",
                    "question": f"Is it {pair}, {answer}?",
                    "answer": answer,
                    "category": category,
                }
                for category in ("color", "code_reasoning")
                for pair in range(-(-count // 4))
                for answer in ("Yes", "No")
            ]
        case "nocaps":
            return [{"image_id": i, "annotations_captions": _texts(f"{i}th", 5)} for i in range(count)]
        case "flickr30k":
            return [{"img_id": str(i), "caption": _texts(f"{i}th", 5)} for i in range(count)]
        case "coco2017":
            return [
                {"question_id": f"val_{i:04d}.jpg", "id": i, "answer": _texts(f"{i}th", 5)}
                for i in range(count)
            ]
    raise ValueError(benchmark)


def make_benchmark(folder: Path, benchmark: str, count: int) -> Path:
    rows = _rows(benchmark, count)
    pictures = [_image(index // 2 if benchmark == "mme" else index) for index in range(len(rows))]
    data = Dataset.from_list([{**row, "image": picture} for row, picture in zip(rows, pictures, strict=True)])
    assert isinstance(data.features["image"], Image) or data.cast_column("image", Image())
    path = folder / f"{benchmark}.parquet"
    data.to_parquet(path)
    return path
