"""The bound of every server that speaks TCP: a socket that gives back what it reads."""

import os
import resource
import socket
import struct
import time

_FIGURE = struct.Struct("d")


def echoes_per_cpu_s(size: int, seconds: float, core: int, client_core: int) -> float:
    """Echoes of so many bytes per second of CPU of a process that does nothing else, over loopback,
    one at a time, into memory that it has already.
    """
    listener = socket.create_server(("127.0.0.1", 0))
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.sched_setaffinity(0, {core})
            os.write(writing, _FIGURE.pack(_serve(listener, size)))
        finally:
            os._exit(0)
    own = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {client_core})
    try:
        _ask(listener.getsockname(), size, seconds)
        os.waitpid(child, 0)
        return float(_FIGURE.unpack(os.read(reading, _FIGURE.size))[0])
    finally:
        os.sched_setaffinity(0, own)
        listener.close()
        os.close(reading)
        os.close(writing)


def _serve(listener: socket.socket, size: int) -> float:
    connection, _ = listener.accept()
    memory = memoryview(bytearray(size))
    echoes, began = 0, 0.0
    while _receive(connection, memory):
        connection.sendall(memory)
        echoes += 1
        if echoes == 10:
            # From here on all of the memory has been used.
            began = _cpu_s()
    return max(echoes - 10, 0) / max(_cpu_s() - began, 1e-9)


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _ask(address: tuple[str, int], size: int, seconds: float) -> None:
    memory = memoryview(bytearray(size))
    until = time.monotonic() + seconds
    with socket.create_connection(address) as connection:
        while time.monotonic() < until:
            connection.sendall(memory)
            _receive(connection, memory)


def _receive(connection: socket.socket, memory: memoryview) -> bool:
    filled = 0
    while filled < len(memory):
        count = connection.recv_into(memory[filled:])
        if not count:
            return False
        filled += count
    return True
