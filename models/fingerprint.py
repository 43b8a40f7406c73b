"""What names a model's slow weights: a hash, made anew when one of them changed."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

from torch import nn

Versions = tuple[int, ...]


@dataclass
class Fingerprint:
    """Of one module and what it is called. known: the hash, and the versions it was made of."""

    known: tuple[Versions, str] | None = None
    _tables: list[dict[str, nn.Parameter | None]] = field(default_factory=list)

    def __deepcopy__(self, memo: dict[int, Any]) -> Fingerprint:
        return Fingerprint()  # another module's weights may go their own way

    def versions(self, module: nn.Module) -> Versions:
        """Of all parameters; the modules stay the same ones. In inference mode they have none."""
        if not self._tables:  # walking through the modules would cost more than all else here
            self._tables = [part._parameters for part in module.modules()]
        weights = [p for table in self._tables for p in table.values() if p is not None]
        return tuple([0 if p.is_inference() else p._version for p in weights])

    def of(self, module: nn.Module, identity: str) -> str:
        """blake2b-128 of `identity` and every parameter's name and values."""
        versions = self.versions(module)
        if self.known is None or self.known[0] != versions:
            digest = hashlib.blake2b(identity.encode(), digest_size=16)
            for name, parameter in sorted(module.named_parameters()):
                digest.update(name.encode())
                digest.update(parameter.detach().float().cpu().contiguous().numpy().tobytes())
            self.known = (versions, digest.hexdigest())
        return self.known[1]
