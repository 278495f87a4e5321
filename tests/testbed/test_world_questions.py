"""Questions and captions: each answer is checked by a second, brute-force reading of question and scene."""

import re
from collections import Counter, defaultdict
from collections.abc import Callable

import pytest

from dyrate.testbed.world.captions import caption, references, salient
from dyrate.testbed.world.draw import Draw
from dyrate.testbed.world.examples import training_example
from dyrate.testbed.world.question_kinds import ANSWERS, ASKERS, UNANSWERABLE, ask
from dyrate.testbed.world.referring_expressions import Facts
from dyrate.testbed.world.sampling import sample_scene
from dyrate.testbed.world.scenes import SIDE, Scene, Sign, Thing
from dyrate.testbed.world.vocabulary import (
    COLORS,
    LOOKALIKES,
    NUMBER_WORDS,
    SETTINGS,
    SHAPES,
    SIZES,
    TEXTURES,
    WORDS,
)

SCENES = [sample_scene(Draw("test of questions", i), "train") for i in range(250)]

NOUN = re.compile(
    rf"(?:(?P<size>{'|'.join(SIZES)}) )?(?:(?P<texture>{'|'.join(TEXTURES)}) )?"
    rf"(?:(?P<color>{'|'.join(COLORS)}) )?(?P<shape>{'|'.join(SHAPES)}|thing)(?:e?s)?"
)


def fitting(phrase: str, scene: Scene) -> list[Thing]:
    """The things that a noun phrase describes."""
    match = NOUN.fullmatch(re.sub("^(the|an?) ", "", phrase))
    assert match, phrase
    wanted = {name: value for name, value in match.groupdict().items() if value not in (None, "thing")}
    return [t for t in scene.things if all(getattr(t, name) == value for name, value in wanted.items())]


def one(phrase: str, scene: Scene) -> Thing:
    things = fitting(phrase, scene)
    assert len(things) == 1, f"{phrase!r} is ambiguous: {things}"
    return things[0]


def sign(phrase: str, scene: Scene) -> Sign:
    plate = phrase.removeprefix("the ").removesuffix("sign").strip()
    signs = [s for s in scene.signs if plate in ("", s.plate)]
    assert len(signs) == 1, f"{phrase!r} is ambiguous: {signs}"
    return signs[0]


def yes(truth: bool) -> str:
    return "yes" if truth else "no"


def ahead(direction: str, thing: Thing, other: Thing) -> int:
    return {
        "to the left of": other.x - thing.x,
        "to the right of": thing.x - other.x,
        "above": other.y - thing.y,
        "below": thing.y - other.y,
    }[direction]


def half(place: str, thing: Thing) -> bool:
    across, along = thing.x - SIDE // 2, thing.y - SIDE // 2
    return {
        "on the left side": across < 0,
        "on the right side": across > 0,
        "in the upper half": along < 0,
        "in the lower half": along > 0,
    }[place]


def nearest(direction: str, centre: Thing, scene: Scene) -> Thing:
    """The nearest thing within 45 degrees of the direction; it must be nearer than the second by a fifth."""
    found = []
    for thing in scene.things:
        distance = ((thing.x - centre.x) ** 2 + (thing.y - centre.y) ** 2) ** 0.5
        if thing != centre and ahead(direction, thing, centre) >= distance * 2**-0.5:
            found.append((distance, thing))
    found.sort()
    assert len(found) == 1 or found[0][0] < 0.85 * found[1][0]
    return found[0][1]


def named_value(value: str, thing: Thing) -> bool:
    return value in (thing.color, thing.shape, thing.texture, thing.size)


def quadrant(thing: Thing) -> str:
    return f"{'top' if thing.y < SIDE / 2 else 'bottom'} {'left' if thing.x < SIDE / 2 else 'right'}"


