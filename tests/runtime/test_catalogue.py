"""The page about methods is that of their classes."""

from pathlib import Path

from dyrate.catalogue import Entry, entries, markdown
from dyrate.registry import built_in, class_of

PAGE = Path(__file__).parents[2] / "docs/methods.md"


def entry(name: str) -> Entry:
    return Entry(name, class_of(name))


def test_the_page_is_that_of_the_classes() -> None:
    assert PAGE.read_text() == markdown(entries()), "run: dyrate methods --markdown > docs/methods.md"


def test_every_method_has_an_entry_with_all_its_fields() -> None:
    assert [found.name for found in entries()] == list(built_in())
    page = PAGE.read_text()
    for found in entries():
        assert found.summary.endswith(".")
        for name, field in found.fields.items():
            assert field["description"], (found.name, name)
            assert f"- `{name}`: " in page


def test_an_entry_says_where_and_by_what() -> None:
    assert entry("fastv").place == "prefill, layer 2"
    assert entry("fastv").reads == ["attention of the newest token, layer 1"]
    assert entry("fastervlm").place == "before the language model"
    assert entry("fastervlm").reads == ["vision tower, the layer that the projector reads: salience"]
    assert entry("pyramiddrop").reads == ["attention of the newest token, layers 8, 16, 24, before it runs"]
    assert entry("tome").place == "vision encoder"
    assert entry("none").place == "nowhere"
    dyrate = entry("dyrate")
    assert dyrate.place == "prefill, layer 2; decode, layer 2 (select)"
    assert dyrate.trained
    assert "a trained predictor" in dyrate.reads
    assert not entry("visionpulse").trained
