"""Standard output that may be closed, full or of any encoding. The program goes on without it."""

import errno
import io
import os
import sys
from typing import Any, TextIO


class _Enduring(io.FileIO):
    """A stream that drops its output when the reader has left.

    Args:
      stream: the stream to write to.
    """

    def __init__(self, stream: TextIO):
        super().__init__(stream.fileno(), "w", closefd=False)
        self._name = stream.name

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError as error:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self.fileno())
            os.close(null)
            if error.errno != errno.EPIPE:  # `| head` is no fault, a full disk is one
                print(
                    f"{self._name} can't be written to ({error.strerror}): nothing more is printed",
                    file=sys.stderr,
                )
            return memoryview(data).nbytes


def endure() -> None:
    """Makes `print` safe: neither a reader that leaves nor an encoding ends the program.

    Characters that the encoding lacks are printed as escapes. Streams that a test or a notebook has
    replaced stay.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None or stream is not getattr(sys, f"__{name}__"):
            continue
        stream.flush()
        sink = io.BufferedWriter(_Enduring(stream))
        wrapper = io.TextIOWrapper(
            sink,
            encoding=stream.encoding,
            errors="backslashreplace",
            line_buffering=stream.line_buffering,
        )
        setattr(sys, name, wrapper)
