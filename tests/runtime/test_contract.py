"""Every method of the table against the masked reference: tokens, logits of every step, cache, record.

The fast tier has each setting of each method in greedy decoding, and the first setting of each in one other
decoding, in a batch and with grouped heads; the slow one has the rest of the product.
"""

from collections.abc import Container, Iterator
from functools import cache
from inspect import signature
from typing import Any

import pytest
import torch
from torch import Tensor

from dyrate.errors import DyrateError
from dyrate.methods.none import NoReduction
from dyrate.needs import checked
from dyrate.reduction import ReductionMethod, Run
from dyrate.registry import load_method, references
from tests.runtime.example_rules import Reader
from tests.runtime.method_table import CASES, KEEP_EVERYTHING, ORIGINAL, OUTSIDE, PROBES, Case, prompts
from tests.runtime.reference import Outcome, masked_forward
from tests.tiny import IMAGE, NUM_LAYERS, VISUAL_TOKENS, row_of, tiny_inputs, tiny_llava
from tests.tiny_families import TINY, Subject

NEW_TOKENS = 5
DECODINGS: dict[str, dict[str, Any]] = {
    "sampling": {"do_sample": True, "num_return_sequences": 2},
    "beam2": {"num_beams": 2, "num_return_sequences": 2},
    "beam5": {"num_beams": 5, "num_return_sequences": 5},
}


def _on_others(*named: str) -> Iterator[Any]:
    """Methods that run on all, or those named, on every other family, each in its first setting, and what
    reads the tower at original positions where there are no others: the rest is LLaVA's to show. All but
    three are in the slow tier.
    """
    for name in TINY:
        seen = set[str]()
        for case in CASES + PROBES:
            needs, method = case.method.needs(NUM_LAYERS), case.method.name
            if needs.question or needs.blocked or method in ("downsample", "tome", *seen):
                continue
            if named and method not in named:
                continue
            seen.add(method)
            if needs.tower and name.startswith("qwen"):
                case = ORIGINAL[method]
            slow = method not in ("fastv", "dyrate", "visionzip")
            yield pytest.param(name, case, id=f"{name}-{case.method.label}", marks=[pytest.mark.slow] * slow)


def _slow(params: list[Any], fast: Container[Any]) -> list[Any]:
    """Those that are not in `fast` go to the slow tier."""
    return [
        param if param in fast else param._replace(marks=[*param.marks, pytest.mark.slow]) for param in params
    ]


LLAVA = [pytest.param("llava", case, id=f"llava-{case.method.label}") for case in CASES + OUTSIDE + PROBES]
FIRST = [*{param.values[1].method.name: param for param in reversed(LLAVA)}.values()]
"""Each method in its first setting."""
GROUPED = [
    pytest.param("grouped", *param.values[1:], id=f"grouped-{param.id}", marks=param.marks)
    for param in _slow(LLAVA, FIRST)
]
OTHERS = list(_on_others())
SEARCHED = list(_on_others("fastv", "dyrate"))
DECODED = {
    decoding: _slow([*LLAVA, *SEARCHED], FIRST[number :: len(DECODINGS)])
    for number, decoding in enumerate(DECODINGS)
}


@cache
def subject_of(name: str) -> Subject:
    """Left padding; one, two, no and one image per row: of LLaVA V = 16, 32, 0, 16."""
    if name in TINY:
        return TINY[name].subject
    inputs = tiny_inputs([7, 3, 20, 11], images=[1, 2, 0, 1])
    rows = [row_of(inputs, row) for row in range(4)]
    pictures = [[(4, 4, 0)] * count for count in (1, 2, 0, 1)]
    # Two query heads share a key head, or none do.
    return Subject(tiny_llava(kv_heads=2 if name == "grouped" else 4), rows, inputs, pictures)


@pytest.fixture(scope="module")
def model() -> Any:
    return subject_of("llava").model


@pytest.fixture(scope="module")
def inputs() -> dict[str, Tensor]:
    return subject_of("llava").inputs


def generate(
    model: Any, method: ReductionMethod, inputs: dict[str, Tensor], **options: Any
) -> tuple[Any, Run]:
    torch.manual_seed(0)
    with method(model, questions=Reader()) as run:
        output = model.generate(
            **inputs, max_new_tokens=NEW_TOKENS, return_dict_in_generate=True, output_logits=True, **options
        )
    return output, run


def reference(
    subject: Subject, case: Case, run: Run, row: int, tokens: list[int], copies: int = 1
) -> Outcome:
    """The row by itself, masked."""
    alone = prompts(case, subject.rows[row])
    ids = alone["input_ids"][0].tolist()
    rule = case.rule(len(ids) - ids.index(IMAGE) if IMAGE in ids else len(ids), kept_by(run, row * copies))
    return masked_forward(subject.model, alone, tokens, rule, subject.pictures[row])


