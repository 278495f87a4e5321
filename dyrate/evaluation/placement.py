"""How a model is fitted to the devices that there are: over several, in fewer bits, in which dtype."""

from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, get_args

from dyrate.errors import DyrateError
from dyrate.jobs import Kind
from dyrate.typed import bare

if TYPE_CHECKING:
    import torch

_KEPT_WHOLE = ("vision_tower", "multi_modal_projector", "lm_head")


@dataclass(frozen=True)
class Fit:
    """How a model that no single device has room for is loaded. transformers generates with it, slower than
    with a model that is whole on one device: times are not comparable.
    """

    device_map: str | None = None
    """`auto`: its layers, one after another, on all GPUs that are visible"""
    bits: int | None = None
    """8 or 4 for each weight of the language model's linear layers, by bitsandbytes"""

    @property
    def told(self) -> dict[str, Any]:
        """What results say of it; nothing of a model that is whole on one device."""
        return {name: value for name, value in vars(self).items() if value is not None}

    @classmethod
    def of(cls, device_map: str | None, bits: int | str | None, engine: str) -> "Fit":
        """Check what lmms-eval's command line may say. Raises `DyrateError` for what is unknown, and for an
        engine that runs no such model.
        """
        if bits is not None and str(bits) not in ("8", "4"):
            raise DyrateError(f"bits is {bits!r}; known: 8, 4")
        if device_map not in (None, "auto"):
            raise DyrateError(f"device_map is {device_map!r}; known: auto")
        fit = cls(device_map, None if bits is None else int(bits))
        if engine == "graph" and fit.told:
            raise DyrateError(
                "engine graph runs models that are whole on one device, with the weights as they are stored: "
                f"leave out {' and '.join(fit.told)}, or use engine transformers"
            )
        return fit

    def quantization(self, device: "torch.device", dtype: "torch.dtype") -> Any:
        """Return transformers' configuration of it, None where weights stay as they are.

        Raises `DyrateError` where bitsandbytes is not installed, and on a CPU.
        """
        if self.bits is None:
            return None
        if find_spec("bitsandbytes") is None:
            raise DyrateError(f"--bits {self.bits}: bitsandbytes is not installed: pip install bitsandbytes")
        if device.type != "cuda":
            raise DyrateError(f"--bits {self.bits}: needs a GPU, and the device is {device.type}")
        from transformers import BitsAndBytesConfig

        four: dict[str, Any] = {"load_in_4bit": True, "bnb_4bit_compute_dtype": dtype}
        how = four if self.bits == 4 else {"load_in_8bit": True}
        # The tower is small, and what methods cost in it is counted by the shapes of its weights.
        return BitsAndBytesConfig(**how, llm_int8_skip_modules=[*_KEPT_WHOLE])


WHOLE = Fit()


def settled(job: Kind) -> Kind:
    """Return a job with the dtype that `auto` means on this machine, as its results are to say it."""
    if getattr(job, "dtype", None) != "auto":
        return job
    dtype = choose_dtype(getattr(job, "device", "auto"))
    # A training, whose gradients need more than the range of float16, does not know that dtype.
    return job.model_copy(update={"dtype": dtype if dtype in _known(job) else "bfloat16"})


def is_of(command: str, job: Kind) -> bool:
    """Whether a result's command is that of a job, whose `auto` says on each machine what it means there."""
    if getattr(job, "dtype", None) != "auto":
        return command == job.command()
    return command in [job.model_copy(update={"dtype": dtype}).command() for dtype in _known(job)]


def _known(job: Kind) -> tuple[str, ...]:
    return get_args(bare(type(job).model_fields["dtype"].annotation)[0])


def choose_dtype(device: str) -> str:
    """bfloat16 on a GPU that has it, float16 on another one, float32 on a CPU."""
    import torch

    if device == "cpu" or not torch.cuda.is_available():
        return "float32"
    number = device.partition(":")[2]
    major, _ = torch.cuda.get_device_capability(int(number) if number.isdecimal() else 0)
    return "bfloat16" if major >= 8 else "float16"
