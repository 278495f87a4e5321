"""What a method can ask for: attention, the tower's layers, grids, questions, masks, installed parts."""

import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor
from torch.nn.functional import softmax
from transformers import CLIPConfig, CLIPModel, CLIPTextModelWithProjection, SiglipVisionConfig

from dyrate import Engine, Installation, Kept, Needs, NoReduction, PrefillView, ReductionMethod, load_method
from dyrate.cost.work import work_of
from dyrate.errors import DyrateError
from dyrate.evaluation.checkpoint import content_hash
from dyrate.installation import TowerTokens
from dyrate.needs import tower_layer
from dyrate.question_reader import QuestionReader
from dyrate.vision import _homes
from tests.runtime.example_rules import Reader
from tests.runtime.example_rules import tower_layer as rows_of_tower
from tests.runtime.method_table import EXAMPLES
from tests.runtime.reference import Rule, masked_forward
from tests.runtime.test_towers import VISION, model_with
from tests.runtime.test_towers import inputs as siglip_inputs
from tests.tiny import IMAGE, row_of, tiny_inputs, tiny_llava

ROWS = {"rows": [7, 3, 20, 11], "images": [1, 2, 0, 1]}


@dataclass(frozen=True)
class Looking(ReductionMethod):
    """Calls a function with the view of one layer, and keeps everything."""

    asked: ClassVar[Needs]
    look: ClassVar[Any]

    def needs(self, depth: int) -> Needs:
        return self.asked

    def prefill(self, view: PrefillView) -> None:
        type(self).look(view)


def looking(needs: Needs, look: Any) -> ReductionMethod:
    return type("Looking", (Looking,), {"asked": needs, "look": staticmethod(look)})()


def seen(needs: Needs, look: Any, model: Any, inputs: dict[str, Tensor], **options: Any) -> Any:
    """What `look` returns of the view, as plain values."""
    found: list[Any] = []
    with torch.no_grad(), looking(needs, lambda view: found.append(look(view)))(model, **options):
        model(**inputs)
    return found[-1]


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_llava(kv_heads=2)


class Watched(Rule):
    """Remembers the attention of the layer before."""

    layers = (3,)

    def prefill(self, layer: int, scores: list[float], held: list[int], visual: int) -> list[int]:
        self.found = self.attention
        return held


@pytest.mark.parametrize("queries", ["instruction", "all"])
def test_the_attention_of_prompt_queries_is_that_of_the_reference(queries: Any, model: Any) -> None:
    inputs = tiny_inputs(**ROWS)
    needs = Needs(prefill=(3,), attention={2: queries})
    attention = seen(needs, lambda view: view.attention[2].prompt, model, inputs)

    for row in (0, 1, 3):
        alone, rule = row_of(inputs, row), Watched()
        masked_forward(model, alone, [5], rule)
        ids = alone["input_ids"][0].tolist()
        image = [column for column, token in enumerate(ids) if token == IMAGE]
        text = [column for column in range(image[0], len(ids)) if column not in image]
        columns = text if queries == "instruction" else list(range(len(ids)))
        assert attention.queries[row].sum() == len(columns)
        found = attention.visual[row][:, attention.queries[row]][:, :, : len(image)]
        torch.testing.assert_close(found, rule.found[:, columns][:, :, image], atol=1e-5, rtol=0)
        found = attention.instruction[row][:, attention.queries[row]][:, :, -len(text) :]
        torch.testing.assert_close(found, rule.found[:, columns][:, :, text], atol=1e-5, rtol=0)
        assert (attention.visual[row][:, ~attention.queries[row]] == 0).all()


def test_only_the_queries_that_are_asked_for_are_there(model: Any) -> None:
    with pytest.raises(DyrateError, match="only the newest query's attention was read"):
        seen(Needs(prefill=(3,), attention=(2,)), lambda view: view.attention[2].prompt, model, tiny_inputs())


