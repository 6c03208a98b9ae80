"""The bounds of Triton's histogram of first responses, which a model's configuration may choose."""

from collections.abc import Mapping, Sequence

from penstock_runtime.errors import InvalidArgument

# Triton's histogram of first responses, and its default bounds in milliseconds.
FIRST_RESPONSE_FAMILY = "nv_inference_first_response_histogram_ms"
FIRST_RESPONSE_BUCKETS_MS = (100.0, 500.0, 2000.0, 5000.0)


def first_response_bounds(model_metrics: object) -> tuple[float, ...]:
    """The bounds (ms) that a configuration's `model_metrics`, shaped as proto-JSON, gives to
    Triton's histogram of first responses; the defaults where it says nothing.
    """
    for control in _items(model_metrics, "metric_control"):
        if _field(_field(control, "metric_identifier"), "family") == FIRST_RESPONSE_FAMILY:
            buckets = _items(_field(control, "histogram_options"), "buckets")
            return _checked(buckets) or FIRST_RESPONSE_BUCKETS_MS
    return FIRST_RESPONSE_BUCKETS_MS


def _checked(buckets: Sequence[object]) -> tuple[float, ...]:
    for bucket in buckets:
        if not isinstance(bucket, int | float) or not 0 < bucket < float("inf"):
            raise InvalidArgument(
                f"model_metrics bucket {bucket!r} of {FIRST_RESPONSE_FAMILY} must be a positive"
                " number of milliseconds"
            )
    return tuple(sorted({float(bucket) for bucket in buckets if isinstance(bucket, int | float)}))


def _field(mapping: object, name: str) -> object:
    """A field of a proto-JSON object, under its own name or the camel-case one."""
    if not isinstance(mapping, Mapping):
        return None
    first, *rest = name.split("_")
    return mapping.get(name, mapping.get(first + "".join(word.title() for word in rest)))


def _items(mapping: object, name: str) -> Sequence[object]:
    found = _field(mapping, name)
    return found if isinstance(found, list | tuple) else ()
