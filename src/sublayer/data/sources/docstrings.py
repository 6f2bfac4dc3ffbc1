"""Python source taken apart into code without docstrings, and the docstrings as prose."""

import ast
import inspect
from collections.abc import Iterator

Scope = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def split_docstrings(source: str) -> tuple[str, str]:
    """The code without its docstrings, and the docstrings in order with a blank line between.

    Comments stay.  A body that held only a docstring becomes `pass`, so that the code still parses.

    Args:
        source: the text of a module, with "\\n" line ends.

    Raises:
        SyntaxError: when `source` is not Python of this version.
        ValueError: when it holds a null byte.
    """
    found: list[tuple[ast.Expr, str, bool]] = []
    for scope in _scopes(ast.parse(source)):
        strings = _leading_strings(scope)
        for expression, text in strings:
            needs_pass = len(strings) == len(scope.body) and expression is strings[-1][0]
            found.append((expression, text, needs_pass and not isinstance(scope, ast.Module)))
    found.sort(key=lambda item: item[0].lineno)

    # Positions count UTF-8 bytes in lines ended by "\n" alone; `splitlines` would end them at form feeds as well.
    lines = [line + b"\n" for line in source.encode().split(b"\n")]
    lines[-1] = lines[-1][:-1]
    for expression, _, needs_pass in reversed(found):
        _cut(lines, expression, needs_pass)
    prose = [inspect.cleandoc(text).strip() for _, text, _ in found]
    return b"".join(lines).decode(), "\n\n".join(text for text in prose if text)


def _scopes(node: ast.AST) -> Iterator[Scope]:
    """Every module, class and function below `node`; only statements are walked, which is most of the speed."""
    if isinstance(node, Scope):
        yield node
    for name in ("body", "orelse", "finalbody", "handlers", "cases"):
        children = getattr(node, name, None)
        if isinstance(children, list):  # a lambda's or conditional expression's body is a single node
            for child in children:
                yield from _scopes(child)


def _leading_strings(scope: Scope) -> list[tuple[ast.Expr, str]]:
    """The docstring, and any strings right after it: they would be docstrings once it is gone."""
    strings = []
    for statement in scope.body:
        value = statement.value if isinstance(statement, ast.Expr) else None
        if not (isinstance(value, ast.Constant) and isinstance(value.value, str)):
            break
        assert isinstance(statement, ast.Expr)
        strings.append((statement, value.value))
    return strings


def _cut(lines: list[bytes], expression: ast.Expr, needs_pass: bool) -> None:
    assert expression.end_lineno is not None and expression.end_col_offset is not None
    first, last = expression.lineno - 1, expression.end_lineno - 1
    before = lines[first][: expression.col_offset]
    after = lines[last][expression.end_col_offset :]
    if needs_pass:
        lines[first : last + 1] = [before + b"pass" + after]
        return
    if after.lstrip(b" \t").startswith(b";"):  # "doc"; statement
        after = after.lstrip(b" \t")[1:].lstrip(b" \t")
    rest = before + after.lstrip(b" \t")
    if rest.strip():
        lines[first : last + 1] = [rest]
        return
    # A docstring alone on its lines takes the blank lines after it along: code without one has none there.
    while last + 1 < len(lines) and not lines[last + 1].strip():
        last += 1
    del lines[first : last + 1]
