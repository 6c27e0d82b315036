"""Errors for people: one line that says what is wrong, where, and what to do."""

import sys
from collections.abc import Callable, Iterable
from contextlib import contextmanager

MEMORY_ADVICE = (
    "halve --batch where the script has it, or --total_gen_num, --num_samples and the "
    "like; else take --device cpu or a larger card"
)


class UserError(Exception):
    """Something the user can mend; its message is one line, whatever parsers put into it."""

    def __init__(self, message: object):
        super().__init__(" ".join(str(message).split()))


@contextmanager
def reading(what: object):
    """Around every parser of a foreign file: whatever it raises becomes a UserError of one line that begins with
    `what`, the file and its member.

    Parsers of hostile or damaged input raise anything: a KeyError, a RecursionError, an error without a message.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        text = " ".join(str(error).split())[:160]
        raise UserError(f"{what}: cannot be read ({type(error).__name__}{': ' if text else ''}{text})") from None


@contextmanager
def writing(path: object):
    """Around whatever is written: a disk that is full, or a folder that may not be written to, becomes a UserError of
    one line that names `path`."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written ({error.strerror or error}); what was there before is intact"
        ) from None


@contextmanager
def enough_memory(where: object, advice: str):
    """Around work on a device: where its memory does not suffice, a UserError of one line that ends with the advice."""
    try:
        yield
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
        raise UserError(f"out of memory on {where}: {advice}") from None


def out_of_memory(error: Exception) -> bool:
    """Whether torch found too little memory, on a GPU or on the machine."""
    return type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error)


def listed(names: Iterable, most: int = 12) -> str:
    """'a, b, c' of the names, cut with an ellipsis; 'none' where there are none."""
    names = [str(name) for name in names]
    return (", ".join(names[:most]) + (", ..." if len(names) > most else "")) or "none"


def run_script(main: Callable[[], None]) -> None:
    """Run a script's main: a UserError, and what the operating system refuses, becomes one line and exit status 2,
    Ctrl-C exit status 130."""
    try:
        main()
    except (UserError, OSError) as error:
        print(f"error: {UserError(error)}", file=sys.stderr)
        sys.exit(2)
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
        print(f"error: out of memory: {MEMORY_ADVICE}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
