"""What to do when the system has no more of something: disk, memory, open files, permission."""

import errno

__all__ = ["advice", "explain"]

_ADVICE = {
    errno.ENOSPC: "free space there, or write to another disk",
    errno.EDQUOT: "the user's quota is used up: free space there, or write to another disk",
    errno.EROFS: "the file system is read-only: write to another one",
    errno.EACCES: "the user may not do this: change the owner or mode, or choose another folder",
    errno.EPERM: "the user may not do this: change the owner or mode, or choose another folder",
    errno.EIO: "the disk reports an error: look at the system's log, and use another disk",
    errno.EMFILE: "this process has too many open files: raise `ulimit -n`, or lower data.train.workers",
    errno.ENFILE: "the whole system has too many open files: close some, or lower data.train.workers",
    errno.ENOMEM: "out of memory: lower data.train.batch_size or data.train.workers, or the image size",
}


def advice(error: OSError | MemoryError) -> str:
    """What to do about an error of the system, in words; empty where nothing can be said in general."""
    number = errno.ENOMEM if isinstance(error, MemoryError) else error.errno
    return _ADVICE.get(number or 0, "")


def explain(error: OSError | MemoryError) -> str:
    """What the system said, about which file, and what to do."""
    if isinstance(error, MemoryError):
        said = str(error).strip().splitlines()[0] if str(error).strip() else "memory could not be allocated"
    else:
        said = error.strerror or str(error) or type(error).__name__
        files = [str(file) for file in (error.filename, error.filename2) if file is not None]
        said += f" ({', '.join(files)})" if files else ""
        if error.errno == errno.ENOENT and not files:
            said += "; is the folder that you are in still there?"
    help_ = advice(error)
    return f"{said}; {help_}" if help_ else said
