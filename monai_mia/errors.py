# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""The one exception that a user's input can cause."""


class InputError(ValueError):
    """Something the user gave cannot be used; the message names it and the remedy, on one line.

    Everything else that is raised is a bug of ours and keeps its traceback.
    """
