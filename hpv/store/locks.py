"""One writer per output, held by the kernel so that it ends with the process."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import warnings
from pathlib import Path

from hpv.errors import HpvWarning, OutputExistsError
from hpv.store.reading import LOCK

_WITHOUT_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK}


class Lock:
    """An exclusive lock on an output folder, made if it is not there."""

    def __init__(self, folder: Path, shown: str) -> None:
        """``OutputExistsError`` if another run holds it; ``shown`` is the output's name in messages."""
        self._path = folder / LOCK
        while True:
            folder.mkdir(exist_ok=True)
            self._file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                self._take(shown)
                if self._is_current():
                    break
            except BaseException:
                os.close(self._file)
                raise
            os.close(self._file)
        os.truncate(self._file, 0)
        os.pwrite(self._file, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)

    def _take(self, shown: str) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(self._file, 300, 0).decode(errors="replace") or "another run"
            raise OutputExistsError(
                f"{shown} is being written by {holder}; wait for it, or stop it, or use another path."
            ) from None
        except OSError as error:
            if error.errno not in _WITHOUT_LOCKS:
                raise
            warnings.warn(
                f"{shown}: this file system has no locks; take care that no second run writes to it.", HpvWarning
            )

    def _is_current(self) -> bool:
        """Another run may have finished and removed the file between our opening and locking it."""
        try:
            there, ours = os.stat(self._path), os.fstat(self._file)
        except FileNotFoundError:
            return False
        return (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino)

    def moved(self, folder: Path) -> None:
        """The folder was renamed."""
        self._path = folder / LOCK

    def release(self, *, remove: bool) -> None:
        """Let go; ``remove``: take the file away as well, the store is complete."""
        if remove:
            self._path.unlink(missing_ok=True)
        os.close(self._file)