def test_the_tower_is_kept_as_the_reference_has_it(model: Any) -> None:
    inputs = tiny_inputs(**ROWS)
    needs = Needs(
        prefill=(0,),
        tower={
            -2: ("states", "keys", "class_attention", "received_attention"),
            1: ("states",),
            0.4: ("joint_class_attention",),
        },
    )

    def look(view: PrefillView) -> dict[str, Tensor]:
        tower = view.tower(-2)
        names = ("states", "class_states", "keys", "class_attention", "received_attention")
        return {
            **{name: getattr(tower, name) for name in names},
            "by its number": view.tower(0).states,
            "joint": view.tower(0.4).joint_class_attention,
        }

    found = seen(needs, look, model, inputs)
    with torch.no_grad():
        for row in (0, 1, 3):
            pixels = row_of(inputs, row)["pixel_values"]
            attention, keys, states = rows_of_tower(model, pixels)
            for name, expected in (
                ("states", states),
                ("by its number", states),
                ("keys", keys),
                ("class_attention", attention.T),
            ):
                held = found[name][row]
                held = held[:, : len(states)] if name == "class_attention" else held[: len(states)]
                torch.testing.assert_close(held, expected, atol=1e-5, rtol=0)
            outputs = model.model.vision_tower(pixels, output_hidden_states=True).hidden_states
            torch.testing.assert_close(found["class_states"][row][: len(pixels)], outputs[1][:, 0])
            block = model.model.vision_tower.encoder.layers[0]
            normed = block.layer_norm1(outputs[0])
            query, key = (
                part(normed).view(len(pixels), -1, 2, 8).transpose(1, 2)
                for part in (block.self_attn.q_proj, block.self_attn.k_proj)
            )
            received = softmax(query @ key.transpose(2, 3) / 8**0.5, dim=-1).mean(2)[:, :, 1:]
            expected = received.transpose(0, 1).flatten(1)
            torch.testing.assert_close(found["received_attention"][row][:, : len(states)], expected)
            query, key = (
                part(normed) for part in (block.self_attn.q_proj, block.self_attn.k_proj)
            )  # one head of width 16
            joint = softmax(query[:, :1] @ key.transpose(1, 2) / 16**0.5, dim=-1)[:, 0, 1:]
            torch.testing.assert_close(found["joint"][row][: len(states)], joint.flatten())
    assert (found["states"][2] == 0).all()


TOWERS = {
    "no such layer": (Needs(prefill=(0,), tower={-3: ("states",)}), "has 2 layers, and no layer -3"),
    "no such share": (
        Needs(prefill=(0,), tower={0.2: ("states",)}),
        "has 2 layers, and no layer at 0.2 of its depth",
    ),
    "not that part": (
        Needs(prefill=(0,), tower={-2: ("keys",)}),
        "asks for keys of layer 0 of the vision tower",
    ),
}


@pytest.mark.parametrize("case", TOWERS)
def test_a_tower_without_it_is_refused(case: str, model: Any) -> None:
    needs, message = TOWERS[case]
    with pytest.raises(DyrateError, match=re.escape(message)):
        seen(needs, lambda view: view.tower(-2).states, model, tiny_inputs())


@pytest.mark.parametrize(
    ("layer", "depth", "index"),
    [
        *[(0, 24, 0), (23, 24, 23), (24, 24, None), (-1, 24, 23), (-24, 24, 0), (-25, 24, None)],
        *[(0.375, 24, 8), (0.375, 32, 11), (0.375, 2, 0), (0.5, 24, 11), (1.0, 24, 23), (0.0, 24, None)],
    ],
)
def test_a_float_is_a_share_of_the_towers_depth(layer: float, depth: int, index: int | None) -> None:
    assert tower_layer(layer, depth) == index


def test_a_tower_without_a_class_token_says_so() -> None:
    siglip = model_with(SiglipVisionConfig(**VISION))
    states = seen(
        Needs(prefill=(0,), tower={-1: ("states",)}),
        lambda view: view.tower(-1).states,
        siglip,
        siglip_inputs(2),
    )
    assert states.shape == (2, 16, 16)
    for part, look in (
        ("class_attention", lambda view: view.tower(-1).class_attention),
        ("joint_class_attention", lambda view: view.tower(-1).joint_class_attention),
        ("states", lambda view: view.tower(-1).class_states),
    ):
        with pytest.raises(
            DyrateError, match=r"vision tower of type 'siglip_vision_model' has no(ne| class token)"
        ):
            seen(Needs(prefill=(0,), tower={-1: (part,)}), look, siglip, siglip_inputs(1))


def test_the_grid_says_where_each_token_lies(model: Any) -> None:
    grid = seen(Needs(prefill=(0,)), lambda view: view.grid, model, tiny_inputs(**ROWS))
    places = [[row, column] for row in range(4) for column in range(4)]
    missing = [[-1, -1, -1]] * 16
    first, second = ([[image, *place] for place in places] for image in (0, 1))
    assert grid.tolist() == [first + missing, first + second, missing * 2, first + missing]


@pytest.mark.parametrize(
    ("grid", "seen", "features", "extra", "places"),
    [
        ((4, 4), (4, 4), 16, 0, list(range(16))),
        ((4, 4), (2, 2), 4, 0, [5, 7, 13, 15]),
        ((4, 4), (4, 4), 4, 0, [5, 7, 13, 15]),
        ((4, 4), (2, 2), 5, 1, [0, 6, 8, 14, 16]),
        ((2, 8), (2, 8), 4, 0, [9, 11, 13, 15]),
        ((4, 4), (4, 4), 3, 0, [2, 8, 13]),
        ((3, 5), (3, 5), 15, 0, list(range(15))),
    ],
)
def test_fewer_features_stand_in_different_places_in_raster_order(
    grid: tuple[int, int], seen: tuple[int, int], features: int, extra: int, places: list[int]
) -> None:
    assert _homes(grid, seen, features, extra).tolist() == places


