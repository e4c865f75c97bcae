# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""The one exception that a user's input can cause, and how a command ends by it."""

import contextlib
import errno
from collections.abc import Iterator

# What a full or forbidden disk says; any other OSError is a bug of ours.
_UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO)


class InputError(ValueError):
    """Something the user gave cannot be used; the message names it and the remedy, on one line.

    Everything else that is raised is a bug of ours and keeps its traceback.
    """


def ascii_only(text: str) -> str:
    r"""A text as one line that a terminal shows as it is: other letters, and what moves a cursor, by their numbers.

    >>> print(ascii_only("a" + chr(27) + "[2K" + chr(10) + chr(0x202E)))
    a\x1b[2K\n\u202e
    """
    return text.encode("unicode_escape").decode("ascii")


@contextlib.contextmanager
def one_line() -> Iterator[None]:
    """End the process with one line and exit code 1 where the user must mend something."""
    try:
        yield
    except InputError as error:
        shown = "".join(one if one.isprintable() else ascii_only(one) for one in str(error))
        raise SystemExit(f"monai_mia: {shown}") from error
    except OSError as error:
        if error.errno not in _UNWRITABLE:
            raise
        where = f" {error.filename}" if error.filename else ""
        raise SystemExit(
            f"monai_mia: output_dir must be writable and have space, got {error.strerror or error}{where}. Free "
            "some space or choose another --output_dir; what was finished is kept, run the command again to resume."
        ) from error
