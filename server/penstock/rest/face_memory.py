"""Regions of shared memory over HTTP: which there are, register and forget."""

from collections.abc import Sequence
from typing import Any

from penstock.rest.control import Control, base64_of, document_reply, size_of
from penstock.rest.documents import expect_object, expect_text
from penstock.rest.exchange import Exchange, Reply
from penstock.rest.messages_json import as_document
from penstock.rest.route import Route
from penstock.rpc import Category
from penstock_protos import inference

SYSTEM, CUDA = "/v2/systemsharedmemory", "/v2/cudasharedmemory"


class MemoryFace:
    """Answers for the regions; whoever keeps them answers behind it, for gRPC as well."""

    def __init__(self, control: Control) -> None:
        self._control = control

    def routes(self) -> Sequence[Route]:
        """The paths of both kinds of memory."""
        made: list[Route] = []
        for root, status, register, forget in (
            (SYSTEM, self.system_status, self.system_register, self.system_unregister),
            (CUDA, self.cuda_status, self.cuda_register, self.cuda_unregister),
        ):
            region = f"{root}/region/{{region}}"
            made += [
                *(Route("GET", f"{at}/status", status, _CATEGORY) for at in (root, region)),
                *(Route("POST", f"{at}/unregister", forget, _CATEGORY) for at in (root, region)),
                Route("POST", f"{region}/register", register, _CATEGORY),
            ]
        return made

    async def system_status(self, exchange: Exchange) -> Reply:
        """The regions of system memory, or one of them."""
        request = inference.SystemSharedMemoryStatusRequest(name=exchange.value("region"))
        kind = inference.SystemSharedMemoryStatusResponse
        return _regions(
            await self._control.ask("SystemSharedMemoryStatus", request, kind, exchange)
        )

    async def cuda_status(self, exchange: Exchange) -> Reply:
        """The regions of a device's memory, or one of them."""
        request = inference.CudaSharedMemoryStatusRequest(name=exchange.value("region"))
        kind = inference.CudaSharedMemoryStatusResponse
        return _regions(await self._control.ask("CudaSharedMemoryStatus", request, kind, exchange))

    async def system_register(self, exchange: Exchange) -> Reply:
        """Register a region of system memory."""
        document = await self._control.document(exchange)
        request = inference.SystemSharedMemoryRegisterRequest(
            name=exchange.value("region"),
            key=expect_text(document.get("key"), "'key'"),
            offset=size_of(document, "offset", 0),
            byte_size=size_of(document, "byte_size"),
        )
        kind = inference.SystemSharedMemoryRegisterResponse
        await self._control.ask("SystemSharedMemoryRegister", request, kind, exchange)
        return document_reply({})

    async def cuda_register(self, exchange: Exchange) -> Reply:
        """Register a region of a device's memory by the handle that its owner exported."""
        document = await self._control.document(exchange)
        handle = expect_object(document.get("raw_handle"), "'raw_handle'")
        request = inference.CudaSharedMemoryRegisterRequest(
            name=exchange.value("region"),
            raw_handle=base64_of(handle.get("b64"), "b64"),
            device_id=size_of(document, "device_id", 0),
            byte_size=size_of(document, "byte_size"),
        )
        kind = inference.CudaSharedMemoryRegisterResponse
        await self._control.ask("CudaSharedMemoryRegister", request, kind, exchange)
        return document_reply({})

    async def system_unregister(self, exchange: Exchange) -> Reply:
        """Forget a region of system memory, or all of them."""
        request = inference.SystemSharedMemoryUnregisterRequest(name=exchange.value("region"))
        kind = inference.SystemSharedMemoryUnregisterResponse
        await self._control.ask("SystemSharedMemoryUnregister", request, kind, exchange)
        return document_reply({})

    async def cuda_unregister(self, exchange: Exchange) -> Reply:
        """Forget a region of a device's memory, or all of them."""
        request = inference.CudaSharedMemoryUnregisterRequest(name=exchange.value("region"))
        kind = inference.CudaSharedMemoryUnregisterResponse
        await self._control.ask("CudaSharedMemoryUnregister", request, kind, exchange)
        return document_reply({})


_CATEGORY = Category.SHARED_MEMORY


def _regions(answer: Any) -> Reply:
    return document_reply([as_document(answer.regions[name]) for name in sorted(answer.regions)])
