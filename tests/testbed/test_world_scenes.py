"""Scenes and their photos: determinism, disjoint splits, held-out pairs, visibility, true colours."""

import re
from dataclasses import replace

import numpy as np
import pytest

from dyrate.testbed.world.draw import Draw
from dyrate.testbed.world.examples import training_example, validation_example
from dyrate.testbed.world.placement import MIN_VISIBLE
from dyrate.testbed.world.render import render
from dyrate.testbed.world.sampling import DEFAULT, sample_scene
from dyrate.testbed.world.scenes import SIDE, Domain, Photo, Scene, Split, split_of
from dyrate.testbed.world.sprites import CLEAR, FONT_SIZES, SIGN_MARGIN, lettering, sprite
from dyrate.testbed.world.vocabulary import COLORS, HELD_OUT, LOOKALIKES, SETTINGS, SHAPES, TEXTURES, WORDS

SPLITS: tuple[Split, ...] = ("train", "validation", "test")


def scenes(n: int, split: Split = "train", domain: Domain = "in-domain", difficulty=DEFAULT) -> list[Scene]:
    return [sample_scene(Draw("test of scenes", split, i), split, difficulty, domain) for i in range(n)]


def test_an_example_is_a_pure_function_of_seed_and_index():
    for make in (training_example, validation_example):
        first, again = make(3, 14), make(3, 14)
        assert first.turns == again.turns
        assert np.array_equal(first.image, again.image)
        assert not np.array_equal(first.image, make(3, 15).image)
        assert not np.array_equal(first.image, make(4, 14).image)


def test_an_image_is_168_pixels_square_in_8_bit_rgb():
    image = training_example(0, 0).image
    assert (image.shape, image.dtype) == ((168, 168, 3), np.uint8)


def test_draws_do_not_depend_on_the_python_version():
    draw = Draw("golden", 1)
    assert [draw.below(1000) for _ in range(5)] == [354, 245, 389, 886, 942]
    assert draw.shuffled("abcdef") == list("fdcaeb")


@pytest.mark.slow
def test_a_scene_is_in_exactly_one_split_by_its_content():
    seen: dict[Split, set[int]] = {}
    for split in SPLITS:
        sampled = scenes(600, split)
        assert {split_of(scene) for scene in sampled} == {split}
        seen[split] = {scene.fingerprint() for scene in sampled}
    assert not seen["train"] & seen["validation"]
    assert not seen["train"] & seen["test"]
    assert not seen["validation"] & seen["test"]


def test_another_photo_of_a_scene_stays_in_its_split():
    for scene in scenes(50, "test"):
        other = scene._replace(photo=Photo(noise=9, blur=1.0))
        assert other.fingerprint() == scene.fingerprint()


def test_held_out_pairs_are_never_drawn_in_training():
    drawn = {(thing.color, thing.shape) for scene in scenes(3000) for thing in scene.things}
    assert not drawn & HELD_OUT
    assert len(drawn) == len(COLORS) * len(SHAPES) - len(HELD_OUT), "every other pair is"


@pytest.mark.slow
def test_held_out_pairs_are_never_named_in_training():
    named = re.compile("|".join(rf"\b{color} {shape}" for color, shape in HELD_OUT))
    for index in range(1500):
        for turn in training_example(0, index).turns:
            assert not named.search(f"{turn.prompt} {turn.answer}"), turn


def test_domains_hold_what_they_promise():
    for scene in scenes(300, "test", "out-domain"):
        assert all((thing.color, thing.shape) in HELD_OUT for thing in scene.things)
    share = np.mean(
        [(t.color, t.shape) in HELD_OUT for s in scenes(300, "test", "near-domain") for t in s.things]
    )
    assert 0.4 < share < 0.6


def test_every_shape_and_colour_is_held_out_somewhere_and_trained_elsewhere():
    assert {shape for _, shape in HELD_OUT} == set(SHAPES)
    assert {color for color, _ in HELD_OUT} == set(COLORS)


