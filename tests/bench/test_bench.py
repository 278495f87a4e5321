"""What the bench counts and computes; its times are measured, never asserted."""

import json
from itertools import cycle

import pytest
import torch
from transformers import AutoModelForImageTextToText

from dyrate.bench import measure as measuring
from dyrate.bench import shapes
from dyrate.bench.contenders import Contender, keeping_all
from dyrate.bench.given import given
from dyrate.bench.limits import measure_limits
from dyrate.bench.measure import measure
from dyrate.bench.models import inputs, named_shape, prepared, random_model, visual_tokens
from dyrate.bench.profile import listing, short
from dyrate.bench.rows import rows, table
from dyrate.bench.shapes import picture
from dyrate.cli import main
from dyrate.cost.flops import CONVENTIONS, count
from dyrate.cost.shapes import ModelShape, TextShape, VisionShape
from dyrate.engine.engine import Engine
from dyrate.errors import DyrateError
from dyrate.predictor_config import PredictorConfig
from dyrate.predictors import Predictor, save_predictor
from dyrate.registry import load_method
from dyrate.speed.documents import Limits, Load
from tests.tiny import IMAGE, VISUAL_TOKENS, tiny_llava
from tests.tiny_families import TINY as TINY_FAMILIES

LOAD = Load(batch=2, prompt=24, new_tokens=5)
TINY = ModelShape(
    TextShape(layers=3, hidden=32, intermediate=64, heads=4, kv_heads=2, head_dim=8, vocabulary=64),
    VisionShape(layers=2, hidden=64, intermediate=64, patches=16, patch_inputs=48),
)


@pytest.fixture(scope="module")
def model():
    return prepared(tiny_llava(num_layers=3))


def contenders(*specs):
    return [Contender(spec["name"], load_method(spec)) for spec in specs]


def test_a_random_model_has_the_shape_that_was_asked_for():
    made = random_model(TINY, torch.device("cpu"), torch.bfloat16)

    assert ModelShape.of(made.config) == TINY
    assert {parameter.dtype for parameter in made.parameters()} == {torch.bfloat16}
    assert made.config.text_config.head_dim == 8
    assert sum(p.numel() for p in made.model.language_model.parameters()) + 64 * 32 == TINY.text.parameters


def test_prompts_have_their_length_and_one_image(model):
    made = inputs(model, batch=3, prompt=24, seed=1)

    assert made["input_ids"].shape == (3, 24)
    assert ((made["input_ids"] == IMAGE).sum(dim=1) == VISUAL_TOKENS).all()
    assert not torch.equal(made["input_ids"][0], made["input_ids"][1])
    assert torch.equal(made["input_ids"], inputs(model, batch=3, prompt=24, seed=1)["input_ids"])
    with pytest.raises(DyrateError, match="--prompt 17: too short for 16 visual tokens"):
        inputs(model, batch=1, prompt=17, seed=0)


def test_every_contender_makes_as_many_tokens_and_its_own_cache(model):
    entries = [Contender("generate"), Contender("static")]
    entries += contenders({"name": "none"}, {"name": "fastv", "layer": 1, "rate": 0.5})

    found = measure(model, entries, LOAD, rounds=2, warmups=1, seed=0, done=lambda: None)

    stock, static, none, fastv = (timings.generated for timings in found)
    assert stock.work.prefill == none.work.prefill
    assert stock.work.decode == none.work.decode
    assert none.kv_bytes == stock.kv_bytes == 2 * (24 + 4) * 3 * TINY.text.kv_width * 2 * 4
    assert static.kv_bytes >= stock.kv_bytes
    assert fastv.kv_bytes == none.kv_bytes - 2 * 8 * 2 * TINY.text.kv_width * 2 * 4
    for timings in found:
        assert len(timings.first_token) == len(timings.per_token) == len(timings.whole) == 2
        assert timings.peak_bytes is None


