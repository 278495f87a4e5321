"""A tiny random LLaVA with its processor, and tiny benchmarks in the hub's schema."""

from pathlib import Path

import lmms_eval.tasks
import numpy as np
import torch
import yaml
from datasets import Dataset, Features, Image, Sequence, Value
from lmms_eval.utils import load_yaml_config
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

from dyrate.evaluation.benchmarks import BENCHMARKS

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
        case "chartqa":
            return [
                {
                    "type": f"{('human', 'augmented')[i % 2]}_test",
                    "question": f"How many {i}?",
                    "answer": str(i),
                }
                for i in range(count)
            ]
        case "docvqa" | "infovqa":
            return [
                {
                    "questionId": str(i),
                    "question": f"What is {i}?",
                    "answers": [answers[i], f"the {answers[i]}"],
                }
                for i in range(count)
            ]
        case "realworldqa":
            return [{"question": f"Which, {i}?", "answer": ("A", "7")[i % 2]} for i in range(count)]
        case "mmstar":
            return [
                {
                    "index": i,
                    "question": f"Which, {i}? Options: A: one, B: two, C: three, D: four",
                    "answer": "ABCD"[i % 4],
                    "category": ("math", "instance reasoning")[i // 4 % 2],
                    "l2_category": ("geometry", "single-instance reasoning")[i // 4 % 2],
                }
                for i in range(count)
            ]
        case "mmmu":
            return [_mmmu(i) for i in range(count)]
        case "visualpuzzles":
            return [
                {
                    "id": i,
                    "category": "Spatial",
                    "question": f"Which, {i}?",
                    "options": None if i % 3 == 2 else ["one", "two", "three", "four"],
                    "answer": "ABCD"[i % 4],
                }
                for i in range(count)
            ]
    raise ValueError(benchmark)


def _mmmu(index: int) -> dict:
    """A question about one image or two; one of four is about those in its options, one is open."""
    kind = index % 4
    question = f"What is {index}? <image 1>" + " or <image 2>" * (kind == 1)
    chosen = "['one', 'two', 'three']" if kind != 2 else "['<image 1>', '<image 2>']"
    return {
        "id": f"validation_{('Art', 'Basic_Medical_Science')[index % 2]}_{index}",
        "question": "Which?" if kind == 2 else question,
        "options": "[]" if kind == 3 else chosen,
        "explanation": "",
        **{f"image_{n}": _image(10 * index + n) if n <= 1 + (kind in (1, 2)) else None for n in range(1, 8)},
        "img_type": "['Photographs']",
        "answer": "three" if kind == 3 else "B",
        "topic_difficulty": ("Easy", "Hard")[index % 2],
        "question_type": "open" if kind == 3 else "multiple-choice",
        "subfield": "Drawing",
    }


_TEXT, _WHOLE, _PICTURE = Value("string"), Value("int64"), Image()
_LIST = Sequence(_TEXT)
HUB_COLUMNS = {
    "chartqa": {"type": _TEXT, "question": _TEXT, "answer": _TEXT, "image": _PICTURE},
    "docvqa": {
        **dict.fromkeys(("questionId", "question"), _TEXT),
        "question_types": _LIST,
        "image": _PICTURE,
        "docId": _WHOLE,
        **dict.fromkeys(("ucsf_document_id", "ucsf_document_page_no"), _TEXT),
        "answers": _LIST,
        "data_split": _TEXT,
    },
    "infovqa": {
        **dict.fromkeys(("questionId", "question"), _TEXT),
        **dict.fromkeys(("answers", "answer_type"), _LIST),
        "image": _PICTURE,
        "image_url": _TEXT,
        "operation/reasoning": _LIST,
        **dict.fromkeys(("ocr", "data_split"), _TEXT),
    },
    "realworldqa": {"image": _PICTURE, **dict.fromkeys(("image_path", "question", "answer"), _TEXT)},
    "mmstar": {
        "index": _WHOLE,
        "question": _TEXT,
        "image": _PICTURE,
        **dict.fromkeys(("answer", "category", "l2_category"), _TEXT),
        "meta_info": {"source": _TEXT, "split": _TEXT, "image_path": _TEXT},
    },
    "mmmu": {
        **dict.fromkeys(("id", "question", "options", "explanation"), _TEXT),
        **{f"image_{number}": _PICTURE for number in range(1, 8)},
        **dict.fromkeys(("img_type", "answer", "topic_difficulty", "question_type", "subfield"), _TEXT),
    },
    "visualpuzzles": {
        "id": _WHOLE,
        **dict.fromkeys(("category", "question"), _TEXT),
        "options": _LIST,
        "answer": _TEXT,
        "image": _PICTURE,
    },
}
"""Of benchmarks that the testbed does not have, the columns of their data sets; lmms-eval reads some."""


def save_task(folder: Path, benchmark: str, new_tokens: int | None = None) -> Path:
    """Write lmms-eval's own task file, but for where the rows come from, which is the folder's parquet file,
    and for how long answers may be, if that is given.
    """
    known = BENCHMARKS[benchmark]
    source = Path(lmms_eval.tasks.__file__).parent / known.hub_folder / f"{known.hub_task}.yaml"
    split = load_yaml_config(str(source), mode="simple")["test_split"]
    local = {"dataset_name": None, "dataset_kwargs": {"data_files": {split: f"{benchmark}.parquet"}}}
    text = {"include": str(source), "task": known.hub_task, "dataset_path": "parquet", **local}
    if new_tokens is not None:
        text["generation_kwargs"] = {"max_new_tokens": new_tokens}
    path = folder / f"{known.hub_task}.yaml"
    path.write_text(yaml.safe_dump(text))
    return path


def make_benchmark(folder: Path, benchmark: str, count: int) -> Path:
    rows = _rows(benchmark, count)
    pictures = [_image(index // 2 if benchmark == "mme" else index) for index in range(len(rows))]
    columns = HUB_COLUMNS.get(benchmark)
    rows = [{"image": picture} | row for row, picture in zip(rows, pictures, strict=True)]
    if columns is not None:
        rows = [{name: row.get(name) for name in columns} for row in rows]
    data = Dataset.from_list(rows, features=columns and Features(columns))
    path = folder / f"{benchmark}.parquet"
    data.to_parquet(path)
    return path