def numbers_images_anew(name: str, case: Case) -> bool:
    """Whether a method numbers visual tokens without gaps where positions have no such numbers."""
    rope = subject_of(name).model.config.text_config.rope_parameters
    keeps = case.method.name not in ("vtw", "text_only")
    return "mrope_section" in rope and case.method.needs(NUM_LAYERS).positions == "contiguous" and keeps


def kept_by(run: Run, row: int) -> dict[int, list[int]]:
    return {layer: rows[row].tolist() for layer, rows in run.kept.items()}


def test_every_registered_method_is_in_the_table() -> None:
    assert {case.method.name for case in CASES} == set(references())


@pytest.mark.parametrize(("name", "case"), [*LLAVA, *GROUPED, *OTHERS])
def test_greedy_is_the_masked_reference_at_every_step(name: str, case: Case) -> None:
    subject = subject_of(name)
    model, inputs = subject.model, prompts(case, subject.inputs)
    if numbers_images_anew(name, case):
        with pytest.raises(DyrateError, match="choose original positions"):
            generate(model, case.method, inputs, do_sample=False)
        return
    output, run = generate(model, case.method, inputs, do_sample=False)
    width, cache = inputs["input_ids"].shape[1], output.past_key_values
    attended = torch.zeros(NUM_LAYERS)
    for row, visual in enumerate(subject.visual):
        tokens = output.sequences[row, width:].tolist()
        expected = reference(subject, case, run, row, tokens)

        logits = torch.stack([step[row] for step in output.logits])
        torch.testing.assert_close(logits, expected.logits, atol=1e-4, rtol=0)

        text = subject.rows[row]["input_ids"].shape[1] - visual
        for layer in range(NUM_LAYERS):
            assert run.kept[layer][row].tolist() == expected.kept[layer]
            held = text + len(expected.held[layer]) + NEW_TOKENS - 1
            assert run.kv_lengths[layer, row] == held
            attended[layer] += sum(map(len, expected.attended[layer][1:])) / (4 * (NEW_TOKENS - 1))
            seen = [tokens.nonzero().flatten().tolist() for tokens in run.seen[:, layer, row]]
            assert seen == expected.attended[layer]

        lines = run.steps.query("row == @row")
        assert lines.step.tolist() == list(range(NEW_TOKENS))
        if visual:
            retained = [len(tokens) / visual for tokens in expected.attended[NUM_LAYERS - 1]]
            assert lines.retained.tolist() == pytest.approx(retained)
            assert lines.rate.tolist() == pytest.approx([1 - share for share in retained])
        layer = checked(case.method.needs(NUM_LAYERS), NUM_LAYERS, "").reported
        if layer is not None:
            mass = expected.class_mass[layer].mean(dim=1)
            found = torch.tensor(lines[["mass_sys", "mass_img", "mass_ins", "mass_res"]].to_numpy())
            torch.testing.assert_close(found.float(), mass, atol=1e-5, rtol=0)

    torch.testing.assert_close(run.decode_tokens, attended)
    assert run.visual_tokens.tolist() == subject.visual
    # The cache is as long as its longest row, not longer, and its bytes are those of its tensors.
    assert [layer.keys.shape[2] for layer in cache.layers] == run.kv_lengths.max(dim=1).values.tolist()
    assert run.kv_bytes == sum(2 * layer.keys.numel() * 4 for layer in cache.layers)


@pytest.mark.parametrize(
    ("decoding", "name", "case"),
    [
        pytest.param(decoding, *param.values, id=f"{decoding}-{param.id}", marks=param.marks)
        for decoding, params in DECODED.items()
        for param in params
    ],
)
def test_other_decodings_are_the_masked_reference_at_every_step(decoding: str, name: str, case: Case) -> None:
    subject = subject_of(name)
    if numbers_images_anew(name, case):
        pytest.skip("refused: see the test above")
    model, inputs = subject.model, subject.inputs
    if "mm_encoder_outputs" not in signature(model.forward).parameters:
        # Before that, transformers itself repeats single images, and mixes those of a row that has two.
        if name != "llava":
            pytest.skip("this version of transformers mixes images in beam search")
        inputs = tiny_inputs([7, 3, 20, 11], images=[1, 1, 0, 1])
        rows = [row_of(inputs, row) for row in range(4)]
        subject = Subject(model, rows, inputs, [[(4, 4, 0)] * count for count in (1, 1, 0, 1)])
    inputs, options = prompts(case, inputs), DECODINGS[decoding]
    output, run = generate(model, case.method, inputs, **options)
    width, copies = inputs["input_ids"].shape[1], options["num_return_sequences"]
    for sequence in range(len(output.sequences)):
        row = sequence // copies
        tokens = output.sequences[sequence, width:].tolist()
        beams = output.beam_indices[sequence].tolist() if "num_beams" in options else [sequence] * NEW_TOKENS
        logits = torch.stack([step[beam] for step, beam in zip(output.logits, beams, strict=True)])
        expected = reference(subject, case, run, row, tokens, copies)
        torch.testing.assert_close(logits, expected.logits, atol=1e-4, rtol=0)


