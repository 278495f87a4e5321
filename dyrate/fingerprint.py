"""Which of the package's modules a rule uses, and a hash of their content.

A rule carries the hash as a parameter, so that Snakemake reruns it when that code changes, and only then.
"""

import ast
import hashlib
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parent
# They only say where other modules stand. A new line in them must not rerun every job, and what they name is
# loaded by name at run time: the rule lists the method's own module instead.
TABLES = frozenset({"dyrate", "dyrate.registry", "dyrate.methods"})


def fingerprint(modules: Iterable[str], files: Iterable[str | Path] = (), package: Path = PACKAGE) -> str:
    """Hash the given modules, all package modules that they import, their packages' data files, and `files`.

    Comments and docstrings do not count, and neither does Markdown. `package` is the folder of `dyrate`.
    """
    closure = import_closure(modules, package)
    digest = hashlib.sha256()
    for path in [*closure, *_data_files(closure, package)]:
        digest.update(f"{path.relative_to(package)}\0{_hash(path, path.stat().st_mtime_ns)}\n".encode())
    for extra in map(Path, files):
        digest.update(f"{extra}\0{_hash(extra, extra.stat().st_mtime_ns)}\n".encode())
    return digest.hexdigest()[:16]


def import_closure(modules: Iterable[str], package: Path = PACKAGE) -> list[Path]:
    """Source files of the modules and of all that they import inside the package, in functions too.

    Raises ValueError for a module that the package does not have.
    """
    waiting, seen = [*modules], set[str]()
    found: set[Path] = set()
    while waiting:
        module = waiting.pop()
        if module in seen or module in TABLES:
            continue
        seen.add(module)
        path = _source(module, package)
        if path is None:
            raise ValueError(f"the package at {package} has no module {module!r}")
        found.add(path)
        waiting.extend(name for name in _imports(module, path) if _source(name, package))
        if "." in module:
            waiting.append(module.rpartition(".")[0])
    return sorted(found)


def _source(module: str, package: Path) -> Path | None:
    top, *parts = module.split(".")
    if top != package.name:
        return None
    base = package.joinpath(*parts)
    candidates = (base / "__init__.py", base.with_suffix(".py")) if parts else (base / "__init__.py",)
    return next((path for path in candidates if path.is_file()), None)


def _imports(module: str, path: Path) -> Iterator[str]:
    """Yield what the file may import: `from a import b` gives a and a.b, which may be a module or a name."""
    inside = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in _walk(_tree(path, path.stat().st_mtime_ns)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            up = inside.split(".")[: len(inside.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*up, *([node.module] if node.module else [])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def _walk(node: ast.AST) -> Iterator[ast.AST]:
    """Every node but those under `if TYPE_CHECKING:`, which never run."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING"):
            continue
        yield child
        yield from _walk(child)


def _data_files(closure: Iterable[Path], package: Path) -> list[Path]:
    """Data files (task files, templates, schemas) of the packages in the closure, but the top one."""
    folders = {path.parent for path in closure} - {package}
    return sorted({path for folder in folders for path in _data_below(folder)})


def _data_below(folder: Path) -> Iterator[Path]:
    for path in folder.iterdir():
        if path.is_dir():
            if path.name != "__pycache__" and not (path / "__init__.py").exists():
                yield from _data_below(path)
        elif path.suffix not in {".py", ".pyc", ".md"}:
            yield path


@cache
def _tree(path: Path, modified: int) -> ast.Module:
    """Parse a file, without its docstrings (and, as the parser does, without comments)."""
    tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            match node.body:
                case [ast.Expr(ast.Constant(str())), *rest]:
                    node.body = rest
    return tree


@cache
def _hash(path: Path, modified: int) -> str:
    code = path.suffix == ".py"
    content = ast.dump(_tree(path, modified)).encode() if code else path.read_bytes()
    return hashlib.sha256(content).hexdigest()
