import ast

import pytest

from sublayer.data.sources.docstrings import split_docstrings

CASES = {
    "module": '"""Doc."""\nx = 1\n',
    "module alone": '"""Doc."""\n',
    "function": 'def f(x):\n    """Doc.\n\n    More.\n    """\n\n    return x\n',
    "only a docstring": "class A(Exception):\n    'Doc.'\n",
    "on one line": 'def f(): "Doc."\n',
    "with a statement on its line": 'def f(): "Doc."; return 1\n',
    "with a comment on its line": 'def f():\n    "Doc."  # why\n    return 1\n',
    "two strings": 'def f():\n    "Doc."\n    "Another."\n    return 1\n',
    "two strings alone": 'def f():\n    "Doc."\n    "Another."\n',
    "joined": 'def f():\n    ("Doc " "and "\n     "more.")\n    return 1\n',
    "raw and wide": "def f():\n    r'''D\\oc ünï.'''\n    return 'ü'\n",
    "wide before it": 'class Ünï: "Doc."; x = "ü"\n',
    "form feed": 'x = 1\n\x0c\ndef f():\n    """Doc."""\n    return 1\n',
    "form feed within": 'def f():\n    """Doc.\x0c more."""\n    return 1\n',
    "nested": 'class A:\n  "Doc."\n  def f(self):\n    "Doc."\n    def g():\n      "Doc."\n    return g\n',
    "async": 'async def f():\n  "Doc."\n  async with x:\n    def g():\n      "Doc."\n      return 1\n',
    "in branches": (
        "if a:\n    def f():\n        'Doc.'\nelif b:\n    def f():\n        'Doc.'\n        return 2\n"
        "else:\n    def f():\n        'Doc.'\n        return 3\n"
        "try:\n  def f():\n    'Doc.'\nexcept E:\n  def f():\n    'Doc.'\nfinally:\n  def f():\n    'Doc.'\n"
        "match x:\n    case 1:\n        def f():\n            'Doc.'\n"
    ),
    "not docstrings": "x = '''not one'''\nf('nor this')\ny = lambda: 'nor this'\nclass A:\n    x = 1\n    'nor this'\n",
    "bytes and f-strings": "def f():\n    b'no'\ndef g():\n    f'no {1}'\n",
    "no end of line": 'def f():\n    "Doc."',
    "decorated": '@d("x")\ndef f():\n    "Doc."\n    return 1\n',
}


def without_docstrings(source: str) -> str:
    """The same by another way: on the tree."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            while node.body and ast.get_docstring(node, clean=False) is not None:
                del node.body[0]
            if not node.body and not isinstance(node, ast.Module):
                node.body = [ast.Pass()]
    return ast.dump(tree)


@pytest.mark.parametrize("source", CASES.values(), ids=CASES.keys())
def test_only_the_docstrings_go(source: str) -> None:
    code, _ = split_docstrings(source)
    assert ast.dump(ast.parse(code)) == without_docstrings(source)


def test_comments_and_layout_stay() -> None:
    source = '# first\n\n"""Doc."""\n\n\nx = 1  # why\n\n\ndef f():\n    """Doc."""\n\n    # inner\n    return 1\n'
    assert split_docstrings(source)[0] == "# first\n\nx = 1  # why\n\n\ndef f():\n    # inner\n    return 1\n"


def test_prose_is_every_docstring_in_order_and_cleaned() -> None:
    source = (
        '"""One\n  two."""\nclass A:\n  """Three.\n\n    four\n  """\n  def f(self):\n    " "\n  def g(self): "Five."\n'
    )
    assert split_docstrings(source)[1] == "One\ntwo.\n\nThree.\n\nfour\n\nFive."


def test_what_is_not_python_is_refused() -> None:
    with pytest.raises(SyntaxError):
        split_docstrings("def f(:\n")
