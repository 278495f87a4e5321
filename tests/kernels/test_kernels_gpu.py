"""On a GPU: every kernel gives what plain operations on a CPU give, alone and replayed in a CUDA graph."""

from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from dyrate.kernels.activations import quick_gelu, swiglu
from dyrate.kernels.attention import Attended, attention_weights, decode_attention
from dyrate.kernels.linear import linear
from dyrate.kernels.norm import rms_norm
from dyrate.kernels.perceptron import perceptron
from dyrate.kernels.rank import top
from dyrate.kernels.residual import ResidualStream
from dyrate.kernels.rope import HeadNorms, rope_and_split, rope_and_store
from dyrate.kernels.slots import compact, store
from tests.kernels.inputs import random_layers, random_reading, random_states

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
# Of the largest entry.
TOLERANCE = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}
each_dtype = pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)


def assert_near(found: Tensor, expected: Tensor, tolerance: float) -> None:
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype
    if found.numel():
        bound = tolerance * float(expected.float().abs().max().clamp_min(1e-3))
        torch.testing.assert_close(found.float(), expected.float(), rtol=tolerance, atol=bound)


def captured(call: Callable[[], Any]) -> tuple[torch.cuda.CUDAGraph, Any]:
    """A graph of `call` and the tensors that replaying it fills."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = call()
    return graph, result


def assert_same_attention(found: Attended, expected: Attended, tolerance: float) -> None:
    assert_near(found.output, expected.output, tolerance)
    if expected.class_mass is None or expected.head_scores is None:
        assert found.class_mass is None
        assert found.head_scores is None
        return
    assert found.class_mass is not None
    assert found.head_scores is not None
    # Statistics are in float32 whatever the states are.
    assert_near(found.class_mass, expected.class_mass, 2e-5)
    assert_near(found.head_scores, expected.head_scores, 2e-5)
    assert torch.equal(found.head_scores == 0, expected.head_scores == 0)


def moved(value: Any, device: str) -> Any:
    """A copy there of tensors, alone, in tuples or in the fields of a dataclass."""
    if isinstance(value, Tensor):
        return value.to(device, copy=True)
    if isinstance(value, tuple):
        return tuple(moved(part, device) for part in value)
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{f.name: moved(getattr(value, f.name), device) for f in fields(value)})
    return value


def on_cpu(function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """What the function gives without its kernel."""
    options = {name: moved(value, "cpu") for name, value in options.items()}
    return moved(function(*moved(arguments, "cpu"), **options), "cuda")


ATTENTION_SHAPES = [
    # batch, heads, kv heads, D, V
    (1, 32, 32, 128, 576),
    (3, 32, 32, 128, 576),
    (33, 32, 32, 128, 576),
    (3, 32, 8, 64, 40),
    (1, 6, 2, 12, 37),
    (33, 4, 1, 8, 0),
    (1, 1, 1, 16, 1),
    (2, 28, 4, 128, 700),
    (8, 32, 8, 128, 3000),
]


@each_dtype
@pytest.mark.parametrize("statistics", [True, False], ids=["statistics", "output"])
@pytest.mark.parametrize(("batch", "heads", "kv_heads", "width", "capacity"), ATTENTION_SHAPES)
def test_attention(
    batch: int, heads: int, kv_heads: int, width: int, capacity: int, statistics: bool, dtype: torch.dtype
) -> None:
    counts = [(capacity, 0, capacity // 3)[row % 3] for row in range(batch)]
    text = [(60, 7, 21)[row % 3] for row in range(batch)]
    system = [(35, 0, 21)[row % 3] for row in range(batch)]
    reading = moved(random_reading(capacity, counts, system, text, generated=2), "cuda")
    query, keys, values = (
        states.cuda().to(dtype) for states in random_states(reading, heads, kv_heads, width, spare=40)
    )
    scale = width**-0.5

    def step() -> Attended:
        return decode_attention(query, keys, values, reading, scale, statistics)

    def expected() -> Any:
        return on_cpu(decode_attention, query, keys, values, reading, scale, statistics)

    assert_same_attention(step(), expected(), TOLERANCE[dtype])
    graph, found = captured(step)
    for generated in (1, 5, 42):
        reading.generated.fill_(generated)
        graph.replay()
        assert_same_attention(found, expected(), TOLERANCE[dtype])


@pytest.mark.parametrize("statistics", [True, False], ids=["statistics", "output"])
@pytest.mark.parametrize("splits", [1, 2, 16, 64])
@pytest.mark.parametrize(("block", "stages"), [(16, 1), (32, 3), (64, 2)])
def test_attention_however_it_is_cut(block: int, stages: int, splits: int, statistics: bool) -> None:
    from dyrate.kernels.device.attention import AttentionTuning, attend

    reading = moved(random_reading(50, [50, 17], [3, 0], [9, 12], generated=3), "cuda")
    states = [s.cuda() for s in random_states(reading, 4, 2, 16, spare=0)]
    cut = AttentionTuning(block=block, warps=4, stages=stages)
    found = Attended(*attend(*states, reading, 0.25, statistics, cut, splits))
    expected = on_cpu(decode_attention, *states, reading, 0.25, statistics)
    assert_same_attention(found, expected, 1e-5)


@each_dtype
@pytest.mark.parametrize(
    ("batch", "heads", "kv_heads", "width", "slots"), [(8, 32, 8, 128, 2064), (3, 4, 2, 8, 48)]
)
def test_weights_of_whole_rows(
    batch: int, heads: int, kv_heads: int, width: int, slots: int, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    query, keys = draw(batch, heads, width, dtype=dtype), draw(batch, kv_heads, slots, width, dtype=dtype)
    read = torch.rand(batch, slots, device="cuda") < 0.8
    read[:, 5] = False
    keys[:, :, 5] = float("nan")

    def expected() -> Any:
        return on_cpu(attention_weights, query, keys, read, 0.2)

    graph, found = captured(lambda: attention_weights(query, keys, read, 0.2))
    for share in (0.8, 0.1):
        read.copy_(torch.rand(batch, slots, device="cuda") < share)
        read[:, 5], read[:, 6] = False, True
        graph.replay()
        assert_near(found, expected(), 2e-5)
        assert torch.equal(found == 0, expected() == 0)


def draw(*shape: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(*shape, device="cuda").to(dtype)


EXTRAS = ["plain", "norm", "bias", "residual", "gated", "gated norm", "norm bias residual"]


# Every combination is compiled, so not all of them are tried: all extras at an odd size, few at others.
LINEAR_CASES = [
    *((rows, 301, 333, extras) for rows in (1, 2, 3, 4, 5, 8, 9, 31, 33) for extras in EXTRAS),
    *((rows, 7, 4100, "norm bias residual") for rows in (1, 4)),
    *((rows, 512, 4096, extras) for rows in (1, 2, 4, 6, 7, 8, 16, 32) for extras in ("norm", "gated norm")),
    *((rows, 4096, 11008, "residual") for rows in (1, 2, 4, 8, 32)),
    *((rows, 12288, 4096, "norm") for rows in (1, 5, 32)),
]


@each_dtype
@pytest.mark.parametrize(("rows", "features", "d", "extras"), LINEAR_CASES)
def test_linear(rows: int, features: int, d: int, extras: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    gated = "gated" in extras
    x = draw(rows, d, dtype=dtype)
    weight = (torch.randn(features * (1 + gated), d, device="cuda") / d**0.5).to(dtype)
    options: dict[str, Any] = {
        "bias": draw(len(weight), dtype=dtype) if "bias" in extras else None,
        "norm": (torch.rand(d, device="cuda") + 0.5).to(dtype) if "norm" in extras else None,
        "residual": draw(rows, features, dtype=dtype) if "residual" in extras else None,
        "eps": 1e-5,
        "gated": gated,
    }

    def given(kind: torch.dtype) -> dict[str, Any]:  # copies: a residual may be overwritten
        return {name: o.to(kind, copy=True) if isinstance(o, Tensor) else o for name, o in options.items()}

    def expected() -> Tensor:
        # In float32 and rounded once: the composition in half precision rounds after each part.
        found: Tensor = on_cpu(linear, x.float(), weight.float(), **given(torch.float32))
        return found.to(dtype)

    assert_near(linear(x, weight, **given(dtype)), expected(), TOLERANCE[dtype])
    graph, found = captured(lambda: linear(x, weight, **given(dtype)))
    x.mul_(0.5)
    graph.replay()
    assert_near(found, expected(), TOLERANCE[dtype])


@each_dtype
@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("rows", [1, 8, 9, 31, 32, 33, 128, 255, 256])
def test_residual_stream(rows: int, biased: bool, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    d, f = 512, 1376
    hidden, x = draw(rows, d, dtype=dtype), draw(rows, f, dtype=dtype)
    down = (torch.randn(d, f, device="cuda") / f**0.5).to(dtype)
    up = (torch.randn(2 * f, d, device="cuda") / d**0.5).to(dtype)
    norm = (torch.rand(d, device="cuda") + 0.5).to(dtype)
    bias = draw(d, dtype=dtype) if biased else None

    def step() -> tuple[Tensor, Tensor, Tensor]:
        stream = ResidualStream(hidden.clone())
        stream.add(x, down, bias)
        stream.add(x, down, bias)
        middle = stream.hidden.clone()
        stream.add(x, down, bias)
        return stream.project(up, norm=norm, eps=1e-5, gated=True), middle, stream.hidden

    def expected() -> tuple[Tensor, Tensor, Tensor]:
        # In float32, rounded wherever the stream is.
        once = x.float() @ down.float().T + (0 if bias is None else bias.float())
        sums = [hidden]
        for _ in range(3):
            sums.append((sums[-1].float() + once).to(dtype))
        options = {"norm": norm.float(), "eps": 1e-5, "gated": True}
        return on_cpu(linear, sums[3].float(), up.float(), **options).to(dtype), sums[2], sums[3]

    graph, found = captured(step)
    x.mul_(0.5)
    graph.replay()
    for mine, theirs in (*zip(found, expected(), strict=True), *zip(step(), expected(), strict=True)):
        assert_near(mine, theirs, TOLERANCE[dtype])


@each_dtype
@pytest.mark.parametrize("shape", [(1, 4096), (2, 3, 77), (33, 1024), (5, 5120)], ids=str)
def test_norm_and_swiglu(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x, weight = draw(*shape, dtype=dtype), draw(shape[-1], dtype=dtype)
    gate_up = draw(*shape[:-1], 2 * shape[-1], dtype=dtype)

    def both() -> tuple[Tensor, Tensor]:
        return rms_norm(x, weight, 1e-5), swiglu(gate_up)

    graph, found = captured(both)
    x.mul_(2)
    gate_up.mul_(2)
    graph.replay()
    for normed, gated in (found, both()):
        assert_near(normed, on_cpu(rms_norm, x, weight, 1e-5), TOLERANCE[dtype])
        assert_near(gated, on_cpu(swiglu, gate_up), TOLERANCE[dtype])


@each_dtype
@pytest.mark.parametrize("angle_dtype", [None, torch.float32], ids=["own", "float32"])
@pytest.mark.parametrize("angles", ["one", "each"])
@pytest.mark.parametrize("normed", [False, True], ids=["", "normed"])
@pytest.mark.parametrize(
    ("batch", "heads", "kv_heads", "width"), [(1, 32, 32, 128), (3, 6, 2, 12), (33, 4, 1, 8)]
)
def test_rope(
    batch: int,
    heads: int,
    kv_heads: int,
    width: int,
    angles: str,
    angle_dtype: torch.dtype | None,
    normed: bool,
    dtype: torch.dtype,
) -> None:
    tokens = 17
    qkv = draw(batch, tokens, (heads + 2 * kv_heads) * width, dtype=dtype)
    norms = HeadNorms(draw(width, dtype=dtype), draw(width, dtype=dtype), 1e-6) if normed else None
    many = batch if angles == "each" else 1
    cos, sin = (draw(many, tokens, width, dtype=angle_dtype or dtype) for _ in range(2))
    keys, values = (draw(batch, kv_heads, 29, width, dtype=dtype) for _ in range(2))
    slots = torch.randint(29, (batch,), device="cuda")

    def split() -> tuple[Tensor, Tensor, Tensor]:
        return rope_and_split(qkv, cos, sin, kv_heads, norms)

    split_graph, found = captured(split)
    qkv.mul_(2)
    split_graph.replay()
    expected_states = on_cpu(rope_and_split, qkv, cos, sin, kv_heads, norms)
    for state, other, expected in zip(found, split(), expected_states, strict=True):
        assert state.transpose(1, 2).is_contiguous()
        assert_near(state, expected, TOLERANCE[dtype])
        assert_near(other, expected, TOLERANCE[dtype])

    one = qkv[:, 0].contiguous(), cos[:, 0].contiguous(), sin[:, 0].contiguous()
    store_graph, query = captured(lambda: rope_and_store(*one, keys, values, slots, norms))
    slots.add_(1).remainder_(29)
    cache = keys.cpu(), values.cpu()
    expected_query = rope_and_store(*moved(one, "cpu"), *cache, slots.cpu(), moved(norms, "cpu"))
    store_graph.replay()
    for state, expected in zip((query, keys, values), (expected_query, *cache), strict=True):
        assert_near(state, expected.cuda(), TOLERANCE[dtype])


@each_dtype
@pytest.mark.parametrize("shape", [(8, 577, 4096), (3, 5), (0, 4)], ids=str)
def test_quick_gelu(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x = torch.randn(*shape, device="cuda").mul(3).to(dtype)
    assert_near(quick_gelu(x), on_cpu(quick_gelu, x), TOLERANCE[dtype])


@torch.no_grad()
@pytest.mark.parametrize("log", [True, False])
@pytest.mark.parametrize(
    ("batch", "tokens", "groups", "widths"),
    [
        (1, 1, 32, (4, 32, 20)),  # class mass to rates
        (64, 1, 40, (4, 32, 2)),
        (1, 576, 1, (64, 32, 1)),  # attention to scores
        (64, 576, 1, (64, 32, 1)),
        (3, 37, 1, (96, 40, 1)),
        (2, 5, 3, (130, 63, 17)),
        (2, 5, 1, (32, 256, 20)),
        (2, 5, 1, (257, 32, 1)),  # too wide for the kernel
        (2, 0, 1, (8, 32, 1)),
    ],
)
def test_perceptron(batch: int, tokens: int, groups: int, widths: tuple[int, int, int], log: bool) -> None:
    torch.manual_seed(0)
    x = torch.rand(batch, widths[0], groups, tokens, device="cuda").permute(0, 3, 2, 1)
    layers = moved(random_layers(*widths), "cuda")
    expected = on_cpu(perceptron, x, layers, log=log)
    graph, found = captured(lambda: perceptron(x, layers, log=log))
    x.copy_(x.flip(0))
    graph.replay()
    assert_near(found, expected.flip(0), 2e-5)


@pytest.mark.parametrize("ties", [True, False])
@pytest.mark.parametrize("shape", [(1, 576), (5, 16), (3, 65), (2, 2880), (2, 40000)], ids=str)
def test_top(shape: tuple[int, int], ties: bool) -> None:
    torch.manual_seed(0)
    scores = torch.randn(*shape, device="cuda")
    if ties:
        scores = scores.mul(3).round()  # zeros of both signs, too
    scores[:, ::7] = float("-inf")
    among = torch.rand(*shape, device="cuda") < 0.7
    for count in (0, 1, shape[1] // 3, shape[1]):
        counts = torch.randint(count, shape[1] + 1, shape[:1], device="cuda")
        counts[0] = count
        assert torch.equal(top(scores, counts), on_cpu(top, scores, counts))
        assert torch.equal(top(scores, counts, among), on_cpu(top, scores, counts, among))


def test_what_has_no_rank_is_not_chosen() -> None:
    scores = torch.tensor([[1, float("nan"), -float("nan"), 3, -float("inf"), 2]], device="cuda")
    for count, chosen in ((2, [3, 5]), (6, [0, 3, 5])):
        assert top(scores, torch.tensor([count], device="cuda"))[0].nonzero().flatten().tolist() == chosen


@pytest.mark.parametrize("slots", [1, 16, 576, 8192, 40016])
def test_compact(slots: int) -> None:
    torch.manual_seed(0)
    tokens = max(600, slots)
    keep = torch.rand(4, tokens, device="cuda") < 0.3
    visual = torch.stack([torch.randperm(tokens, device="cuda")[:slots].sort().values for _ in range(4)])
    visual[1, slots // 2 :] = -1
    chosen = torch.zeros(4, slots, dtype=torch.int32)
    counts = torch.zeros(4, dtype=torch.int32)
    made = moved((chosen, counts), "cuda")
    compact(keep, visual, *made)
    compact(keep.cpu(), visual.cpu(), chosen, counts)
    assert torch.equal(made[1].cpu(), counts)
    for row, count in enumerate(counts.tolist()):
        assert torch.equal(made[0][row, :count].cpu(), chosen[row, :count])


@each_dtype
@pytest.mark.parametrize("width", [16, 24, 128])
def test_store(width: int, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    states = draw(3, 2, 70, width, dtype=dtype), draw(3, 2, 70, width, dtype=dtype)
    columns = torch.randint(0, 70, (3, 41), device="cuda")
    memory = torch.zeros(3, 2, 90, width, dtype=dtype), torch.zeros(3, 2, 90, width, dtype=dtype)
    made = moved(memory, "cuda")
    for visual in (0, 24, 41):
        store(states, columns, visual, made, 33)
        store(moved(states, "cpu"), columns.cpu(), visual, memory, 33)
        for found, expected in zip(made, memory, strict=True):
            assert torch.equal(found.cpu(), expected)


@torch.no_grad()
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
@pytest.mark.parametrize("current", [0, 1])
def test_what_transformers_calls_runs_where_its_tensors_are(current: int) -> None:
    """Layers of a model over several GPUs are elsewhere than the current device, which would not wait."""
    scores, counts = torch.randn(4, 576), torch.tensor([1, 100, 575, 576])
    states, layers = torch.randn(4, 1, 32, 4), random_layers(4, 32, 20)
    with torch.cuda.device(current):
        for device in ("cuda:0", "cuda:1"):
            for _ in range(20):  # what is still being made must be waited for
                busy = torch.randn(2048, 2048, device=device)
                late = scores.to(device) + (busy @ busy)[0, 0] * 0
                assert torch.equal(top(late, counts.to(device)).cpu(), top(scores, counts))
            assert_near(
                perceptron(states.to(device), moved(layers, device)),
                perceptron(states, layers).to(device),
                1e-5,
            )
        assert torch.cuda.current_device() == current
