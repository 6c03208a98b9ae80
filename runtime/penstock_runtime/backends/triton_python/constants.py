"""Flags and kinds of memory, by the names and numbers that models know them by."""

TRITONSERVER_RESPONSE_COMPLETE_FINAL = 1
"""For a sender: nothing comes after this."""
TRITONSERVER_REQUEST_FLAG_SEQUENCE_START = 1
TRITONSERVER_REQUEST_FLAG_SEQUENCE_END = 2
TRITONSERVER_REQUEST_RELEASE_ALL = 1
TRITONSERVER_REQUEST_RELEASE_RESCHEDULE = 2
"""For `set_release_flags`: the request is executed again, as an iterative sequence."""
TRITONSERVER_MEMORY_CPU = 0
TRITONSERVER_MEMORY_CPU_PINNED = 1
TRITONSERVER_MEMORY_GPU = 2
