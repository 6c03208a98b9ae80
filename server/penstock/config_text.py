"""A configuration as protobuf text (config.pbtxt) and as the message of the ModelConfig RPC.

Protobuf's own parser reads the text, so that all that is valid for Triton is valid here; from there
on it is one way with JSON and YAML.
"""

import difflib
import re

from google.protobuf import json_format, text_format

from penstock_protos.model_config import ModelConfig as ModelConfigMessage
from penstock_protos.pool import POOL
from penstock_runtime.config import ModelConfig
from penstock_runtime.config_document import check_depth, decode
from penstock_runtime.config_reader import config_to_dict, read_config
from penstock_runtime.errors import InvalidArgument, Violation

TEXT_LIMIT = 4 << 20
WORDS_LENGTH = 40
PROBLEM_LENGTH = 200

# Strings and comments are matched whole, because brackets in them do not nest.
_TEXT_TOKEN = re.compile(r""""(?:[^"\\\n]++|\\.)*+"?|'(?:[^'\\\n]++|\\.)*+'?|#[^\n]*+|[\[\]{}<>]""")
_POSITION = re.compile(r"^\d+:\d+ ?: ?")
_NO_FIELD = re.compile(r'Message type "(?P<type>[\w.]+)" has no field named "(?P<field>\w+)"')


def parse_config_text(data: bytes | str) -> ModelConfig:
    """The configuration in a config.pbtxt of at most 4 MiB.

    InvalidArgument names the line, the column and the words there, or the field and what was
    expected of it.
    """
    text = decode(data, "protobuf text", TEXT_LIMIT)
    check_depth(text, _TEXT_TOKEN, "protobuf text")
    try:
        parsed = text_format.Parse(text, ModelConfigMessage(), descriptor_pool=POOL)
    except text_format.ParseError as error:
        raise _invalid(error, text) from None
    return config_from_message(parsed)


def print_config_text(config: ModelConfig) -> str:
    """The config.pbtxt that says what `config` says."""
    return text_format.MessageToString(
        config_message(config), as_utf8=True, use_short_repeated_primitives=True
    )


def config_message(config: ModelConfig) -> ModelConfigMessage:
    """The message of the ModelConfig RPC; InvalidArgument for values that it cannot hold."""
    try:
        return json_format.ParseDict(
            config_to_dict(config), ModelConfigMessage(), descriptor_pool=POOL
        )
    except json_format.ParseError as error:
        raise InvalidArgument(f"configuration of '{config.name}' has no message: {error}") from None


def config_from_message(config: ModelConfigMessage) -> ModelConfig:
    """The configuration that a message describes."""
    return read_config(json_format.MessageToDict(config, preserving_proto_field_name=True))


def _invalid(error: text_format.ParseError, text: str) -> InvalidArgument:
    line, column = error.GetLine() or 1, error.GetColumn() or 1
    # Not splitlines: the parser counts line feeds only.
    source = text.split("\n")[line - 1]
    problem = _POSITION.sub("", str(error)).removeprefix(f"'{source}': ").removeprefix("'': ")
    problem = problem[:PROBLEM_LENGTH].rstrip(".") + _suggestion(problem)
    words = source[column - 1 :].strip()[:WORDS_LENGTH]
    near = f', at "{words}"' if words else ", at the end of the line"
    return InvalidArgument(
        f"configuration is not valid protobuf text: line {line}, column {column}: {problem}{near}",
        reason="INVALID_MODEL_CONFIG",
        violations=(Violation(f"line {line}, column {column}", problem),),
    )


def _suggestion(problem: str) -> str:
    """The field that may have been meant, where the parser knew none of the name."""
    found = _NO_FIELD.match(problem)
    if found is None:
        return ""
    fields = POOL.FindMessageTypeByName(found["type"]).fields_by_name.keys()
    close = difflib.get_close_matches(found["field"][:64], fields, 1)
    return f", did you mean {close[0]}?" if close else ""
