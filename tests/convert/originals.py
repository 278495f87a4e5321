"""Tiny checkpoints in exactly the original layouts, made by renaming the tensors of a tiny LLaVA."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from torch import Tensor
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerFast,
)

Tensors = dict[str, Tensor]
WIDTH, HIDDEN, LAYERS, SIZE, PATCH = 16, 32, 2, 28, 14
TOWER = "model.vision_tower.vision_tower."
SHARDS = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"


def tokenizer() -> PreTrainedTokenizerFast:
    """Bytes, as Vicuna's after its special tokens: neither `<image>` nor padding is among them."""
    vocabulary = ["<unk>", "<s>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    made = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(vocabulary)}, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.decoder = decoders.ByteLevel()
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=made, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<unk>"
    )


PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "what", "is", "this", "any", "##thing", "?"]
"""Of a small BERT, whose token ids are their places."""


def write_pieces(folder: Path) -> Path:
    """Write BERT's tokenizer as the hub has it: of lower-case words, with [CLS] and [SEP] around them."""
    made = Tokenizer(models.WordPiece({piece: i for i, piece in enumerate(PIECES)}, unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    ends = [(end, PIECES.index(end)) for end in ("[CLS]", "[SEP]")]
    made.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    folder.mkdir(parents=True)
    made.save(str(folder / "tokenizer.json"))
    return folder


VOCABULARY = len(tokenizer())
ROWS = 320  # VOCABULARY + 2, padded to a multiple of 64


def llava(seed: int = 0, tower: CLIPVisionConfig | None = None) -> LlavaForConditionalGeneration:
    """What the conversion should give, but for the rows of its new tokens."""
    torch.manual_seed(seed)
    tower = tower or vision()
    config = LlavaConfig(
        vision_config=tower.to_dict(),
        text_config=LlamaConfig(
            hidden_size=HIDDEN,
            intermediate_size=48,
            num_hidden_layers=LAYERS,
            num_attention_heads=4,
            num_key_value_heads=2,
            vocab_size=ROWS,
            rms_norm_eps=1e-5,
            max_position_embeddings=512,
            initializer_range=0.3,
        ).to_dict(),
        image_token_index=VOCABULARY,
        image_seq_length=(tower.image_size // PATCH) ** 2,
    )
    model = LlavaForConditionalGeneration(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


def vision(layers: int = 3, width: int = WIDTH, size: int = SIZE) -> CLIPVisionConfig:
    return CLIPVisionConfig(
        hidden_size=width,
        intermediate_size=24,
        num_hidden_layers=layers,
        num_attention_heads=2,
        image_size=size,
        patch_size=PATCH,
    )


def config(**changes: Any) -> dict[str, Any]:
    """`config.json` of liuhaotian/llava-v1.5-7b, its sizes apart; None takes a key out."""
    values = {
        "_name_or_path": "llava-v1.5-7b",
        "architectures": ["LlavaLlamaForCausalLM"],
        "bos_token_id": 1,
        "eos_token_id": 2,
        "freeze_mm_mlp_adapter": False,
        "hidden_act": "silu",
        "hidden_size": HIDDEN,
        "image_aspect_ratio": "pad",
        "initializer_range": 0.02,
        "intermediate_size": 48,
        "max_length": 4096,
        "max_position_embeddings": 512,
        "mm_hidden_size": WIDTH,
        "mm_projector_type": "mlp2x_gelu",
        "mm_resampler_type": None,
        "mm_use_im_patch_token": False,
        "mm_use_im_start_end": False,
        "mm_vision_select_feature": "patch",
        "mm_vision_select_layer": -2,
        "mm_vision_tower": "openai/clip-vit-large-patch14-336",
        "model_type": "llava",
        "num_attention_heads": 4,
        "num_hidden_layers": LAYERS,
        "num_key_value_heads": 2,
        "pad_token_id": 0,
        "pretraining_tp": 1,
        "rms_norm_eps": 1e-05,
        "rope_scaling": None,
        "tie_word_embeddings": False,
        "torch_dtype": "float16",
        "transformers_version": "4.31.0",
        "tune_mm_mlp_adapter": False,
        "use_cache": True,
        "use_mm_proj": True,
        "vocab_size": VOCABULARY,
    }
    return {key: value for key, value in {**values, **changes}.items() if value is not None}


def original_tensors(model: LlavaForConditionalGeneration) -> tuple[Tensors, Tensors]:
    """Tensors of the original checkpoint, and of its vision tower as the original names it in a model."""
    found: Tensors = {}
    tower: Tensors = {}
    for name, tensor in model.state_dict().items():
        first, _, rest = name.removeprefix("model.").partition(".")
        match first:
            case "vision_tower":
                tower[f"vision_model.{rest.removeprefix('vision_model.')}"] = tensor
            case "multi_modal_projector":
                layer = {"linear_1": "0", "linear_2": "2"}[rest.partition(".")[0]]
                found[f"model.mm_projector.{layer}.{rest.partition('.')[2]}"] = tensor
            case "language_model":
                found[f"model.{rest}"] = tensor
            case _:
                found[name] = tensor
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        found[name] = found[name][:VOCABULARY]
    for layer in range(LAYERS):
        found[f"model.layers.{layer}.self_attn.rotary_emb.inv_freq"] = torch.rand(4)
    tower["vision_model.embeddings.position_ids"] = torch.arange(5)[None]
    return found, tower


def token_packer(width: int = WIDTH, hidden: int = HIDDEN) -> Tensors:
    """The projector's tensors, named and shaped as in its official code."""
    shapes: dict[str, tuple[int, ...]] = {
        "q_proj_1.weight": (width, width),
        "clip_attn.in_proj_weight": (3 * width, width),
        "clip_attn.in_proj_bias": (3 * width,),
        "clip_attn.out_proj.weight": (width, width),
        "clip_attn.out_proj.bias": (width,),
        "mlp.0.weight": (hidden, width),
        "mlp.0.bias": (hidden,),
        "mlp.2.weight": (hidden, hidden),
        "mlp.2.bias": (hidden,),
    }
    for name in ("k", "v"):
        shapes |= {f"{name}_proj_1.0.weight": (width, 4 * width), f"{name}_proj_1.0.bias": (width,)}
        shapes |= {f"{name}_proj_1.2.weight": (width, width), f"{name}_proj_1.2.bias": (width,)}
    for name in ("q", "k", "v"):
        shapes |= {f"ln_{name}_1.weight": (width,), f"ln_{name}_1.bias": (width,)}
    return {name: _drawn(shape) for name, shape in shapes.items()}


def _drawn(shape: tuple[int, ...]) -> Tensor:
    """Numbers with which states stay about as large as they were, and attention is far from even."""
    return torch.randn(shape) * 1.5 / (shape[-1] ** 0.5 if len(shape) > 1 else 3) + (len(shape) == 1) * 0.5


def eva(width: int, blocks: int = 2, size: int = SIZE) -> Tensors:
    """LLaMA-VID's tower, under the names of its `VisionTransformer`."""
    shapes: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, width),
        "pos_embed": (1, (size // PATCH) ** 2 + 1, width),
        "patch_embed.proj.weight": (width, 3, PATCH, PATCH),
        "patch_embed.proj.bias": (width,),
    }
    for block in range(blocks):
        for name, shape in {
            "norm1.weight": (width,),
            "norm1.bias": (width,),
            "attn.q_bias": (width,),
            "attn.v_bias": (width,),
            "attn.qkv.weight": (3 * width, width),
            "attn.proj.weight": (width, width),
            "attn.proj.bias": (width,),
            "norm2.weight": (width,),
            "norm2.bias": (width,),
            "mlp.fc1.weight": (40, width),
            "mlp.fc1.bias": (40,),
            "mlp.fc2.weight": (width, 40),
            "mlp.fc2.bias": (width,),
        }.items():
            shapes[f"blocks.{block}.{name}"] = shape
    return {name: torch.randn(shape) * 0.2 for name, shape in shapes.items()}


def context(width: int, hidden: int = HIDDEN, inner: int = 128) -> Tensors:
    """What LLaMA-VID adds to LLaVA, three layers of Q-Former, `bert_type` qformer_pretrain."""
    layer = "vlm_att_encoder.bert.encoder.layer."
    shapes: dict[str, tuple[int, ...]] = {
        "vlm_att_query": (1, 32, inner),
        "vlm_att_ln.weight": (width,),
        "vlm_att_ln.bias": (width,),
        "vlm_att_encoder.bert.embeddings.word_embeddings.weight": (len(PIECES) + 1, inner),
        "vlm_att_encoder.bert.embeddings.position_embeddings.weight": (512, inner),
        "vlm_att_encoder.bert.embeddings.LayerNorm.weight": (inner,),
        "vlm_att_encoder.bert.embeddings.LayerNorm.bias": (inner,),
    }

    def linear(name: str, width: int, out: int) -> None:
        shapes.update({f"{name}.weight": (out, width), f"{name}.bias": (out,)})

    def norm(name: str, width: int) -> None:
        shapes.update({f"{name}.weight": (width,), f"{name}.bias": (width,)})

    linear("vlm_att_projector", inner, width)
    linear("vlm_att_key_projector", width, width)
    linear("vlm_att_val_projector", width, hidden)
    for number in range(3):
        for attention in ("attention", "crossattention")[: 1 + (number % 2 == 0)]:
            keys = width if attention == "crossattention" else inner
            linear(f"{layer}{number}.{attention}.self.query", inner, inner)
            linear(f"{layer}{number}.{attention}.self.key", keys, inner)
            linear(f"{layer}{number}.{attention}.self.value", keys, inner)
            linear(f"{layer}{number}.{attention}.output.dense", inner, inner)
            norm(f"{layer}{number}.{attention}.output.LayerNorm", inner)
        for half in ("", "_query"):
            linear(f"{layer}{number}.intermediate{half}.dense", inner, 2 * inner)
            linear(f"{layer}{number}.output{half}.dense", 2 * inner, inner)
            norm(f"{layer}{number}.output{half}.LayerNorm", inner)
    tensors = {name: _drawn(shape) for name, shape in shapes.items()}
    tensors["vlm_att_encoder.bert.embeddings.position_ids"] = torch.arange(512)[None]
    return tensors


def write_original(folder: Path, tensors: Tensors, values: dict[str, Any]) -> Path:
    """Write a checkpoint: `config.json`, tokenizer, two shards as a training run leaves them."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(values))
    tokenizer().save_pretrained(folder)
    for number, shard in enumerate(SHARDS):
        part = {name: tensor for name, tensor in tensors.items() if ("lm_head" in name) == number}
        save_file({name: tensor.contiguous().clone() for name, tensor in part.items()}, folder / shard)
    return folder


def write_tower(folder: Path, tower: Tensors, config: CLIPVisionConfig | None = None) -> Path:
    """Write a whole CLIP as the hub has it; of its text half a few tensors."""
    folder.mkdir()
    text = {"text_model.final_layer_norm.bias": torch.ones(8), "logit_scale": torch.ones(())}
    whole = {**tower, **text, "visual_projection.weight": torch.ones(8, WIDTH)}
    save_file(
        {name: tensor.contiguous().clone() for name, tensor in whole.items()}, folder / "model.safetensors"
    )
    values = {"model_type": "clip", "vision_config": (config or vision()).to_dict(), "text_config": {}}
    (folder / "config.json").write_text(json.dumps(values))
    return folder
