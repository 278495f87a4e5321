"""The training data as a stream: what the workers make, and what is derived from its text."""

import hashlib
import itertools
import json

import numpy as np
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerFast

from dyrate.testbed.models.packing import PackedBatch, Packer
from dyrate.testbed.models.tokenizer import VICUNA, Dialogue, train_tokenizer
from dyrate.testbed.world.examples import training_example

TOKENIZER_SEED = 0  # one tokenizer for every testbed model, whatever seed it is trained with


class TrainingStream(Dataset[PackedBatch]):
    """Item i is the batch of step i: a function of the seed and i alone, whatever the number of workers."""

    def __init__(self, packer: Packer, seed: int, batch_size: int, least_spacing: float) -> None:
        self.packer, self.seed, self.batch_size, self.least_spacing = packer, seed, batch_size, least_spacing

    def __getitem__(self, step: int) -> PackedBatch:
        first = step * self.batch_size
        indices = range(first, first + self.batch_size)
        drawn = np.random.default_rng((self.seed, step)).uniform(self.least_spacing, 1.0, self.batch_size)
        spacings = np.where(np.arange(self.batch_size) % 2, drawn, 1.0)
        examples = [training_example(self.seed, index) for index in indices]
        return self.packer.batch(examples, spacings.tolist())[0]


def world_tokenizer(examples: int, dialogue: Dialogue = VICUNA) -> PreTrainedTokenizerFast:
    """Train the testbed's tokenizer on the turns of the first `examples` training examples."""
    turns = itertools.chain.from_iterable(
        training_example(TOKENIZER_SEED, index).turns for index in range(examples)
    )
    return train_tokenizer(
        (
            dialogue.written(text)
            for turn in turns
            for text in (
                f"{dialogue.before}{dialogue.after}{turn.prompt}{dialogue.cue}",
                f"{dialogue.lead}{turn.answer}",
            )
        ),
        dialogue,
    )


def stream_hash(seed: int, examples: int = 64) -> str:
    """Return the SHA-256 of the first training examples: their pixels and turns."""
    digest = hashlib.sha256()
    for index in range(examples):
        example = training_example(seed, index)
        digest.update(example.image.tobytes())
        digest.update(json.dumps([[t.prompt, t.answer, t.kind] for t in example.turns]).encode())
    return digest.hexdigest()
