"""What would mix the rows of siblings, or draw numbers that depend on which others are there: refused by name."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from registry.errors import UsageError
from registry.pool.beside.forms import rows_elsewhere


class Mixing:
    """The modules of a model that are looked at before each call for rows of siblings."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._elsewhere = rows_elsewhere(model)
        self._norms = [(name, one) for name, one in model.named_modules() if isinstance(one, _BatchNorm)]
        self._dropouts = [(name, one, field) for name, one in model.named_modules() for field in _dropouts(one)]
        self._checkpointed = [
            (name, one) for name, one in model.named_modules() if hasattr(one, "gradient_checkpointing")
        ]

    def check(self) -> None:
        """Refuse the model as it is set now.

        Raises:
            UsageError: ``unsupported_model``, naming what mixes rows.
        """
        reason = next(self._reasons(), None)
        if reason is not None:
            raise UsageError(f"Siblings can't be trained: {reason}.", code="unsupported_model")

    def _reasons(self) -> Iterator[str]:
        if getattr(getattr(self._model, "config", None), "output_router_logits", False):
            yield "output_router_logits is on, whose balance loss is over the tokens of all rows: set it to False"
        if self._elsewhere is not None:
            yield f"{self._elsewhere} keeps the rows of a batch in another dimension than the first"
        for name, module in self._norms:
            if module.training:
                yield f"{name!r} is a batch norm in training mode, which mixes all rows: call .eval() of it"
        for name, module, field in self._dropouts:
            dropped = getattr(module, field, 0.0)
            if module.training and isinstance(dropped, float) and dropped > 0:
                yield (
                    f"the model's own dropout is on ({name}.{field} is {dropped:g}), and what it drops for one sibling "
                    "would depend on the others: set it to 0 in the model's configuration, or call model.eval()"
                )
        for name, module in self._checkpointed:
            if module.training and module.gradient_checkpointing:
                yield (
                    f"gradient checkpointing is on ({name or 'the model'}), which calls modules again when nobody "
                    "knows whose rows these are: switch it off"
                )


def _dropouts(module: nn.Module) -> Iterator[str]:
    """Attributes of a module that say how much of something is dropped."""
    if isinstance(module, nn.modules.dropout._DropoutNd):
        yield "p"
        return
    for name, value in vars(module).items():
        if "drop" in name and isinstance(value, float):
            yield name
