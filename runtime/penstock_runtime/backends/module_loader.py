"""Python files of a version directory as modules of their own: each load executes the files as they
are now, under a name that no other load has.

Nothing is read from or written to bytecode caches, whose time stamps are too coarse to notice a
quick edit. Imports between files of the directory are resolved by an `__import__` that only their
own code sees, so sys.path stays untouched and two models may both have a `helpers.py`.
"""

import builtins
import importlib
import itertools
import re
import sys
import threading
from collections.abc import Mapping, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any

from penstock_kernels.memory import share_memory

_numbers = itertools.count(1)

# What models import by a name that is not ours to choose, and where it is. It comes before files of
# the model, which may have a copy for their editor, and before whatever else is installed.
PROVIDED = {"triton_python_backend_utils": "penstock_runtime.backends.triton_python.api"}


class ModelModules:
    """The modules of one load of one version directory.

    `provided` are modules by full name that only this code can import, packages above them
    included: what stands in for a library that is not installed. `imported` are the top names of
    what its code has imported from elsewhere.
    """

    def __init__(
        self, directory: Path, provided: Mapping[str, ModuleType] = MappingProxyType({})
    ) -> None:
        self._provided = provided
        self.package = f"_penstock_model_{next(_numbers)}"
        self.siblings = _siblings(directory)
        self.directory = directory
        self.builtins = {**vars(builtins), "__import__": self._import}
        self.imported: set[str] = set()
        self._files: dict[str, Path] = {}
        _FINDER.add(self)

    def load(self, file: Path) -> ModuleType:
        """Execute a file of the directory (once) and return its module; raises what it raises."""
        name = re.sub(r"\W", "_", file.stem)
        self._files[name] = file
        return importlib.import_module(f"{self.package}.{name}")

    def find(self, parts: Sequence[str]) -> tuple[Path, bool] | None:
        """The file of a module of the package, and whether it is a package itself."""
        if len(parts) == 1 and parts[0] in self._files:
            return self._files[parts[0]], False
        folder = self.directory.joinpath(*parts[:-1])
        for path, is_package in (
            (folder / parts[-1] / "__init__.py", True),
            (folder / f"{parts[-1]}.py", False),
        ):
            if path.is_file():
                return path, is_package
        return None

    def close(self) -> None:
        """Forget every module of this load."""
        _FINDER.remove(self)
        mine = (self.package, self.package + ".")
        for name in [n for n in list(sys.modules) if n == mine[0] or n.startswith(mine[1])]:
            del sys.modules[name]

    def owns(self, module_name: str) -> bool:
        """Whether a module of this name was loaded here."""
        return module_name.startswith(self.package + ".")

    def _import(
        self,
        name: str,
        globals: Mapping[str, Any] | None = None,  # noqa: A002 - the name is __import__'s own
        locals: Mapping[str, Any] | None = None,  # noqa: A002
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> ModuleType:
        """`__import__` for the code of this directory: its own files come first."""
        if not level and name in PROVIDED:
            sys.modules[name] = importlib.import_module(PROVIDED[name])
            return sys.modules[name]
        head = name.partition(".")[0]
        if level or head not in self.siblings:
            if not level and head in self._provided:
                return self._stand_in(name, head, fromlist)
            found = builtins.__import__(name, globals, locals, fromlist or (), level)
            if not level:
                if head == "cupy" and head not in self.imported:
                    # Before it has allocated anything, and before it may choose otherwise.
                    share_memory(sys.modules[head])
                self.imported.add(head)
            return found
        module = importlib.import_module(f"{self.package}.{name}")
        if not fromlist:
            return sys.modules[f"{self.package}.{head}"]
        return builtins.__import__(module.__name__, globals, locals, fromlist, 0)

    def _stand_in(self, name: str, head: str, fromlist: Sequence[str] | None) -> ModuleType:
        found = self._provided.get(name)
        if found is None:
            raise ModuleNotFoundError(
                f"{name} is not in what penstock has in place of {head}, which is not installed",
                name=name,
            )
        return found if fromlist else self._provided[head]


def _siblings(directory: Path) -> frozenset[str]:
    """What can be imported from the directory: its .py files, and folders with an __init__.py."""
    files = {path.stem for path in directory.glob("*.py")}
    return frozenset(files | {path.parent.name for path in directory.glob("*/__init__.py")})


class _SourceLoader(Loader):
    """Compiles the source as it is at this moment."""

    def __init__(self, path: Path, names: dict[str, Any]) -> None:
        self._path = path
        self._builtins = names

    def exec_module(self, module: ModuleType) -> None:
        """Execute the file in the module's namespace."""
        code = compile(self._path.read_bytes(), str(self._path), "exec", dont_inherit=True)
        vars(module)["__builtins__"] = self._builtins
        exec(code, vars(module))


class _Finder(MetaPathFinder):
    """Finds the modules of the loads that are open, and nothing else."""

    def __init__(self) -> None:
        self._loads: dict[str, ModelModules] = {}
        self._lock = threading.Lock()

    def add(self, modules: ModelModules) -> None:
        with self._lock:
            self._loads[modules.package] = modules
            if self not in sys.meta_path:
                sys.meta_path.insert(0, self)

    def remove(self, modules: ModelModules) -> None:
        with self._lock:
            self._loads.pop(modules.package, None)
            if not self._loads and self in sys.meta_path:
                sys.meta_path.remove(self)

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None = None,  # noqa: ARG002 - the protocol's arguments
        target: ModuleType | None = None,  # noqa: ARG002
    ) -> ModuleSpec | None:
        """The spec of a private module; None for everything else."""
        head, *rest = fullname.split(".")
        modules = self._loads.get(head)
        if modules is None:
            return None
        if not rest:
            spec = ModuleSpec(fullname, None, is_package=True)
            spec.submodule_search_locations = []
            return spec
        found = modules.find(rest)
        if found is None:
            return None
        file, is_package = found
        loader = _SourceLoader(file, modules.builtins)
        inside = [str(file.parent)] if is_package else None
        return spec_from_file_location(
            fullname, file, loader=loader, submodule_search_locations=inside
        )


_FINDER = _Finder()
