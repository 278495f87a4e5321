"""Benchmarks of yes/no questions, several on an image: POPE and MME."""

from dyrate.testbed.benchmarks.item import BenchmarkSpec, Item, photo_of
from dyrate.testbed.world.draw import Draw
from dyrate.testbed.world.question_kinds import absent, ask
from dyrate.testbed.world.referring_expressions import Description, Facts
from dyrate.testbed.world.sampling import sample_scene


def pope(spec: BenchmarkSpec, draw: Draw, index: int) -> list[Item]:
    """Return six questions about one image: a yes and a no for each way of choosing negatives."""
    categories = ("random", "popular", "adversarial")
    while True:
        scene = sample_scene(draw, "test", spec.difficulty)
        facts = Facts(scene)
        present = sorted({(thing.shape, thing.color) for thing in scene.things})
        missing = [absent(facts, draw, category) for category in categories]
        if len(present) >= len(categories) and len(set(missing)) == len(categories) and None not in missing:
            break
    image = photo_of(scene)
    group: list[Item] = []
    for category, pair, other in zip(categories, draw.sample(present, 3), missing, strict=True):
        assert other
        for description, answer in ((Description(*pair), "yes"), (other, "no")):
            number = index * 6 + len(group)
            row = {
                "id": str(number),
                "question_id": str(number + 1),
                "question": f"Is there {description.a_noun} in the image?",
                "answer": answer,
                "image_source": f"TESTBED_val_{index:012d}",
                "image": image,
                "category": category,
            }
            group.append(Item(row, answer, category))
    return group


MME_CATEGORIES = {
    "existence": "existence",
    "count": "quantity",
    "position": "relation",
    "color": "verify_color",
    "scene": "setting",
    "OCR": "reading",
    "commonsense_reasoning": "commonsense",
    "numerical_calculation": "arithmetic",
}
"""MME's category to the kind of question; the last two are cognition, the others perception."""


def mme(spec: BenchmarkSpec, draw: Draw, index: int) -> list[Item]:
    """Return a pair about one image, one answered yes and one no; the categories take turns."""
    category = tuple(MME_CATEGORIES)[index % len(MME_CATEGORIES)]
    kind = MME_CATEGORIES[category]
    while True:
        scene = sample_scene(draw, "test", spec.difficulty)
        facts = Facts(scene)
        pair = [ask(kind, facts, draw, answer) for answer in ("yes", "no")]
        if all(pair):
            break
    image = photo_of(scene)
    group = []
    for question in draw.shuffled([question for question in pair if question]):
        row = {
            "question_id": f"{category}/{index // len(MME_CATEGORIES):04d}.png",
            "image": image,
            "question": f"{question.text} Please answer yes or no.",
            "answer": question.answer.capitalize(),
            "category": category,
        }
        group.append(Item(row, question.answer, kind))
    return group
