"""The client: blocking in `sync`, for asyncio in `aio`; what is not I/O they share."""