SIGN = r"(the (?:\w+ )?sign)"
DIRECTION = r"(to the left of|to the right of|above|below)"
PLACE = r"(on the left side|on the right side|in the upper half|in the lower half)"
Reading = Callable[..., str]
READINGS: list[tuple[str, Reading]] = [
    (r"Is there only one (.+) in this image\?", lambda s, n: yes(len(fitting(n, s)) == 1)),
    (
        rf"Are there ({'|'.join(NUMBER_WORDS)}) (.+) in this image\?",
        lambda s, k, n: yes(len(fitting(n, s)) == NUMBER_WORDS.index(k)),
    ),
    (r"(?:Is the background|Was this photo taken over) (\w+)\?", lambda s, v: yes(s.setting == v)),
    (r"Is there (\w+) in the background\?", lambda s, v: yes(s.setting == v)),
    (rf"Is (the .+) {PLACE} of the image\?", lambda s, n, p: yes(half(p, one(n, s)))),
    (rf"Can you see (the .+) {PLACE} of the picture\?", lambda s, n, p: yes(half(p, one(n, s)))),
    (
        r"(?:Is there|Do you see|Can you see|Does the image contain) (an? .+?)(?: in (?:the|this) \w+)?\?",
        lambda s, n: yes(bool(fitting(n, s))),
    ),
    (r"(?:What color is|What is the color of) (the [^?]*\w)\?", lambda s, n: one(n, s).color),
    (r"Which color does (the .+) have\?", lambda s, n: one(n, s).color),
    (r"(?:What shape is|What is the shape of) (the [^?]*\w)\?", lambda s, n: one(n, s).shape),
    (r"Which shape does (the .+) have\?", lambda s, n: one(n, s).shape),
    (r"What pattern does (the .+) have\?", lambda s, n: one(n, s).texture),
    (r"(?:What is the pattern of|Which pattern is on) (the .+)\?", lambda s, n: one(n, s).texture),
    (r"(?:How big is|What size is) (the .+)\?", lambda s, n: one(n, s).size),
    (r"Is (the .+) small, medium or large\?", lambda s, n: one(n, s).size),
    (
        r"(?:How many|What is the number of|Count the) (.+?)(?: are there| can you see)?[.?]",
        lambda s, n: str(len(fitting(n, s))),
    ),
    (
        r"(?:Is|On which side of the image is) (the .+?)(?: on the left or on the right|, left or right)\?",
        lambda s, n: quadrant(one(n, s)).split()[1],
    ),
    (r"Is (the .+) at the top or at the bottom\?", lambda s, n: quadrant(one(n, s)).split()[0]),
    (
        r"(?:Where|Where in the image|In which part of the picture) is (the .+)\?",
        lambda s, n: quadrant(one(n, s)),
    ),
    (
        rf"Is (the .+) {DIRECTION} (the .+)\?",
        lambda s, a, d, b: yes(ahead(d, one(a, s), one(b, s)) > 0),
    ),
    (
        r"Are there (more|fewer) (.+) than (.+)\?",
        lambda s, w, a, b: yes(
            (len(fitting(a, s)) > len(fitting(b, s)))
            if w == "more"
            else (len(fitting(a, s)) < len(fitting(b, s)))
        ),
    ),
    (
        r"What is (?:in the background|the background made of|behind the things)\?",
        lambda s: s.setting,
    ),
    (
        rf'Is the (?:word|number) (?:on|printed on) {SIGN} "(\w+)"\?',
        lambda s, n, t: yes(sign(n, s).text == t),
    ),
    (
        rf"Is the number on {SIGN} (greater|smaller) than (\d+)\?",
        lambda s, n, w, k: yes(
            int(sign(n, s).text) > int(k) if w == "greater" else int(sign(n, s).text) < int(k)
        ),
    ),
    (
        rf"(?:What does|What is written on|What word is on|Which word is printed on) {SIGN}(?: say)?\?",
        lambda s, n: sign(n, s).text,
    ),
    (
        rf"(?:What number is on|Which number is printed on|What is the number on) {SIGN}\?",
        lambda s, n: sign(n, s).text,
    ),
    (
        r"Is (the .+?) (?:an? )?(\w+) or (?:an? )?(\w+)\?",
        lambda s, n, a, b: a if named_value(a, one(n, s)) else b,
    ),
    (r"Is (the .+?) (?:an? )?(\w+)\?", lambda s, n, v: yes(named_value(v, one(n, s)))),
]


