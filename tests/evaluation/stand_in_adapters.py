"""Adapters as lmms-eval has them, tiny and badly behaved; a tiny random InstructBLIP in its real layout."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lmms_eval.api.model import lmms
from lmms_eval.models import MODEL_REGISTRY_V2
from lmms_eval.models.registry_v2 import ModelManifest
from loguru import logger
from transformers import (
    AutoConfig,
    BertTokenizer,
    BlipImageProcessorPil,
    GenerationConfig,
    InstructBlipConfig,
    InstructBlipForConditionalGeneration,
    InstructBlipProcessor,
    InstructBlipQFormerConfig,
    InstructBlipVisionConfig,
    LlamaConfig,
    LlamaTokenizer,
)

SIZE, QUERIES = 28, 4


class Plain(lmms):
    """Answers with the last word of the prompt and the size of the image; `calls` counts its requests."""

    def __init__(
        self,
        pretrained: str = "",
        batch_size: int = 1,
        device: str = "cuda",
        fault: str = "",
        at: int = -1,
        trust_remote_code: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__()
        assert kwargs == {}, f"Unexpected kwargs: {kwargs}"
        self.batch_size, self.device_given, self.trusted = int(batch_size), device, trust_remote_code
        self.fault, self.at, self.calls = fault, at, []
        self.module = Module()

    def generate_until(self, requests: list[Any]) -> list[Any]:
        answers: list[Any] = []
        for context, generation, to_visual, doc_id, task, split in (one.args for one in requests):
            self.calls.append((task, doc_id, dict(generation)))
            generation.pop("until", None)  # as many adapters do
            (image,) = to_visual(self.task_dict[task][split][doc_id])
            answer: Any = f"{context.split()[0]} {image.size[0]} {doc_id}"
            if doc_id == self.at or self.at < 0:
                answer = self._faulty(answer, context)
            answers.append(answer)
        return answers + answers[:1] if self.fault == "count" else answers

    def _faulty(self, answer: str, context: str) -> Any:
        match self.fault:
            case "raise":
                raise IndexError("no such layer")
            case "log":
                try:
                    raise KeyError("lost")  # noqa: TRY301
                except KeyError as error:
                    logger.error(f"Error {error} in generating")
                    return ""
            case "generate":
                try:
                    self.module.generate(broken=True)
                except RuntimeError as error:
                    logger.debug(f"quietly: {error}")
                    return ""
            case "sample":
                self.module.generate(do_sample=True)
            case "none":
                return None
            case "empty":
                return ""
            case "echo":
                return context.replace("\n", " ") + " " + answer
        return answer

    def loglikelihood(self, requests: list[Any]) -> list[Any]:
        raise NotImplementedError

    generate_until_multi_round = loglikelihood


class Module(torch.nn.Module):
    """Something that generates."""

    def generate(self, broken: bool = False, do_sample: bool = False) -> None:
        if broken:
            raise RuntimeError("shapes do not fit")


class Coded(Plain):
    """Asks for remote code in its own code, where no argument reaches."""

    def __init__(self, pretrained: str, swallow: bool = False) -> None:
        super().__init__()
        try:
            AutoConfig.from_pretrained(pretrained, **{"trust_remote_code": True})
        except ValueError:
            if not swallow:
                raise


class Careful(Plain):
    """Asks for remote code where it is told to."""

    def __init__(self, pretrained: str, trust_remote_code: bool = True) -> None:
        super().__init__()
        AutoConfig.from_pretrained(pretrained, trust_remote_code=trust_remote_code)


class Open(lmms):
    """Takes any keyword, and hands it on."""

    generate_until = loglikelihood = generate_until_multi_round = Plain.loglikelihood

    def __init__(self, model: str = "", **kwargs: Any) -> None:
        super().__init__()
        self.kept = kwargs


@contextmanager
def registered() -> Iterator[None]:
    """The stand-ins among lmms-eval's adapters."""
    known = MODEL_REGISTRY_V2._manifests, MODEL_REGISTRY_V2._alias_to_model_id
    kept = [dict(one) for one in known]
    for kind in (Plain, Coded, Careful, Open):
        path = f"{kind.__module__}.{kind.__qualname__}"
        MODEL_REGISTRY_V2.register_manifest(ModelManifest(kind.__name__.lower(), simple_class_path=path))
    yield
    for one, before in zip(known, kept, strict=True):
        one.clear()
        one.update(before)


def make_coded(folder: Path) -> Path:
    """A checkpoint whose configuration is Python code, which leaves a file behind where it runs."""
    folder.mkdir(parents=True)
    (folder / "model.safetensors").touch()
    (folder / "config.json").write_text(
        '{"model_type": "coded", "auto_map": {"AutoConfig": "configuration_coded.CodedConfig"}}'
    )
    (folder / "configuration_coded.py").write_text(
        "from pathlib import Path\n"
        "from transformers import PreTrainedConfig\n"
        f"Path({str(folder / 'ran')!r}).touch()\n"
        "class CodedConfig(PreTrainedConfig):\n"
        "    model_type = 'coded'\n"
    )
    return folder


def make_instructblip(folder: Path) -> Path:
    """Salesforce/instructblip-vicuna-7b's layout: BLIP's images, BERT's and Llama's words, all tiny."""
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    pieces = ["<unk>", "<s>", "</s>", *bytes_, "▁", *map(chr, range(33, 127))]
    tokenizer = LlamaTokenizer(
        vocab={piece: i for i, piece in enumerate(pieces)}, merges=[], pad_token="<pad>"
    )
    letters = [chr(code) for code in range(33, 127) if not chr(code).isupper()]
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters)]
    readers = BertTokenizer(
        vocab={word: i for i, word in enumerate(words)}, bos_token="[DEC]", model_max_length=512
    )
    side = {"height": SIZE, "width": SIZE}
    processor = InstructBlipProcessor(BlipImageProcessorPil(size=side), tokenizer, readers, QUERIES)
    processor.save_pretrained(folder)
    width = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = InstructBlipConfig(
        vision_config=InstructBlipVisionConfig(image_size=SIZE, initializer_range=0.5, **width).to_dict(),
        qformer_config=InstructBlipQFormerConfig(
            vocab_size=len(readers), initializer_range=0.5, **width
        ).to_dict(),
        text_config=LlamaConfig(
            vocab_size=len(tokenizer), max_position_embeddings=2048, initializer_range=0.6, **width
        ).to_dict(),
        num_query_tokens=QUERIES,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        initializer_range=0.5,
    )
    torch.manual_seed(0)
    model = InstructBlipForConditionalGeneration(config)
    model.generation_config = GenerationConfig(
        bos_token_id=1, eos_token_id=2, pad_token_id=tokenizer.pad_token_id
    )
    model.save_pretrained(folder)
    return folder
