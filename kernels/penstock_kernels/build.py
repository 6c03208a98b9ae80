"""Compile every kernel ahead of time: `python -m penstock_kernels.build --arch 80 90 100`.

Needs NVRTC and no GPU. Writes a cubin for each source and architecture (they are not committed)
and, if it is of all architectures, the table (it is); refuses the table when a kernel spills, or
takes more registers than it did.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from penstock_kernels import nvrtc, table
from penstock_kernels.registry import sources
from penstock_kernels.source import flattened
from penstock_kernels.table import Cost, Source, Table

ARCHITECTURES = ("80", "90", "100")


def build(architectures: Sequence[str], cubins: Path | None = None) -> Table:
    """Compile all sources; NvrtcError, NvrtcMissingError. Cubins are written if given a folder."""
    built = {
        source: build_source(source, instances, architectures, cubins)
        for source, instances in sources().items()
    }
    return Table(nvrtc.version(), built)


def build_source(
    source: str,
    instances: tuple[str, ...],
    architectures: Sequence[str],
    cubins: Path | None = None,
) -> Source:
    """Compile one source for each architecture."""
    digest = table.source_digest(source, instances)
    symbols: dict[str, str] = {}
    costs: dict[str, dict[str, Cost]] = {instance: {} for instance in instances}
    for arch in architectures:
        compiled = nvrtc.compile_cubin(flattened(source), source, instances, arch)
        symbols = compiled.symbols
        for instance, cost in table.costs(compiled.log, symbols).items():
            costs[instance][arch] = cost
        if cubins is not None:
            _keep(cubins / cubin_name(source, arch), compiled.cubin, digest)
    return Source(digest, symbols, costs)


def _keep(path: Path, cubin: bytes, digest: str) -> None:
    """A cubin, with the digest of its source beside it: the table may be newer."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cubin)
    path.with_name(f"{path.name}.digest").write_text(digest)


def cubin_name(source: str, arch: str) -> str:
    """The file of a source's cubin in `built/`."""
    return f"{Path(source).stem}.sm_{arch}.cubin"


def _arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="penstock_kernels.build", description=__doc__)
    parser.add_argument("--arch", nargs="+", default=list(ARCHITECTURES), help="as 80 90 100")
    parser.add_argument("--out", type=Path, default=table.FOLDER, help="folder of the cubins")
    parser.add_argument("--table", type=Path, default=table.PATH, help="file of the table")
    parser.add_argument("--check", action="store_true", help="write nothing, compare the table")
    parser.add_argument("--accept", action="store_true", help="accept that registers grew")
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> int:
    """The command; 1 when something spilled, grew, or differs from the committed table; 2 when
    nothing could be compiled.
    """
    given = _arguments(words)
    old = table.read(given.table)
    # An image for one architecture says nothing of the others.
    whole = set(given.arch) == set(ARCHITECTURES)
    try:
        new = build(given.arch, None if given.check else given.out)
    except (nvrtc.NvrtcMissingError, nvrtc.NvrtcError) as refused:
        print(refused, file=sys.stderr)
        return 2
    wrong = table.complaints(None if given.accept else old, new)
    if given.check and whole and old != new:
        wrong.append("the committed table differs: run python -m penstock_kernels.build")
    for line in wrong:
        print(line, file=sys.stderr)
    if whole and not wrong and not given.check:
        table.write(new, given.table)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
