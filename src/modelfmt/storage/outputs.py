"""Writing so that a destination is either its old self or the complete new file.

Bytes go to a preallocated part file beside the destination, at any offset from any thread; the header comes last, then
fsync and rename. A journal next to it lists the finished jobs, so that a killed run can go on. Entries are trusted
while the machine has not been restarted since (the page cache holds what a killed process wrote); after a restart, only
those before the last synchronisation point.
"""

from __future__ import annotations

import errno
import fcntl
import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from glob import escape as glob_escape
from pathlib import Path

from modelfmt.errors import DestinationExists, NoSpace, OutputError

__all__ = ["Journal", "OutputFile", "check_destination", "make_folder", "remove_stale", "write_pieces"]

SUFFIX = ".modelfmt"
_READ_BACK = 1 << 20
_WRITE_BEHIND = 1 << 19
_WRITE_PIECE = 1 << 19
"""Bytes of one write. The kernel takes pages as large as what it is handed, and in a virtual machine whose host takes
free memory back the largest ones (2 MiB) are those that have to be fetched again: five times the time of the copy."""


class OutputFile:
    """One destination file while it is being made. token: names the plan, so that only the same plan resumes it."""

    def __init__(self, path: str, size: int, token: str) -> None:
        self.path = Path(path)
        self.size = size
        self.part = self.path.with_name(f".{self.path.name[:180]}.{token}.part{SUFFIX}")
        self._handle = -1
        self._writing = threading.Lock()

    def open(self) -> bool:
        """Create and preallocate the part file; True where one of the right size was there already.

        Raises NoSpace before anything is written where the disk cannot hold it.
        """
        with _os_errors(self.path):
            self._handle = os.open(self.part, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            fcntl.flock(self._handle, fcntl.LOCK_EX)  # parts of one plan may start at the same moment
            try:
                if os.fstat(self._handle).st_size == self.size and self.size > 0:
                    return True
                os.ftruncate(self._handle, 0)
                os.ftruncate(self._handle, self.size)
                self._reserve()
            finally:
                fcntl.flock(self._handle, fcntl.LOCK_UN)
        return False

    def _reserve(self) -> None:
        if self.size == 0:
            return
        try:
            os.posix_fallocate(self._handle, 0, self.size)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
                raise
            free = os.statvfs(self.part.parent)
            if free.f_bavail * free.f_frsize < self.size:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from None

    def write(self, offset: int, data: memoryview) -> None:
        """Put data at offset; any order, any thread, one at a time: the kernel holds the file's lock while it copies,
        and threads that wait for it there spin.
        """
        with _os_errors(self.path), self._writing:
            done = 0
            while done < len(data):
                done += os.pwrite(self._handle, data[done : done + _WRITE_PIECE], offset + done)
        self._begin_writeback(offset, done)

    def copy(self, source: int, source_offset: int, offset: int, size: int) -> int:
        """Copy up to size bytes from a descriptor inside the kernel; returns the count, 0 where that cannot be done.

        One thread at a time, as in `write`.
        """
        with self._writing:
            done = self._copy(source, source_offset, offset, size)
        self._begin_writeback(offset, done)
        return done

    def _begin_writeback(self, offset: int, size: int) -> None:
        """Let the kernel begin to write out a large piece now, so that the last fsync finds little left.

        POSIX_FADV_DONTNEED does that first; pages that are still to be written stay where they are.
        """
        if size >= _WRITE_BEHIND:
            with suppress(OSError):
                os.posix_fadvise(self._handle, offset, size, os.POSIX_FADV_DONTNEED)

    def _copy(self, source: int, source_offset: int, offset: int, size: int) -> int:
        done = 0
        while done < size:
            try:
                count = os.copy_file_range(source, self._handle, size - done, source_offset + done, offset + done)
            except OSError as error:
                if error.errno in (errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS, errno.EPERM, errno.EBADF):
                    return done
                with _os_errors(self.path):
                    raise
            if count == 0:
                return done
            done += count
        return done

    def crc32(self, offset: int, size: int) -> int:
        """CRC-32 of what was written at offset, read back in pieces."""
        import zlib

        found, end = 0, offset + size
        with _os_errors(self.path):
            while offset < end:
                data = os.pread(self._handle, min(_READ_BACK, end - offset), offset)
                if not data:
                    raise OSError(errno.EIO, os.strerror(errno.EIO))
                found = zlib.crc32(data, found)
                offset += len(data)
        return found

    def sync(self) -> None:
        """Force what was written onto the disk."""
        with _os_errors(self.path):
            os.fdatasync(self._handle)

    def seal(self) -> None:
        """Set the mode of a new file (or the replaced file's), and force everything onto the disk."""
        with _os_errors(self.path):
            try:
                mode = self.path.stat().st_mode & 0o777
            except FileNotFoundError:
                mode = 0o666 & ~_umask()
            os.fchmod(self._handle, mode)
            os.fsync(self._handle)

    def publish(self) -> None:
        """Rename the part file to its destination."""
        with _os_errors(self.path):
            self.part.replace(self.path)
            sync_folder(self.path.parent)

    def close(self) -> None:
        """Close the part file and leave it for a later run."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1

    def discard(self) -> None:
        """Close and remove the part file."""
        self.close()
        with suppress(FileNotFoundError):
            self.part.unlink()


class Journal:
    """The finished jobs of one run, append-only. Holds a lock, so that two runs never write one destination."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._handle = -1
        self._lock = threading.Lock()

    @staticmethod
    def beside(destination: str, token: str, part: str = "all") -> Journal:
        """The journal for a destination, a plan and a part of it."""
        path = Path(destination)
        return Journal(path.with_name(f".{path.name[:180]}.{token}.{part}.journal{SUFFIX}"))

    def open(self) -> set[int]:
        """Take the lock and return the numbers of the jobs that need not be done again."""
        with _os_errors(self.path):
            self._handle = os.open(
                self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
            )
            try:
                fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(self._handle)
                self._handle = -1
                raise OutputError(
                    "another conversion is writing this destination", code="destination-busy", path=self.path
                ) from None
        return self.finished()

    def finished(self) -> set[int]:
        """Numbers of the jobs that the journal vouches for."""
        try:
            text = self.path.read_bytes()
        except FileNotFoundError:
            return set()
        entries, durable, alive, at = [], 0, len(text), 0
        for line in text.split(b"\n")[:-1]:
            word, _, value = line.partition(b" ")
            if word == b"synced" and value.isdigit():
                durable = max(durable, int(value))
            elif word == b"boot":
                alive = min(alive, at) if value == boot_id() else len(text)
            elif line.isdigit():
                entries.append((at, int(line)))
            at += len(line) + 1
        return {job for at, job in entries if at < durable or at >= alive}

    def begin(self) -> None:
        """Say which start of the machine the following entries belong to."""
        self._append(b"boot " + boot_id() + b"\n")

    def done(self, job: int) -> None:
        """Record a job whose bytes have been handed to the operating system."""
        self._append(b"%d\n" % job)

    def position(self) -> int:
        """Bytes of the journal so far, for `synced`."""
        return os.fstat(self._handle).st_size

    def synced(self, position: int) -> None:
        """Record that the bytes of every job entered before `position` are on the disk."""
        self._append(b"synced %d\n" % position)
        os.fsync(self._handle)

    def close(self, *, remove: bool = False) -> None:
        """Release the lock; remove: the journal is no longer needed."""
        if remove:
            with suppress(FileNotFoundError):
                self.path.unlink()
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1

    def _append(self, line: bytes) -> None:
        with _os_errors(self.path), self._lock:
            os.write(self._handle, line)


def write_pieces(path: str, pieces: Iterable[bytes], *, token: str, overwrite: bool = False) -> None:
    """Write one small file from its pieces, in order, and put it in place; on an error, nothing is left behind.

    token: names the writer, of whom only one at a time may write this destination.
    """
    check_destination(path, overwrite=overwrite)
    folders = make_folder(Path(path).parent)
    output, journal, at = OutputFile(path, 0, token), Journal.beside(path, token), 0
    journal.open()
    try:
        output.open()
        for piece in pieces:
            output.write(at, memoryview(piece))
            at += len(piece)
        output.seal()
        output.publish()
    except BaseException:
        output.discard()
        journal.close(remove=True)
        with suppress(OSError):
            for folder in folders:
                folder.rmdir()
        raise
    output.close()
    journal.close(remove=True)


def check_destination(path: str, *, overwrite: bool) -> None:
    """Raise DestinationExists where path is there and may not be replaced, OutputError where it can never be a file."""
    target = Path(path)
    if target.is_dir():
        raise DestinationExists("the destination is a folder", path=path, hint="name a file inside it")
    if target.exists() and not overwrite:
        raise DestinationExists(
            "the destination is there already", path=path, hint="add --overwrite (overwrite=True) to replace it"
        )


def make_folder(path: Path) -> list[Path]:
    """Make a folder and its parents; returns those that were made, innermost first."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    with _os_errors(path):
        path.mkdir(parents=True, exist_ok=True)
    return missing


def remove_stale(destination: str, token: str) -> None:
    """Remove what other plans left beside a destination: part files and journals that nobody is writing."""
    path = Path(destination)
    found = [
        place
        for place in path.parent.glob(f".{glob_escape(path.name[:180])}.*{SUFFIX}")
        if len(place.name) > len(SUFFIX) and f".{token}." not in place.name
    ]
    for journal in (place for place in found if place.name.endswith(f".journal{SUFFIX}")):
        with suppress(OSError), journal.open("rb") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            other = journal.name.split(".")[-4]
            for place in found:
                if f".{other}." in place.name:
                    place.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Force a folder's entries onto the disk."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
            raise
    finally:
        os.close(handle)


def boot_id() -> bytes:
    """What tells one start of the machine from the next; constant where the system does not say."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_bytes().strip()
    except OSError:
        return b"unknown"


def _umask() -> int:
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("Umask:"):
                return int(line.split()[1], 8)
    except OSError:
        pass
    return 0o022


@contextmanager
def _os_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise NoSpace(
                "there is no room for the destination",
                path=path,
                found=os.strerror(error.errno),
                hint="free space, or choose another disk or a smaller type",
            ) from error
        raise OutputError(
            "writing the destination failed", code="write-failed", path=path, found=error.strerror
        ) from error
