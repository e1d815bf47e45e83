"""Every flow that is made is run.

A generator that nobody runs does nothing, and raises no error.
"""

from __future__ import annotations

import ast
import io
import re
import textwrap
import tokenize
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FLOORS = ("eventlog", "projections", "saver")
FOLDERS = (*FLOORS, "tests", "scripts")
RESULTS = ("Flow[",)
"""Annotations of results that have to be run."""
FORMATTER = re.compile(r"#\s*fmt\s*:")
DIRECTIVE = re.compile(r"# fmt: (skip|on|off)")

Function = ast.FunctionDef | ast.AsyncFunctionDef
FUNCTION = (ast.FunctionDef, ast.AsyncFunctionDef)
SCOPE = (*FUNCTION, ast.Lambda)


class Module:
    """The definitions of one module, and the parents of its nodes."""

    def __init__(self, name: str, source: str) -> None:
        self.name = name
        self.tree = ast.parse(source)
        self.parents = {child: node for node in ast.walk(self.tree) for child in ast.iter_child_nodes(node)}
        self.imports: dict[str, tuple[str, str]] = {}
        """Local name -> module, and name in the module, "" for the module itself."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                self.imports.update({one.asname or one.name: (one.name, "") for one in node.names})
            elif isinstance(node, ast.ImportFrom) and node.module:
                self.imports.update({one.asname or one.name: (node.module, one.name) for one in node.names})
        self.classes = {node.name: node for node in ast.walk(self.tree) if isinstance(node, ast.ClassDef)}

        self._functions: dict[ast.AST, dict[str, Function]] = {}

    def functions(self, scope: Function | ast.Module) -> dict[str, Function]:
        """Return the functions that are defined directly in a scope, by name."""
        if scope not in self._functions:
            inner = (node for one in scope.body for node in _same_scope(one))
            self._functions[scope] = {node.name: node for node in inner if isinstance(node, FUNCTION)}
        return self._functions[scope]

    def above(self, node: ast.AST) -> Iterator[ast.AST]:
        """Yield the nodes around a node, innermost first."""
        while node in self.parents:
            node = self.parents[node]
            yield node


class Flows:
    """The calls that return a flow, and those whose flow is lost.

    A plain name is looked up in the enclosing functions, in the module, and through its `from` import. `x.method` is looked up
    in the class of `x` and its bases. The class comes from `self`, or from annotations and assignments. If they give no class,
    the method's name decides: the call returns a flow if all classes that define the method return one.
    """

    def __init__(self, sources: Mapping[str, str]) -> None:
        self.modules = {name: Module(name, source) for name, source in sources.items()}
        self.methods: dict[str, dict[str, str]] = {}
        """Class -> method -> annotation of the result."""
        self.bases: dict[str, list[str]] = {}
        for module in self.modules.values():
            for name, node in module.classes.items():
                found = {one.name: result_of(one) for one in node.body if isinstance(one, FUNCTION)}
                self.methods.setdefault(name, {}).update(found)
                self.bases.setdefault(name, []).extend(ast.unparse(base).rpartition(".")[2] for base in node.bases)

    def calls(self) -> list[tuple[Module, ast.Call]]:
        """Return all calls that return a flow."""
        return [
            (module, node)
            for module in self.modules.values()
            for node in ast.walk(module.tree)
            if isinstance(node, ast.Call) and self._result(module, node).startswith(RESULTS)
        ]

    def lost(self) -> list[str]:
        """Return module, line and text of each call whose flow nobody runs."""
        return [
            f"{module.name}:{node.lineno}: {ast.unparse(node)}"
            for module, node in self.calls()
            if not _is_taken(module, node)
        ]

    def _result(self, module: Module, call: ast.Call) -> str:
        """Return the annotation of a call's result, "" if it is not known."""
        if isinstance(call.func, ast.Name):
            return self._named(module, call, call.func.id)
        if not isinstance(call.func, ast.Attribute):
            return ""
        receiver, method = call.func.value, call.func.attr
        if isinstance(receiver, ast.Name) and receiver.id in module.imports:
            home, name = module.imports[receiver.id]
            if name not in self.methods:
                return self._defined(f"{home}.{name}".rstrip("."), method)
        owner = self._type_of(module, receiver)
        if owner:
            return self._of_method(owner, method)
        said = [methods[method] for methods in self.methods.values() if method in methods]
        return said[0] if said and all(one.startswith(RESULTS) for one in said) else ""

    def _named(self, module: Module, call: ast.Call, name: str) -> str:
        for node in (*(one for one in module.above(call) if isinstance(one, FUNCTION)), module.tree):
            if (function := module.functions(node).get(name)) is not None:
                return result_of(function)
        if name in module.imports:
            return self._defined(*module.imports[name])
        return name if name in self.methods else ""

    def _defined(self, home: str, name: str) -> str:
        module = self.modules.get(home) or self.modules.get(f"{home}.__init__")
        if module is None:
            return ""
        for node in module.tree.body:
            if isinstance(node, FUNCTION) and node.name == name:
                return result_of(node)
        if name in module.classes:
            return name
        further = module.imports.get(name)
        return "" if further is None or further[0] == home else self._defined(*further)

    def _of_method(self, owner: str, method: str) -> str:
        """Return the annotation of a method's result, "" for a class of another project."""
        owner = _plain(owner)
        if owner not in self.methods:
            return ""
        if method in self.methods[owner]:
            return self.methods[owner][method]
        return next(filter(None, (self._of_method(base, method) for base in self.bases[owner])), "")

    def _type_of(self, module: Module, receiver: ast.expr) -> str:
        """Return the annotation of an expression, "" if it is not known."""
        if isinstance(receiver, ast.Call):
            if ast.unparse(receiver) == "super()":
                return self._enclosing(module, receiver)
            return self._result(module, receiver)
        if isinstance(receiver, ast.Name):
            if receiver.id == "self":
                return self._enclosing(module, receiver)
            if receiver.id in module.imports:
                return receiver.id
            scopes = [one for one in module.above(receiver) if isinstance(one, (*FUNCTION, ast.Module))]
            return next(filter(None, (self._of_local(module, one, receiver.id) for one in scopes)), "")
        if isinstance(receiver, ast.Attribute):
            owner = _plain(self._type_of(module, receiver.value))
            return self._of_attribute(owner, receiver.attr) if owner in self.methods else owner
        if isinstance(receiver, ast.Subscript):
            return self._type_of(module, receiver.value).rstrip("]").rpartition(", ")[2]
        if isinstance(receiver, (ast.Set, ast.SetComp, ast.List, ast.ListComp, ast.Dict, ast.Constant, ast.JoinedStr)):
            return type(receiver).__name__
        return ""

    def _enclosing(self, module: Module, node: ast.AST) -> str:
        return next((one.name for one in module.above(node) if isinstance(one, ast.ClassDef)), "")

    def _of_local(self, module: Module, scope: Function | ast.Module, name: str) -> str:
        """Return the annotation of a parameter, or of an assigned value."""
        if not isinstance(scope, ast.Module):
            arguments = scope.args
            for one in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs):
                if one.arg == name:
                    return "" if one.annotation is None else ast.unparse(one.annotation)
        for node in (node for one in scope.body for node in _same_scope(one)):
            if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == name:
                return ast.unparse(node.annotation)
            if isinstance(node, ast.Assign) and name in map(ast.unparse, node.targets):
                return "" if ast.unparse(node.value).startswith(name) else self._type_of(module, node.value)
        return ""

    def _of_attribute(self, owner: str, name: str) -> str:
        """Return the annotation in the class, or of the value that `__init__` assigns."""
        for module in self.modules.values():
            for one in ast.walk(module.classes[owner]) if owner in module.classes else ():
                if isinstance(one, ast.AnnAssign) and ast.unparse(one.target) in (name, f"self.{name}"):
                    return ast.unparse(one.annotation)
                if isinstance(one, FUNCTION) and one.name == name:
                    return result_of(one)
                if isinstance(one, ast.Assign) and f"self.{name}" in map(ast.unparse, one.targets):
                    return self._type_of(module, one.value)
        return next(filter(None, (self._of_attribute(base, name) for base in self.bases.get(owner, ()))), "")


