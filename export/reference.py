"""The PyTorch side of an export: what is exported, run as the reference that the ONNX model must match.

Three things can be exported, and all are called the same way here: an `nn.Module`, a
`torch.export.ExportedProgram` (`.pt2`) and a TorchScript module. Before any long work a Reference finds
what would make the comparison meaningless: a module that takes something else than one image, that gives
NaN, or that answers differently each time.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgecnn.errors import ExportError
from edgecnn.export.parity import relative_error
from edgecnn.export.torch_boundary import essential_line, quiet
from edgecnn.spec import ImageSpec

if TYPE_CHECKING:
    import torch

__all__ = ["Kind", "Reference"]

Kind = Literal["module", "program", "torchscript"]

# Two runs on the same input may differ by rounding where threads share a sum, never by more.
_REPEATABLE = 1e-5


class Reference:
    """A PyTorch model as a function from an image tensor to named arrays. Use it inside `with`.

    Inside the `with` block the module is in evaluation mode; afterwards every submodule is in the mode that
    it was in.

    Args:
        module: an `nn.Module`, an `ExportedProgram` or a TorchScript module.

    Attributes:
        kind: which of the three it is.
        module: as given.

    Raises:
        ExportError: something else, or it takes other inputs than one tensor.
    """

    def __init__(self, module: Any) -> None:
        import torch

        while isinstance(module, torch.nn.DataParallel) or hasattr(module, "_orig_mod"):
            module = (
                getattr(module, "_orig_mod", None) or module.module
            )  # torch.compile's wrapper, or the other
        self.module = module
        self.kind: Kind
        if isinstance(module, torch.export.ExportedProgram):
            self.kind = "program"
            _check_program(module)
            with quiet():
                self._call: Any = module.module()
            parameters = list(module.parameters())
        elif isinstance(module, torch.nn.Module):
            self.kind = "torchscript" if isinstance(module, torch.jit.ScriptModule) else "module"
            _check_signature(module, self.kind)
            self._call = module
            parameters = list(module.parameters())
        else:
            raise ExportError(
                "cannot export this",
                got=f"a {type(module).__name__}",
                expected="a torch.nn.Module, an ExportedProgram or a TorchScript module",
            )
        self.parameter_names = frozenset(module.state_dict if self.kind == "program" else module.state_dict())
        _check_parameters(parameters)

    @contextlib.contextmanager
    def evaluating(self) -> Iterator[Reference]:
        """Evaluation mode, without gradients or warnings, until the block ends."""
        import torch

        submodules = (
            [] if self.kind == "program" else [m for m in self.module.modules() if hasattr(m, "training")]
        )
        modes = [(submodule, submodule.training) for submodule in submodules]
        if submodules:
            self.module.eval()
        try:
            with torch.no_grad(), quiet():
                yield self
        finally:
            for submodule, training in modes:
                submodule.training = training

    def run(self, array: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        """Outputs by name, in the order of the exported graph. The names are the module's own, or `output…`.

        Raises:
            ExportError: the module fails on such an input, or returns something else than tensors.
        """
        import torch

        try:
            value = self._call(torch.from_numpy(array))
        except Exception as error:  # user code: it may raise anything
            raise ExportError(
                f"the module does not run on an image tensor {tuple(array.shape)} float32",
                got=essential_line(error),
                remedy="Check --input-size, --color and --layout",
            ) from error
        outputs = _name_outputs(list(_flatten(value)))
        return {name: tensor.detach().cpu().numpy() for name, tensor in outputs.items()}

    def check(self, array: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        """Run twice on one input and refuse what cannot be compared.

        Raises:
            ExportError: as `run`; NaN or infinity in an output; two runs that differ.
        """
        first, second = self.run(array), self.run(array)
        for name, value in first.items():
            if np.issubdtype(value.dtype, np.floating) and not np.isfinite(value).all():
                what = "NaN" if np.isnan(value).any() else "infinity"
                raise ExportError(
                    f"the PyTorch module itself gives {what} in {name}",
                    remedy="Check its weights, and that mean and std are those of the training",
                )
            difference = relative_error(value, second[name]) if value.shape == second[name].shape else 1.0
            if difference > _REPEATABLE:
                raise ExportError(
                    "the module answers differently each time that it sees the same image",
                    got=f"{name} changes by {difference:.2g} of its range",
                    expected="a module without randomness or memory in eval() mode",
                    remedy="Look for F.dropout without training=self.training, or torch.rand in forward()",
                )
        return first

    def fixed_batch(self) -> int | None:
        """The batch that a `.pt2` was exported with; None where it is free, and for other kinds."""
        if self.kind != "program":
            return None
        side = _input_shape(self.module)[0]
        return side if isinstance(side, int) else None

    def fixed_sides(self) -> tuple[int, int, int] | None:
        """The sides behind the batch that a `.pt2` was exported with; None where one of them is free."""
        sides = _input_shape(self.module)[1:] if self.kind == "program" else ()
        fixed = [side for side in sides if isinstance(side, int)]
        return (fixed[0], fixed[1], fixed[2]) if len(fixed) == len(sides) == 3 else None

    def check_shape(self, spec: ImageSpec) -> None:
        """Compare the input of a `.pt2`, which has fixed sides, with the spec. Raises ExportError."""
        if self.kind != "program":
            return
        sides = _input_shape(self.module)[1:]
        if len(sides) != 3 or any(
            isinstance(s, int) and s != want for s, want in zip(sides, spec.shape, strict=True)
        ):
            raise ExportError(
                "the spec does not fit the exported program's input",
                got=f"{spec.layout} {spec.shape}",
                expected=str(tuple(s if isinstance(s, int) else "free" for s in sides)),
                remedy="Correct --input-size, --color or --layout",
            )


def _check_program(program: Any) -> None:
    inputs = program.graph_signature.user_inputs
    if len(inputs) != 1 or len(_input_shape(program)) != 4:
        raise ExportError(
            "the exported program takes other inputs than one image",
            got=", ".join(f"{name}" for name in inputs) or "none",
            expected="one tensor (N, C, H, W) or (N, H, W, C)",
        )
    training = [node.name for node in program.graph.nodes if node.op == "call_function" and _trains(node)]
    if training or program.graph_signature.buffers_to_mutate:
        raise ExportError(
            "the program was exported in training mode",
            got=f"{training[0]}, which computes with the batch's own statistics"
            if training
            else "changing buffers",
            expected="a program exported in evaluation mode",
            remedy="Call module.eval() before torch.export.export",
        )


def _trains(node: Any) -> bool:
    """A batch norm that has running statistics and does not use them."""
    return str(node.target) == "aten.batch_norm.default" and node.args[3] is not None and node.args[5] is True


def _input_shape(program: Any) -> tuple[Any, ...]:
    """Sides of the one user input: int where fixed, a SymInt where free. () where it is no tensor."""
    name = program.graph_signature.user_inputs[0]
    node = next((node for node in program.graph.nodes if node.name == name), None)
    value: Any = node.meta.get("val") if node is not None else None
    return tuple(value.shape) if hasattr(value, "shape") else ()


def _check_signature(module: Any, kind: Kind) -> None:
    """One required argument; further ones need defaults."""
    try:
        if kind == "torchscript":
            arguments = module.forward.schema.arguments[1:]  # behind self, whatever it is called
            required = [argument.name for argument in arguments if not argument.has_default_value()]
            total = len(arguments)
        else:
            parameters = [
                p
                for p in inspect.signature(module.forward).parameters.values()
                if p.kind not in (p.VAR_KEYWORD, p.KEYWORD_ONLY)
            ]
            required = [p.name for p in parameters if p.default is p.empty and p.kind != p.VAR_POSITIONAL]
            total = len(parameters)
    except (AttributeError, TypeError, ValueError, RuntimeError):
        return  # a forward without a signature, written in C++: calling it will tell
    if len(required) > 1 or total == 0:
        raise ExportError(
            f"{type(module).__name__} takes other inputs than one image",
            got=f"forward({', '.join(required)})",
            expected="forward(image)",
            remedy="Wrap it in a module whose forward takes the image alone",
        )


def _check_parameters(parameters: list[Any]) -> None:
    """float32 on the CPU: a GPU computes with fewer bits (TF32), and no comparison would be exact."""
    dtypes = {str(parameter.dtype) for parameter in parameters if parameter.is_floating_point()}
    if dtypes - {"torch.float32"}:
        raise ExportError(
            "the module's weights are not float32",
            got=", ".join(sorted(dtypes)),
            expected="torch.float32",
            remedy="Call module.float(); a lower precision is chosen later, by `edgecnn build`",
        )
    devices = {str(parameter.device) for parameter in parameters}
    if devices - {"cpu"}:
        raise ExportError(
            "the module is not on the CPU",
            got=", ".join(sorted(devices)),
            expected="cpu",
            remedy="Call module.cpu(): the export is compared with PyTorch there, in full precision",
        )


def _flatten(value: Any, name: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    """(path, tensor) pairs in the order in which torch.export flattens them; None is left out as it does."""
    import torch

    if isinstance(value, torch.Tensor):
        yield name, value
        return
    if value is None:
        return
    items: list[tuple[str, Any]]
    if isinstance(value, Mapping):
        items = [(str(key), entry) for key, entry in value.items()]
    elif isinstance(value, tuple) and hasattr(value, "_fields"):
        items = list(zip(value._fields, value, strict=True))
    elif isinstance(value, (tuple, list)):
        items = [(str(index), entry) for index, entry in enumerate(value)]
    else:
        raise ExportError(
            "the module returns something else than tensors",
            got=f"{name + ': ' if name else ''}{type(value).__name__}",
            expected="a tensor, or a tuple, list or dict of tensors",
            remedy="Wrap it in a module that returns its tensors",
        )
    for key, entry in items:
        yield from _flatten(entry, f"{name}_{key}" if name else key)


def _name_outputs(pairs: list[tuple[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    if not pairs:
        raise ExportError("the module returns nothing", expected="at least one tensor")
    named: dict[str, torch.Tensor] = {}
    for path, tensor in pairs:
        name = "output" if len(pairs) == 1 and path in ("", "0") else path
        name = f"output_{name}" if name[:1].isdigit() else name
        while name in named:
            name += "_"
        named[name] = tensor
    return named
