"""What decides a stage's result, as a key: canonical JSON of config, input and model digests, seed, code, versions.

The code fingerprint follows imports statically, so nobody lists modules. Its precision: it starts at the module of the
stage's work, follows every import statement, also those inside functions, and every string that is the dotted name of a
module (one that runs as a child process) into `data`, `retrieval`, `jora_engine`, `raft_errors` and `tasks`, and takes
each reached file as a whole, with comments, docstrings and formatting normalised away, with the files and folders
(templates) beside it that it names in a string or a `folder / "name"` chain. What stands under `if TYPE_CHECKING:`
never runs and does not count. What only keeps, locks, fetches, starts or shows is outside because no work imports it: a
repaired lock trains nobody's model anew. It does not see `importlib` calls with computed names. The libraries that this
code imports count by their versions: see `tasks.build.packages`.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.metadata
import importlib.util
import json
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from data.memo import memoise
from data.nouns import ItemCache
from raft_errors import BadInput
from tasks.build.packages import distributions_of, normal
from tasks.store.hashing import digest_of, read_sha256
from tasks.store.itemcache import SqliteCache
from tasks.store.places import cache_folder

LIBRARIES = ("data", "retrieval", "jora_engine", "raft_errors", "tasks")
_SOURCE_SUFFIXES = {".py", ".pyc", ".pyi"}
_MODULE_NAME = re.compile(r"[a-z_]\w*(\.[a-z_]\w*)+(:\w+)?")


def canonical(value: Any, where: str = "value") -> Any:
    """JSON scalars, lists and string-keyed dicts only: what has no one obvious form is an error, not a silent miss.

    Raises:
        TypeError: a set, path, class or other object.
    """
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    if isinstance(value, Mapping):
        return {_text_key(k, where): canonical(v, f"{where}.{k}") for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [canonical(v, f"{where}[{i}]") for i, v in enumerate(value)]
    raise TypeError(f"{where}: {type(value).__name__} has no canonical form; use a scalar, a list or a mapping")


def _text_key(key: Any, where: str) -> str:
    if not isinstance(key, str):
        raise TypeError(f"{where}: the key {key!r} is not a text")
    return key


def key_of(ingredients: Mapping[str, Any]) -> str:
    """32 hex digits of the sha256 over the canonical JSON."""
    text = json.dumps(canonical(ingredients), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def result_fields(section: BaseModel) -> dict[str, Any]:
    """The fields of a config section that change the stage's result.

    A field marked `json_schema_extra={"result": False}` (workers, log level) is left out; one marked
    `{"result": "content"}` names a file (or several) and counts by the sha256 of its bytes, not by its path; one marked
    `{"result": "auto"}` names a model, whose digest counts among the models, and is noted only where it is `auto`.
    """
    chosen: dict[str, Any] = {}
    for name, info in type(section).model_fields.items():
        mark = _mark(info)
        if mark is False:
            continue
        value = getattr(section, name)
        if mark == "auto":
            chosen[name] = value if value == "auto" else None
        elif mark == "content" and value is not None:
            by_name = info.json_schema_extra.get("path") == "or name"  # type: ignore[union-attr]
            many = isinstance(value, (list, tuple))
            parts = [
                one if by_name and not Path(one).exists() else {"sha256": _content_sha256(one, name)}
                for one in (value if many else [value])
            ]
            chosen[name] = parts if many else parts[0]
        else:
            chosen[name] = canonical(_plain(value), name)
    return chosen


def _mark(info: FieldInfo) -> Any:
    extra = info.json_schema_extra
    return extra.get("result", True) if isinstance(extra, dict) else True


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return result_fields(value)
    return [_plain(v) for v in value] if isinstance(value, (list, tuple)) else value


def _content_sha256(value: Any, name: str) -> str:
    path = Path(value)
    try:
        if path.is_dir():
            files = sorted(p for p in path.rglob("*") if p.is_file())
            return digest_of({p.relative_to(path).as_posix(): read_sha256(p) for p in files})
        return read_sha256(path)
    except OSError as error:
        raise BadInput(
            f"{name}: the file {path} cannot be read ({error.strerror})",
            expected="an existing file",
            do="correct the path",
        ) from error


def package_versions(packages: Iterable[str]) -> dict[str, str]:
    """Installed versions of the distributions whose code decides a result; "absent" where one is not installed."""
    versions = {}
    for name in sorted({normal(package) for package in packages}):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "absent"
    return versions


# ---- code


def code_fingerprint(*modules: str) -> dict[str, str]:
    """`{module or file: sha256}` over everything first-party that the modules can reach by import."""
    return _closure(modules)[0]


def packages_behind(*modules: str) -> list[str]:
    """The distributions that decide what the code behind the modules computes, as far as it imports them."""
    return distributions_of(_closure(modules)[1])


def _closure(modules: Iterable[str]) -> tuple[dict[str, str], set[str]]:
    """The fingerprints of all that the modules can reach, and the libraries that it imports."""
    prints: dict[str, str] = {}
    libraries: set[str] = set()
    queue = list(modules)
    while queue:
        name = queue.pop()
        if name in prints:
            continue
        print_ = _module_print(name)
        if print_ is None:
            continue
        prints[name], reached, foreign, resources = print_
        prints.update(resources)
        libraries.update(foreign)
        queue.extend(reached)
    return dict(sorted(prints.items())), libraries


@functools.cache
def _module_print(name: str) -> tuple[str, tuple[str, ...], tuple[str, ...], dict[str, str]] | None:
    """(fingerprint, first-party modules and libraries imported, files beside it), or None: no such module."""
    path = _source(name)
    if path is None:
        return None
    is_package = path.name == "__init__.py"
    package = name if is_package else name.rpartition(".")[0]

    def read(source: str) -> tuple[str, list[str], list[str], list[str]]:
        tree = _running(ast.parse(source, filename=str(path)))
        names = _imports(tree, package)
        reached, foreign, named = sorted(_first_party(names)), sorted(_foreign(names)), sorted(_named_paths(tree))
        return normalised_sha256(tree), reached, foreign, named

    source = path.read_text(encoding="utf-8")
    cache, reader = _kept_prints()
    fingerprint, reached, foreign, named = memoise(cache, f"{reader} {package}", [source], read)[0]
    return fingerprint, tuple(reached), tuple(foreign), _resources(named, path.parent, package)


@functools.cache
def _kept_prints() -> tuple[ItemCache, str]:
    """Where the readings of sources are kept, since parsing all of them takes a second, and who read them."""
    return SqliteCache(cache_folder() / "code.sqlite"), f"{sys.version_info[:2]} {read_sha256(Path(__file__))}"


class _Running(ast.NodeTransformer):
    """Takes out what stands under `if TYPE_CHECKING:`."""

    def visit_If(self, node: ast.If) -> Any:
        if ast.unparse(node.test) not in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            return self.generic_visit(node)
        return [self.visit(child) for child in node.orelse]


def _running(tree: ast.Module) -> ast.Module:
    """The part of a module that runs."""
    return ast.fix_missing_locations(_Running().visit(tree))


def normalised_sha256(tree: ast.AST) -> str:
    """sha256 of a syntax tree without docstrings; comments, formatting and positions are not in the tree at all."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and node.body:
            first = node.body[0]
            if (
                isinstance(first, ast.Expr)
                and isinstance(first.value, ast.Constant)
                and isinstance(first.value.value, str)
            ):
                node.body = node.body[1:]
    return hashlib.sha256(ast.dump(tree, include_attributes=False).encode()).hexdigest()


