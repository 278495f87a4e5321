"""The exact user texts of the benchmarks' prompts, equal to what lmms-eval's task functions make."""

from collections.abc import Sequence

SHORT = "\nAnswer the question using a single word or phrase."
VIZWIZ = "\nWhen the provided information is insufficient, respond with 'Unanswerable'." + SHORT
LETTER = "\nAnswer with the option's letter from the given choices directly."
CAPTION = "Provide a one-sentence caption for the provided image."

LETTERS = "ABCD"


def short_prompt(question: str) -> str:
    """Return the prompt of GQA, VQAv2, POPE and MME."""
    return question + SHORT


def textvqa_prompt(question: str) -> str:
    """Return the prompt of TextVQA, whose task lowers all letters but the first."""
    return question.capitalize() + SHORT


def vizwiz_prompt(question: str) -> str:
    """Return the prompt of VizWiz, whose task lowers all letters but the first."""
    return question.capitalize() + VIZWIZ


def scienceqa_prompt(question: str, choices: Sequence[str], hint: str) -> str:
    """Return the prompt of ScienceQA: context if there is a hint, question, lettered choices."""
    context = f"Context: {hint}\n" if hint else ""
    return f"{context}{question}\n{_lettered(choices)}{LETTER}"


def mmbench_prompt(question: str, choices: Sequence[str], hint: str = "") -> str:
    """Return the prompt of MMBench; its task leaves an empty line before the last one."""
    before = f"{hint} {question}" if hint else question
    return f"{before} There are several options:\n{_lettered(choices)}\n{LETTER}"


def _lettered(choices: Sequence[str]) -> str:
    return "\n".join(f"{letter}. {choice}" for letter, choice in zip(LETTERS, choices, strict=False))
