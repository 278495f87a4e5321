"""The benchmarks: what each is called here, in lmms-eval and in the paper's tables, and how it is scored.

A plain table, free of torch and lmms-eval: the report and the pipeline read it as well.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from dyrate.errors import DyrateError
from dyrate.typed import meant


@dataclass(frozen=True)
class Metric:
    """One number of a benchmark, as result files name it.

    `harness` are lmms-eval's metrics that add up to it (none: dyrate computes it); `scale` turns lmms-eval's
    number, which may be `rounded` to a multiple of that, into `unit`.
    """

    name: str
    harness: tuple[str, ...]
    unit: str
    scale: float
    higher_is_better: bool | None = True
    rounded: float = 0.0


@dataclass(frozen=True)
class Subset:
    """Rows of a split that others call the benchmark: those whose `column` has this `value`."""

    name: str
    column: str
    value: str
    rows: int


ALL = "all"
"""In place of a subset's name: all rows."""


@dataclass(frozen=True)
class Cut:
    """What is asked of a benchmark's rows: about `samples` of them, all if None, of a subset or of all."""

    samples: int | None = None
    subset: str = ALL


@dataclass(frozen=True)
class Benchmark:
    """One benchmark.

    `kind` chooses how samples are scored and resampled (`dyrate.evaluation.scoring`). A limit on samples
    keeps rows of equal `unit` together (with `modulo`, of equal remainder), and draws evenly from the values
    of `stratum`.
    """

    name: str
    title: str
    group: str  # vqa and short (Table I), caption (Table II), reasoning (as Table I, but answers are long)
    kind: str  # match, yes_no, circular, pairs, strata, exam, caption
    hub_task: str
    hub_folder: str  # under lmms_eval/tasks
    metrics: tuple[Metric, ...]  # the first is the primary one
    chance: str
    unit: str | None = None
    modulo: int | None = None
    stratum: str | None = None
    category: str | None = None  # column of what a question is about, by which answers may be told apart
    note: str = ""  # what a reader of the numbers should know
    hub_new_tokens: int | None = None  # where lmms-eval's task sets no limit and would generate 1,024
    hub_rows: int = 0  # of its split on the hub
    subsets: tuple[Subset, ...] = ()
    images: tuple[str, ...] = ("image",)  # columns; of several, a row has those that its text names
    testbed: bool = True  # whether the testbed has rows of its own for it

    @property
    def long(self) -> bool:
        """Whether answers have many steps, so that what is saved at decode counts."""
        return self.group in ("caption", "reasoning")

    @property
    def testbed_task(self) -> str:
        """Name of the local task file; never one of lmms-eval's, whose names would win."""
        return f"{self.name}_testbed"

    def subset(self, name: str) -> Subset | None:
        """The subset of that name; None for all rows. Raises `DyrateError` for an unknown one."""
        known = {one.name: one for one in self.subsets}
        if name not in (ALL, *known):
            raise DyrateError(f"{self.name}: has no subset {name!r}{meant(name, [ALL, *known])}")
        return known.get(name)

    def rows(self, cut: Cut) -> int:
        """About how many rows a cut leaves of the split on the hub."""
        subset = self.subset(cut.subset)
        rows = subset.rows if subset else self.hub_rows
        return rows if cut.samples is None else min(rows, cut.samples)

    @property
    def primary(self) -> Metric:
        """The metric that the tables show."""
        return self.metrics[0]


def _percent(name: str, *harness: str, scale: float = 100.0, **more: Any) -> Metric:
    return Metric(name, harness, "percent", scale, **more)


_OPEN = "open answers: no fixed level; the best constant answer, and `text_only`, show what the prior gives"


def _vqa(name: str, title: str, hub_task: str, folder: str, chance: str = _OPEN, **more: Any) -> Benchmark:
    match = (_percent("exact_match", "exact_match"),)
    return Benchmark(name, title, "vqa", "match", hub_task, folder, match, chance, **more)


def _caption(name: str, title: str, hub_task: str, folder: str, prefix: str, **more: Any) -> Benchmark:
    names = ("CIDEr", "METEOR", "ROUGE_L", "Bleu_4", "Bleu_3", "Bleu_2", "Bleu_1")
    metrics = tuple(Metric(metric, (f"{prefix}_{metric}",), "x100", 100.0) for metric in names)
    chance = "0: a caption that shares no word pair with the references"
    return Benchmark(name, title, "caption", "caption", hub_task, folder, metrics, chance, **more)


def _hub(name: str, title: str, group: str, task: str, metric: Metric, chance: str, **more: Any) -> Benchmark:
    """A benchmark that neither the paper nor the testbed has."""
    given = {"kind": "match", "hub_folder": name, "testbed": False, **more}
    return Benchmark(name, title, group, hub_task=task, metrics=(metric,), chance=chance, **given)