def result_of(function: Function) -> str:
    """Return the annotation of a function's result."""
    return "" if function.returns is None else ast.unparse(function.returns).strip("\"'")


def _plain(annotation: str) -> str:
    """Return a class's name in an annotation, without module, arguments and `| None`."""
    names = [part.strip("\"' ") for part in annotation.split("|")]
    return next((name.partition("[")[0].rpartition(".")[2] for name in names if name != "None"), "")


def _same_scope(node: ast.AST) -> Iterator[ast.AST]:
    """Yield a statement and its parts, without the bodies of functions and classes."""
    yield node
    if not isinstance(node, (*SCOPE, ast.ClassDef)):
        for child in ast.iter_child_nodes(node):
            yield from _same_scope(child)


def _is_taken(module: Module, node: ast.AST) -> bool:
    """Return whether a flow is run, returned or passed on, directly or by its name."""
    parent = module.parents[node]
    while isinstance(parent, ast.IfExp) and node is not parent.test:
        node, parent = parent, module.parents[parent]
    if isinstance(parent, (ast.YieldFrom, ast.Return, ast.keyword)):
        return True
    if isinstance(parent, ast.Lambda):
        return node is parent.body
    if isinstance(parent, ast.Call):
        return node in parent.args
    targets = parent.targets if isinstance(parent, ast.Assign) else [getattr(parent, "target", None)]
    if not isinstance(parent, (ast.Assign, ast.AnnAssign, ast.NamedExpr)):
        return False
    function = next((up for up in module.above(parent) if isinstance(up, FUNCTION)), module.tree)
    names = {target.id for target in targets if isinstance(target, ast.Name)}
    return any(
        isinstance(one, ast.Name) and isinstance(one.ctx, ast.Load) and one.id in names and _is_taken(module, one)
        for one in ast.walk(function)
    )