def test_questions_are_read_without_the_cue_for_the_answer(model: Any) -> None:
    needs = Needs(prefill=(0,), question=True)
    inputs = tiny_inputs(**ROWS)
    texts = seen(needs, lambda view: view.questions, model, inputs, questions=Reader())
    for row in (0, 1, 3):
        ids = row_of(inputs, row)["input_ids"][0].tolist()
        assert texts[row].split() == [str(id) for id in ids[ids.index(IMAGE) :] if id != IMAGE]
    with pytest.raises(DyrateError, match="attach it with a reader"):
        seen(needs, lambda view: view.questions, model, inputs)
    reader = QuestionReader(type("T", (), {"decode": lambda self, ids, skip_special_tokens: "what"})())
    with pytest.raises(DyrateError, match="the checkpoint has no text encoder in clip/"):
        seen(needs, lambda view: view.question_features, model, inputs, questions=reader)


def test_a_text_encoder_that_the_checkpoint_carries_is_used(tmp_path: Path) -> None:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection, PreTrainedTokenizerFast

    words = Tokenizer(WordLevel({"[PAD]": 0, "[UNK]": 1, "red": 2, "star": 3}, unk_token="[UNK]"))
    words.pre_tokenizer = Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]")
    config = CLIPTextConfig(
        vocab_size=4,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        projection_dim=6,
        max_position_embeddings=4,
        eos_token_id=3,
    )
    torch.manual_seed(0)
    encoder = CLIPTextModelWithProjection(config).eval()
    encoder.save_pretrained(tmp_path / "clip")
    tokenizer.save_pretrained(tmp_path / "clip")
    reader = QuestionReader.of(tokenizer, tmp_path)
    with torch.no_grad():
        short, first, second = (
            encoder(input_ids=torch.tensor([ids])).text_embeds[0] for ids in ([2, 3], [2] * 4, [3] * 2)
        )
        torch.testing.assert_close(reader.features(["red star"])[0], short)
        # Longer than the encoder: in parts, whose features are averaged.
        torch.testing.assert_close(reader.features(["red red red red star star"])[0], (first + second) / 2)
    assert QuestionReader.of(tokenizer, tmp_path / "clip").encode is None
    before = content_hash(tmp_path)
    (tmp_path / "clip/model.safetensors").write_bytes(b"damaged")
    assert content_hash(tmp_path) != before
    with pytest.raises(DyrateError, match="clip: the text encoder cannot be loaded"):
        QuestionReader.of(tokenizer, tmp_path).features(["red star"])


@pytest.mark.parametrize("layer", [-1, 0, [-2, -1]])
def test_states_that_the_projector_does_not_read_are_not_projected(layer: Any) -> None:
    method = load_method(
        {"name": f"{EXAMPLES}/merged_tokens.py:MergedTokens", "dominant": 5, "contextual": 3}
    )
    model = tiny_llava()
    read = model.config.vision_config.num_hidden_layers - 1  # as hidden states are counted
    model.config.vision_feature_layer = read
    inputs = tiny_inputs([7])
    with method(model):  # -2 by another number
        model.generate(**inputs, max_new_tokens=2)
    with pytest.raises(DyrateError, match="is not the model's own"), method(model):
        model.generate(**inputs, max_new_tokens=2, vision_feature_layer=layer)
    if not isinstance(layer, list):  # the projector is too narrow for two
        model.config.vision_feature_layer = layer
        with pytest.raises(DyrateError, match="projector reads another: vision_feature_layer"), method(model):
            model.generate(**inputs, max_new_tokens=2)


