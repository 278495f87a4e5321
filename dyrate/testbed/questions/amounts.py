"""Questions that need counting."""

from dyrate.testbed.draw import Draw
from dyrate.testbed.facts import Description, Facts
from dyrate.testbed.questions.question import COLOR_NAMES, YES_NO, Question, others, yes_no
from dyrate.testbed.vocabulary import NUMBER_WORDS, SHAPES

MAX_COUNT = 6
COUNTS = tuple(str(n) for n in range(MAX_COUNT + 1))


def ask_count(facts: Facts, draw: Draw, answer: str | None) -> Question | None:
    """Ask how many things fit a description, 0 to 6."""
    # Large numbers are rare in scenes: they are tried for twice, so that they are learnt too.
    wanted = (
        (int(answer),)
        if answer
        else (draw.below(MAX_COUNT + 1), draw.between(3, MAX_COUNT), draw.between(1, 3))
    )
    counted: list[Description] = []
    for number in wanted:
        counted = counted or _descriptions_of(number, facts)
    if not counted:
        return None
    key = draw.pick(counted)
    text = draw.pick(
        ("How many {} are there?", "How many {} can you see?", "What is the number of {}?", "Count the {}.")
    )
    total = str(facts.count(key))
    return Question("count", text.format(key.nouns), total, others(draw, COUNTS, total))


def _descriptions_of(number: int, facts: Facts) -> list[Description]:
    """Return the descriptions that fit as many things; for 0, the shapes and colours that are missing."""
    if number == 0:
        keys = [Description(shape) for shape in SHAPES] + [Description(color=color) for color in COLOR_NAMES]
        return [key for key in keys if not facts.count(key)]
    return [key for key, things in facts.groups.items() if len(things) == number and key.texture != "plain"]


def ask_quantity(facts: Facts, draw: Draw, answer: str | None) -> Question | None:
    """Ask whether there are as many things as named."""
    answer = answer or draw.pick(YES_NO)
    counts = facts.counts(draw.pick((("shape",), ("color",), ("color", "size"))))
    # The wrong number is right for another description of the same form: it is as likely as the right one.
    pairs = [
        (key, count, other)
        for key, count in counts.items()
        for other in counts.values()
        if 1 <= abs(count - other) <= 2 and max(count, other) <= MAX_COUNT
    ]
    if not pairs:
        return None
    key, right, wrong = draw.pick(pairs)
    named = right if answer == "yes" else wrong
    if named == 1:
        return yes_no("quantity", f"Is there only one {key.noun} in this image?", answer)
    return yes_no("quantity", f"Are there {NUMBER_WORDS[named]} {key.nouns} in this image?", answer)


def ask_compare(facts: Facts, draw: Draw, answer: str | None) -> Question | None:
    """Ask whether there are more, or fewer, things of one description than of another."""
    counts = facts.counts(draw.pick((("shape",), ("color",))))
    more, fewer = draw.pick(tuple(counts)), draw.pick(tuple(counts))
    if counts[more] == counts[fewer]:
        return None
    if counts[more] < counts[fewer]:
        more, fewer = fewer, more
    answer, word = answer or draw.pick(YES_NO), draw.pick(("more", "more", "fewer"))
    first, second = (more, fewer) if (word == "more") == (answer == "yes") else (fewer, more)
    return yes_no("compare", f"Are there {word} {first.nouns} than {second.nouns}?", answer)
