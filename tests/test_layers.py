"""The layers: imports point up in CONTRIBUTING.md's table of places, and none go in a circle."""

import ast
import re
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[1]
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted((ROOT / "dyrate").rglob("*.py"))
}
TABLE = (ROOT / "CONTRIBUTING.md").read_text("utf-8").partition("| --- | --- |\n")[2].partition("\n\n")[0]
LINES = {
    f"dyrate/{place.removeprefix('dyrate/')}": number
    for number, line in enumerate(TABLE.splitlines())
    for place in re.findall(r"`([^`]+)`", line.split("|")[1])
}
Edges = set[tuple[str, str]]


def imports(module: str) -> Edges:
    """(module, imported) for all that it imports of the package, in functions and for types alone too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module}, line {node.lineno}: name the module in full"
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= {name if name in MODULES else str(node.module) for name in inner}
    return {(module, name) for name in names & MODULES.keys()}


IMPORTS: Edges = {edge for module in MODULES for edge in imports(module)}


def line(module: str) -> int:
    """The table's line of a file: the one that names it, else the nearest folder around it."""
    path = MODULES[module].relative_to(ROOT)
    places = [path.as_posix(), *(f"{folder.as_posix()}/" for folder in path.parents)]
    known = [LINES[place] for place in places if place in LINES]
    assert known, f"{path} stands in no line of CONTRIBUTING.md's table of places"
    return known[0]


def downward(edges: Edges) -> Edges:
    return {(module, imported) for module, imported in edges if line(imported) > line(module)}


def circle(edges: Edges) -> list[str]:
    graph = TopologicalSorter({module: {b for a, b in edges if a == module} for module in MODULES})
    try:
        graph.prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_imports_point_up_in_the_table() -> None:
    assert downward(IMPORTS) == set()


def test_no_imports_go_in_a_circle() -> None:
    assert circle(IMPORTS) == []
