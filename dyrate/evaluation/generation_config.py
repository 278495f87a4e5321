"""What a checkpoint's generation_config.json asks for: token ids are taken, nothing else.

Only transformers' `generate()` would heed it, so that a study would differ between engines.
"""

from dataclasses import dataclass
from typing import Any

from dyrate.errors import DyrateError

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
_IDLE_AT_ONE = ("repetition_penalty", "encoder_repetition_penalty", "guidance_scale")


@dataclass(frozen=True)
class TokenIds:
    """The tokens that begin a text, end it, and fill up a batch."""

    begin: int | None
    ends: int | list[int]
    padding: int


def take_token_ids(model: Any, tokenizer: Any) -> TokenIds:
    """Leave the checkpoint's generation config with its token ids alone, and return them.

    Raises `DyrateError` for a config that would change the answers of some decoding strategy, and for ids
    that no token has.
    """
    from transformers import GenerationConfig

    wanted = model.generation_config.to_dict()
    _check(wanted, set(GenerationConfig().to_dict()), model.name_or_path)
    ends = wanted["eos_token_id"] if wanted["eos_token_id"] is not None else tokenizer.eos_token_id
    _check_ends(ends, model.config.get_text_config().vocab_size, model.name_or_path)
    padding = tokenizer.pad_token_id
    if padding is None:
        padding = ends if isinstance(ends, int) else ends[0]
    found = TokenIds(wanted["bos_token_id"], ends, padding)
    model.generation_config = GenerationConfig(
        bos_token_id=found.begin, eos_token_id=ends, pad_token_id=padding
    )
    return found


def _check(wanted: dict[str, Any], known: set[str], name: str) -> None:
    source = "config.json" if wanted.get("_from_model_config") else "generation_config.json"
    for key in sorted(known - _OVERRULED - set(_IDS)):
        value = wanted[key]
        if value and not (key in _IDLE_AT_ONE and value == 1):
            raise DyrateError(
                f"--model {name}: {source} asks for {key}={value!r:.60}; here the decoding strategy alone "
                f"says how to generate, and none has {key}: remove it from {source}"
            )


def _check_ends(ends: Any, vocabulary: int, name: str) -> None:
    listed = ends if isinstance(ends, list) else [ends]
    for end in listed or [None]:
        if isinstance(end, bool) or not isinstance(end, int) or not 0 <= end < vocabulary:
            raise DyrateError(
                f"--model {name}: eos_token_id is {ends!r:.60}, in generation_config.json or else of the "
                f"tokenizer; answers end with it: it should be the id of a token, 0 to {vocabulary - 1}, "
                "or a list of ids"
            )
