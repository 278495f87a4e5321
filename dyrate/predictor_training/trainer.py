"""Trains the rankers, then the rate predictor, with checkpoints that lead to the same bytes."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from dyrate.errors import DyrateError
from dyrate.predictor_training.batch import Batch
from dyrate.predictor_training.examples import Answered, Examples
from dyrate.predictor_training.objective import ranked_by, ranking_loss, run_pruned
from dyrate.predictor_training.recipe import Recipe
from dyrate.predictor_training.teacher_forcing import FrozenModel
from dyrate.predictor_training.token_gates import Relaxation, gumbel
from dyrate.predictors import Predictor, TokenRanker
from dyrate.testbed.models import checkpoint

REPORT_EVERY = 20
"""Steps that one point of the curve is the mean of; a checkpoint is written with it."""
_FIT_BATCHES = 4  # whose mean and deviation the inputs are standardised with
_CLIP_NORM = 1.0


@dataclass
class Progress:
    """What a run has done; with the weights and the optimiser's state, all that a resume needs."""

    step: int = 0
    resumed: int = 0
    curve: list[dict[str, Any]] = field(default_factory=list)


class Trainer:
    """A predictor in training: its weights, its optimiser, its data and its progress.

    `encode` makes a batch on the model's device; `belongs_to` are facts of model and data, JSON-able, which
    a checkpoint must share with the run that goes on from it.
    """

    def __init__(
        self,
        recipe: Recipe,
        frozen: FrozenModel,
        examples: Examples,
        encode: Callable[[Sequence[Answered]], Batch],
        folder: Path,
        belongs_to: dict[str, Any],
    ) -> None:
        self.recipe, self.frozen, self.folder = recipe, frozen, folder
        self.examples, self.encode = examples, encode
        self._facts = {"recipe": recipe.model_dump(mode="json"), **belongs_to}
        self._check_layers()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            self.predictor = Predictor(recipe.config(frozen.heads))
        self.predictor.to(frozen.device)
        self.optimizer = torch.optim.AdamW(
            self.predictor.parameters(), lr=recipe.learning_rate, weight_decay=0.0
        )
        self.progress = Progress()
        self.before = recipe.ranking_steps if recipe.learns_ranking else 0
        self._recent: list[dict[str, float]] = []
        if not self._resume():
            self._standardise()

    @property
    def total(self) -> int:
        """Steps of both parts."""
        return self.before + self.recipe.steps

    def run(self, stop_after: int | None = None) -> bool:
        """Train to the end, or until `stop_after` more steps are done as if killed then; return if it ended.

        Raises `DyrateError` if the loss is not a number.
        """
        progress = self.progress
        last = self.total if stop_after is None else min(progress.step + stop_after, self.total)
        interval = 0.5 if sys.stderr.isatty() else 20.0
        with tqdm(total=self.total, initial=progress.step, unit="step", mininterval=interval) as bar:
            while progress.step < last:
                point = self._advance(progress.step)
                self._recent.append(point)
                progress.step += 1
                bar.update()
                if len(self._recent) == REPORT_EVERY or progress.step in (self.before, self.total):
                    self._report()
                    bar.set_postfix({key: f"{progress.curve[-1][key]:.3f}" for key in point})
        return progress.step == self.total

    def batch(self, step: int) -> Batch:
        """Return the batch of a step: a function of the recipe, the data and the step alone."""
        size = self.recipe.batch_size
        return self.encode([self.examples.training(index) for index in range(step * size, (step + 1) * size)])

    def held_out(self) -> list[Batch]:
        """Return the batches to validate on."""
        size = self.recipe.batch_size
        entries = self.examples.validation(self.recipe.validation_examples)
        return [self.encode(entries[first : first + size]) for first in range(0, len(entries), size)]

    def _advance(self, step: int) -> dict[str, float]:
        """Take one optimiser step; return what the curve shows of it."""
        recipe, rate_step = self.recipe, step - self.before
        learning_rate = (
            recipe.ranking_learning_rate * (1 - step / self.before)
            if rate_step < 0
            else recipe.learning_rate * (1 - rate_step / recipe.steps)
        )
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        if rate_step < 0:
            loss = ranking_loss(self.frozen, self.predictor, self.batch(step))
            point = {"ranking_loss": loss.item()}
        else:
            loss, point = self._rate_loss(self.batch(step), rate_step)
        if not loss.isfinite():
            raise DyrateError(f"the loss is not a number at step {step}; try a lower learning_rate")
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(self.predictor.parameters(), _CLIP_NORM)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return point

    def _rate_loss(self, batch: Batch, step: int) -> tuple[Tensor, dict[str, float]]:
        recipe = self.recipe
        noise = torch.Generator().manual_seed(recipe.seed * 1_000_003 + step)
        shape = (len(batch.targets), batch.steps, recipe.rates)
        rates = gumbel(shape, noise).to(self.frozen.device)
        drawn = None
        if recipe.estimator == "scaled_features":
            ranked = gumbel(shape[:2], noise).to(self.frozen.device)
            drawn = ranked.masked_fill(~batch.asked, float("-inf")).argmax(dim=1)
        relax = Relaxation(rates, recipe.temperature(step), recipe.estimator, drawn)
        distils = recipe.loss == "distillation"
        pruned = run_pruned(self.frozen, self.predictor, recipe, batch, relax, unpruned=distils)
        task = pruned.task_loss(recipe.loss)
        loss = task + recipe.budget_weight * pruned.budget()
        prefill, decode = pruned.retained()
        return loss, {
            "loss": loss.item(),
            "task_loss": task.item(),
            "retained_prefill": prefill.mean().item(),
            "retained_decode": decode.mean().item(),
            "temperature": relax.temperature,
        }

    def _report(self) -> None:
        """Append to the curve, and write a checkpoint."""
        means = {key: sum(p[key] for p in self._recent) / len(self._recent) for key in self._recent[0]}
        self._recent = []
        part = "ranking" if self.progress.step <= self.before else "rate"
        point = {"step": self.progress.step, "part": part}
        point |= {key: round(value, 6) for key, value in means.items()}
        self.progress.curve.append(dict(sorted(point.items())))  # as a checkpoint gives it back
        saved = {**self._facts, "progress": asdict(self.progress)}
        checkpoint.save(self.folder, self.predictor, self.optimizer, saved)

    def _resume(self) -> bool:
        """Go on from the folder's checkpoint if there is one; a `DyrateError` if it is another run's."""
        state = checkpoint.load(self.folder)
        if state is None:
            return False
        saved, tensors = state
        for what, facts in self._facts.items():
            if saved.get(what) != facts:
                raise DyrateError(
                    f"{self.folder / checkpoint.FILE_NAME} belongs to another {what}: "
                    f"{_differences(saved.get(what), facts)}; "
                    "name another --output, or remove it to start anew"
                )
        checkpoint.restore(self.predictor, self.optimizer, tensors)
        self.progress = Progress(**saved["progress"])
        self.progress.resumed += 1
        return True

    @torch.no_grad()
    def _standardise(self) -> None:
        """Fit the predictor's standardisation to the statistics of the first batches."""
        config = self.predictor.config
        masses, prefills, decodes = [], [], []
        for step in range(_FIT_BATCHES):
            batch = self.batch(step)
            _, statistics = self.frozen.observe(batch, {*range(config.layer), *config.lagged})
            masses.append(self.predictor.rate.inputs(statistics[config.layer - 1].class_mass)[batch.asked])
            if self.recipe.learns_ranking:
                prefill, decode = map(TokenRanker.inputs, ranked_by(config, statistics, statistics))
                prefills.append(prefill.flatten(0, 2))
                decodes.append(decode[batch.asked[:, 1:]].flatten(0, 1))
        self.predictor.rate.standardise.fit(torch.cat(masses))
        if self.predictor.prefill_ranker is not None and self.predictor.decode_ranker is not None:
            self.predictor.prefill_ranker.standardise.fit(torch.cat(prefills))
            self.predictor.decode_ranker.standardise.fit(torch.cat(decodes))

    def _check_layers(self) -> None:
        for name, layers in (("layer", (self.recipe.layer,)), ("lagged", self.recipe.lagged)):
            for layer in layers:
                if layer >= self.frozen.layers:
                    raise DyrateError(
                        f"recipe: {name}: there is no layer {layer}; the model has layers "
                        f"0..{self.frozen.layers - 1}"
                    )


def _differences(there: Any, now: dict[str, Any]) -> str:
    there = there if isinstance(there, dict) else {}
    keys = [key for key in {**now, **there} if there.get(key) != now.get(key)]
    return ", ".join(f"{key} {there.get(key)!r} there, {now.get(key)!r} now" for key in keys)
