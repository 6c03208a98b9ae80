"""Regions of memory that clients share with the server: registered, forgotten, listed.

Opening a region runs in a thread: a driver of a device may take seconds to come up.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from penstock.codec.places import DISABLED
from penstock.messages import parse
from penstock.transport.base import Call
from penstock_protos import inference
from penstock_runtime.errors import Unsupported
from penstock_runtime.memory.cuda import FindDriver, open_cuda
from penstock_runtime.memory.pinned import PinnedSegment
from penstock_runtime.memory.posix import open_posix
from penstock_runtime.memory.shared import Kind, RegionTable, Registration, Segment

SystemStatus = inference.SystemSharedMemoryStatusResponse
CudaStatus = inference.CudaSharedMemoryStatusResponse


class SharedMemoryServicer:
    """Answers the calls about regions; where clients may share none, all but the looks at them are
    refused.
    """

    def __init__(
        self, regions: RegionTable, threads: ThreadPoolExecutor, find: FindDriver, *, allowed: bool
    ) -> None:
        self._regions = regions
        self._threads = threads
        self._find = find
        self._allowed = allowed

    # -- system memory ---------------------------------------------------------------------------

    async def system_shared_memory_status(self, data: bytes, _call: Call) -> bytes:
        """One region of system memory, or all."""
        request = parse(inference.SystemSharedMemoryStatusRequest, data)
        answer = SystemStatus()
        for found in self._regions.status(Kind.SYSTEM, request.name):
            region = answer.regions[found.name]
            region.name, region.key = found.name, found.key
            region.offset, region.byte_size = found.offset, found.byte_size
        return answer.SerializeToString()

    async def system_shared_memory_register(self, data: bytes, _call: Call) -> bytes:
        """Open a shared memory object by its key."""
        self._refuse_unless_allowed()
        request = parse(inference.SystemSharedMemoryRegisterRequest, data)
        made = Registration(
            request.name, Kind.SYSTEM, request.byte_size, request.key, request.offset
        )
        await self._register(made, lambda: PinnedSegment(made, open_posix(made), self._find))
        return inference.SystemSharedMemoryRegisterResponse().SerializeToString()

    async def system_shared_memory_unregister(self, data: bytes, _call: Call) -> bytes:
        """Forget one region of system memory, or all."""
        self._refuse_unless_allowed()
        request = parse(inference.SystemSharedMemoryUnregisterRequest, data)
        await self._unregister(Kind.SYSTEM, request.name)
        return inference.SystemSharedMemoryUnregisterResponse().SerializeToString()

    # -- CUDA memory -----------------------------------------------------------------------------

    async def cuda_shared_memory_status(self, data: bytes, _call: Call) -> bytes:
        """One region of CUDA memory, or all."""
        request = parse(inference.CudaSharedMemoryStatusRequest, data)
        answer = CudaStatus()
        for found in self._regions.status(Kind.CUDA, request.name):
            region = answer.regions[found.name]
            region.name, region.device_id = found.name, found.device_id
            region.byte_size = found.byte_size
        return answer.SerializeToString()

    async def cuda_shared_memory_register(self, data: bytes, _call: Call) -> bytes:
        """Map the memory that a client exported, by its handle."""
        self._refuse_unless_allowed()
        request = parse(inference.CudaSharedMemoryRegisterRequest, data)
        made = Registration(request.name, Kind.CUDA, request.byte_size, device_id=request.device_id)
        await self._register(made, lambda: open_cuda(made, request.raw_handle, self._find))
        return inference.CudaSharedMemoryRegisterResponse().SerializeToString()

    async def cuda_shared_memory_unregister(self, data: bytes, _call: Call) -> bytes:
        """Forget one region of CUDA memory, or all."""
        self._refuse_unless_allowed()
        request = parse(inference.CudaSharedMemoryUnregisterRequest, data)
        await self._unregister(Kind.CUDA, request.name)
        return inference.CudaSharedMemoryUnregisterResponse().SerializeToString()

    # -- both ------------------------------------------------------------------------------------

    def _refuse_unless_allowed(self) -> None:
        if not self._allowed:
            raise Unsupported(DISABLED, reason="NOT_AVAILABLE")

    async def _register(self, made: Registration, open_: Callable[[], Segment]) -> None:
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._threads, self._regions.register, made, open_)

    async def _unregister(self, kind: Kind, name: str) -> None:
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._threads, self._regions.unregister, kind, name)
