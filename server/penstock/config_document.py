"""JSON and YAML files that the operator names on the command line."""

import json
from pathlib import Path
from typing import Any

from penstock_runtime.errors import InvalidArgument

MAX_FILE_BYTES = 1 << 20


def read_document(path: Path, flag: str) -> Any:
    """What a file says; InvalidArgument tells the flag, the file and what is wrong, but shows
    nothing of what is in it.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
        text = data.decode("utf-8") if len(data) <= MAX_FILE_BYTES else ""
    except OSError as error:
        raise InvalidArgument(f"cannot read {flag} {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InvalidArgument(f"{path} is not valid: it is not UTF-8") from None
    # Never a part of it: what is missing may be what restricts the rest.
    if len(data) > MAX_FILE_BYTES:
        raise InvalidArgument(f"{flag} {path} is too long, expected at most {MAX_FILE_BYTES} bytes")
    return _parse(path, text)


def _parse(path: Path, text: str) -> Any:
    try:
        if path.suffix in (".yaml", ".yml"):
            import yaml

            return yaml.safe_load(text) or {}
        return json.loads(text)
    except ImportError:
        raise InvalidArgument(f"{path} is YAML, which needs the extra penstock[yaml]") from None
    except (ValueError, RecursionError) as error:
        raise InvalidArgument(f"{path} is not valid: {error}") from None
    except Exception as error:
        # yaml's errors derive from Exception, and yaml may not be there to name them.
        raise InvalidArgument(f"{path} is not valid: {_yaml_problem(error)}") from None


def _yaml_problem(error: Exception) -> str:
    """What is wrong and where; yaml itself would show the line, and with it perhaps a secret."""
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or type(error).__name__
    return f"line {mark.line + 1}, column {mark.column + 1}: {problem}" if mark else problem