def test_rounds_alternate_and_warm_ups_are_not_counted(model, monkeypatch):
    order = []
    monkeypatch.setattr(
        measuring,
        "_one_round",
        lambda model, contender, asked, new, device, found: order.append((contender.name, found is None)),
    )
    done = []

    measure(
        model,
        [Contender("a"), Contender("b")],
        LOAD,
        rounds=3,
        warmups=1,
        seed=0,
        done=lambda: done.append(1),
    )

    assert order == [("a", True), ("b", True)] + [(name, False) for name in "abbaab"]
    assert len(done) == len(order)


def test_times_are_taken_at_each_step(model, monkeypatch):
    clock = cycle(range(10**6))
    monkeypatch.setattr(measuring, "perf_counter", lambda: float(next(clock)))

    (found,) = measure(model, contenders({"name": "none"}), LOAD, rounds=1, warmups=0, seed=0, done=int)

    # One tick for each reading of the clock: started, five steps, the ends of both generations.
    assert (found.first_token, found.per_token, found.whole) == ([1.0], [1.0], [1.0])


@pytest.mark.parametrize("fast", [True, False])
def test_profiles_are_of_one_pass(model, fast):
    contender = Contender("none", load_method({"name": "none"}), fast=fast)
    load = Load(batch=2, prompt=24, new_tokens=4)
    asked = {"rounds": 1, "warmups": 0, "seed": 0, "done": lambda: None}
    (found,) = measure(model, [contender], load, profiled=True, **asked)
    prompt, step = found.profiles
    for profile in (prompt, step):
        taken = [part.milliseconds for part in profile.parts]
        assert taken == sorted(taken, reverse=True)
    sdpa = "aten::scaled_dot_product_attention"
    attention = "aten::softmax" if fast else sdpa
    assert [part.calls for part in step.parts if part.name == attention] == [3], "one for each layer"
    assert [part.calls for part in prompt.parts if part.name == sdpa] == [3 + TINY.vision.layers]

    (row,) = rows([contender], [found], load, TINY, Limits(bytes_per_second=1e9, flops_per_second=1e9), 4)
    assert (row.prompt_pass, row.decode_step) == (prompt, step)
    lines = listing("one decode step", row, step).splitlines()
    assert lines[0].startswith(f"one decode step of {contender.label}, batch 2: ")
    assert lines[1].endswith(step.parts[0].name)
    (found,) = measure(model, [contender], Load(batch=1, prompt=24, new_tokens=1), profiled=True, **asked)
    assert found.profiles[1] is None


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("_attend", "_attend"),
        ("aten::addmm", "aten::addmm"),
        (
            "void at::native::elementwise_kernel<4, at::Mul<float>, lambda(int)>(int, float)",
            "elementwise_kernel",
        ),
        ("void (anonymous namespace)::indexSelect<c10::BFloat16>(int)", "indexSelect"),
        ("std::enable_if<(true), void>::type internal::gemvx::kernel<int>(int)", "kernel"),
        ("Memcpy DtoD (Device -> Device)", "Memcpy DtoD (Device -> Device)"),
    ],
)
def test_names_of_kernels_are_shortened(name, expected):
    assert short(name) == expected


def test_rows_compare_with_the_first_and_with_the_devices_limits(model):
    entries = contenders({"name": "none"}, {"name": "fastv", "layer": 1, "rate": 0.5})
    timed = measure(model, entries, LOAD, rounds=1, warmups=0, seed=0, done=int)
    for seconds, timings in zip((4.0, 1.0), timed, strict=True):
        timings.first_token, timings.per_token, timings.whole = [seconds], [seconds], [seconds, seconds]
    shape = ModelShape.of(model.config)

    first, second = rows(
        entries, timed, LOAD, shape, Limits(bytes_per_second=1e6, flops_per_second=1e9), bytes_per_number=4
    )

    assert (first.speedup, second.speedup) == (1.0, 4.0)
    assert second.tokens_per_second == 10
    weights = shape.text.parameters - shape.text.vocabulary * shape.text.hidden
    read = 4 * (weights + 2 * 3 * sum(24 + step for step in (1, 2, 3, 4)) / 4 * shape.text.kv_width)
    assert first.bandwidth_share == pytest.approx(read / 4.0 / 1e6)
    assert first.step_bytes == pytest.approx(read)
    for found, timings in zip((first, second), timed, strict=True):
        assert found.flops["flops"]["cached"] == sum(
            count(work, shape, CONVENTIONS["flops"]).total
            for work in (timings.generated.work.prefill, timings.generated.work.decode)
        )
        assert found.matrix_share == pytest.approx(
            found.flops["flops"]["prefill"] / found.first_token_ms.median / 1e6
        )
    assert second.method.settings == {"name": "fastv", "layer": 1, "rate": 0.5}
    text = table([first, second])
    assert "FastV (K=1, R=0.5)" in text
    assert "4.00" in text


