"""Where a model runs."""

from __future__ import annotations

import torch

from effdet_model.errors import InputError


def usable_device(name: str | torch.device | None = None, option: str = "device") -> torch.device:
    """The device of that name with its number, tried out; without a name a GPU where there is one, else the CPU.

    Args:
        option: what the message calls it.

    Raises:
        InputError: the device does not work here.
    """
    name = name or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        tried = torch.zeros(1, device=torch.device(name))
        tried.cpu()
    except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:
        reason = str(error).splitlines()[0].rstrip(".")[:200]
        raise InputError(
            f"{option}: expected a device that works here, found {str(name)!r}: {reason}; use cpu or another."
        ) from error
    return tried.device
