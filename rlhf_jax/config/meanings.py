"""What each setting means, in the words of the comment beside its default.

The defaults of a section are statements ``c.GROUP.KEY = VALUE  # meaning``, the comment running on over the lines below
that hold nothing else. They are read from the source, so that there is one place where a setting is explained; the
program's ``--help KEY`` and the reference page both show it. Imports no JAX.
"""

import ast
import functools
import inspect
import io
import tokenize
from collections.abc import Callable

from ml_collections import ConfigDict

from rlhf_jax.config import groups
from rlhf_jax.config.schema import SECTIONS

GROUPS: dict[str, Callable[..., ConfigDict]] = {"optimizer": groups.optimizer, "utility": groups.utility}


@functools.cache
def meanings() -> dict[str, str]:
    """Dotted key (without ``config.``) of every setting, and of the groups that have a comment -> its meaning.

    The keys of a utility are those of ``reward.utility``, which ``reward.utility_by_type.TYPE`` has too.
    """
    found: dict[str, str] = {}
    for section in SECTIONS:
        for key, (value, comment) in _statements(section.add_defaults).items():
            found[key] = comment
            group = (
                GROUPS.get(value.func.id) if isinstance(value, ast.Call) and isinstance(value.func, ast.Name) else None
            )
            if group:
                found |= {f"{key}.{name}": text for name, (_, text) in _statements(group).items()}
    return {key: text for key, text in found.items() if text}


def _statements(function: Callable[..., ConfigDict | None]) -> dict[str, tuple[ast.expr, str]]:
    """Key -> the expression assigned to ``c.KEY`` in a function, and the comment beside and below it."""
    source = inspect.getsource(function)
    comments, code = {}, set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            comments[token.start[0]] = token.string.lstrip("# ")
        elif token.type not in (tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER):
            code |= set(range(token.start[0], token.end[0] + 1))
    found = {}
    for statement in ast.walk(ast.parse(source)):
        if not isinstance(statement, ast.Assign) or not isinstance(statement.targets[0], ast.Attribute):
            continue
        last = statement.end_lineno or statement.lineno
        lines = list(range(statement.lineno, last + 1))
        while last + 1 in comments and last + 1 not in code:
            last += 1
            lines.append(last)
        key = ast.unparse(statement.targets[0]).removeprefix("c.")
        found[key] = statement.value, " ".join(comments[line] for line in lines if line in comments)
    return found