def save_clip(folder: Path, width: int) -> Any:
    """The other half of a CLIP whose tower is so wide, in `clip/`."""
    text = {"vocab_size": 4, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    vision = {"hidden_size": width, "intermediate_size": 8, "num_hidden_layers": 1, "patch_size": 4}
    heads = {"num_attention_heads": 2}
    torch.manual_seed(0)
    config = CLIPConfig(
        text_config={**text, **heads, "max_position_embeddings": 4},
        vision_config={**vision, **heads, "image_size": 16},
        projection_dim=6,
    )
    clip = CLIPModel(config)
    del clip.vision_model
    clip.save_pretrained(folder / "clip")
    return clip


PATCHES = Needs(prefill=(0,), tower={-2: ("states",)}, question=True)


def test_patches_are_where_questions_are(model: Any, tmp_path: Path) -> None:
    clip, inputs = save_clip(tmp_path, 16), tiny_inputs(**ROWS)
    reader = QuestionReader.of(None, tmp_path)
    found = seen(PATCHES, lambda view: view.tower(-2).embeds, model, inputs, questions=reader)
    assert found.shape == (4, 32, 6)
    with torch.no_grad():
        for row in (0, 1, 3):
            states = rows_of_tower(model, row_of(inputs, row)["pixel_values"])[2]
            expected = clip.visual_projection(model.model.vision_tower.post_layernorm(states))
            torch.testing.assert_close(found[row, : len(states)], expected, atol=1e-5, rtol=0)
    assert (found[2] == 0).all()


def test_the_visual_projection_is_loaded_once_and_serves_every_mode(model: Any, tmp_path: Path) -> None:
    save_clip(tmp_path, 16)
    reader = QuestionReader.of(None, tmp_path)
    with torch.inference_mode():
        reader.beside_features(torch.ones(1, 16))
    (tmp_path / "clip/model.safetensors").unlink()
    states = torch.ones(2, 16, requires_grad=True)
    assert reader.beside_features(states).shape == (2, 6)


def test_a_checkpoint_without_a_visual_projection_is_refused(model: Any, tmp_path: Path) -> None:
    def embeds(reader: QuestionReader | None) -> None:
        seen(PATCHES, lambda view: view.tower(-2).embeds, model, tiny_inputs(), questions=reader)

    with pytest.raises(DyrateError, match="attach it with a reader"):
        embeds(None)
    with pytest.raises(DyrateError, match=r"the checkpoint has no visual projection in clip/"):
        embeds(QuestionReader.of(None, tmp_path))
    save_clip(tmp_path / "other", 24)
    with pytest.raises(DyrateError, match=r"CLIP whose vision tower is 24 wide, and the model's is 16"):
        embeds(QuestionReader.of(None, tmp_path / "other"))
    tower = CLIPTextModelWithProjection(save_clip(tmp_path / "text", 16).config.text_config)
    tower.save_pretrained(tmp_path / "text/clip")
    with pytest.raises(DyrateError, match="has no fitting weights for visual_projection"):
        embeds(QuestionReader.of(None, tmp_path / "text"))


def test_merging_is_recorded(model: Any) -> None:
    method = load_method({"name": f"{EXAMPLES}/recycled_tokens.py:RecycledTokens", "layers": [1, 3]})
    with method(model) as run:
        model.generate(**tiny_inputs(**ROWS), max_new_tokens=2, do_sample=False)
    assert sorted(run.merged) == [1, 3]
    for row, visual in enumerate([16, 32, 0, 16]):
        kept, into = run.kept[1][row].tolist(), run.merged[1][row].tolist()
        assert into[visual:] == [-1] * (32 - visual)
        assert sorted(set(into[:visual])) == kept
        assert all(into[token] == token for token in kept)


def macs_of(method: ReductionMethod, model: Any) -> tuple[int, int]:
    """Attention rows read at prefill, in keys, and multiply-accumulates of what the tower was asked for."""
    with method(model, questions=Reader()) as run:
        model.generate(**tiny_inputs([7]), max_new_tokens=2, do_sample=False)
    work = work_of(run, method).prefill
    return work.scored, work.own_macs


def test_the_ledger_counts_what_needs_cost(model: Any) -> None:
    nothing = lambda view: None  # noqa: E731
    text, prompt = 7 + 2, 4 + 16 + 2 + 7
    assert macs_of(looking(Needs(prefill=(3,), attention=(2,)), nothing), model) == (prompt, 0)
    instruction = looking(Needs(prefill=(3,), attention={2: "instruction"}), nothing)
    assert macs_of(instruction, model) == (prompt + text * prompt, 0)
    everything = looking(Needs(prefill=(3,), attention={2: "all"}), nothing)
    assert macs_of(everything, model) == (prompt + prompt * prompt, 0)
    tower = Needs(prefill=(0,), tower={-2: ("class_attention", "joint_class_attention", "keys", "states")})
    rows = 2 * 17 * 16 * 16  # queries and keys
    assert macs_of(looking(tower, lambda view: view.tower(-2).states), model) == (0, 0)
    assert macs_of(looking(tower, lambda view: view.tower(-2).keys), model) == (0, rows)
    attention = looking(tower, lambda view: view.tower(-2).class_attention)
    assert macs_of(attention, model) == (0, rows + 17 * 16)
    joint = looking(tower, lambda view: view.tower(-2).joint_class_attention)
    assert macs_of(joint, model) == (0, rows + 17 * 16)
    both = looking(tower, lambda view: (kept := view.tower(-2), kept.keys, kept.class_attention))
    assert macs_of(both, model) == (0, rows + 17 * 16)
    assert macs_of(looking(tower, lambda view: view.count_macs(7)), model) == (0, 7)
    compare = looking(PATCHES, lambda view: view.tower(-2).embeds)
    assert macs_of(compare, model) == (0, 17 * 16 * 16)
    projector = 16 * (16 * 32 + 32 * 32)
    project = looking(tower, lambda view: view.project(view.tower(-2).states))
    assert macs_of(project, model) == (0, projector)


@dataclass(frozen=True)
class Installing(ReductionMethod):
    """Doubles the projected features, resizes images to their own size, gets into the tower's layers, and
    embeds a token.
    """

    fails: bool = False

    def needs(self, depth: int) -> Needs:
        return Needs(compression_tokens=(70,))

    def install(self, parts: Installation) -> None:
        parts.replace_connector(self._doubled)
        parts.resize_images(lambda images: images * 1)
        parts.embed_tokens({70: torch.ones(32)})
        parts.change_tower(lambda tokens: tokens, proportional=True)

    def _doubled(self, features: Tensor, project: Any) -> Tensor:
        if self.fails:
            raise OSError("no more")
        return 2 * project(features)


def parts_of(model: Any) -> list[Any]:
    modules = list(model.modules())
    hooks = [(len(part._forward_hooks), len(part._forward_pre_hooks)) for part in modules]
    return [hooks, [sorted(vars(part)) for part in modules], model.config.text_config._attn_implementation]


@pytest.mark.parametrize("fails", [False, True])
def test_installed_parts_leave_with_the_block(fails: bool) -> None:
    model, inputs = tiny_llava(), tiny_inputs([7])
    model.model.vision_tower(
        inputs["pixel_values"], output_hidden_states=True
    )  # transformers installs its own hooks
    stock, before = model(**inputs).logits, parts_of(model)
    with_token = {**inputs, "input_ids": inputs["input_ids"].clone()}
    with_token["input_ids"][0, -2] = 70
    try:
        with torch.no_grad(), Installing(fails=fails)(model):
            assert not torch.equal(model(**with_token).logits[:, -1], stock[:, -1])
    except OSError:
        assert fails
    assert parts_of(model) == before
    assert torch.equal(model(**inputs).logits, stock)
    with pytest.raises(DyrateError, match="input_ids holds 70"), NoReduction()(model):
        model(**with_token)


def test_a_connector_that_makes_more_features_is_refused(model: Any) -> None:
    @dataclass(frozen=True)
    class Twice(ReductionMethod):
        def install(self, parts: Installation) -> None:
            parts.replace_connector(lambda features, project: project(features).repeat(1, 2, 1))

    with (
        pytest.raises(DyrateError, match=r"connector returned visual features of shape \(1, 32, 32\)"),
        Twice()(model),
    ):
        model(**tiny_inputs())


@dataclass(frozen=True)
class InTheTower(ReductionMethod):
    """Puts what the function says into the tower's layers."""

    change: ClassVar[Any]

    def needs(self, depth: int) -> Needs:
        return Needs(positions="contiguous")

    def install(self, parts: Installation) -> None:
        parts.change_tower(type(self).change)


def in_the_tower(change: Any) -> ReductionMethod:
    return type("InTheTower", (InTheTower,), {"change": staticmethod(change)})()


def picked(tokens: TowerTokens, some: Any) -> TowerTokens:
    left = {name: getattr(tokens, name)[:, some] for name in ("states", "sizes", "origins")}
    return replace(tokens, **left)


def every_second(tokens: TowerTokens) -> TowerTokens:
    """The class token and every second patch, of the first layer."""
    return picked(tokens, slice(0, None, 2 if tokens.states.shape[1] == 17 else 1))


def backwards(tokens: TowerTokens) -> TowerTokens:
    """The class token, then the patches in reverse order."""
    return picked(tokens, [0, *range(tokens.states.shape[1] - 1, 0, -1)])


def test_features_stand_where_their_tokens_stood_at_first(model: Any) -> None:
    inputs = tiny_inputs(**ROWS)
    with torch.no_grad(), in_the_tower(every_second)(model) as run:
        model(**inputs)
    # Token 0 is the class token: of the patches 0..15 those of odd index stay.
    odd = list(range(1, 32, 2))
    assert [row.tolist() for row in run.kept[0]] == [odd[:8], odd, [], odd[:8]]
    # The order in which a tower has its patches makes no difference, to them or to the language model.
    stock = model(**inputs).logits[:, -1]
    with torch.no_grad(), in_the_tower(backwards)(model) as run:
        torch.testing.assert_close(model(**inputs).logits[:, -1], stock, atol=1e-4, rtol=0)
    assert [len(row) for row in run.kept[0]] == [16, 32, 0, 16]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda states: states.repeat(1, 2, 1), "of shapes (1, 34, 16), (1, 17)"),
        (lambda states: states[:, :5], "(1, 5, 16), (1, 17), (1, 17) for 1 images of 17 tokens"),
        (lambda states: states[..., 0], "of shapes (1, 17), (1, 17), (1, 17)"),
    ],
)
def test_a_change_of_the_tower_to_something_else_is_refused(change: Any, message: str, model: Any) -> None:
    method = in_the_tower(lambda tokens: replace(tokens, states=change(tokens.states)))
    with pytest.raises(DyrateError, match=re.escape(message)), method(model):
        model(**tiny_inputs())


