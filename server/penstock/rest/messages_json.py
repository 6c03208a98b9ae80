"""Messages of the protocol as JSON documents: every field, numbers as numbers, enumerations by
their names.
"""

import base64
from typing import Any

from google.protobuf.message import Message


def as_document(message: Message) -> dict[str, Any]:
    """The message as an object; what is not set has its default, but messages are left out."""
    return {
        field.name: _field(field, getattr(message, field.name))
        for field in message.DESCRIPTOR.fields
        if not field.has_presence or message.HasField(field.name)
    }


def _field(field: Any, value: Any) -> Any:
    kind = field.message_type
    if kind is not None and kind.GetOptions().map_entry:
        of = kind.fields_by_name["value"]
        # The order of a map is none; that of its keys is the same every time.
        return {str(key): _value(of, value[key]) for key in sorted(value)}
    if field.is_repeated:
        return [_value(field, item) for item in value]
    return _value(field, value)


def _value(field: Any, value: Any) -> Any:
    if field.message_type is not None:
        return as_document(value)
    if field.enum_type is not None:
        known = field.enum_type.values_by_number.get(value)
        return known.name if known is not None else int(value)
    return base64.b64encode(value).decode() if isinstance(value, bytes) else value
