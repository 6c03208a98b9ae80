"""What lies in a model repository: model folders, their versions and a cheap signature of their
files.

Only names and stamps are read, never contents. Whether and when a folder is loaded is not decided
here.
"""

import os
import stat
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

CONFIG_NAMES = ("config.pbtxt", "config.json", "config.yaml", "config.yml")
SIDE_FOLDERS = frozenset({"warmup", "initial_state", "configs"})
# By these names models of other servers are known, in the model's folder or in a version's.
FOREIGN_NAMES = frozenset({"model-settings.json", "MAR-INF"})
FOREIGN_SUFFIX = ".mar"
# By a config.json beside one of these a folder of Hugging Face is known: it is not a configuration.
HUB_CONFIG = "config.json"
HUB_NAMES = frozenset(
    {
        "tokenizer.json",
        "model.safetensors",
        "model.safetensors.index.json",
        "pytorch_model.bin",
        "pytorch_model.bin.index.json",
    }
)
MAX_VERSION = 2**63 - 1
MAX_NAME_BYTES = 255
MAX_FILES = 100_000
MAX_DEPTH = 32

_CLUTTER = frozenset({"__pycache__", "lost+found"})
_SWAP_SUFFIXES = ("~", ".swp", ".swo", ".swx")


@dataclass(frozen=True, slots=True, order=True)
class FileStamp:
    """What shows that a file changed; `path` is relative to the model's folder."""

    path: str
    size: int
    mtime_ns: int
    inode: int


Signature = tuple[FileStamp, ...]


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """One model as it lies on disk at one moment.

    `root` is free of links, `repository` as the operator gave it. `newest_ns` is the wall-clock
    time of the latest change inside; `flat` means that the files lie directly in `root`, as version
    1 (the root is one model, or the model is another server's, or Hugging Face's);
    `named_by_operator` that the folder's own name says nothing; `plain_name` is that name where the
    model is served under another. A folder with a `problem` must not be loaded; `warnings` are for
    the log.
    """

    name: str
    repository: Path
    root: Path
    config_path: Path | None = None
    versions: tuple[int, ...] = ()
    signature: Signature = ()
    newest_ns: int = 0
    flat: bool = False
    named_by_operator: bool = False
    problem: str = ""
    warnings: tuple[str, ...] = ()
    plain_name: str = ""

    @property
    def own_name(self) -> str:
        """What the model calls itself: its folder's name, whatever it is served as."""
        return self.plain_name or self.name

    @property
    def identity(self) -> tuple[Signature, str]:
        """Equal for two looks at a folder between which nothing changed."""
        return self.signature, self.problem

    def directory(self, version: int) -> Path:
        """Where the files of a version lie."""
        return self.root if self.flat else self.root / str(version)

    def version_signature(self, version: int) -> Signature:
        """The stamps of everything that a version may read, the configuration excepted (its content
        is compared instead).
        """
        others = {str(v) for v in self.versions if v != version}
        skipped = others if self.flat else others | {"configs"}
        configs = set(CONFIG_NAMES)
        if self.flat and (self.config_path is None or self.config_path.name != HUB_CONFIG):
            configs.discard(HUB_CONFIG)
        return tuple(
            stamp
            for stamp in self.signature
            if stamp.path not in configs and stamp.path.split("/", 1)[0] not in skipped
        )


def is_clutter(name: str) -> bool:
    """Whether a name is no part of a model: hidden, an editor's swap file, a cache, unprintable."""
    return (
        name.startswith(".")
        or name in _CLUTTER
        or not name.strip()
        or name.endswith(_SWAP_SUFFIXES)
        or (name.startswith("#") and name.endswith("#"))
        or not name.isprintable()
    )


def is_foreign(name: str) -> bool:
    """Whether a name in a folder says that it is a model of MLServer's or TorchServe's."""
    return name in FOREIGN_NAMES or name.endswith(FOREIGN_SUFFIX)