def swallowed(source: str) -> list[str]:
    """Return the comments that contain more than a formatter's directive."""
    comments = (one for one in tokenize.generate_tokens(io.StringIO(source).readline) if one.type == tokenize.COMMENT)
    return [one.string for one in comments if FORMATTER.search(one.string) and not DIRECTIVE.fullmatch(one.string)]


def sources(*folders: str) -> dict[str, str]:
    """Return the modules in some folders, by name."""
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts): path.read_text()
        for folder in folders
        for path in sorted((ROOT / folder).rglob("*.py"))
    }


def test_every_flow_is_run_or_passed_on() -> None:
    """Each call that returns a flow is run, returned, or passed on."""
    flows = Flows(sources(*FLOORS))
    assert flows.lost() == []
    assert len(flows.calls()) > 400


def test_directives_swallow_nothing() -> None:
    """A formatter's comment contains nothing but the directive."""
    found = {name: swallowed(source) for name, source in sources(*FOLDERS).items()}
    assert {name: comments for name, comments in found.items() if comments} == {}


HEADER = """
from eventlog.flow import Flow

class Base:
    def finish(self) -> Flow[None]:
        yield

class Lanes(Base):
    def count(self) -> int:
        return 1

    def next(self, flag: bool) -> Flow[None]:
        yield

class Counter:
    def next(self) -> int:
        return 1

class Member:
    def __init__(self, lanes: Lanes) -> None:
        self.lanes = lanes
        self.seen: set[int] = set()

def flow(x=None) -> Flow[None]:
    yield
"""


@pytest.mark.parametrize(
    "body",
    [
        "self.finish()",
        "super().finish()",
        "self.lanes.finish()",
        "lanes = self.lanes; lanes.next(True)",
        "Lanes().finish()",
        "unknown.finish()",
        "flow()",
        "found = self.finish()",
        "yield flow()",
        "flow() if self else None",
        "[flow()]",
        "flow().send(None)",
    ],
)
def test_a_flow_that_nobody_runs_is_found(body: str) -> None:
    """A call of a flow whose result is not used is reported."""
    source = HEADER + textwrap.dedent(
        f"""
        class Tried(Lanes, Member):
            def tried(self) -> Flow[None]:
                {body}
        """
    )
    assert len(Flows({"made": source}).lost()) == 1


@pytest.mark.parametrize(
    "body",
    [
        "yield from self.finish()",
        "return (yield from self.lanes.finish())",
        "return self.finish()",
        "run(self.finish(), 'subject')",
        "run(make=lambda: self.finish())",
        "made = flow(); yield from made",
        "made = flow() if self else None; run(made)",
        "self.seen.add(self.count())",
        "unknown.next()",
        "Counter().next()",
        "counter = Counter(); counter.next()",
        "self.seen.finish()",
    ],
)
def test_a_flow_that_is_run_or_passed_on_is_not_reported(body: str) -> None:
    """A flow that is run or passed on is not reported, nor is another class's method."""
    source = HEADER + textwrap.dedent(
        f"""
        class Tried(Lanes, Member):
            def tried(self) -> Flow[None]:
                {body}
        """
    )
    assert Flows({"made": source}).lost() == []


def test_a_swallowed_yield_from_is_found() -> None:
    """A `yield from` inside a comment is reported, and so is the call without it."""
    source = textwrap.dedent(
        """
        class Lanes:
            def finish(self) -> Flow[None]:
                yield

            def fail(self, error) -> Flow[None]:
                if isinstance(error, LookupError):
                    log.warning(
                        "gone",
                    )  # fmt: skip yield from self.finish()
                    return
        """
    )
    assert swallowed(source) == ["# fmt: skip yield from self.finish()"]
    mended = source.replace("  # fmt: skip yield from self.finish()", "\n            self.finish()")
    assert Flows({"lanes": mended}).lost() == ["lanes:11: self.finish()"]
    assert swallowed("x = 1  # fmt: skip\n") == swallowed("# fmt: off\nx = 1\n# fmt: on\n") == []
