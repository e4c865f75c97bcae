# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""Whether an expression of a config is known as harmless: read as Python's grammar, never evaluated."""

from __future__ import annotations

import ast
import re
import warnings

from monai.bundle import ReferenceResolver

from monai_mia.bundle.inspection import harmless

__all__ = ["is_harmless", "is_import", "is_parsed"]

#: By this name MONAI puts what a reference stands for into an expression.
_REFERENCES = "__local_refs"

#: Nodes that do nothing beside what their children do.
_PLAIN = (
    ast.Constant, ast.Tuple, ast.List, ast.Set, ast.Dict, ast.Starred, ast.Slice, ast.Subscript, ast.Compare,
    ast.BoolOp, ast.BinOp, ast.UnaryOp, ast.IfExp, ast.JoinedStr, ast.FormattedValue, ast.keyword,
    ast.expr_context, ast.cmpop, ast.boolop, ast.unaryop,
    ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod, ast.BitAnd, ast.BitOr, ast.BitXor,
)  # fmt: skip


class _Every:
    """Ids of which none is missing."""

    def __contains__(self, _: object) -> bool:
        return True


def _parsed(text: str) -> ast.Module | None:
    try:
        with warnings.catch_warnings():  # they may hold a part of the text
            warnings.simplefilter("ignore")
            return ast.parse(text)
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return None


def is_import(expression: str) -> bool:
    """Whether an expression, with its ``$``, is an import statement, which MONAI carries out wherever it is."""
    tree = _parsed(expression[1:])
    return tree is not None and isinstance(next(iter(tree.body), None), ast.Import | ast.ImportFrom)


def is_parsed(expression: str) -> bool:
    """Whether Python can read an expression, as MONAI hands it over: references replaced."""
    return is_import(expression) or _parsed(_replaced(expression)) is not None


def is_harmless(expression: str) -> bool:
    """Whether all parts of an expression are known as harmless; what cannot be read is not."""
    tree = _parsed(expression[1:] if is_import(expression) else _replaced(expression))
    if tree is None or len(tree.body) != 1:
        return False
    statement = tree.body[0]
    try:
        if isinstance(statement, ast.Expr):
            return _known(statement.value, frozenset())
        return ast.unparse(statement) in harmless.IMPORTS
    except RecursionError:
        return False


def _replaced(expression: str) -> str:
    return str(ReferenceResolver.update_refs_pattern(expression, _Every()))[1:]


def _known(node: ast.AST, bound: frozenset[str]) -> bool:
    """Whether a part of an expression is harmless; ``bound`` are names of the expression itself that count here."""
    if isinstance(node, ast.Name):
        known = node.id in bound or node.id == _REFERENCES or node.id in harmless.BUILTINS
        return known or bool(harmless.CONSTANTS.fullmatch(node.id))
    if isinstance(node, ast.Attribute):
        if name := _dotted(node, bound):
            return bool(harmless.CONSTANTS.fullmatch(name))
        return node.attr in harmless.ATTRIBUTES and _known(node.value, bound)
    if isinstance(node, ast.Call):
        return _known_call(node, bound)
    if isinstance(node, ast.Lambda):
        defaults = [one for one in (*node.args.defaults, *node.args.kw_defaults) if one is not None]
        names = {one.arg for one in ast.walk(node.args) if isinstance(one, ast.arg)}
        return all(_known(one, bound) for one in defaults) and _known(node.body, bound | names)
    if isinstance(node, ast.ListComp | ast.SetComp | ast.GeneratorExp | ast.DictComp):
        for loop in node.generators:
            names = {one.id for one in ast.walk(loop.target) if isinstance(one, ast.Name)}
            if loop.is_async or not _known(loop.iter, bound):
                return False
            bound |= names
            if not all(_known(one, bound) for one in (loop.target, *loop.ifs)):
                return False
        made = (node.key, node.value) if isinstance(node, ast.DictComp) else (node.elt,)
        return all(_known(one, bound) for one in made)
    return isinstance(node, _PLAIN) and all(_known(one, bound) for one in ast.iter_child_nodes(node))


def _known_call(node: ast.Call, bound: frozenset[str]) -> bool:
    if not all(_known(one, bound) for one in (*node.args, *node.keywords)):
        return False
    name = _dotted(node.func, bound)
    if name == "torch.load":  # unpickles, unless it is told not to
        given = {one.arg: getattr(one.value, "value", None) for one in node.keywords}
        weights_only = given.pop("weights_only", None) is True
        return weights_only and len(node.args) == 1 and given.keys() <= {"map_location"}
    if name:
        return name in harmless.BUILTINS or re.sub(r"^np\.", "numpy.", name) in harmless.FUNCTIONS
    if isinstance(node.func, ast.Attribute):
        return node.func.attr in harmless.METHODS and _known(node.func.value, bound)
    # What a function returned: monai.handlers.from_engine(["loss"])(output)
    return (
        isinstance(node.func, ast.Call)
        and _known(node.func, bound)
        and (_dotted(node.func.func, bound) == "monai.handlers.from_engine")
    )


def _dotted(node: ast.AST, bound: frozenset[str]) -> str:
    """Name of a module, or of what is in it; empty for what is of the expression or the config."""
    names: list[str] = []
    while isinstance(node, ast.Attribute):
        names.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name) or node.id in bound or node.id == _REFERENCES:
        return ""
    return ".".join([node.id, *reversed(names)])