def brute_force(text: str, scene: Scene) -> str:
    near = re.fullmatch(
        rf"(?:What|Which) (color|shape) is the (?:closest|nearest) thing {DIRECTION} (the .+)\?", text
    )
    if near:
        return getattr(nearest(near[2], one(near[3], scene), scene), near[1])
    for pattern, read in READINGS:
        match = re.fullmatch(pattern, text)
        if match:
            return read(scene, *match.groups())
    raise AssertionError(f"no reading for {text!r}")


CHECKED = sorted(set(ASKERS) - {"hint", "commonsense", "unanswerable"})


@pytest.mark.parametrize("kind", CHECKED)
def test_answers_follow_from_the_scene(kind: str):
    asked = 0
    for i, scene in enumerate(SCENES):
        question = ask(kind, Facts(scene), Draw(kind, i))
        if question:
            assert brute_force(question.text, scene) == question.answer, question
            assert question.answer not in question.wrong
            assert len(set(question.wrong)) == len(question.wrong)
            asked += 1
    assert asked > 40


def test_a_hint_is_needed_and_decides():
    for i, scene in enumerate(SCENES):
        question = ask("hint", Facts(scene), Draw("hint", i))
        if question is None:
            continue
        likes = dict(re.findall(r"(\w+) likes (.+?)\.", question.hint))
        match = re.fullmatch(
            r"(?:Which|What) (\w+) (?:would|is the thing that) (\w+) (?:choose|likes)\?", question.text
        )
        assert match
        assert len(likes) == 2
        chosen = {getattr(thing, match[1]) for thing in fitting(likes[match[2]], scene)}
        assert chosen == {question.answer}, question
        other = next(name for name in likes if name != match[2])
        assert {getattr(thing, match[1]) for thing in fitting(likes[other], scene)} != chosen, (
            "hint not needed"
        )


def test_unanswerable_questions_ask_for_what_is_not_there():
    for i, scene in enumerate(SCENES):
        question = ask("unanswerable", Facts(scene), Draw("unanswerable", i))
        if question is None:
            continue
        assert question.answer == UNANSWERABLE
        noun = NOUN.search(question.text)
        if "sign" in question.text:
            assert not scene.signs
        else:
            assert noun
            assert not fitting(noun[0], scene)


def test_commonsense_answers_agree_with_the_setting():
    sure = {
        "snowman": "snow",
        "swim": "water",
        "sandcastle": "sand",
        "bricklayer": "brick",
        "carpenter": "wood",
    }
    asked = 0
    for i, scene in enumerate(SCENES):
        question = ask("commonsense", Facts(scene), Draw("commonsense", i))
        assert question
        for word, setting in sure.items():
            if word in question.text:
                assert question.answer == yes(scene.setting == setting)
                asked += 1
    assert asked > 60


@pytest.mark.parametrize("kind", sorted(ANSWERS))
def test_an_answer_can_be_asked_for(kind: str):
    missing = set(ANSWERS[kind])
    for i, scene in enumerate(SCENES * 3):
        for answer in sorted(missing):
            question = ask(kind, Facts(scene), Draw(kind, i), answer)
            if question:
                assert question.answer == answer
                missing.discard(answer)
    assert not missing


def _wording(text: str) -> str:
    """The question with its nouns, numbers and words blanked."""
    text = re.sub(rf"\b({'|'.join(COLORS)})\b", "COLOR", text)
    text = re.sub(rf"\b({'|'.join(SHAPES)})(e?s)?\b", "SHAPE", text)
    text = re.sub(rf"\b({'|'.join(SETTINGS)})\b", "SETTING", text)
    return re.sub(rf'"({"|".join(WORDS)})"', "WORD", re.sub(r"\d+", "NUMBER", text))


