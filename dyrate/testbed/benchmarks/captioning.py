"""Caption benchmarks with five references: NoCaps, Flickr30k, COCO2017."""

from dyrate.testbed.benchmarks.item import BenchmarkSpec, Item, photo_of
from dyrate.testbed.world.captions import references
from dyrate.testbed.world.draw import Draw
from dyrate.testbed.world.prompts import CAPTION
from dyrate.testbed.world.sampling import sample_scene
from dyrate.testbed.world.scenes import SIDE, Domain, Scene
from dyrate.testbed.world.vocabulary import HELD_OUT

DOMAINS: tuple[Domain, ...] = ("in-domain", "near-domain", "out-domain")


def nocaps(spec: BenchmarkSpec, draw: Draw, index: int) -> list[Item]:
    """Return one image with five captions; the three domains take turns."""
    domain = DOMAINS[index % len(DOMAINS)]
    scene = sample_scene(draw, "test", spec.difficulty, domain)
    while domain == "near-domain" and not _is_mixed(scene):
        scene = sample_scene(draw, "test", spec.difficulty, domain)
    captions = references(scene, draw)
    row = {
        "image": photo_of(scene),
        "image_coco_url": "",
        "image_date_captured": "",
        "image_file_name": f"{index:016x}.png",
        "image_height": SIDE,
        "image_width": SIDE,
        "image_id": index,
        "image_license": 0,
        "image_open_images_id": f"{index:016x}",
        "annotations_ids": list(range(index * len(captions), (index + 1) * len(captions))),
        "annotations_captions": captions,
    }
    return [Item(row, captions[0], "caption", domain)]


def _is_mixed(scene: Scene) -> bool:
    held_out = [(thing.color, thing.shape) in HELD_OUT for thing in scene.things]
    return any(held_out) and not all(held_out)


def flickr30k(spec: BenchmarkSpec, draw: Draw, index: int) -> list[Item]:
    """Return one image with five captions."""
    scene = sample_scene(draw, "test", spec.difficulty)
    captions = references(scene, draw)
    number = len(captions) * index
    row = {
        "image": photo_of(scene),
        "caption": captions,
        "sentids": [str(number + i) for i in range(len(captions))],
        "img_id": str(index),
        "filename": f"{index:010d}.jpg",
    }
    return [Item(row, captions[0], "caption")]


def coco2017(spec: BenchmarkSpec, draw: Draw, index: int) -> list[Item]:
    """Return one image with five captions."""
    scene = sample_scene(draw, "test", spec.difficulty)
    captions = references(scene, draw)
    number = index + 1
    row = {
        "question_id": f"COCO_val2017_{number:012d}.jpg",
        "image": photo_of(scene),
        "question": CAPTION,
        "answer": captions,
        "id": number,
        "license": 0,
        "file_name": f"{number:012d}.jpg",
        "coco_url": "",
        "height": SIDE,
        "width": SIDE,
        "date_captured": "",
    }
    return [Item(row, captions[0], "caption")]
