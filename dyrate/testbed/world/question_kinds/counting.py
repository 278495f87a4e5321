"""Questions that need counting."""

from dyrate.testbed.world.draw import Draw
from dyrate.testbed.world.question_kinds.question import YES_NO, Question, others, yes_no
from dyrate.testbed.world.referring_expressions import Description, Facts
from dyrate.testbed.world.vocabulary import COLOR_NAMES, NUMBER_WORDS, SHAPES

MAX_COUNT = 6
COUNTS = tuple(str(n) for n in range(MAX_COUNT + 1))


def ask_count(facts: Facts, draw: Draw, answer: str | None) -> Question | None:
    """Ask how many things fit a description, 0 to 6."""
    target = int(answer) if answer else draw.below(MAX_COUNT + 1)
    counted = _descriptions_of(target, facts, draw)
    if answer is None and not counted:
        counted = _descriptions_of(draw.pick((1, 2, 3)), facts, draw)
    if not counted:
        return None
    key = draw.pick(counted)
    text = draw.pick(
        ("How many {} are there?", "How many {} can you see?", "What is the number of {}?", "Count the {}.")
    )
    number = str(facts.count(key))
    return Question("count", text.format(key.nouns), number, others(draw, COUNTS, number))


def _descriptions_of(number: int, facts: Facts, draw: Draw) -> list[Description]:
    """Return the descriptions that fit as many things; for 0, one that fits nothing."""
    if number == 0:
        key = draw.pick((Description(draw.pick(SHAPES)), Description(color=draw.pick(COLOR_NAMES))))
        return [] if facts.count(key) else [key]
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
