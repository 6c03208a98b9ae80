"""Fuzzes the core of the HTTP/2 transport, guided by coverage, for so many seconds of CPU time:

    python -m tests.http2.fuzz.fuzz_core --cpu-seconds 3600 --work DIRECTORY

Finds: exceptions, promises that are not kept (`driver`), inputs that take longer than a second of
CPU, and memory that does not come back. Failing inputs lie in DIRECTORY/failures, one for each
place; what covers something new in DIRECTORY/corpus. Needs atheris.
"""

import argparse
import gc
import hashlib
import os
import random
import resource
import sys
import time
import traceback
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["penstock.transport.http2"]):
    from tests.http2.fuzz import driver

from tests.http2.fuzz.mutate import LONGEST, mutate
from tests.http2.fuzz.seeds import seeds

SLOW_S = 1.0
"""CPU time of one input, instrumented: a thousand times what most need."""
GROWTH_KIB = 300 << 10
"""What the process may grow by once it is warm; libFuzzer's own tables are in it."""
REPORT_EVERY = 20_000
WARM = 50_000


class Run:
    """One run: inputs, findings, figures."""

    def __init__(self, cpu_seconds: float, work: Path) -> None:
        self.limit_s = cpu_seconds
        self.failures = work / "failures"
        self.corpus = work / "corpus"
        self.failures.mkdir(parents=True, exist_ok=True)
        self.corpus.mkdir(parents=True, exist_ok=True)
        self.inputs = 0
        self.found: dict[str, int] = {}
        self.slowest_s = 0.0
        self.warm_kib = 0
        self.chance = random.Random(0)
        self.others: list[bytes] = list(seeds())
        for raw in self.others:
            self._write(self.corpus, raw)

    def one(self, raw: bytes) -> None:
        """Play one input."""
        self.inputs += 1
        started = time.process_time()
        try:
            driver.play_all_ways(raw)
        except Exception as error:
            self._failed(raw, error)
        took = time.process_time() - started
        if took > max(SLOW_S, self.slowest_s):
            self._failed(raw, TimeoutError(f"{took:.2f} s of CPU"))
        self.slowest_s = max(self.slowest_s, took)
        if self.inputs % REPORT_EVERY == 0:
            self._report()
        if started > self.limit_s:
            self._report()
            print("DONE", flush=True)
            os._exit(1 if self.found else 0)

    def mutated(self, raw: bytes, most: int, seed: int) -> bytes:
        """What libFuzzer tries next."""
        self.chance.seed(seed)
        if self.chance.random() < 0.2:
            changed: bytes = atheris.Mutate(raw, most)
            return changed
        if len(raw) > 20 and self.chance.random() < 0.01:
            self.others[self.chance.randrange(len(self.others))] = raw
        return mutate(raw, self.chance.choice(self.others), self.chance)[:most]

    def _failed(self, raw: bytes, error: Exception) -> None:
        frames = traceback.extract_tb(error.__traceback__)
        place = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else "slow"
        key = f"{type(error).__name__} {place} {str(error)[:40]}"
        self.found[key] = self.found.get(key, 0) + 1
        if self.found[key] == 1 and len(self.found) < 200:
            path = self._write(self.failures, raw)
            print(f"FOUND {key} -> {path}", flush=True)
            traceback.print_exception(error)

    def _write(self, folder: Path, raw: bytes) -> Path:
        path = folder / hashlib.sha1(raw).hexdigest()[:16]
        path.write_bytes(raw)
        return path

    def _report(self) -> None:
        gc.collect()
        peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        if not self.warm_kib and self.inputs >= WARM:
            self.warm_kib = peak_kib
        if self.warm_kib and peak_kib > self.warm_kib + GROWTH_KIB:
            self._failed(b"", MemoryError(f"grown to {peak_kib} KiB"))
        print(
            f"{time.process_time():.0f} cpu-s, {self.inputs} inputs, {len(self.found)} findings, "
            f"slowest {self.slowest_s * 1000:.0f} ms, peak {peak_kib >> 10} MiB",
            flush=True,
        )


def main() -> None:
    """Run until the CPU time is used up; the exit code is 1 if anything was found."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--cpu-seconds", type=float, default=60)
    parser.add_argument("--work", type=Path, required=True)
    arguments = parser.parse_args()
    run = Run(arguments.cpu_seconds, arguments.work)
    libfuzzer = [
        sys.argv[0],
        str(run.corpus),
        f"-max_len={LONGEST}",
        "-timeout=30",
        "-rss_limit_mb=4096",
        "-verbosity=0",
        "-print_final_stats=1",
    ]
    atheris.Setup(libfuzzer, run.one, custom_mutator=run.mutated)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
