"""Which parameter goes to which optimiser, by module type, size and place.

A hidden matrix is the weight of a linear layer inside the stack whose two sides are both wide.
Outside the stack lie embeddings and heads; inside it, narrow matrices are heads too (learned rates
and gates), and everything that is not a linear layer's weight (norms, biases, convolutions, the
learned initial fast weights) has a scale that means something.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

NARROWEST_HIDDEN = 32
PACKED = ("qkv", "kv", "qk")


@dataclass(frozen=True)
class HiddenMatrix:
    """One matrix to orthogonalise: rows from `first_row` on of a parameter."""

    name: str
    parameter: nn.Parameter
    first_row: int
    shape: tuple[int, int]
    """rows (outputs) and columns (inputs), also while the parameter itself is elsewhere"""

    def of(self, tensor: Tensor) -> Tensor:
        """The matrix's part of the parameter's value or gradient, as a view."""
        return tensor[self.first_row : self.first_row + self.shape[0]]


@dataclass(frozen=True)
class ParameterGroups:
    """Every trainable parameter once: as hidden matrices, or by name among the rest."""

    hidden: tuple[HiddenMatrix, ...]
    rest: tuple[tuple[str, nn.Parameter], ...]


def split_parameters(model: nn.Module, stack: str = "layers") -> ParameterGroups:
    """Parameters of `model` by the rule above; `stack` names the module that holds the layers."""
    hidden: list[HiddenMatrix] = []
    rest: list[tuple[str, nn.Parameter]] = []
    seen: set[int] = set()
    for module_name, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad or id(parameter) in seen:
                continue
            seen.add(id(parameter))
            path = f"{module_name}.{name}".lstrip(".")
            if _is_hidden(module, name, path, parameter, stack):
                hidden.extend(_unpack(path, parameter))
            else:
                rest.append((path, parameter))
    return ParameterGroups(tuple(hidden), tuple(rest))


def _is_hidden(module: nn.Module, name: str, path: str, parameter: Tensor, stack: str) -> bool:
    return (
        isinstance(module, nn.Linear)
        and name == "weight"
        and stack in path.split(".")
        and min(parameter.shape) >= NARROWEST_HIDDEN
    )


def _unpack(path: str, parameter: nn.Parameter) -> list[HiddenMatrix]:
    """Packed projections hold several matrices that share nothing but their storage."""
    rows, columns = parameter.shape
    layer = path.split(".")[-2]
    count = rows // columns if any(word in layer for word in PACKED) and rows % columns == 0 else 1
    count = max(count, 1)
    size = rows // count
    shape = (size, columns)
    return [HiddenMatrix(path, parameter, index * size, shape) for index in range(count)]
