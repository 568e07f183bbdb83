"""Messages between the engine and process T: a length, then JSON. Needs no torch."""

from __future__ import annotations

import json
import socket
import struct
import time

MOST = 8 << 20  # bytes of one message from T
# The frame of protocol.py, which the engine does not import: it would load torch.
LENGTHS = struct.Struct("<QQ")


class Broken(Exception):
    """Process T is gone, silent, or sent what is no message."""


class Wire:
    """The engine's end of the socket pair."""

    def __init__(self, sock: socket.socket):
        self.sock = sock

    def ask(self, message: dict, seconds: float, descriptor: int | None = None) -> dict:
        """Send a message, and a file descriptor with it, and wait for the answer.

        Raises:
            Broken: there is no answer in time.
        """
        until = time.monotonic() + seconds
        data = json.dumps(message).encode()
        try:
            self.sock.settimeout(seconds)
            self.sock.sendall(LENGTHS.pack(len(data), 0) + data)
            if descriptor is not None:
                socket.send_fds(self.sock, [b"+"], [descriptor])
            length, rest = LENGTHS.unpack(self._read(LENGTHS.size, until))
            if length > MOST or rest:
                raise Broken("an answer that is too long")
            reply = json.loads(self._read(length, until))
        except (OSError, ValueError) as error:
            raise Broken(str(error) or type(error).__name__) from None
        if not isinstance(reply, dict):
            raise Broken("an answer that is no message")
        return reply

    def _read(self, size: int, until: float) -> bytes:
        data = bytearray()
        while len(data) < size:
            left = until - time.monotonic()
            if left <= 0:
                raise Broken("no answer in time")
            self.sock.settimeout(left)
            part = self.sock.recv(size - len(data))
            if not part:
                raise Broken("it ended")
            data += part
        return bytes(data)

    def close(self) -> None:
        self.sock.close()
