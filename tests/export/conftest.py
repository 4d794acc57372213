"""What the export tests share."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest

_alive: list[Any] = []


@pytest.fixture(scope="session")
def torchvision() -> ModuleType:
    """torchvision. A build for CUDA beside torch for the CPU lacks its compiled operators and cannot be
    imported: two of them are declared here, which is enough for its networks.
    """
    torch = pytest.importorskip("torch")
    try:
        import torchvision
    except RuntimeError as error:
        if "torchvision::nms does not exist" not in str(error):
            raise
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor boxes, Tensor scores, float iou_threshold) -> Tensor")
        _alive.append(library)  # it takes its operators with it when it dies
    except ImportError:
        pytest.skip("torchvision is not installed")
    import torchvision

    return torchvision
