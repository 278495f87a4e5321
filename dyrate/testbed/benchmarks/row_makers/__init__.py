"""How a block of each benchmark is made: rows in the real data set's columns, with the perfect answers.

What is asked how often, and of which scenes, is the plan's; the files are `benchmarks`' business.
"""

from dyrate.testbed.benchmarks.row_makers.block import Block, Item, Maker, Plan
from dyrate.testbed.benchmarks.row_makers.captioning import coco2017, flickr30k, nocaps
from dyrate.testbed.benchmarks.row_makers.multiple_choice import ROTATIONS, mmb, sqa
from dyrate.testbed.benchmarks.row_makers.open_ended import gqa, textvqa, vizwiz, vqav2
from dyrate.testbed.benchmarks.row_makers.yes_no import MME_CATEGORIES, mme, pope

__all__ = ["MAKERS", "MME_CATEGORIES", "ROTATIONS", "Block", "Item", "Plan"]

MAKERS: dict[str, Maker] = {
    maker.__name__: maker
    for maker in (gqa, vizwiz, sqa, vqav2, textvqa, pope, mmb, mme, nocaps, flickr30k, coco2017)
}
"""Benchmark to the function that makes its blocks."""
