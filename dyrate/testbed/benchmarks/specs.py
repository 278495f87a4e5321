"""The eleven local benchmarks: what each asks, and how hard its scenes are."""

from dataclasses import replace

from dyrate.testbed.benchmarks.annotators import Crowd
from dyrate.testbed.benchmarks.captioning import coco2017, flickr30k, nocaps
from dyrate.testbed.benchmarks.item import BenchmarkSpec
from dyrate.testbed.benchmarks.multiple_choice import mmb, sqa
from dyrate.testbed.benchmarks.open_ended import gqa, textvqa, vizwiz, vqav2
from dyrate.testbed.benchmarks.yes_no import mme, pope
from dyrate.testbed.world.sampling import DEFAULT, Difficulty

CLEAR: Difficulty = replace(DEFAULT, strong=0.0)
"""The training distribution without the photos that show nothing."""

CROWDED: Difficulty = replace(
    CLEAR,
    things=(9, 12),
    sizes={"small": 0.6, "medium": 0.3, "large": 0.1},
    lookalike=0.45,
    occluded=0.5,
    noise=(12, 18),
    mild=0.5,
    blurs=(1.6, 2.0),
    dark=(60, 80),
)
"""The hard corner of the training distribution: a good model answers nearly everything elsewhere."""

BENCHMARKS: dict[str, BenchmarkSpec] = {
    "gqa": BenchmarkSpec(
        gqa,
        kinds={
            "existence": 1.0,
            "verify": 1.0,
            "choose": 1.0,
            "color": 1.2,
            "shape": 1.0,
            "texture": 0.6,
            "position": 0.8,
            "relation": 1.5,
            "neighbor": 1.8,
            "compare": 0.8,
            "scene": 0.4,
        },
        difficulty=replace(CROWDED, mild=0.7),
    ),
    "vizwiz": BenchmarkSpec(
        vizwiz,
        kinds={
            "color": 1.2,
            "shape": 0.8,
            "texture": 0.5,
            "count": 0.4,
            "scene": 0.3,
            "word": 1.2,
            "number": 1.0,
            "unanswerable": 0.8,
        },
        difficulty=replace(CROWDED, mild=0.7, strong=0.08, signs={0: 0.3, 1: 0.5, 2: 0.2}),
        crowd=Crowd(strays=0.12, contested=0.12, gives_up=0.2),
    ),
    "sqa": BenchmarkSpec(
        sqa,
        kinds={
            "hint": 6.0,
            "color": 0.6,
            "shape": 0.6,
            "texture": 0.4,
            "count": 0.8,
            "quadrant": 0.5,
            "neighbor": 1.0,
            "word": 0.3,
        },
        difficulty=CROWDED,
    ),
    "vqav2": BenchmarkSpec(
        vqav2,
        kinds={
            "existence": 1.4,
            "verify": 1.4,
            "relation": 1.0,
            "count": 1.2,
            "color": 1.4,
            "shape": 1.0,
            "texture": 0.6,
            "size": 0.4,
            "scene": 0.5,
            "neighbor": 1.0,
            "word": 0.4,
        },
        difficulty=CROWDED,
        crowd=Crowd(strays=0.08, contested=0.05, gives_up=0.0),
    ),
    "textvqa": BenchmarkSpec(
        textvqa,
        kinds={"word": 1.0, "number": 1.0},
        difficulty=replace(CROWDED, signs={1: 0.4, 2: 0.6}, mild=0.3),
        crowd=Crowd(strays=0.08, contested=0.05, gives_up=0.1),
    ),
    "pope": BenchmarkSpec(pope, difficulty=replace(CROWDED, mild=1.0, noise=(16, 18))),
    "mmb": BenchmarkSpec(
        mmb,
        kinds={
            "color": 1.2,
            "shape": 1.0,
            "texture": 0.6,
            "count": 1.0,
            "quadrant": 0.8,
            "neighbor": 1.4,
            "scene": 0.4,
            "word": 0.8,
            "number": 0.8,
            "hint": 1.0,
        },
        difficulty=replace(CROWDED, mild=0.7),
    ),
    "mme": BenchmarkSpec(mme, difficulty=replace(CROWDED, mild=1.0)),
    "nocaps": BenchmarkSpec(nocaps, difficulty=replace(CLEAR, things=(4, 9))),
    "flickr30k": BenchmarkSpec(
        flickr30k, difficulty=replace(CLEAR, things=(5, 12), signs={0: 0.2, 1: 0.6, 2: 0.2})
    ),
    "coco2017": BenchmarkSpec(coco2017, difficulty=CLEAR),
}
"""What each benchmark asks: the constants to turn when a model finds it too easy or too hard."""
