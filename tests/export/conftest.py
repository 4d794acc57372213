"""What the export tests share."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Iterator
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from torch import nn

    from edgecnn.export import ExportResult
    from tests.export.networks import Exported

_alive: list[Any] = []


@pytest.fixture(scope="session")
def torchvision() -> ModuleType:
    """torchvision. A build for CUDA beside torch for the CPU lacks its compiled operators and cannot be
    imported: two of them are declared here, which is enough for its networks.
    """
    torch = pytest.importorskip("torch")
    try:
        return importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::nms does not exist" not in str(error):
            raise
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor boxes, Tensor scores, float iou_threshold) -> Tensor")
        _alive.append(library)  # it takes its operators with it when it dies
    except ImportError:
        pytest.skip("torchvision is not installed")
    return importlib.import_module("torchvision")


@pytest.fixture(scope="session", autouse=True)
def torch_translations_read_once() -> Iterator[None]:
    """torch compiles its table of translations anew for each export, which is half of a small one's time."""
    try:
        from torch.onnx._internal.exporter._registration import ONNXRegistry
    except ImportError:  # no torch, or another one: only slower
        yield
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            ONNXRegistry, "from_torchlib", staticmethod(functools.cache(ONNXRegistry.from_torchlib))
        )
        yield


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """Exports one of `NETWORKS`, once a session: name and batch → the module and the result."""
    made: dict[tuple[str, int | None], tuple[nn.Module, ExportResult]] = {}

    def export(name: str, batch: int | None = 1) -> tuple[nn.Module, ExportResult]:
        from edgecnn.export import export_onnx
        from tests.export.networks import NETWORKS, spec, trained

        if (name, batch) not in made:
            module = trained(NETWORKS[name][0]())
            path = tmp_path_factory.mktemp("exported") / f"{name}.onnx"
            made[name, batch] = (module, export_onnx(module, spec(), path, batch=batch))
        return made[name, batch]

    return export