def test_one_new_token_has_no_time_per_token(model):
    entries, load = contenders({"name": "none"}), Load(1, 24, 1)
    timed = measure(model, entries, load, rounds=1, warmups=0, seed=0, done=int)

    (row,) = rows(
        entries, timed, load, ModelShape.of(model.config), Limits(bytes_per_second=1, flops_per_second=1), 4
    )

    assert (row.per_token_ms, row.bandwidth_share, row.step_bytes) == (None, None, None)
    assert row.flops["flops"]["cached"] == row.flops["flops"]["prefill"]
    assert " – " in table([row])


def test_limits_are_positive():
    found = measure_limits(torch.device("cpu"), torch.float32)
    assert found.bytes_per_second > 0
    assert found.flops_per_second > 0


@pytest.fixture
def folder(tmp_path):
    tiny_llava(num_layers=3).save_pretrained(tmp_path / "model")
    config = PredictorConfig(layer=2, heads=4, rates=4)
    save_predictor(Predictor(config), tmp_path / "predictor", {"schedule": [0.25, 0.5]})
    return tmp_path


def test_the_command_prints_a_table_and_ends_with_json(folder, capsys):
    arguments = [
        *("bench", "--model", str(folder / "model"), "--methods", "none", '{"name": "fastv", "rate": 0.5}'),
        *("--replay", str(folder / "predictor"), "--prompt", "24", "--new-tokens", "3", "--batch", "1", "2"),
        *("--rounds", "1", "--warmups", "0", "--output", str(folder / "out" / "bench.json")),
    ]

    assert main(arguments) == 0

    lines = capsys.readouterr().out.splitlines()
    document = json.loads(lines[-1])
    assert document == json.loads((folder / "out" / "bench.json").read_text())
    assert (document["schema"], document["weights"], document["dtype"]) == (
        "dyrate.bench",
        "checkpoint",
        "float32",
    )
    assert [row["contender"] for row in document["rows"]] == 2 * [
        "generate",
        "none",
        "fastv",
        *3 * ["replay"],
    ]
    assert [row["batch"] for row in document["rows"]] == [1] * 6 + [2] * 6
    assert document["rows"][3]["method"]["rates"] == [0.25, 0.5]
    assert document["replayed"] == str(folder / "predictor")
    assert lines[0].split()[:2] == ["contender", "batch"]
    assert len(lines) == 1 + 12 + 1