def is_hub(names: Collection[str]) -> bool:
    """Whether the names in a model's folder are those of a model of Hugging Face's."""
    return HUB_CONFIG in names and "model.py" not in names and not HUB_NAMES.isdisjoint(names)


def parse_version(name: str) -> int | None:
    """The version that a directory name stands for: a positive integer without leading zeros."""
    if not (name.isascii() and name.isdecimal()) or name.startswith("0") or len(name) > 19:
        return None
    version = int(name)
    return version if version <= MAX_VERSION else None


def scan(root: Path, *, model_name: str = "", config_name: str = "") -> dict[str, ModelFolder]:
    """Every model of a repository by name.

    With `model_name`, a root that is itself one model is that model; `config_name` picks
    configs/<config_name>.pbtxt where it exists. Raises OSError when the root cannot be listed.
    """
    if model_name and is_bare(root):
        return {model_name: read_folder(root, root, model_name, config_name, bare=True)}
    names = (entry.name for entry in _visible(root) if _is_dir(entry))
    found = (scan_model(root, name, config_name=config_name) for name in sorted(names))
    return {folder.name: folder for folder in found if folder is not None}


def scan_model(
    root: Path, name: str, *, model_name: str = "", config_name: str = ""
) -> ModelFolder | None:
    """One model of a repository, None when it is not there; `name` must be one path component."""
    if model_name and is_bare(root):
        bare = name == model_name
        return read_folder(root, root, name, config_name, bare=True) if bare else None
    path = root / name
    if is_clutter(name) or len(os.fsencode(name)) > MAX_NAME_BYTES or not _looks_like_model(path):
        return None
    try:
        return read_folder(root, path, name, config_name)
    except FileNotFoundError:
        return None


def model_names(root: Path, *, model_name: str = "") -> set[str]:
    """Only the names of what `scan` would find."""
    if model_name and is_bare(root):
        return {model_name}
    return {e.name for e in _visible(root) if _is_dir(e) and _looks_like_model(Path(e.path))}


def is_bare(root: Path) -> bool:
    """Whether a root is itself one model (as KServe mounts it) rather than a folder of models."""
    files: list[str] = []
    folders: list[str] = []
    for entry in _visible(root):
        (folders if _is_dir(entry) else files).append(entry.name)
    named = [name for name in folders if parse_version(name) is None]
    models = [name for name in named if _looks_like_model(root / name)]
    if any(name in CONFIG_NAMES or name.startswith("model.") for name in files):
        return True
    return not models and (bool(files) or len(named) < len(folders))


def read_folder(
    repository: Path, root: Path, name: str, config_name: str = "", *, bare: bool = False
) -> ModelFolder:
    """One model's folder as it is now; what cannot be read becomes the folder's problem.

    Raises FileNotFoundError when the folder is not there.
    """
    walk = _Walk()
    versions: tuple[int, ...] = ()
    warnings: tuple[str, ...] = ()
    names: set[str] = set()
    try:
        # Resolved once: whatever a link is swapped to meanwhile, one look sees one folder.
        root = root.resolve(strict=True)
        walk.run(root, repository.resolve())
        versions, warnings = _versions(root)
        names = {entry.name for entry in _visible(root)}
    except FileNotFoundError:
        raise
    # Before Python 3.13 a link that leads back to itself is a RuntimeError.
    except (OSError, RuntimeError) as error:
        walk.problem = f"the model's folder cannot be read: {getattr(error, 'strerror', 'a loop')}"
    hub = not versions and is_hub(names)
    flat = (bare or hub or any(map(is_foreign, names))) and not versions
    return ModelFolder(
        name=name,
        repository=repository,
        root=root,
        config_path=_config_path(root, config_name, hub=hub),
        versions=(1,) if flat else versions,
        signature=tuple(sorted(walk.stamps)),
        newest_ns=walk.newest_ns,
        flat=flat,
        named_by_operator=bare,
        problem=walk.problem,
        warnings=() if flat else warnings,
    )


