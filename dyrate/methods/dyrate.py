"""DyRate: at every step of generation, a predictor says how many visual tokens that step needs."""

import hashlib
import json
from dataclasses import KW_ONLY, asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from dyrate.attention_rows import Attention
from dyrate.errors import DyrateError
from dyrate.methods.stepwise_pruning import StepwisePruning, scheduled
from dyrate.predictor_config import RECORD_FILE, WEIGHTS_FILE, PredictorConfig, read_record, trained_for
from dyrate.predictors import Predictor, load_predictor, macs
from dyrate.reduction import DecodeView, Needs, PrefillView, View, hyperparameter
from dyrate.typed import Origin


@dataclass(frozen=True)
class DyRate(StepwisePruning):
    """Drop as many visual tokens as a trained predictor says, anew at every step.

    The predictor reads the class mass of layer K-1, of this step or of all up to now, and takes the most
    probable of its K_r rates. Which tokens stay is settled by their attention at layer K-1.

    That is the paper's. A predictor with more to it makes the method ours, and it is called DyRate+: with an
    input of every head, or with a ranking that was trained with it, over every head of layers 0..K-1 and of
    `lagged` layers >= K at the step before. Lagged layers see every token held, so that each has a score at
    the next step.
    """

    name: ClassVar[str] = "dyrate"
    title: ClassVar[str] = "DyRate"

    layer: int = hyperparameter(
        "prune layer K: the first layer without the dropped tokens; the one that the predictor was made for",
        default=2,
        minimum=1,
    )
    _: KW_ONLY
    predictor: str = hyperparameter(
        "folder of the trained predictor, such as predictors/testbed/testbed-s/plus-0.4, or one that "
        "`dyrate train-predictor` made; in a study, the name of an entry of its `predictors`",
        label=lambda folder: Path(folder).name or folder,
    )
    rates: str = hyperparameter(
        "`predicted` from each row's attention, or, as a control that ignores it, the predictor's mean rate "
        "at each step: `schedule`",
        default="predicted",
        choices=("predicted", "schedule"),
    )

    @property
    def origin(self) -> Origin:
        """The predictor's."""
        return self._learned.config.origin

    @property
    def full_title(self) -> str:
        """DyRate, or DyRate+ with a predictor that is not the paper's; DyRate for one yet to be trained."""
        trained = (Path(self.predictor) / RECORD_FILE).is_file()
        return f"{self.title}+" if trained and self.origin == "ours" else self.title

    def check(self, num_layers: int, num_heads: int) -> None:
        """Refuse a model, as every method does; and a predictor that is missing, or was made for other layers
        or heads. Whether it was trained on these very weights is not looked at: `check_checkpoint` does, for
        who knows the hash of the model's checkpoint, as the commands do.
        """
        self.check_predictor(self._learned.config, num_heads)
        super().check(num_layers, num_heads)
        if self.rates == "schedule":
            _ = self._schedule

    def check_predictor(self, config: PredictorConfig, num_heads: int) -> None:
        """Raise `DyrateError` for a predictor, trained or to be trained, of other layers or another model."""
        if self.layer != config.layer:
            raise DyrateError(
                f"{self.label}: layer={self.layer}, but the predictor in {self.predictor} was made for "
                f"layer={config.layer}"
            )
        if num_heads != config.heads:
            raise DyrateError(
                f"{self.label}: the model has {num_heads} attention heads per layer, but the predictor in "
                f"{self.predictor} was made for {config.heads}: train one for this model"
            )
        if config.lagged and self.mode == "evict":
            raise DyrateError(
                f"{self.label}: the predictor in {self.predictor} ranks by the lagged layers "
                f"{', '.join(map(str, config.lagged))}, which must see every token held: use mode='select'"
            )

    @property
    def content_hash(self) -> str:
        """Hash of the predictor: its weights and, of its record, what is used here."""
        used = json.dumps([asdict(self._learned.config), self._schedule if self.rates == "schedule" else []])
        weights = (Path(self.predictor) / WEIGHTS_FILE).read_bytes()
        return hashlib.sha256(used.encode() + weights).hexdigest()

    def check_checkpoint(self, weights: str) -> None:
        """Refuse another checkpoint than the one that the predictor was trained on, where its record says."""
        trained = trained_for(Path(self.predictor))
        if trained not in (None, weights):
            raise DyrateError(
                f"{self.label}: the predictor in {self.predictor} was trained on other weights "
                f"({trained:.12}) than this model's ({weights:.12}): train one for this model with "
                "`dyrate train-predictor`"
            )

    def needs(self, depth: int) -> Needs:
        """The attention of layer K-1, with a learned ranking of all before it, and of the lagged layers.

        Lagged layers, and those after them, are asked at decode, where the step's choice is in force again.
        """
        first = self.layer - 1 if self._learned.prefill_ranker is None else 0
        needs = super().needs(depth)
        decode = {*needs.decode, *self._lagged, *(layer + 1 for layer in self._lagged if layer + 1 < depth)}
        return replace(
            needs,
            decode=tuple(decode),
            attention=(*range(first, self.layer), *self._lagged),
            reported=self.layer - 1,
        )

    def prefill(self, view: PrefillView) -> Tensor | None:
        """Keep the n_0 best on entering layer K."""
        if self._lagged:
            view.state["chosen"] = view.present  # from here on, or a captured step would find it missing
        return super().prefill(view)

    def decode(self, view: DecodeView) -> Tensor:
        """Choose on entering layer K; lagged layers see all, those after them what was chosen."""
        if view.layer == self.layer:
            chosen = super().decode(view)
            if not self._lagged:
                return chosen
            view.state["chosen"] = chosen
        return view.present if view.layer in self._lagged else view.state["chosen"]

    @torch.no_grad()
    def step_rates(self, view: View) -> Tensor:
        """The most probable rate of each row, or the schedule's."""
        if self.rates == "schedule":
            return scheduled(self._schedule, view)
        learned = self._on(view.present.device)
        return learned.rate.next_rates(view.attention[self.layer - 1].class_mass, view.state)

    @torch.no_grad()
    def step_scores(self, view: View) -> Tensor:
        """The learned ranking; else the attention of layer K-1, or of the deepest lagged layer a step ago."""
        learned = self._on(view.present.device)
        ranker, before = learned.prefill_ranker, dict[int, Attention]()
        if isinstance(view, DecodeView):
            ranker, before = learned.decode_ranker, {layer: view.previous[layer] for layer in self._lagged}
        if ranker is None:
            return before[max(before)].scores if before else super().step_scores(view)
        seen = [*(view.attention[layer] for layer in range(self.layer)), *before.values()]
        scores: Tensor = ranker([attention.head_scores for attention in seen])
        view.expect_finite("learned ranking", scores)
        return scores

    def own_macs(self, visual_tokens: int, *, decode: bool) -> int:
        """The predictor's, and a learned ranking's where it ranks."""
        learned, asked = self._learned, not decode or self.mode != "none"
        ranker = learned.decode_ranker if decode else learned.prefill_ranker
        ranks = ranker is not None and asked and (decode or self.prune_prefill)
        predicts = asked and self.rates == "predicted"
        return (macs(learned.rate) if predicts else 0) + (macs(ranker) * visual_tokens if ranks else 0)

    @property
    def _lagged(self) -> tuple[int, ...]:
        """Layers whose scores at the step before are used; without selection there is no use for them."""
        return self._learned.config.lagged if self.mode == "select" else ()

    @cached_property
    def _learned(self) -> Predictor:
        with torch.inference_mode(False):  # else it could not be used outside of that mode again
            return load_predictor(Path(self.predictor))

    def _on(self, device: torch.device) -> Predictor:
        if next(self._learned.parameters()).device != device:
            with torch.inference_mode(False):
                self._learned.to(device)
        return self._learned

    @cached_property
    def _schedule(self) -> list[float]:
        schedule = read_record(Path(self.predictor)).get("schedule")
        if not (
            isinstance(schedule, list)
            and schedule
            and all(type(rate) in (int, float) and 0 <= rate <= 1 for rate in schedule)
        ):
            raise DyrateError(
                f"{Path(self.predictor) / RECORD_FILE}: schedule: expected the mean rate, from 0 to 1, of "
                f"each step, not {schedule!r:.80}"
            )
        return schedule
