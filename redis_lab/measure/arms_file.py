"""The arms that a user's own Python file defines, for `redis-lab bench`."""

from __future__ import annotations

import importlib.util
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from ..errors import LabError

MODULE = "redis_lab_arms"  # the file's name as a module; no other module has this name


def load_arms(path: Path, connect: Callable[[], Any]) -> tuple[dict[str, Any], Any]:
    """The arms of a file, and the client that they were given; None if they need none.

    The arms are the result of the file's function `arms(r)`, whose argument comes from `connect`,
    or, without a client, the file's variable `ARMS`. Both are a dictionary of callables and `Arm`s
    by name, or a list of functions, which give the arms their names.

    Raises: LabError when there is no such file, it cannot be run, or it defines no arms.
    """
    module = _run_file(path)
    make = getattr(module, "arms", None)
    if not callable(make):
        if not hasattr(module, "ARMS"):
            raise LabError(f"{path.name} defines neither arms(r) nor ARMS; redis-lab bench --help.")
        return _name_arms(module.ARMS, path), None
    client = connect()
    try:
        found = make(client)
    except LabError:
        raise
    except Exception as error:
        raise LabError(describe_error(error, path, "arms(r)")) from error
    return _name_arms(found, path), client


def _run_file(path: Path) -> ModuleType:
    """Execute a file as a module; it can import the files of its folder, as a script can."""
    if not path.is_file():
        raise LabError(f"There is no file {path}.")
    spec = importlib.util.spec_from_file_location(MODULE, path)
    if spec is None or spec.loader is None:
        raise LabError(f"{path.name} is not a Python file; its name must end in .py.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[MODULE] = module  # dataclasses and pickle look the module up there
    sys.path.insert(0, str(path.resolve().parent))
    try:
        spec.loader.exec_module(module)
    except SyntaxError as error:
        raise LabError(f"{path.name}, line {error.lineno}: {error.msg}.") from error
    except Exception as error:
        raise LabError(describe_error(error, path)) from error
    return module


def _name_arms(found: Any, path: Path) -> dict[str, Any]:
    if isinstance(found, list | tuple):
        for each in found:
            if not callable(each) or not hasattr(each, "__name__"):
                raise LabError(f"{path.name}: {each!r} in the list of arms is not a function.")
        names = [each.__name__ for each in found]
        for name in names:
            if names.count(name) > 1:
                raise LabError(f"{path.name}: two arms are called {name}; use a dictionary.")
        found = dict(zip(names, found, strict=True))
    if not isinstance(found, Mapping):
        raise LabError(
            f"{path.name}: the arms must be a dictionary of callables, not {type(found).__name__}."
        )
    if not found:
        raise LabError(f"{path.name} defines no arm: its dictionary of arms is empty.")
    return dict(found)


def describe_error(error: BaseException, path: Path, where: str = "") -> str:
    """One line: the file, the line that raised, the arm, and the message."""
    own = [
        frame.lineno
        for frame in traceback.extract_tb(error.__traceback__)
        if Path(frame.filename).resolve() == path.resolve()
    ]
    parts = [path.name, f"line {own[-1]}" if own else "", where]
    parts += getattr(error, "__notes__", [])
    says = str(error).strip().splitlines()
    what = f"{type(error).__name__}: {says[0]}" if says else type(error).__name__
    return ", ".join(part for part in parts if part) + f": {what}"