def test_the_ledger_counts_what_a_changed_tower_is_spared(model: Any) -> None:
    with torch.no_grad(), in_the_tower(every_second)(model) as run:
        model(**tiny_inputs([7]))
    attention, halves, width = 4 * 16 * 16, 2 * 16 * 32, 2 * 16
    first = (17 - 9) * halves  # its attention still had all of them
    second = (17 - 9) * (attention + halves) + (17**2 - 9**2) * width
    assert run.encoder_saved == (first + second, 8)


@dataclass(frozen=True)
class Hiding(ReductionMethod):
    pairs: tuple[str, ...] = field(default=())

    def needs(self, depth: int) -> Needs:
        return Needs(blocked=frozenset(tuple(pair.split("-")) for pair in self.pairs))


@pytest.mark.parametrize(
    "pairs",
    [("ins-img",), ("res-sys",), ("res-ins",), ("ins-sys", "res-sys"), ("img-sys", "res-img")],
    ids=str,
)
def test_hidden_classes_are_those_of_the_masked_reference(pairs: tuple[str, ...], model: Any) -> None:
    inputs, method = tiny_inputs(**ROWS), Hiding(pairs)
    with torch.no_grad(), method(model) as run:
        output = model.generate(
            **inputs, max_new_tokens=4, do_sample=False, return_dict_in_generate=True, output_logits=True
        )
    rule = Rule()
    rule.blocked = [tuple(pair.split("-")) for pair in pairs]  # type: ignore[assignment]
    for row in range(4):
        tokens = output.sequences[row, -4:].tolist()
        expected = masked_forward(model, row_of(inputs, row), tokens, rule)
        logits = torch.stack([step[row] for step in output.logits])
        torch.testing.assert_close(logits, expected.logits, atol=1e-4, rtol=0)
    held = run.kv_lengths[0] - run.text_tokens - 3
    assert held.tolist() == ([0] * 4 if "res-img" in pairs else [16, 32, 0, 16])