def _source(name: str) -> Path | None:
    top, *rest = name.split(".")
    spec = importlib.util.find_spec(top)
    if spec is None or (spec.origin is None and not spec.submodule_search_locations):
        return None
    if not rest:
        origin = Path(spec.origin) if spec.origin else None
        return origin if origin is not None and origin.suffix == ".py" else None
    for base in spec.submodule_search_locations or ():
        stem = Path(base, *rest)
        for path in (stem / "__init__.py", stem.with_name(stem.name + ".py")):
            if path.is_file():
                return path
    return None


def _imports(tree: ast.AST, package: str) -> set[str]:
    """Dotted names of what the tree imports, or names in a string (also as `module:function`)."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(node, package)
            names.add(base)
            names.update(
                f"{base}.{alias.name}" for alias in node.names
            )  # may be a submodule; a plain name finds no file
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and _MODULE_NAME.fullmatch(node.value):
            names.update({node.value.partition(":")[0]} if node.value.split(".")[0] in LIBRARIES else ())
    return names


def _first_party(names: Iterable[str]) -> set[str]:
    """Our own modules among them, with the packages that importing them runs."""
    modules: set[str] = set()
    for name in names:
        parts = name.split(".")
        if parts[0] in LIBRARIES:
            modules.update(".".join(parts[: i + 1]) for i in range(len(parts)))
    return modules


def _foreign(names: Iterable[str]) -> set[str]:
    """The libraries among them, by the name that is imported."""
    tops = {name.split(".")[0] for name in names}
    return {top for top in tops if top and top not in LIBRARIES and top not in sys.stdlib_module_names}


def _absolute(node: ast.ImportFrom, package: str) -> str:
    if not node.level:
        return node.module or ""
    parts = package.split(".")
    base = parts[: len(parts) - node.level + 1]
    return ".".join([*base, *([node.module] if node.module else [])])


def _resources(named: Iterable[str], folder: Path, package: str) -> dict[str, str]:
    """sha256 of the files beside a module, or beside a package above it, that the module names in its text."""
    if not package:  # beside a top-level module stand all our rooms, and whatever else the folder of the project holds
        return {}
    digests: dict[str, str] = {}
    top = [folder, *folder.parents][package.count(".")]
    for name in named:
        for base in [folder, *folder.parents][: package.count(".") + 1]:
            place = base / name
            for path in sorted(place.rglob("*")) if place.is_dir() else [place]:
                if path.is_file() and path.suffix not in _SOURCE_SUFFIXES:
                    digests[f"{top.name}/{path.relative_to(top).as_posix()}"] = read_sha256(path)
    return digests


def _named_paths(tree: ast.AST) -> set[str]:
    """Relative paths in string constants; the constants of one `a / "b" / "c"` chain are joined."""
    if isinstance(tree, ast.BinOp) and isinstance(tree.op, ast.Div):
        parts: list[str] = []
        node: ast.AST = tree
        while isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
            if not (isinstance(node.right, ast.Constant) and isinstance(node.right.value, str)):
                parts.clear()  # a computed part: what stands before it is the folder that counts
            else:
                parts.insert(0, node.right.value)
            node = node.left
        return _named_paths(node) | ({"/".join(parts)} if parts and _plain_path("/".join(parts)) else set())
    if isinstance(tree, ast.Constant):
        return {tree.value} if isinstance(tree.value, str) and _plain_path(tree.value) else set()
    return {name for child in ast.iter_child_nodes(tree) for name in _named_paths(child)}


def _plain_path(text: str) -> bool:
    """A relative path of ordinary names; "" and ".." would take in the whole package."""
    return all(re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,80}", part) for part in text.split("/"))
