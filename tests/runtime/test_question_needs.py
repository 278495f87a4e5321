"""The question, its features, and the patches of the tower where CLIP has them."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import CLIPConfig, CLIPModel, CLIPTextModelWithProjection

from dyrate import Needs
from dyrate.errors import DyrateError
from dyrate.evaluation.checkpoint import content_hash
from dyrate.question_reader import QuestionReader
from tests.runtime.example_rules import Reader
from tests.runtime.example_rules import tower_layer as rows_of_tower
from tests.runtime.looking import PATCHES, ROWS, seen
from tests.tiny import IMAGE, row_of, tiny_inputs, tiny_llava


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_llava(kv_heads=2)


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