def test_things_stay_inside_and_mostly_visible():
    for scene in scenes(300, difficulty=replace(DEFAULT, occluded=1.0)):
        owner = np.full((SIDE, SIDE), -1)
        for i, thing in enumerate(scene.things):
            left, top = thing.x - thing.width // 2, thing.y - thing.width // 2
            assert left >= 0 <= top
            assert max(left, top) + thing.width <= SIDE
            mask = sprite(thing.shape, thing.width, thing.texture) != CLEAR
            owner[top : top + thing.width, left : left + thing.width][mask] = i
        for i, (thing, visible) in enumerate(zip(scene.things, scene.visible, strict=True)):
            area = np.sum(sprite(thing.shape, thing.width, thing.texture) != CLEAR)
            assert np.sum(owner == i) / area == pytest.approx(visible)
            assert visible >= MIN_VISIBLE


def test_occlusion_happens_and_can_be_turned_off():
    assert any(min(scene.visible) < 0.9 for scene in scenes(200))
    assert all(min(scene.visible) == 1 for scene in scenes(200, difficulty=replace(DEFAULT, occluded=0.0)))


def test_the_pixel_at_a_plain_things_centre_has_the_colour_that_the_scene_tells():
    filled = set(SHAPES) - {"ring", "moon"}
    checked = 0
    for scene in scenes(200):
        image = render(scene._replace(photo=Photo()))
        for thing, visible in zip(scene.things, scene.visible, strict=True):
            if visible == 1 and thing.texture == "plain" and thing.shape in filled:
                assert tuple(image[thing.y, thing.x]) == COLORS[thing.color], thing
                checked += 1
    assert checked > 300


def test_the_commonest_vivid_colour_of_a_patterned_thing_is_its_own():
    checked = 0
    for scene in scenes(150):
        image = render(scene._replace(photo=Photo()))
        for thing, visible in zip(scene.things, scene.visible, strict=True):
            if visible < 1 or thing.texture == "plain":
                continue
            left, top = thing.x - thing.width // 2, thing.y - thing.width // 2
            mask = sprite(thing.shape, thing.width, thing.texture) != CLEAR
            box = image[top : top + thing.width, left : left + thing.width][mask]
            counts = {color: int(np.all(box == rgb, axis=1).sum()) for color, rgb in COLORS.items()}
            assert max(counts, key=counts.__getitem__) == thing.color, (thing, counts)
            checked += 1
    assert checked > 200


def test_textures_and_shapes_differ_in_many_pixels():
    for size in (14, 24, 44):
        drawings = {shape: sprite(shape, size, "plain") != CLEAR for shape in SHAPES}
        for a in SHAPES:
            for b in SHAPES:
                assert a == b or np.sum(drawings[a] ^ drawings[b]) > 0.06 * size * size, (a, b, size)
    for shape in SHAPES:
        drawn = [sprite(shape, 24, texture) for texture in TEXTURES]
        for i, a in enumerate(drawn):
            for b in drawn[i + 1 :]:
                assert np.sum(a != b) > 0.08 * np.sum(a != CLEAR)


def test_letters_are_at_least_nine_pixels_high_and_every_word_fits():
    for font_size in FONT_SIZES:
        for text in (*WORDS, "888"):
            height, width = lettering(text, font_size).shape
            assert height - 2 * SIGN_MARGIN[1] >= 9
            assert width <= SIDE - 4


def test_photos_that_show_nothing_are_marked_and_show_nothing():
    spread = []
    for scene in scenes(60, difficulty=replace(DEFAULT, strong=1.0, noise=(3, 3))):
        assert not scene.photo.readable
        clear = render(scene._replace(photo=Photo(background=scene.photo.background))).astype(float)
        shown = render(scene._replace(photo=scene.photo._replace(noise=0))).astype(float)
        spread.append(np.abs(np.diff(shown, axis=1)).mean() / np.abs(np.diff(clear, axis=1)).mean())
    assert max(spread) < 0.25, "edges are gone"
    assert np.mean(spread) < 0.06


def test_vocabulary_is_consistent():
    assert set(LOOKALIKES) == set(COLORS)
    assert all(other in COLORS and other != color for color, near in LOOKALIKES.items() for other in near)
    assert len(set(WORDS)) == len(WORDS) == 60
    assert not set(WORDS) & {*COLORS, *SHAPES, *TEXTURES, *SETTINGS}
