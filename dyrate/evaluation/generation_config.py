"""What a checkpoint's generation_config.json asks for: token ids and a penalty of repetition are taken.

Nothing else is: only transformers' `generate()` would heed it, so that a study would differ between engines.
"""

from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING, Any

from dyrate.errors import DyrateError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import LogitsProcessor

# Either the decoding strategy and the task say it instead, or no answer depends on it.
_OVERRULED = frozenset(
    """
    do_sample temperature top_k top_p min_p top_h typical_p epsilon_cutoff eta_cutoff
    num_beams num_beam_groups diversity_penalty length_penalty early_stopping num_return_sequences
    penalty_alpha max_length max_new_tokens
    return_dict_in_generate output_attentions output_hidden_states output_scores output_logits
    use_cache cache_implementation cache_config max_cache_len low_memory prefill_chunk_size
    compile_config disable_compile continuous_batching_config
    is_assistant num_assistant_tokens num_assistant_tokens_schedule assistant_confidence_threshold
    prompt_lookup_num_tokens max_matching_ngram_size assistant_early_exit assistant_lookbehind
    target_lookbehind assistant_ensemble_weight speculation_type use_mtp
    transformers_version _from_model_config
    """.split()  # noqa: SIM905
)
_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")
_IDLE_AT_ONE = ("encoder_repetition_penalty", "guidance_scale")
_PENALTY = "repetition_penalty"


@dataclass(frozen=True)
class Taken:
    """The tokens that begin a text, end it, and fill up a batch, and what the score of a token is divided by
    that stands in the prompt or the answer already.
    """

    begin: int | None
    ends: int | list[int]
    padding: int
    repetition_penalty: float


def take(model: Any, tokenizer: Any) -> Taken:
    """Return what is taken of the checkpoint's generation config, and leave that with token ids alone.

    Raises `DyrateError` for a config that would change the answers of some decoding strategy otherwise, for
    ids that no token has, and for a penalty that is none.
    """
    from transformers import GenerationConfig

    wanted = model.generation_config.to_dict()
    _check(wanted, set(GenerationConfig().to_dict()), model.name_or_path)
    ends = wanted["eos_token_id"] if wanted["eos_token_id"] is not None else tokenizer.eos_token_id
    _check_ends(ends, model.config.get_text_config().vocab_size, model.name_or_path)
    padding = tokenizer.pad_token_id
    if padding is None:
        padding = ends if isinstance(ends, int) else ends[0]
    found = Taken(wanted["bos_token_id"], ends, padding, _penalty(wanted, model.name_or_path))
    model.generation_config = GenerationConfig(
        bos_token_id=found.begin, eos_token_id=ends, pad_token_id=padding
    )
    return found


def _check(wanted: dict[str, Any], known: set[str], name: str) -> None:
    source = _source(wanted)
    for key in sorted(known - _OVERRULED - {*_IDS, _PENALTY}):
        value = wanted[key]
        if value and not (key in _IDLE_AT_ONE and value == 1):
            raise DyrateError(
                f"--model {name}: {source} asks for {key}={value!r:.60}; here the decoding strategy alone "
                f"says how to generate, and none has {key}: remove it from {source}"
            )


def _source(wanted: dict[str, Any]) -> str:
    return "config.json" if wanted.get("_from_model_config") else "generation_config.json"


def _penalty(wanted: dict[str, Any], name: str) -> float:
    value = 1 if wanted[_PENALTY] is None else wanted[_PENALTY]
    if isinstance(value, bool) or not isinstance(value, int | float) or not (isfinite(value) and value > 0):
        raise DyrateError(
            f"--model {name}: {_source(wanted)} asks for {_PENALTY}={value!r:.60}, which scores are to be "
            "divided by: it should be a number above 0, and 1 for none"
        )
    return float(value)


def penalizer(penalty: float, attention_mask: "Tensor | None") -> "LogitsProcessor | None":
    """The logits processor of transformers' penalty of repetition (Keskar et al., 2019); None for 1.

    It does not count padding, whose token many checkpoints end answers with: of a batch, the shorter prompts
    would go on for longer. `attention_mask`: [rows, columns] of the prompts, padded on the left.
    """
    if penalty == 1:
        return None
    from torch import where
    from transformers import RepetitionPenaltyLogitsProcessor

    class _WithoutPadding(RepetitionPenaltyLogitsProcessor):  # type: ignore[misc]
        def __call__(self, input_ids: "Tensor", scores: "Tensor") -> "Tensor":
            if attention_mask is not None:
                rows, columns = attention_mask.shape
                held = attention_mask.repeat_interleave(len(input_ids) // rows, dim=0) != 0  # by beams
                last, prompt = input_ids[:, columns - 1 : columns], input_ids[:, :columns]
                input_ids = input_ids.clone()
                input_ids[:, :columns] = where(held, prompt, last)
            found: Tensor = super().__call__(input_ids, scores)
            return found

    return _WithoutPadding(penalty)


def _check_ends(ends: Any, vocabulary: int, name: str) -> None:
    listed = ends if isinstance(ends, list) else [ends]
    for end in listed or [None]:
        if isinstance(end, bool) or not isinstance(end, int) or not 0 <= end < vocabulary:
            raise DyrateError(
                f"--model {name}: eos_token_id is {ends!r:.60}, in generation_config.json or else of the "
                f"tokenizer; answers end with it: it should be the id of a token, 0 to {vocabulary - 1}, "
                "or a list of ids"
            )
