"""A script's ``__main__`` in worker processes: read again only where that is safe."""

from __future__ import annotations

import ast
import multiprocessing as mp
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

UNGUARDED = 79  # exit code of a process in which a script began to train again


@contextmanager
def main_kept_out() -> Iterator[None]:
    """Processes that are started meanwhile do not read the script again that this one is, unless it has its guard.

    ``multiprocessing`` reads ``__main__`` again in every new process, for what is defined there. A script without ``if
    __name__ == "__main__":`` would train again in each of its workers. What workers need of this program they import;
    an environment that such a script registers itself is not known to them, and needs a module of its own.

    A process that is reading a script again ends here: the script has a guard, and trains outside of it.
    """
    end_where_read_again()
    main = sys.modules["__main__"]
    if is_guarded(main):
        yield
        return
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def end_where_read_again() -> None:
    """Ends this process, with ``UNGUARDED``, where it is a worker that is reading the script again."""
    if getattr(mp.current_process(), "_inheriting", False):
        os._exit(UNGUARDED)


def is_guarded(main: ModuleType) -> bool:
    """Returns whether a module is a file that asks for its own name: it can be imported without doing its work."""
    path = getattr(main, "__file__", None)
    if path is None:
        return False
    try:
        tree = ast.parse(Path(path).read_bytes())
    except (OSError, SyntaxError, ValueError):
        return False
    tests = [node.test for node in tree.body if isinstance(node, ast.If)]
    return any(isinstance(n, ast.Name) and n.id == "__name__" for test in tests for n in ast.walk(test))
