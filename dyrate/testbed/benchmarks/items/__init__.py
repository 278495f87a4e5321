"""How the items of each benchmark are made: rows in the real data set's columns, with the perfect answers.

What is asked how often, and of which scenes, is the spec's; the files are `build`'s.
"""

from dyrate.testbed.benchmarks.items.captioning import coco2017, flickr30k, nocaps
from dyrate.testbed.benchmarks.items.item import BenchmarkSpec, Item, ItemGroup, Maker
from dyrate.testbed.benchmarks.items.multiple_choice import ROTATIONS, mmb, sqa
from dyrate.testbed.benchmarks.items.open_ended import gqa, textvqa, vizwiz, vqav2
from dyrate.testbed.benchmarks.items.yes_no import MME_CATEGORIES, mme, pope

__all__ = ["MAKERS", "MME_CATEGORIES", "ROTATIONS", "BenchmarkSpec", "Item", "ItemGroup"]

MAKERS: dict[str, Maker] = {
    maker.__name__: maker
    for maker in (gqa, vizwiz, sqa, vqav2, textvqa, pope, mmb, mme, nocaps, flickr30k, coco2017)
}
"""Benchmark to the function that makes its items."""
