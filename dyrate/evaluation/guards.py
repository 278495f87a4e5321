"""What keeps the faults of other people's adapters from becoming scores: they end the run instead.

Nothing here changes what an adapter computes. Calls of libraries that it makes are looked at on the way, and
refused, or noted and raised again where the adapter itself would go on without.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import torch
import transformers.dynamic_module_utils
import transformers.generation.utils
import transformers.modeling_utils
from huggingface_hub import is_offline_mode, try_to_load_from_cache
from loguru import logger
from tqdm import tqdm
from transformers import AutoTokenizer, ProcessorMixin

from dyrate.errors import DyrateError
from dyrate.evaluation.checkpoint_files import few
from dyrate.evaluation.harness_adapters import CODE

if TYPE_CHECKING:
    from dyrate.evaluation.harness_adapters import Adapter

_WITH_CODE = transformers.dynamic_module_utils, transformers.generation.utils


@contextmanager
def trusted_code(adapter: "Adapter", folder: Path | None) -> Iterator[None]:
    """Let transformers import no Python file that comes with a checkpoint, but one in a trusted `folder`.

    Whatever the adapter asks for: 22 of lmms-eval 0.7.3's ask in their own code, where no argument reaches.
    """
    spec = adapter.spec
    fetch = transformers.dynamic_module_utils.get_cached_module_file
    refused: list[Exception] = []

    def guarded(origin: Any, *arguments: Any, **keywords: Any) -> Any:
        if not spec.trust_remote_code:
            refused.append(DyrateError(f"{spec.where}: {origin} brings {CODE}"))
        elif folder is None or str(origin) != str(folder):
            refused.append(
                DyrateError(
                    f"{spec.where}: {adapter.pretrained} takes code from {origin}, which `revision` does not "
                    "pin, so that it may be another tomorrow"
                )
            )
        _raise_first(refused)
        return fetch(origin, *arguments, **keywords)

    with ExitStack() as patches:
        for module in _WITH_CODE:
            patches.enter_context(patch.object(module, "get_cached_module_file", guarded))
        try:
            yield
        except Exception as error:
            if not refused and not spec.trust_remote_code and "trust_remote_code" in str(error):
                raise DyrateError(f"{spec.where}: {adapter.pretrained} brings {CODE}") from error
            raise
    _raise_first(refused)


@contextmanager
def whole_weights(where: str) -> Iterator[None]:
    """Refuse a checkpoint that lacks weights of the model that it is loaded into: they would be random.

    `where` is how complaints begin.
    """
    report = transformers.modeling_utils.log_state_dict_report
    refused: list[Exception] = []

    def guarded(*arguments: Any, **keywords: Any) -> None:
        report(*arguments, **keywords)
        if lacking := keywords["loading_info"].missing_and_mismatched():
            origin = keywords["pretrained_model_name_or_path"]
            refused.append(
                DyrateError(f"{where}: {origin} lacks {few(lacking)}, which would be drawn at random")
            )
        _raise_first(refused)

    with patch.object(transformers.modeling_utils, "log_state_dict_report", guarded):
        yield
    _raise_first(refused)


@contextmanager
def own_tokenizers(where: str) -> Iterator[None]:
    """Refuse a processor's second tokenizer that is not in its folder: transformers would warn, and take the
    first one for it.

    Without the hub it does not find one in the cache either, where it asks first for a file that checkpoints
    do not have; so it is told the folder of the cache. `where` is how complaints begin.
    """
    load = ProcessorMixin._load_tokenizer_from_pretrained.__func__
    refused: list[Exception] = []

    def guarded(kind: Any, /, name: str, origin: Any, subfolder: str = "", **keywords: Any) -> Any:
        if name == "tokenizer":
            return load(kind, name, origin, subfolder, **keywords)
        folder = f"{subfolder}/{name}".lstrip("/")
        try:
            at = _cached(str(origin), f"{folder}/tokenizer_config.json", keywords)
            return AutoTokenizer.from_pretrained(at, subfolder=folder, **keywords)
        except (OSError, ValueError) as error:
            told = str(error).partition("\n")[0]
            refused.append(DyrateError(f"{where}: {origin}: its {name} cannot be read from {folder}: {told}"))
            raise refused[0] from error

    with patch.object(ProcessorMixin, "_load_tokenizer_from_pretrained", classmethod(guarded)):
        yield
    _raise_first(refused)


def _cached(origin: str, file: str, keywords: Mapping[str, Any]) -> str:
    """The cached folder with a checkpoint's file in it, if there is one and the hub is not to be asked; else
    `origin`.
    """
    if not (is_offline_mode() or keywords.get("local_files_only")) or Path(origin).is_dir():
        return origin
    asked = {name: keywords.get(name) for name in ("cache_dir", "revision")}
    found = try_to_load_from_cache(origin, file, **asked)
    return found.removesuffix(file) if isinstance(found, str) else origin


@contextmanager
def unswallowed(adapter: Any, where: str) -> Iterator[None]:
    """Raise what an adapter (an `lmms`) catches, as far as it can be seen; keep its progress bars away.

    `where` is how complaints begin.
    """
    seen: list[Exception] = []

    def raise_logged(message: Any) -> None:
        seen.append(DyrateError(f"{where}: {message.record['message']}"))
        raise seen[-1]

    with ExitStack() as undo:
        undo.callback(logger.remove, logger.add(raise_logged, level="ERROR", catch=False))
        module = sys.modules[type(adapter).__module__]
        if getattr(module, "tqdm", None) is tqdm:
            undo.enter_context(patch.object(module, "tqdm", _no_bar))
        for part in modules_of(adapter):
            if hasattr(part, "generate"):
                undo.enter_context(patch.object(part, "generate", _watched(part, seen, where)))
        yield
    _raise_first(seen)


def modules_of(adapter: Any) -> Sequence[torch.nn.Module]:
    """The models that an adapter holds."""
    return [value for value in vars(adapter).values() if isinstance(value, torch.nn.Module)]


def _watched(module: Any, seen: list[Exception], where: str) -> Any:
    """The module's `generate`, whose exceptions are noted, and which neither samples nor searches."""
    generate = module.generate

    def watched(*arguments: Any, **keywords: Any) -> Any:
        try:
            _check_greedy(module, keywords, where)
            return generate(*arguments, **keywords)
        except Exception as error:
            seen.append(error)
            raise

    return watched


def _check_greedy(module: Any, keywords: Mapping[str, Any], where: str) -> None:
    config = keywords.get("generation_config") or getattr(module, "generation_config", None)
    for name, greedy in (("do_sample", (None, False)), ("num_beams", (None, 1))):
        value = keywords.get(name, getattr(config, name, None))
        if value not in greedy:
            raise DyrateError(f"{where}: generates with {name}={value!r}, though it is asked to be greedy")


def _no_bar(*arguments: Any, **keywords: Any) -> Any:
    return tqdm(*arguments, **{**keywords, "disable": True})


def _raise_first(errors: Sequence[Exception]) -> None:
    if errors:
        raise errors[0]
