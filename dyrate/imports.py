"""Which source files a module imports, read off its syntax: nothing is run."""

import ast
import hashlib
import os
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

from dyrate.errors import DyrateError

PACKAGE = Path(__file__).parent
# They only say where other modules stand. A new line in them must not rerun every job, and what they name is
# loaded by name at run time: the rule lists the method's own module instead.
TABLES = frozenset({"dyrate", "dyrate.registry", "dyrate.methods"})
# They import every file beside their own.
FOLDERS = frozenset({"dyrate.families"})


def import_closure(modules: Iterable[str], package: Path = PACKAGE) -> list[Path]:
    """Source files of the modules and of all that they import inside the package, in functions too.

    Raises ValueError for a module that the package does not have.
    """
    waiting, seen = [*modules], set[str]()
    sources = _sources(package)
    found: set[Path] = set()
    while waiting:
        module = waiting.pop()
        if module in seen or module in TABLES:
            continue
        seen.add(module)
        if module not in sources:
            raise ValueError(f"the package at {package} has no module {module!r}")
        found.add(path := Path(sources[module]))
        waiting.extend(name for name in _imports(module, path) if name in sources)
        if module in FOLDERS:
            waiting.extend(f"{module}.{beside.stem}" for beside in path.parent.glob("[!_]*.py"))
        if "." in module:
            waiting.append(module.rpartition(".")[0])
    return sorted(found)


def local_closure(files: Iterable[Path], package: Path = PACKAGE) -> list[Path]:
    """The files, and the source files of what they import that is neither in `package` nor installed."""
    waiting, found = [path.resolve() for path in files], set[Path]()
    while waiting:
        path = waiting.pop()
        if path not in found:
            found.add(path)
            waiting.extend(_neighbours(path, package))
    return sorted(found)


def _neighbours(path: Path, package: Path) -> Iterator[Path]:
    home = path.parent  # of the outermost package that the file is in
    while (home / "__init__.py").exists():
        home = home.parent
    inside = path.relative_to(home)
    parts = inside.parts[:-1] if path.name == "__init__.py" else inside.with_suffix("").parts
    for name in _imports(".".join(parts), path):
        top, *rest = name.split(".")
        for root in {home, Path.cwd()}:
            installed = top != parts[0] and not {"site-packages", "dist-packages"}.isdisjoint(root.parts)
            if top != package.name and not installed:
                yield from _modules_on_the_way(root / top, rest)


def _modules_on_the_way(top: Path, rest: Iterable[str]) -> Iterator[Path]:
    """Source files of a.b.c: importing it runs a and a.b as well."""
    step = top
    for part in ("", *rest):
        step = step / part
        yield from (
            path.resolve() for path in (step / "__init__.py", step.with_suffix(".py")) if path.is_file()
        )


def package_modules(files: Iterable[Path], package: Path) -> set[str]:
    """Modules of the package that files outside it import; what `dyrate` re-exports counts as its home."""
    homes = {f"{package.name}.{name}": home for name, home in public_names(package).items()}
    names = {name for path in files for name in _imports(path.stem, path)}
    return {homes.get(name, name) for name in names} & _sources(package).keys()


@cache
def public_names(package: Path = PACKAGE) -> dict[str, str]:
    """{name: its module} of what `dyrate` re-exports: what it imports for type checkers, and methods."""
    top = package / "__init__.py"
    tree = syntax_tree(top)
    for_types = [node for block in tree.body if isinstance(block, ast.If) for node in block.body]
    listed = [node for node in for_types if isinstance(node, ast.ImportFrom) and node.module]
    found = {alias.name: str(node.module) for node in listed for alias in node.names}
    methods = (place.partition(":") for place in built_in(package).values())
    return found | {cls: module for module, _, cls in methods}


@cache
def built_in(package: Path = PACKAGE) -> dict[str, str]:
    """{name: "module:Class"} of the classes in `methods` that have a `name`."""
    found = {}
    for path in sorted((package / "methods").glob("*.py")):
        tree = syntax_tree(path)
        for cls in (node for node in tree.body if isinstance(node, ast.ClassDef)):
            for line in cls.body:
                match line:
                    case ast.AnnAssign(target=ast.Name("name"), value=ast.Constant(str(name))):
                        found[name] = f"{package.name}.methods.{path.stem}:{cls.name}"
    return found


