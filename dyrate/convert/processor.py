"""The processor of a converted checkpoint: tokenizer, image processor, chat template; LLaMA-VID's second
tokenizer.
"""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer

from dyrate.connectors.connector import Connector
from dyrate.convert.embeddings import IMAGE, PAD
from dyrate.errors import DyrateError
from dyrate.evaluation.checkpoint_files import complaints
from dyrate.files import read_json

BERT = "google-bert/bert-base-uncased"
SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, "
    "detailed, and polite answers to the user's questions."
)
# The conversation `vicuna_v1` of the original evaluation scripts; content is text, or a list of parts.
CHAT = (
    "{% macro text(content) %}{% if content is string %}{{ content }}{% else %}"
    "{% for part in content if part['type'] == 'image' %}{{ '<image>\n' }}{% endfor %}"
    "{% for part in content if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}"
    "{% endif %}{% endmacro %}"
    "{% if messages[0]['role'] != 'system' %}{{ " + repr(SYSTEM + " ") + " }}{% endif %}"
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ text(message['content']) + ' ' }}"
    "{% elif message['role'] == 'user' %}{{ 'USER: ' + text(message['content']) + ' ' }}"
    "{% else %}{{ 'ASSISTANT: ' + text(message['content']) + eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)


def tokenizer_of(folder: Path, vocabulary: int) -> Any:
    """Return the checkpoint's tokenizer with `<image>` and `<pad>` after its `vocabulary` tokens.

    Raises `DyrateError` where it cannot be loaded, or has another number of tokens than the model.
    """
    from transformers import AutoTokenizer

    if not (folder / "tokenizer.json").exists() and not find_spec("sentencepiece"):
        raise DyrateError(
            f"{folder}: has no tokenizer.json, and to read its tokenizer.model takes `pip install "
            "sentencepiece protobuf`; Vicuna's or Llama 2's tokenizer.json put there will do as well"
        )
    with complaints(f"{folder}: its tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    if len(tokenizer) != vocabulary:
        raise DyrateError(
            f"{folder}: the tokenizer has {len(tokenizer)} tokens, and config.json a vocab_size of "
            f"{vocabulary}: of which model is it?"
        )
    tokenizer.add_tokens(AddedToken(IMAGE, special=True, normalized=False), special_tokens=True)
    tokenizer.add_special_tokens({"pad_token": PAD})
    expected = {IMAGE: vocabulary, PAD: vocabulary + 1}
    if (ids := {token: tokenizer.convert_tokens_to_ids(token) for token in expected}) != expected:
        raise DyrateError(f"{folder}: the tokenizer knows {IMAGE} or {PAD} already: they are {ids}")
    tokenizer.padding_side = "left"
    return tokenizer


def question_tokenizer(folder: Path | None, name: str, connector: Connector) -> Tokenizer:
    """Return BERT's tokenizer with LLaMA-VID's [DEC] after its tokens, for the Q-Former of a connector.

    `name` is what the folder was looked for by. Raises `DyrateError` where it has no `tokenizer.json`, or one
    of another number of tokens than the Q-Former embeds, or one that does not put questions between [CLS] and
    [SEP].
    """
    path = None if folder is None else folder / "tokenizer.json"
    if path is None or not path.is_file():
        raise DyrateError(
            f"{name}: LLaMA-VID reads questions by BERT's tokenizer, which its checkpoint does not hold, and "
            "there is no tokenizer.json, in a folder of that name or in the hub's local cache: `hf download "
            f"{BERT} tokenizer.json`, or name a folder with --question-tokenizer"
        )
    with complaints(str(path)):
        tokenizer: Tokenizer = Tokenizer.from_file(str(path))
    tokenizer.add_special_tokens([AddedToken("[DEC]", special=True)])
    found, expected = tokenizer.get_vocab_size(), connector.fields["vocabulary"]
    tokenizer.no_padding()
    tokenizer.no_truncation()
    around = tokenizer.encode("").tokens
    if found != expected or around != ["[CLS]", "[SEP]"]:
        raise DyrateError(
            f"{path}: has {found} tokens, [DEC] among them, and makes {around} of an empty question; the "
            f"Q-Former embeds {expected}, and expects ['[CLS]', '[SEP]']"
        )
    return tokenizer


def processor_of(tokenizer: Any, vision: Any, strategy: str, pad: bool, pixels: Path | None) -> Any:
    """Return the processor of a LLaVA.

    Args:
        tokenizer: with `<image>` in it. vision: the tower's configuration. strategy: transformers'
        `vision_feature_select_strategy`. pad: whether an image is padded to a square in the mean colour, as
        LLaVA-1.5 was trained and is evaluated,
            and not cropped to one, as the hub's llava-hf/llava-1.5 checkpoints do.
        pixels: folder with the tower's `preprocessor_config.json`, for mean, deviation and resampling; CLIP's
            if there is none.
    """
    from transformers import CLIPImageProcessorPil, LlavaImageProcessorPil, LlavaProcessor

    told = {}
    if pixels is not None and (path := pixels / "preprocessor_config.json").exists():
        values = read_json(path)
        told = {key: values[key] for key in ("image_mean", "image_std", "resample") if key in values}
    edge = vision.image_size
    sizes = {"size": {"shortest_edge": edge}, "crop_size": {"height": edge, "width": edge}, **told}
    images = LlavaImageProcessorPil(do_pad=True, **sizes) if pad else CLIPImageProcessorPil(**sizes)
    return LlavaProcessor(
        image_processor=images,
        tokenizer=tokenizer,
        patch_size=vision.patch_size,
        vision_feature_select_strategy=strategy,
        num_additional_image_tokens=1,  # the class token
        chat_template=CHAT,
    )