def _visible(folder: Path) -> Iterator[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        yield from (entry for entry in entries if not is_clutter(entry.name))


def _is_dir(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        # A link that leads back to itself, for one.
        return False


def _looks_like_model(path: Path) -> bool:
    try:
        return any(
            is_foreign(e.name) or (parse_version(e.name) if _is_dir(e) else e.name in CONFIG_NAMES)
            for e in _visible(path)
        )
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        # It is there and cannot be read: that must show as a problem, not as a model that is gone.
        return True


def _versions(root: Path) -> tuple[tuple[int, ...], tuple[str, ...]]:
    versions, warnings = [], []
    for entry in _visible(root):
        if not _is_dir(entry) or entry.name in SIDE_FOLDERS:
            continue
        version = parse_version(entry.name)
        if version is not None:
            versions.append(version)
        else:
            warnings.append(
                f"folder '{entry.name[:80]}' is ignored: a version is a positive integer without "
                "leading zeros"
            )
    return tuple(sorted(versions)), tuple(sorted(warnings))


def _config_path(root: Path, config_name: str, *, hub: bool) -> Path | None:
    chosen = [root / "configs" / f"{config_name}.pbtxt"] if config_name else []
    # That of a folder of Hugging Face says what the model is, not how it is served.
    own = [name for name in CONFIG_NAMES if not (hub and name == HUB_CONFIG)]
    candidates = chosen + [root / name for name in own]
    return next((path for path in candidates if path.is_file()), None)


class _Walk:
    """One pass over a model's folder; links may lead to places inside it or its repository."""

    def __init__(self) -> None:
        self._allowed: tuple[Path, ...] = ()
        self.stamps: list[FileStamp] = []
        self.newest_ns = 0
        self.problem = ""

    def run(self, root: Path, repository: Path) -> None:
        """Stamp everything; both paths are free of links."""
        self._allowed = (root, repository)
        self._visit(str(root), "", ())

    def _visit(self, folder: str, prefix: str, above: tuple[tuple[int, int], ...]) -> None:
        """Stamp every file below; `above` holds device and inode of the folders on the way here."""
        for entry in _visible(Path(folder)):
            path = prefix + entry.name
            try:
                self._visit_entry(entry, path, above)
            except FileNotFoundError:
                # Gone between two calls, or a link to nothing: the next look tells.
                continue

    def _visit_entry(
        self, entry: os.DirEntry[str], path: str, above: tuple[tuple[int, int], ...]
    ) -> None:
        if entry.is_symlink() and not self._inside(entry.path):
            self.problem = f"link '{path}' leads out of the model's folder and its repository"
            return
        found = entry.stat()
        if stat.S_ISDIR(found.st_mode):
            here = (found.st_dev, found.st_ino)
            # Changes of a folder's own inode (a rename) do not count: its content may be old.
            self.newest_ns = max(self.newest_ns, found.st_mtime_ns)
            if here not in above and self._room(path, len(above)):
                self._visit(entry.path, path + "/", (*above, here))
        elif stat.S_ISREG(found.st_mode):
            # Copies that keep the times of the original still cannot keep its ctime.
            self.newest_ns = max(self.newest_ns, found.st_mtime_ns, found.st_ctime_ns)
            if self._room(path, 0):
                self.stamps.append(FileStamp(path, found.st_size, found.st_mtime_ns, found.st_ino))
        else:
            self.problem = f"'{path}' is neither a file nor a folder"

    def _inside(self, path: str) -> bool:
        real = Path(os.path.realpath(path))
        return any(real.is_relative_to(root) for root in self._allowed)

    def _room(self, path: str, depth: int) -> bool:
        if len(self.stamps) < MAX_FILES and depth < MAX_DEPTH:
            return True
        self.problem = f"more than {MAX_FILES} files or {MAX_DEPTH} nested folders at '{path[:80]}'"
        return False