def test_the_command_prints_profiles_before_the_json(folder, capsys):
    arguments = ["bench", "--model", str(folder / "model"), "--peers", "--prompt", "24", "--new-tokens", "3"]

    assert main([*arguments, "--rounds", "1", "--warmups", "0", "--profile"]) == 0

    lines = capsys.readouterr().out.splitlines()
    (row,) = json.loads(lines[-1])["rows"]
    for name, what in (("prompt_pass", "the prompt"), ("decode_step", "one decode step")):
        start = next(i for i, line in enumerate(lines) if line.startswith(f"{what} of Unpruned, batch 1: "))
        assert lines[start + 1].endswith(row[name]["parts"][0]["name"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--shape", "llava-9"], "--shape llava-9: unknown; known: llava-1.5-7b, llava-1.5-13b"),
        (["--shape", "llava-1.5-7b", "--peers", "vllm"], "--peers: 'vllm' is not one of generate, static"),
        (["--shape", "llava-1.5-7b", "--batch", "0"], "--batch: 0 is not a whole number from 1 on"),
        (["--shape", "llava-1.5-7b", "--new-tokens", "0"], "--new-tokens: 0 is not a whole number from 1 on"),
        (["--shape", "llava-1.5-7b", "--rounds", "0"], "--rounds: 0 is not a whole number from 1 on"),
        (["--shape", "llava-1.5-7b", "--methods", "--peers"], "nothing to measure"),
        (["--shape", "llava-1.5-7b", "--replay", "nowhere"], "there is no predictor in nowhere"),
    ],
)
def test_unfit_arguments_are_explained_before_anything_slow(arguments, message, capsys, monkeypatch):
    def too_slow(*_):
        raise AssertionError("made a model first")

    monkeypatch.setattr("dyrate.bench.models.random_model", too_slow)

    assert main(["bench", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_peers_whose_work_is_not_known_are_refused():
    subject = TINY_FAMILIES["qwen2_5_vl"].subject
    with pytest.raises(DyrateError, match=r"--peers: .* qwen2_5_vl has others: leave them out"):
        Contender("generate").generate(subject.model, dict(subject.rows[0]), 2, lambda: None)


def test_shapes_have_names_in_any_case():
    assert named_shape("LLaVA-1.5-7B").text.layers == 32


@pytest.mark.parametrize("mode", ["select", "evict"])
def test_the_overheads_predictors_drop_nothing(model, mode):
    made = [entry for entry in keeping_all(4, ["transformers", "graph"]) if f" {mode}," in entry.name]
    assert {(entry.engine, entry.name) for entry in made} == {
        (engine, f"overhead {mode}, {ranking}")
        for engine in ("transformers", "graph")
        for ranking in ("attention", "mlp")
    }

    timed = measure(
        model, [*contenders({"name": "none"}), *made], LOAD, rounds=1, warmups=0, seed=0, done=int
    )

    none, *others = (timings.generated.work for timings in timed)
    for work in others:
        assert (work.prefill.pairs, work.decode.pairs) == (none.prefill.pairs, none.decode.pairs)
    assert {entry.spec()["predictor"] for entry in made} == {"keeps-all-attention", "keeps-all-mlp"}


@pytest.mark.parametrize("fast", [False, True])
def test_controls_drop_as_many_tokens_without_choosing(model, fast):
    specs = [
        {"name": "none"},
        {"name": "fastv", "layer": 1, "budget": 0.6},
        {"name": "divprune", "rate": 0.5},
        {"name": "pyramiddrop", "layers": [1, 2], "ratios": [0.6, 0.3]},
        {"name": "text_only"},
        {"name": "tome", "merged": 3},
        {"name": "fixed_prune", "layer": 1, "rate": 0.5, "prune_prefill": False},
    ]
    made = [Contender(spec["name"], load_method(spec), fast) for spec in specs]
    made.insert(0, Contender("generate"))

    controls = given(made, model, inputs(model, LOAD.batch, LOAD.prompt, 0))

    dropping = made[
        2:6
    ]  # the vision tower that ToMe changes would be another one; FixedPrune here drops none at prefill
    assert [c.name for c in controls] == [f"as many tokens as {c.method.label}" for c in dropping]
    timed = measure(model, [*dropping, *controls], LOAD, rounds=1, warmups=0, seed=0, done=int)
    works = [timing.generated.work for timing in timed]
    for mine, control in zip(works[:4], works[4:], strict=True):
        assert mine.prefill.pairs == control.prefill.pairs
        assert mine.decode.pairs == control.decode.pairs
        assert control.prefill.own_macs == control.prefill.scored == control.prefill.keys == 0
    assert [c.method.positions for c in controls] == ["original", *["contiguous"] * 3]


def test_padding_is_no_text_of_a_control(model):
    asked = inputs(model, LOAD.batch, LOAD.prompt, 0)
    asked["input_ids"][0, 0], asked["attention_mask"][0, 0] = 0, 0
    fastv = Contender("fastv", load_method({"name": "fastv", "layer": 1, "rate": 0.5}))

    [control] = given([fastv], model, asked)

    assert control.method.counts == (VISUAL_TOKENS, VISUAL_TOKENS // 2, VISUAL_TOKENS // 2)
    assert control.method.needs(3).prefill == (1,), "it is asked only where tokens leave"


def test_an_engine_is_kept_until_it_is_closed(model):
    (entry,) = [Contender("none", load_method({"name": "none"}), fast=True)]
    assert entry.cold
    measure(model, [entry], LOAD, rounds=2, warmups=1, seed=0, done=int)
    assert entry.cold, "measure gives back what it held"
    assert (entry.label, entry.engine) == ("Unpruned, graph", "graph")


@pytest.mark.parametrize("name", TINY_FAMILIES)
def test_random_prompts_suit_every_family(name):
    """Configs of tiny models in the place of published ones: V as the encoder says, text that is no image."""
    tiny = TINY_FAMILIES[name].model
    model = random_model(tiny.config, torch.device("cpu"), torch.float32)
    free = {"qwen2_5_vl": 12, "qwen3_vl": 12, "internvl-qwen2": 32, "internvl-qwen3": 32}.get(name)
    count = visual_tokens(model, free)
    assert count == (free or count) > 1
    made = inputs(model, 2, count + 9, seed=0, visual=free)
    assert (made["input_ids"] == model.config.image_token_id).sum(dim=1).tolist() == [count] * 2
    found, run = Engine(model).generate(load_method({"name": "none"}), made, max_new_tokens=3)
    assert found.shape == (2, count + 9 + 3)
    assert run.visual_tokens.tolist() == [count] * 2


@pytest.mark.parametrize("name", ["qwen2_5_vl", "qwen3_vl"])
def test_many_visual_tokens_are_of_several_images(name, monkeypatch):
    """As the stock model takes them: words stand between, so that its positions know one from another."""
    monkeypatch.setattr(shapes, "LARGEST", 5)
    model = random_model(TINY_FAMILIES[name].model.config, torch.device("cpu"), torch.float32)
    made = inputs(model, 2, 13 + 8, seed=0, visual=13)
    assert (made["image_grid_thw"].prod(dim=1) // 4).tolist() == [5, 4, 4] * 2
    images = (made["input_ids"] == model.config.image_token_id).int()
    assert (images.diff(dim=1) == 1).sum(dim=1).tolist() == [3, 3]
    found, _ = Engine(model).generate(load_method({"name": "none"}), made, max_new_tokens=3)
    assert torch.equal(found, model.generate(**made, max_new_tokens=3, do_sample=False))
    with pytest.raises(DyrateError, match="--prompt 16: too short for 13 visual tokens and 4 words"):
        inputs(model, 1, 16, seed=0, visual=13)


@pytest.mark.parametrize(
    "name", ["llava-next-mistral-7b", "llava-onevision-7b", "qwen2.5-vl-7b", "qwen3-vl-8b"]
)
def test_other_families_have_published_shapes(name):
    config = named_shape(name)
    assert ModelShape.of(config).text.kv_heads < ModelShape.of(config).text.heads
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config)
    billions = sum(parameter.numel() for parameter in model.parameters()) / 1e9
    assert 7 < billions < 9


def test_a_number_of_visual_tokens_that_a_model_has_not_is_refused():
    model = random_model(TINY, torch.device("cpu"), torch.float32)
    with pytest.raises(DyrateError, match=r"--visual 7: an image becomes \d+ tokens of this model"):
        inputs(model, 1, 40, seed=0, visual=7)


@pytest.mark.parametrize("visual", [5, 20])
def test_tiles_are_whole(visual):
    config = TINY_FAMILIES["internvl-qwen2"].model.config
    with pytest.raises(DyrateError, match=f"--visual {visual}: this model's tiles have 16 tokens each"):
        picture(config, visual, 0)