@pytest.mark.parametrize("kind", [kind for kind, answers in ANSWERS.items() if answers == ("yes", "no")])
def test_the_wording_of_a_yes_no_question_does_not_tell_the_answer(kind: str):
    forms: dict[str, Counter[str]] = defaultdict(Counter)
    for i in range(1000):
        question = ask(kind, Facts(SCENES[i % len(SCENES)]), Draw("wording", kind, i))
        if question:
            forms[_wording(question.text)][question.answer] += 1
    frequent = [form for form in forms.values() if form.total() >= 60]
    total = sum(form.total() for form in forms.values())
    yes_share = sum(form["yes"] for form in forms.values()) / total
    assert 0.42 < yes_share < 0.58
    if frequent:
        told = sum(max(form.values()) for form in frequent) / sum(form.total() for form in frequent)
        assert told < 0.66


def test_captions_name_what_is_salient():
    for i, scene in enumerate(SCENES):
        groups = salient(scene)
        assert sum(len(group.things) for group in groups) == len(scene.things)
        captions = references(scene, Draw("references", i))
        assert len(set(captions)) == 5
        for text in captions:
            named = min(2, len(groups))
            assert all(group.phrase in text.lower() for group in groups[:named]), (text, groups)
            assert all(sign.text in text for sign in scene.signs)
            assert text[0].isupper()
            assert text.endswith(".")
            assert text.count(".") == 1


def test_captions_count_and_describe_truly():
    for i, scene in enumerate(SCENES):
        text = caption(scene, Draw("caption", i)).lower()
        text = re.sub(r"\ban? (white|black|yellow) sign .*", "", text)
        for match in NOUN.finditer(text):
            if match["shape"] != "thing":
                assert fitting(match[0], scene), (match[0], text)


def test_captions_have_15_to_45_tokens():
    lengths = []
    for index in range(400):
        lengths += [
            len(re.findall(r"\w+|[^\w\s]", turn.answer))
            for turn in training_example(1, index).turns
            if turn.kind == "caption"
        ]
    within = sum(15 <= length <= 45 for length in lengths)
    assert within > 0.97 * len(lengths)
    assert 24 < sum(lengths) / len(lengths) < 36


def _options(kind: str, n: int) -> list[tuple[str, list[str]]]:
    """The right answer and the wrong options of many questions with n options."""
    found = []
    for i in range(1500):
        question = ask(kind, Facts(SCENES[i % len(SCENES)]), Draw("options", kind, i))
        if question:
            found.append((question.answer, list(question.wrong[: n - 1])))
    return found


@pytest.mark.parametrize("n", [3, 4])
def test_the_option_with_a_lookalike_beside_it_is_not_the_likelier(n: int):
    right, wrong = [], []
    for answer, others in _options("color", n):
        listed = [answer, *others]
        similar = [any(other in LOOKALIKES[option] for other in listed) for option in listed]
        right.append(similar[0])
        wrong += similar[1:]
    assert abs(sum(right) / len(right) - sum(wrong) / len(wrong)) < 0.08


@pytest.mark.parametrize("n", [3, 4])
def test_the_right_number_is_not_the_one_most_like_the_others(n: int):
    picked = 0.0
    questions = _options("number", n)
    for answer, others in questions:
        listed = [answer, *others]
        likeness = [
            sum(a == b for other in listed for a, b in zip(option, other, strict=True)) for option in listed
        ]
        best = [option for option, like in zip(listed, likeness, strict=True) if like == max(likeness)]
        picked += (answer in best) / len(best)
    assert len(questions) > 300
    assert abs(picked / len(questions) - 1 / n) < 0.06


def test_lookalikes_are_mutual():
    assert all(color in LOOKALIKES[other] for color, near in LOOKALIKES.items() for other in near)