# MME's own split of its categories, lmms_eval.tasks.mme.utils.eval_type_dict.
MME_PERCEPTION = frozenset(
    "existence count position color posters celebrity scene landmark artwork OCR".split()  # noqa: SIM905
)
MME_COGNITION = frozenset(
    "commonsense_reasoning numerical_calculation text_translation code_reasoning".split()  # noqa: SIM905
)
_READ = "0: the answer is printed in the image"
_FOUR = "25, or a little less where some questions have more than four options"
_GUESSED = "where lmms-eval finds no letter in an answer it draws one, the same each time"
_MATCH, _ANLS = _percent("exact_match", "exact_match"), _percent("anls", "anls")
_RELAXED, _FIELDS = _percent("relaxed_accuracy", "relaxed_overall"), _percent("accuracy", "average")
_EXAM = _percent("accuracy", "mmmu_acc", rounded=1e-5)
_MMSTAR: dict[str, Any] = {
    "unit": "index",
    "stratum": "l2_category",
    "category": "category",
    "note": "the mean over its 18 fields of each one's share of right answers, as lmms-eval has it",
}
_MMMU: dict[str, Any] = {
    "images": tuple(f"image_{number}" for number in range(1, 8)),
    "category": "topic_difficulty",
    "note": f"a row's images, of which it may have several, stand before its text; {_GUESSED}",
}

BENCHMARKS: dict[str, Benchmark] = {
    benchmark.name: benchmark
    for benchmark in (
        _vqa("gqa", "GQA", "gqa", "gqa", hub_rows=12_578),
        _vqa("vizwiz", "VizWiz", "vizwiz_vqa_val", "vizwiz_vqa", hub_new_tokens=16, hub_rows=4_319),
        _vqa(
            "sqa",
            "ScienceQA-IMG",
            "scienceqa_img",
            "scienceqa",
            "25 to 50, by the number of options",
            hub_rows=2_017,
        ),
        _vqa("vqav2", "VQAv2", "vqav2_val", "vqav2", hub_rows=214_354),
        _vqa("textvqa", "TextVQA", "textvqa_val", "textvqa", _READ, hub_new_tokens=16, hub_rows=5_000),
        Benchmark(
            "pope",
            "POPE",
            "short",
            "yes_no",
            "pope",
            "pope",
            (
                _percent("accuracy", "pope_accuracy"),
                _percent("precision", "pope_precision"),
                _percent("recall", "pope_recall"),
                _percent("f1", "pope_f1_score"),
                Metric("yes_ratio", (), "percent", 100.0, higher_is_better=None),
            ),
            "50: half of the answers are yes",
            hub_rows=9_000,
            category="category",
        ),
        Benchmark(
            "mmb",
            "MMBench",
            "short",
            "circular",
            "mmbench_en_dev_static",
            "mmbench",
            (_percent("accuracy", "gpt_eval_score", scale=1.0),),
            "25 for always preferring the same of four texts; 0.4 for independent guesses; 0 for one letter",
            unit="index",
            hub_rows=4_329,
            modulo=1_000_000,
            category="category",
            note="by lmms-eval's static scorer, which finds the letter in an answer by rules; published "
            "scores are mostly by a judge model (its task mmbench_en_dev)",
        ),
        Benchmark(
            "mme",
            "MME",
            "short",
            "pairs",
            "mme",
            "mme",
            (
                Metric("score", ("mme_perception_score", "mme_cognition_score"), "points", 1.0),
                Metric("perception", ("mme_perception_score",), "points", 1.0),
                Metric("cognition", ("mme_cognition_score",), "points", 1.0),
            ),
            "75 per category for guesses, 50 for a constant answer: each pair has one yes and one no",
            unit="question_id",
            hub_rows=2_374,
            stratum="category",
            category="category",
        ),
        _caption("nocaps", "NoCaps", "nocaps_val", "nocaps", "nocaps", hub_rows=4_500),
        _caption(
            "flickr30k",
            "Flickr30k",
            "flickr30k_test",
            "flickr30k",
            "flickr",
            hub_rows=31_783,  # the whole data set, which lmms-eval calls `test`
            subsets=(Subset("karpathy-test", "split", "test", 1_000),),
        ),
        _caption("coco2017", "COCO2017", "coco2017_cap_val", "coco_cap", "coco", hub_rows=5_000),
        # What papers report today and no judge has to score.
        _hub("chartqa", "ChartQA", "vqa", "chartqa", _RELAXED, _READ, hub_rows=2_500, category="type"),
        _hub("docvqa", "DocVQA", "vqa", "docvqa_val", _ANLS, _READ, hub_rows=5_349),
        _hub("infovqa", "InfoVQA", "vqa", "infovqa_val", _ANLS, _READ, hub_rows=2_801),
        _hub("realworldqa", "RealWorldQA", "vqa", "realworldqa", _MATCH, _OPEN, hub_rows=765),
        _hub("mmstar", "MMStar", "short", "mmstar", _FIELDS, _FOUR, kind="strata", hub_rows=1_500, **_MMSTAR),
        _hub("mmmu", "MMMU", "short", "mmmu_val", _EXAM, _FOUR, kind="exam", hub_rows=900, **_MMMU),
        _hub(
            "visualpuzzles",
            "VisualPuzzles",
            "reasoning",
            "VisualPuzzles_cot",
            _MATCH,
            _FOUR,
            hub_folder="VisualPuzzles",
            hub_rows=1_168,
            category="category",
            note=f"up to 4,096 tokens, of which thoughts between tags are not scored; {_GUESSED}",
        ),
    )
}


def select(names: Iterable[str]) -> tuple[Benchmark, ...]:
    """The benchmarks of the given names, in that order; an unknown or repeated one is a `DyrateError`."""
    chosen: dict[str, Benchmark] = {}
    for name in names:
        if name not in BENCHMARKS:
            raise DyrateError(f"--benchmarks: unknown benchmark {name!r}{meant(name, BENCHMARKS)}")
        if name in chosen:
            raise DyrateError(f"--benchmarks: {name!r} is given twice")
        chosen[name] = BENCHMARKS[name]
    return tuple(chosen.values())
