"""What must be seen to before torchvision (which timm needs) is imported."""

from __future__ import annotations

import sys


def survive_tensorflow() -> None:
    """Let torchvision be imported in a process that has imported TensorFlow already.

    torchvision imports triton where it is installed, and triton's library crashes the interpreter when
    TensorFlow's is loaded (both carry LLVM; seen with triton of torch 2.14 and TensorFlow 2.21). Nothing here
    needs triton; marked as absent, torch does without.
    """
    if "tensorflow" in sys.modules and "triton" not in sys.modules:
        sys.modules["triton"] = None  # type: ignore[assignment]
