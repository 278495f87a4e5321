"""A LLaVA with another connector: under transformers, under methods, with questions, and from a folder."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from dyrate.connectors.connector import Connector, Sizes
from dyrate.connectors.folder import TrainedConnector, save_connector, save_variant
from dyrate.connectors.join import join, questions, sizes_of
from dyrate.connectors.registry import build
from dyrate.errors import DyrateError
from dyrate.evaluation.checkpoint import content_hash, load
from dyrate.registry import load_method
from dyrate.testbed.world.examples import validation_example
from tests.connectors.small_connectors import FIELDS

MODEL = Path("models/testbed-s")
HEADS = {"heads": 4}
CHANGED: dict[str, dict[str, Any]] = {
    "token_packer": {"layers": (2, 3, 4, -2), **HEADS},
    "resampler": {"edge": 6, **HEADS},
    "nested_pool": {"kernels": (12, 4, 2, 1)},
    "compression_tokens": {"token": 1023},
    "context": {"edge": 6, "vocabulary": 1024},
    "instruct_qformer": {"vocabulary": 1024},
}
PROMPTS = ["What is left of the red square?", "How many circles are there? Answer with a number."]


def joined(name: str, seed: int = 0, **fields: Any) -> tuple[Any, Any]:
    processor, model = load(MODEL, torch.device("cpu"), "float32")
    torch.manual_seed(seed)
    join(processor, model, built(name, model, **fields))
    return processor, model


def built(name: str, model: Any, **fields: Any) -> Connector:
    return build(name, sizes_of(model), {**FIELDS[name], **CHANGED.get(name, {}), **fields})


def inputs(processor: Any, texts: list[str]) -> dict[str, torch.Tensor]:
    images = [Image.fromarray(validation_example(0, index).image) for index in range(len(texts))]
    prompts = [f"USER: <image>\n{text} ASSISTANT:" for text in texts]
    return dict(processor(text=prompts, images=images, padding=True, return_tensors="pt"))


@torch.no_grad()
@pytest.mark.parametrize("name", sorted(FIELDS))
def test_a_batch_generates_as_its_rows_do(name: str) -> None:
    processor, model = joined(name)
    tokens = built(name, model).tokens
    given = inputs(processor, PROMPTS)
    assert (given["input_ids"] == model.config.image_token_id).sum(1).tolist() == [tokens] * 2
    whole = model(**given).logits[:, -1]
    for row, text in enumerate(PROMPTS):
        image = Image.fromarray(validation_example(0, row).image)
        own = processor(text=f"USER: <image>\n{text} ASSISTANT:", images=image, return_tensors="pt")
        torch.testing.assert_close(model(**own).logits[0, -1], whole[row], rtol=1e-4, atol=1e-4)
    ids = model.generate(**given, max_new_tokens=3, do_sample=False)
    assert ids[:, given["input_ids"].shape[1]].tolist() == whole.argmax(-1).tolist()


@torch.no_grad()
@pytest.mark.parametrize("name", sorted(FIELDS))
def test_unpruned_and_fastv_run_on_top(name: str) -> None:
    processor, model = joined(name)
    tokens = built(name, model).tokens
    given = inputs(processor, PROMPTS)
    plain = model(**given).logits[:, -1]
    if name == "compression_tokens":
        with pytest.raises(DyrateError, match=r"use the method voco with token 1023"):
            load_method({"name": "none"})(model)
        return
    with load_method({"name": "none"})(model) as run:
        torch.testing.assert_close(model(**given).logits[:, -1], plain)
    assert run.visual_tokens.tolist() == [tokens] * 2
    if tokens > 1:
        with load_method({"name": "fastv", "layer": 2, "rate": 0.5})(model) as run:
            model.generate(**given, max_new_tokens=2, do_sample=False)
        assert [len(row) for row in run.kept[7]] == [tokens // 2] * 2


@torch.no_grad()
def test_the_projector_becomes_the_models_own_and_what_works_on_patches_works_on() -> None:
    processor, model = joined("projector")
    given = inputs(processor, PROMPTS)
    states = model.model.vision_tower(given["pixel_values"], output_hidden_states=True).hidden_states[-2]
    torch.manual_seed(0)
    made = built("projector", model)
    torch.testing.assert_close(model.model.multi_modal_projector(states[:, 1:]), made(states[:, 1:]))
    with load_method({"name": "fastervlm", "budget": 0.25})(model) as run:
        model(**given)
    assert [len(row) for row in run.kept[0]] == [36] * 2


@torch.no_grad()
def test_the_projector_gets_its_own_states_and_no_other_activation() -> None:
    processor, model = joined("projector")
    given = inputs(processor, PROMPTS[:1])
    wanted = model(**given).logits
    processor, other = load(MODEL, torch.device("cpu"), "float32")
    other.config.vision_feature_layer = -1  # it would be given what it was not trained on
    torch.manual_seed(0)
    join(processor, other, built("projector", other))
    torch.testing.assert_close(other(**given).logits, wanted)

    other.config.projector_hidden_act = "relu"
    with pytest.raises(DyrateError, match=r"a GELU between them, and the model's has .*'relu'"):
        join(processor, other, built("projector", other))


@torch.no_grad()
def test_nested_pool_with_the_models_own_projector_is_the_model() -> None:
    processor, model = load(MODEL, torch.device("cpu"), "float32")
    expected = model(**inputs(processor, PROMPTS)).logits
    own = model.model.multi_modal_projector.state_dict()
    made = build("nested_pool", sizes_of(model), {"kernels": (12, 4, 2, 1)})
    made.mlp.load_state_dict({f"{2 * int(key[7]) - 2}.{key[9:]}": part for key, part in own.items()})
    join(processor, model, made)
    torch.testing.assert_close(model(**inputs(processor, PROMPTS)).logits, expected)


@torch.no_grad()
def test_an_answer_sees_of_the_image_what_its_compression_tokens_hold() -> None:
    processor, model = joined("compression_tokens")
    given = inputs(processor, PROMPTS)
    ids, image = given["input_ids"], model.config.image_token_id
    assert ((ids == image).sum(1).tolist(), (ids == 1023).sum(1).tolist()) == ([144] * 2, [2] * 2)
    with load_method({"name": "voco", "token": 1023})(model) as run:
        made = model.generate(**given, max_new_tokens=4, do_sample=False)
    # The image is gone after the prefill: what is held is the text, the compression tokens and three answers'
    # tokens.
    text = (given["attention_mask"].sum(1) - 144).tolist()
    assert run.kv_lengths[-1].tolist() == run.kv_lengths[0].tolist() == [length + 3 for length in text]
    for row in range(2):
        shown = given["attention_mask"][row].bool()
        whole = torch.cat([ids[row][shown], made[row, ids.shape[1] :]])[:-1]
        length = len(whole)
        first = int((whole == 1023).nonzero()[0])
        mask = torch.ones(length, length, dtype=torch.bool).tril()
        mask[first + 2 :, :first] = False
        one = {"input_ids": whole[None], "pixel_values": given["pixel_values"][row : row + 1]}
        logits = model(**one, attention_mask=mask[None, None]).logits[0]
        asked = len(ids[row][shown])
        answer = made[row, ids.shape[1] :].tolist()
        until = [*answer, processor.tokenizer.eos_token_id].index(processor.tokenizer.eos_token_id) + 1
        assert logits[asked - 1 :].argmax(-1).tolist()[:until] == answer[:until]
    other = inputs(processor, PROMPTS)
    other["input_ids"] = ids.masked_fill(ids == 1023, 7)
    error = r"hides images behind the tokens \[1023\], and row 0 has an image"
    with pytest.raises(DyrateError, match=error), load_method({"name": "voco", "token": 1023})(model):
        model.generate(**other, max_new_tokens=2)


@torch.no_grad()
@pytest.mark.parametrize("name", ["instruct_qformer", "context"])
def test_questions_are_read_from_the_prompt(name: str) -> None:
    processor, model = joined(name)
    place = model.model.multi_modal_projector
    model.generate(**inputs(processor, PROMPTS), max_new_tokens=1, do_sample=False)
    expected = questions(processor.tokenizer, PROMPTS, place.connector)
    assert place.asked.ids.tolist() == expected.ids.tolist()
    assert place.asked.mask.tolist() == expected.mask.tolist()
    longest = max(len(processor.tokenizer(text, add_special_tokens=False)["input_ids"]) for text in PROMPTS)
    assert longest > place.connector.words == expected.ids.shape[1]  # so that one was cut, at which end:
    whole = processor.tokenizer(PROMPTS[1], add_special_tokens=False)["input_ids"]
    cut = whole[-place.connector.words :] if name == "context" else whole[: place.connector.words]
    assert expected.ids[1].tolist() == cut
    with pytest.raises(
        DyrateError, match=f"connector {name} reads questions: images are encoded by generate"
    ):
        model.get_image_features(inputs(processor, PROMPTS)["pixel_values"])


def test_a_compression_token_of_another_id_or_of_a_tied_head_is_refused() -> None:
    with pytest.raises(DyrateError, match=r"has the token id 1000; <voco> is 1023 in this tokenizer"):
        joined("compression_tokens", token=1000)
    processor, model = load(MODEL, torch.device("cpu"), "float32")
    model.lm_head.weight = model.get_input_embeddings().weight
    made = build("compression_tokens", sizes_of(model), {"token": 1023})
    with pytest.raises(DyrateError, match="this model's head has its embeddings"):
        join(processor, model, made)


def test_what_does_not_fit_the_model_is_refused() -> None:
    processor, model = load(MODEL, torch.device("cpu"), "float32")
    with pytest.raises(
        DyrateError, match=r"connector projector is for .*width=8.*, and the model has .*width=160"
    ):
        join(processor, model, build("projector", Sizes(8, 8, 8), {}))
    real = build("token_packer", sizes_of(model), {})
    with pytest.raises(
        DyrateError, match=r"\(12, 16, 22, 23, -2\), and a tower of 6 layers has none of index 12"
    ):
        join(processor, model, real)


class TestFolder:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        made = TrainedConnector(
            small(), {"layers.0.mlp.up_proj.A": torch.ones(1, 192), UP_B: torch.ones(512, 1)}, 0.5
        )
        save_connector(made, tmp_path / "trained", MODEL.resolve(), content_hash(MODEL), {"steps": 3})
        return tmp_path / "trained"

    @torch.no_grad()
    def test_is_a_model(self, folder: Path) -> None:
        processor, model = load(folder, torch.device("cpu"), "float32")
        _, plain = load(MODEL, torch.device("cpu"), "float32")
        weight, before = (one.model.language_model.layers[0].mlp.up_proj.weight for one in (model, plain))
        torch.testing.assert_close(weight, before + 0.5)
        join(processor, plain, small().half().float())
        plain.model.language_model.layers[0].mlp.up_proj.weight += 0.5
        given = inputs(processor, PROMPTS)
        torch.testing.assert_close(model(**given).logits, plain(**given).logits)

    def test_its_variant_has_its_weights_and_other_fields(self, folder: Path) -> None:
        save_variant(folder.parent / "deep" / "one", folder, {"kernel": 12})
        processor, model = load(folder.parent / "deep" / "one", torch.device("cpu"), "float32")
        connector = model.model.multi_modal_projector.connector
        assert connector.tokens == 1
        assert not connector.training
        for key, part in small().state_dict().items():
            assert torch.equal(connector.state_dict()[key], part.half().float())
        assert (inputs(processor, PROMPTS)["input_ids"] == model.config.image_token_id).sum(1).tolist() == [
            1,
            1,
        ]

    @pytest.mark.parametrize(
        ("key", "value", "error"),
        [
            ("connector", "glue", "connector 'glue' is unknown; known: compression_tokens, "),
            ("fields", {"kernal": 2}, "connector nested_pool has no field 'kernal'; it has kernel, kernels"),
            (
                "fields",
                {"kernel": 5, "kernels": [4]},
                "kernel is 5, which does not divide an edge of 12 patches",
            ),
            ("fields", {"kernel": "a"}, "connector.json: "),
            ("sizes", {"width": 16}, "sizes: {'width': 16}; width, hidden, side are expected"),
            (
                "sizes",
                {"width": 8, "hidden": 192, "side": 12},
                "mlp.0.weight is torch.float16 (192, 160), should be",
            ),
            ("sha256", "0", "sha256: is '0', but connector.safetensors beside it has"),
            ("kind", 1, "kind"),
            ("base", "xyz", "base: the connector was trained on weights of the hash xyz, and those in"),
            ("model", "nowhere", "model: there is no checkpoint in"),
            ("adapter", {}, "the tensor adapter.layers.0.mlp.up_proj.A should not be there"),
            ("weights", "elsewhere", "is missing beside connector.json"),
            ("dtype", "int8", "dtype: 'int8' is not one of float32, float16, bfloat16"),
            ("dtype", "float32", " is torch.float16 ("),
            ("words", "0", "tokenizer.json: no such file"),
        ],
    )
    def test_a_record_that_is_off_is_refused(self, folder: Path, key: str, value: object, error: str) -> None:
        record = json.loads((folder / "connector.json").read_text())
        (folder / "connector.json").write_text(json.dumps({**record, key: value}))
        with pytest.raises(DyrateError) as refused:
            load(folder, torch.device("cpu"), "float32")
        assert error in str(refused.value)
        assert str(folder) in str(refused.value)

    def test_an_adapter_of_another_model_is_refused(self, folder: Path) -> None:
        for name, error in (("layers.0.mlp.side_proj", "lacks"), ("layers.0.mlp.down_proj", r"\(192, 512\)")):
            made = TrainedConnector(
                small(), {f"{name}.A": torch.ones(1, 192), f"{name}.B": torch.ones(512, 1)}, 0.5
            )
            save_connector(made, folder, MODEL.resolve(), content_hash(MODEL), {})
            with pytest.raises(DyrateError, match=error):
                load(folder, torch.device("cpu"), "float32")

    def test_damaged_weights_are_refused(self, folder: Path) -> None:
        path = folder / "connector.safetensors"
        path.write_bytes(path.read_bytes()[:-4])
        with pytest.raises(DyrateError, match=r"connector\.safetensors does not fit connector.json: "):
            load(folder, torch.device("cpu"), "float32")


UP_B = "layers.0.mlp.up_proj.B"


def small() -> Connector:
    torch.manual_seed(0)
    return build("nested_pool", Sizes(160, 192, 12), {"kernel": 4, "kernels": (12, 4)})