def _sources(package: Path) -> dict[str, str]:
    """{module: its file} of the whole package: one walk costs less than to look for each name."""
    found: dict[str, str] = {}
    for folder, folders, files in os.walk(package):
        folders[:] = [name for name in folders if name != "__pycache__"]
        inside = folder.removeprefix(str(package)).replace(os.sep, ".")
        # A package shadows a module of its name, which has been met in the folder above.
        modules = [name.removesuffix(".py") for name in files if name.endswith(".py")]
        for name in modules:
            own = "" if name == "__init__" else f".{name}"
            found[f"{package.name}{inside}{own}"] = f"{folder}{os.sep}{name}.py"
    return found


def _imports(module: str, path: Path) -> Iterator[str]:
    """Return what the file may import: `from a import b` gives a and a.b, which may be a module or a name;
    so does `import a` with `a.b`.
    """
    inside = (module if path.name == "__init__.py" else module.rpartition(".")[0]).split(".")
    for level, name in source(path, path.stat().st_mtime_ns).imported:
        up = inside[: len(inside) - level + 1] if level else []
        yield ".".join([*up, *filter(None, [name])])


class Source(NamedTuple):
    """What a source file says, as far as it matters here; its syntax tree is large, and not kept."""

    digest: str
    """Of its syntax, docstrings left out."""
    imported: tuple[tuple[int, str], ...]
    """What it may import: dots in front of a name, and the name."""


@cache
def source(path: Path, modified: int) -> Source:
    """Read a file. Raises `DyrateError` for one that is not Python."""
    tree = syntax_tree(path)
    digest = hashlib.sha256(repr(_said(tree)).encode()).hexdigest()
    return Source(digest, tuple(_imported_names(tree)))


def _said(syntax: object) -> object:
    """What a tree says, as plain tuples that are the same by each version of Python.

    Versions differ in which fields there are for what is not said, and some end a format with an empty text.
    """
    if isinstance(syntax, ast.JoinedStr):
        return "JoinedStr", *(_said(part) for part in syntax.values if not _is_empty_text(part))
    if isinstance(syntax, ast.AST):
        fields = ((name, getattr(syntax, name, None)) for name in syntax._fields)
        said = ((name, _said(field)) for name, field in fields if field is not None and field != [])
        return type(syntax).__name__, *said
    return tuple(map(_said, syntax)) if isinstance(syntax, list) else repr(syntax)


def _is_empty_text(part: ast.expr) -> bool:
    return isinstance(part, ast.Constant) and part.value == ""


def _imported_names(tree: ast.Module) -> Iterator[tuple[int, str]]:
    modules: dict[str, str] = {}
    nodes = _nodes(tree)
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from ((0, alias.name) for alias in node.names)
            modules |= {alias.asname or alias.name: alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            yield node.level, base
            yield from ((node.level, f"{base}.{alias.name}".lstrip(".")) for alias in node.names)
    for node in nodes:
        match node:
            case ast.Attribute(ast.Name(name), attribute) if name in modules:
                yield 0, f"{modules[name]}.{attribute}"


def _nodes(tree: ast.Module) -> list[ast.AST]:
    """Every node but those under `if TYPE_CHECKING:`, which never run."""
    found: list[ast.AST] = [tree]
    for node in found:  # which grows meanwhile
        found += [child for child in ast.iter_child_nodes(node) if not _is_for_types(child)]
    return found


def _is_for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")


def syntax_tree(path: Path) -> ast.Module:
    """Parse a file, without its docstrings (and, as the parser does, without comments).

    Raises `DyrateError` for a file that is not Python.
    """
    try:
        tree = ast.parse(path.read_bytes(), str(path))
    except SyntaxError as error:
        line = f":{error.lineno}" if error.lineno else ""
        raise DyrateError(f"{path}{line}: SyntaxError: {error.msg}") from None
    except (ValueError, RecursionError, MemoryError) as error:  # null bytes; what is nested too deeply
        raise DyrateError(f"{path}: not Python: {error or type(error).__name__}") from None
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            match node.body:
                case [ast.Expr(ast.Constant(str())), *rest]:
                    node.body = rest
    return tree
