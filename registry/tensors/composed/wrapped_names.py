"""What the tensors of a composed adapter are called: PEFT names what a wrapper holds behind ``base_layer``."""

from __future__ import annotations

from collections import Counter

from registry.tensors.composed.adapter_tensors import LEAD
from registry.tensors.composed.forms import Forms
from registry.tensors.table.targets import TargetTable


class WrappedNames:
    """Names in the adapter's file of modules and parameters of the base, once all is sorted into forms."""

    def __init__(self, forms: Forms, table: TargetTable) -> None:
        self._forms = forms
        # each parameter that is adapted by its name gets a wrapper of its own
        by_name = [path.rpartition(".")[0] for path in forms.named.values()]
        by_module = [target.module for target, _ in forms.pairs if target.module not in forms.named]
        self._wrappers = Counter(by_name + by_module)
        self._wrappers.update({module: len(adapted) for module, adapted in forms.experts.items()})
        # also around the other side of a tie
        self._tokens = {side for module in forms.tokens for side in table.tie_group(module)}

    def path(self, module: str) -> str:
        """A module's path through the wrappers of those that it is in."""
        found, start = "", 0
        for at in (at for at, letter in enumerate(module) if letter == "."):
            found += module[start:at] + ".base_layer" * self._wrappers[module[:at]]
            start = at
        return found + module[start:]

    def parameter(self, name: str) -> str:
        """The name of the tensor that holds a whole parameter."""
        module, _, leaf = name.rpartition(".")
        inside = self._around(module) if self._forms.is_bias(name) else ""  # what is saved whole is not adapted
        return f"{LEAD}{self.path(module)}{inside}.{leaf}" if module else LEAD + leaf

    def _around(self, module: str) -> str:
        if module in self._tokens:
            return ".token_adapter.base_layer"
        return ".base_layer" * self._wrappers[module]