@dataclass(frozen=True)
class Embedding(ReductionMethod):
    def install(self, parts: Installation) -> None:
        parts.embed_tokens({5: torch.ones(32)})


@dataclass(frozen=True)
class Ahead(ReductionMethod):
    """Looks at layers before and after they run, at prefill and at every step."""

    found: ClassVar[list[tuple[Any, Any]]]

    def needs(self, depth: int) -> Needs:
        asked = (2, 3)
        return Needs(prefill=asked, decode=asked, attention=(2,), ahead=(2,), positions="contiguous")

    def prefill(self, view: PrefillView) -> Tensor | None:
        return self._look(view)

    def decode(self, view: Any) -> Tensor | None:
        return self._look(view)

    def _look(self, view: Any) -> Tensor | None:
        if view.layer == 2:
            self.found.append((view.attention[2], None))
            return None
        self.found[-1] = self.found[-1][0], view.attention[2]
        return None if view.step else view.present & (torch.arange(view.present.shape[1]) % 3 > 0)


def test_the_attention_of_a_layer_ahead_is_that_of_the_layer(model: Any) -> None:
    Ahead.found = []
    with Ahead()(model):
        model.generate(**tiny_inputs(**ROWS), max_new_tokens=4, do_sample=False)
    assert len(Ahead.found) == 4
    for ahead, after in Ahead.found:
        torch.testing.assert_close(ahead.head_scores, after.head_scores, atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(ahead.class_mass, after.class_mass, atol=1e-6, rtol=1e-5)


def test_the_ledger_counts_what_is_computed_ahead(model: Any) -> None:
    prompt = 4 + 16 + 2 + 7
    with looking(Needs(prefill=(3,), ahead=(3,)), lambda view: None)(model) as run:
        model.generate(**tiny_inputs([7]), max_new_tokens=2, do_sample=False)
    work = work_of(run, looking(Needs(prefill=(3,), ahead=(3,)), None)).prefill
    assert (work.scored, work.scored_prompt, work.queries, work.keys) == (prompt, prompt, 1, prompt)


def test_keys_are_those_of_the_layer(model: Any) -> None:
    inputs = tiny_inputs(**ROWS)

    def look(view: PrefillView) -> tuple[Tensor, Tensor, Tensor]:
        return view.keys(1), view.instruction_keys(1), view.instruction

    visual, text, there = seen(Needs(prefill=(3,), keys=(1,)), look, model, inputs)
    with torch.no_grad():
        whole = model(**{**inputs, "use_cache": True}).past_key_values.layers[1].keys
    for row in (0, 1, 3):
        ids = inputs["input_ids"][row]
        image = (ids == IMAGE).nonzero().flatten()
        after = [c for c in range(int(image[0]), len(ids)) if ids[c] != IMAGE]
        expected = whole[row].transpose(0, 1)
        torch.testing.assert_close(visual[row, : len(image)], expected[image], atol=1e-5, rtol=0)
        torch.testing.assert_close(text[row][there[row]], expected[after], atol=1e-5, rtol=0)


@pytest.mark.parametrize("positions", ["original", "contiguous"])
def test_angles_are_those_of_the_positions(positions: Any, model: Any) -> None:
    inputs, found = tiny_inputs(**ROWS), list[Any]()

    @dataclass(frozen=True)
    class Turning(ReductionMethod):
        def needs(self, depth: int) -> Needs:
            return Needs(prefill=(2, 3), positions=positions)

        def prefill(self, view: PrefillView) -> Tensor:
            found.append((view.angles, view.instruction_angles, view.present, view.instruction))
            return view.present & (torch.arange(view.present.shape[1]) % 3 > 0)

    with Turning()(model):
        model.generate(**inputs, max_new_tokens=1)
    for dropped, (visual, text, there, told) in enumerate(found):
        for row in (0, 1, 3):
            ids = row_of(inputs, row)["input_ids"][0].tolist()
            image = [column for column, token in enumerate(ids) if token == IMAGE]
            rest = [c for c in range(image[0], len(ids)) if c not in image]
            gone = [image[i] for i in range(0, len(image), 3)] if dropped else []
            left = [column for column in range(len(ids)) if column not in gone]
            place = {c: left.index(c) if positions == "contiguous" else c for c in left}
            for (cos, sin), among, columns in ((visual, there, image), (text, told, rest)):
                held = torch.tensor([place[column] for column in columns if column in place])
                angles = held[:, None] / 10_000 ** (torch.arange(4) / 4)
                torch.testing.assert_close(cos[row, among[row]], angles.cos().repeat(1, 2))
                torch.testing.assert_close(sin[row, among[row]], angles.sin().repeat(1, 2))
                assert (cos[row, ~among[row]] == 0).all()


def test_keys_that_needs_do_not_name_are_not_there(model: Any) -> None:
    with pytest.raises(DyrateError, match="does not have the keys of layer 2: needs must name it"):
        seen(Needs(prefill=(3,), keys=(1,)), lambda view: view.keys(2), model, tiny_inputs())


@pytest.mark.parametrize("temperature", [0.1, 0.4, 1.0, 2.0])
def test_mass_at_a_temperature_is_that_of_divided_logits(temperature: float, model: Any) -> None:
    inputs = tiny_inputs(**ROWS)
    needs = Needs(prefill=(3,), attention={2: "all"}, whole_rows=True)

    def look(view: PrefillView) -> tuple[Tensor, Tensor]:
        attention = view.attention[2]
        return attention.mass_at(temperature), attention.class_mass

    found, plain = seen(needs, look, model, inputs)
    torch.testing.assert_close(found.sum(-1), torch.ones_like(found[..., 0]))
    if temperature == 1:
        torch.testing.assert_close(found, plain)
    for row in (0, 1, 3):
        alone, rule = row_of(inputs, row), Watched()
        masked_forward(model, alone, [5], rule)
        ids = alone["input_ids"][0].tolist()
        image = torch.tensor([token == IMAGE for token in ids])
        weights = rule.found[:, -1].double() ** (1 / temperature)
        share = weights[:, image].sum(-1) / weights.sum(-1)
        torch.testing.assert_close(found[row, :, 1].double(), share, atol=1e-5, rtol=1e-4)


def test_mass_at_a_temperature_must_be_asked_for(model: Any) -> None:
    with pytest.raises(DyrateError, match="needs must ask for whole_rows"):
        seen(
            Needs(prefill=(3,), attention=(2,)),
            lambda view: view.attention[2].mass_at(2),
            model,
            tiny_inputs(),
        )


@dataclass(frozen=True)
class Backwards(ReductionMethod):
    """Every second token stays; those of each image stand in reverse order."""

    layers: tuple[int, ...] = (0, 3)

    def needs(self, depth: int) -> Needs:
        return Needs(prefill=self.layers, positions="contiguous")

    def prefill(self, view: PrefillView) -> Kept:
        index = torch.arange(view.present.shape[1]).expand_as(view.present)
        keep = view.present if view.layer == 3 else view.present & (index % 2 == 0)
        return Kept(keep, order=index // 16 * 64 - index)


class BackwardsRule(Rule):
    contiguous = True

    def __init__(self, layers: tuple[int, ...]) -> None:
        self.layers = layers

    def prefill(self, layer: int, scores: list[float], held: list[int], visual: int) -> list[int]:
        return held if layer == 3 else held[::2]

    def order(self, layer: int, kept: list[int]) -> list[int]:
        return sorted(kept, key=lambda token: (token // 16, -token))


@pytest.mark.parametrize("engine", [False, True])
@pytest.mark.parametrize("layers", [(0,), (3,), (0, 3)])
def test_tokens_stand_in_the_order_that_a_method_says(layers: Any, engine: bool, model: Any) -> None:
    inputs, method = tiny_inputs(**ROWS), Backwards(layers)
    if engine:
        found, run = Engine(tiny_llava(kv_heads=2)).generate(method, inputs, max_new_tokens=5)
    else:
        with method(model) as run:
            found = model.generate(**inputs, max_new_tokens=5, do_sample=False)
    tokens = found[:, -5:].tolist()
    for row in range(4):
        outcome = masked_forward(model, row_of(inputs, row), tokens[row], BackwardsRule(layers))
        assert outcome.logits.argmax(-1).tolist() == tokens[row]
        for layer in range(6):
            assert run.kept[layer][row].tolist() == outcome.kept[layer]


def test_an_order_without_new_positions_is_refused(model: Any) -> None:
    @dataclass(frozen=True)
    class Wrong(Backwards):
        def needs(self, depth: int) -> Needs:
            return Needs(prefill=self.layers)

    with (
        pytest.raises(DyrateError, match="which needs must announce: positions='contiguous'"),
        Wrong()(model),
    ):
        model.generate(**tiny_inputs([7]), max_new_tokens=2)


@pytest.mark.parametrize(
    ("needs", "message"),
    [
        (Needs(prefill=(2,), ahead=(3,)), "ahead names layer 3, on entering which it is asked nothing"),
        (Needs(prefill=(2,), ahead=(9,)), "ahead: there is no layer 9"),
        (Needs(prefill=(2,), keys=(2,)), "the keys of layer 2 are there on entering a later layer"),
        (Needs(prefill=(2,), whole_rows=3), "whole_rows"),  # type: ignore[arg-type]
    ],
)
def test_needs_that_cannot_be_met_are_refused(needs: Needs, message: str, model: Any) -> None:
    with pytest.raises(DyrateError, match=message):
        seen(needs, lambda view: None, model, tiny_inputs())


def test_what_the_engine_cannot_give_is_refused_by_name(model: Any) -> None:
    engine, inputs = Engine(tiny_llava()), tiny_inputs(**ROWS)
    with pytest.raises(
        DyrateError, match="hides 'sys' tokens from generated ones, which the graph engine cannot"
    ):
        engine.generate(Hiding(("res-sys",)), inputs, max_new_tokens=3)
    with pytest.raises(DyrateError, match="reads whole rows of attention, or that of a layer before it runs"):
        engine.generate(Ahead(), inputs, max_new_tokens=3)
    with pytest.raises(DyrateError, match=r"gives token 5 of the model's vocabulary another embedding"):
        engine.generate(Embedding(), inputs, max_new_tokens=3)
    method, plain = Hiding(("ins-img", "res-img")), tiny_llava()
    with method(plain) as expected:
        tokens = plain.generate(**inputs, max_new_tokens=5, do_sample=False)
    found, run = engine.generate(method, inputs, max_new_tokens=5)
    assert found.tolist() == tokens.tolist()
    assert torch.equal(run.kv_lengths, expected.kv_lengths)
    assert run.kept[3][1].tolist() == list(range(32))


def test_scores_that_are_not_numbers_fail_the_generation(model: Any) -> None:
    from dyrate import PrefillPruning

    @dataclass(frozen=True)
    class Dividing(PrefillPruning):
        def score(self, view: PrefillView) -> Tensor:
            return view.present / (view.visual_counts[:, None] - 16)

    with (
        pytest.raises(DyrateError, match=r"scores of row 0 at step 0 are NaN or infinite"),
        Dividing()(model),
    ):
        model.generate(**tiny_inputs([7]), max_new_tokens=2)


def test_states_given_for_tokens_that_leave_change_nothing(model: Any) -> None:
    inputs = tiny_inputs([7, 3])

    def answer(noise: float) -> Tensor:
        @dataclass(frozen=True)
        class Noisy(ReductionMethod):
            def needs(self, depth: int) -> Needs:
                return Needs(prefill=(2,))

            def prefill(self, view: PrefillView) -> Kept:
                keep = view.present & (torch.arange(16) % 2 == 0)
                return Kept(keep, view.states + noise * ~keep[:, :, None])

        with torch.no_grad(), Noisy()(model):
            return model(**inputs).logits[:, -1]

    assert torch.equal(answer(0.0), answer(9.0))