@pytest.mark.parametrize(("name", "case"), [*_slow(LLAVA, FIRST), *OTHERS])
def test_a_batch_gives_each_row_what_it_gets_alone(name: str, case: Case) -> None:
    subject = subject_of(name)
    if numbers_images_anew(name, case):
        pytest.skip("refused: see the test above")
    model, inputs = subject.model, prompts(case, subject.inputs)
    output, run = generate(model, case.method, inputs, do_sample=False)
    for row in range(4):
        alone = prompts(case, subject.rows[row])
        single, its_run = generate(model, case.method, alone, do_sample=False)
        new = output.sequences[row, inputs["input_ids"].shape[1] :]
        assert torch.equal(new, single.sequences[0, alone["input_ids"].shape[1] :])
        assert kept_by(run, row) == kept_by(its_run, 0)
        assert torch.equal(run.kv_lengths[:, row], its_run.kv_lengths[:, 0])


@pytest.mark.parametrize("method", KEEP_EVERYTHING, ids=lambda method: method.label)
@pytest.mark.parametrize("options", [{"do_sample": False}, {"num_beams": 3}, {"do_sample": True}], ids=str)
def test_keeping_everything_is_the_unpruned_model(
    method: ReductionMethod, options: dict[str, Any], model: Any, inputs: dict[str, Tensor]
) -> None:
    torch.manual_seed(0)
    stock = model.generate(
        **inputs, max_new_tokens=NEW_TOKENS, return_dict_in_generate=True, output_logits=True, **options
    )
    output, run = generate(model, method, inputs, **options)
    assert torch.equal(output.sequences, stock.sequences)
    for ours, theirs in zip(output.logits, stock.logits, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
    assert all(len(tokens) == visual for tokens, visual in zip(run.kept[5], run.visual_tokens, strict=True))


@pytest.mark.parametrize(("name", "case"), _slow(LLAVA, FIRST))
def test_results_do_not_depend_on_global_random_state(name: str, case: Case) -> None:
    model, inputs = subject_of(name).model, prompts(case, subject_of(name).inputs)
    outputs = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        with case.method(model, questions=Reader()) as run:
            tokens = model.generate(**inputs, max_new_tokens=2, do_sample=False)
        outputs.append((tokens.tolist(), [kept_by(run, row) for row in range(4)]))
    assert outputs[0] == outputs[1]


@pytest.mark.parametrize("name", TINY)
def test_keeping_everything_is_the_unpruned_model_of_every_family(name: str) -> None:
    """To the last bit, in a left-padded batch whose images have different sizes: forward, search, cache.

    But for a padded batch in a forward of Qwen's: there padding counts as text before the image, which shifts
    all positions of a row by as much. `generate()` makes its own positions.
    """
    subject, kept = subject_of(name), load_method({"name": "fastv", "layer": 1, "rate": 0.0})
    model, inputs = subject.model, subject.inputs

    def results() -> list[Tensor]:
        found = []
        with torch.no_grad():
            found += [model(**row).logits for row in subject.rows]
            found += [model(**inputs).logits[:, -1]]
        for options in ({"do_sample": False}, {"num_beams": 3}, {"do_sample": True}):
            torch.manual_seed(0)
            output = model.generate(
                **inputs,
                max_new_tokens=NEW_TOKENS,
                return_dict_in_generate=True,
                output_logits=True,
                **options,
            )
            found += [output.sequences, *output.logits]
        return found

    stock = results()
    for method in (NoReduction(), kept):
        with method(model):
            pairs = list(zip(results(), stock, strict=True))
        if "image_grid_thw" in inputs:
            torch.testing.assert_close(*pairs.pop(len(subject.rows)), atol=1e-5, rtol=0)
        assert [torch.equal(*pair) for pair in pairs] == [True] * len(pairs)


def test_reduced_caches_hold_fewer_bytes(model: Any) -> None:
    """With one row, so that no padding hides the difference: bytes follow the tokens held."""
    _, whole = generate(model, NoReduction(), tiny_inputs([7]), do_sample=False)
    for case in CASES + OUTSIDE:
        _, run = generate(model, case.method, prompts(case, tiny_inputs([7])), do_sample=False)
        share = run.kv_lengths.sum() / whole.kv_lengths.sum()
        assert run.kv_bytes / whole.kv_bytes == pytest.approx(float(share))
        needs = case.method.needs(NUM_LAYERS)
        fewer = run.kept[5][0].numel() < VISUAL_TOKENS or needs.blocked
        fewer = bool(fewer or (needs.decode and needs.decode_mode == "evict"))
        assert (run.kv_bytes < whole.kv_bytes) == fewer
