"""Standard input and output in every state a command can find them: closed, full, without a reader, in another encoding."""

import contextlib
import io
import os
import sys
from collections.abc import Iterator, Sequence


@contextlib.contextmanager
def guarded(arguments: Sequence[str]) -> Iterator[None]:
    """Run a command in the block: any problem with the encoding of arguments or with the output is one line and an exit code, without a traceback."""
    _open_closed()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            with contextlib.suppress(OSError):  # the following write reports the error
                stream.reconfigure(errors="backslashreplace")
    try:
        for argument in arguments:
            if not _is_text(argument):
                readable = os.fsencode(argument).decode("utf-8", "backslashreplace")
                _end(f"the argument {readable} is not UTF-8", 2)
        yield
    except SystemExit as end:
        problem = _flush()
        if problem and not end.code:
            _end(problem, 1)
        raise
    except OSError as error:
        where = "cannot write the output" if error.filename is None else os.fsdecode(error.filename)
        _end(_flush() or f"{where}: {error.strerror or error}", 1)
    except UnicodeEncodeError as error:  # from the environment
        _end(f"{error.object!a} is not UTF-8", 2)
    finally:
        _flush()


def _is_text(argument: str) -> bool:
    try:
        argument.encode()
    except UnicodeEncodeError:
        return False
    return True


def _open_closed() -> None:
    """Open closed descriptors on /dev/null, before a socket or a database takes their numbers.

    Reading from such an input and writing to such an output are errors, because some output is printed only once.
    """
    for descriptor, name, flags in ((0, "stdin", os.O_WRONLY), (1, "stdout", os.O_RDONLY), (2, "stderr", os.O_WRONLY)):
        try:
            os.fstat(descriptor)
        except OSError:
            opened = os.open(os.devnull, flags)
            if opened != descriptor:
                os.dup2(opened, descriptor)
                os.close(opened)
            os.set_inheritable(descriptor, True)  # noqa: FBT003 - its only argument
            mode = "w" if descriptor else "r"
            setattr(sys, name, open(descriptor, mode, encoding="utf-8", closefd=False))  # noqa: SIM115


def _flush() -> str | None:
    """Flush the rest of the output.

    Return what is wrong if that fails; the interpreter's own flush at exit then goes to /dev/null.
    """
    problem = None
    for stream, descriptor in ((sys.stdout, 1), (sys.stderr, 2)):
        try:
            stream.flush()
        except BrokenPipeError:
            _replace(descriptor)
        except OSError as error:
            _replace(descriptor)
            if descriptor == 1:
                problem = f"cannot write the output: {error.strerror}"
    return problem


def _replace(descriptor: int) -> None:
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, descriptor)
    os.close(null)


def _end(text: str, code: int) -> None:
    with contextlib.suppress(OSError):
        sys.stderr.write(f"Error: {text}\n")
        sys.stderr.flush()
    raise SystemExit(code) from None
