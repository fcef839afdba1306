"""Did something else than the pool change the weights? What each tensor was when the pool last wrote or checked it.

A look at all tensors costs less than a microsecond each, and finds what PyTorch counts (most writes in place), other
objects in a tensor's place, and what ``.data = `` does: other memory, another dtype, another view. Writes through
``.data`` and by fused optimizers are not counted. They leave no trace but the values, so that at each change of the
weights some elements of all tensors are compared, too, and at each look on the CPU those of one, by turns.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping
from typing import Final, NamedTuple

import torch
from torch import nn

from registry.errors import IntegrityError
from registry.pool.layout import Layout

SAMPLES: Final = 2048
"""How many elements of a tensor are compared; smaller tensors are compared as a whole."""


class _Seen(NamedTuple):
    """A tensor as it was."""

    held: Mapping[str, torch.Tensor | None]  # the parameters or buffers of its module
    leaf: str
    tensor: torch.Tensor
    version: int | None  # counts writes; None: a tensor of inference mode, which does not count
    dtype: torch.dtype
    address: int
    alias: torch.Tensor  # keeps the memory, so that no other tensor can come to the same address

    def difference(self) -> str | None:
        """How the tensor is another one now; None: it is not."""
        now = self.held.get(self.leaf)
        if now is not self.tensor:
            return "it is another tensor now" if now is not None else "it is gone"
        if now.dtype is not self.dtype:
            was, is_now = (str(one).removeprefix("torch.") for one in (self.dtype, now.dtype))
            return f"it was {was} and is {is_now} now, as .half() and .to() make it"
        if now.data_ptr() != self.address or not now.is_set_to(self.alias):
            return "it lies elsewhere in memory now, as an assignment to .data, .to() and .share_memory() make it"
        if self.version is not None and now._version != self.version:
            return "it was written to, as training does"
        return None


class Watch:
    """What the tensors of a running model were when the pool last wrote or checked them.

    Args:
        model: the model, whose modules have to stay.
        layout: its tensors.
        seed: of the elements that are compared. None: others for each pool.
    """

    def __init__(self, model: nn.Module, layout: Layout, seed: int | None = None) -> None:
        self._modules = [
            (name, parent._modules, key, module)
            for name, parent in model.named_modules()
            for key, module in parent._modules.items()
        ]
        self._layout = layout
        self.together = _in_one_storage(layout)
        """By name, the tensors in one storage, as tied ones are and those that loaders cut out of one; itself too."""
        self._seen: dict[str, _Seen] = {}
        chosen = random.SystemRandom().getrandbits(62) if seed is None else seed
        self._chance = torch.Generator().manual_seed(chosen)  # its own: the caller's random numbers stay as they are
        self._turn = 0
        self._waits = any(one.get().is_cuda for one in layout.values())  # for the device, where values are compared
        self._at: dict[str, torch.Tensor] = {}  # which elements are compared of those that are not compared as a whole
        self._values: dict[str, torch.Tensor] = {}  # their bytes

    def see(self, name: str) -> None:
        """Take note of a tensor that was written; those in one storage with it count together."""
        self._values.pop(name, None)
        for near in (name, *self.together.get(name, ())):
            if near == name or near in self._seen:
                one = self._layout[near]
                tensor = one.get()
                held: Mapping[str, torch.Tensor | None] = (
                    one.owner._parameters if one.leaf in one.owner._parameters else one.owner._buffers
                )
                version = None if tensor.is_inference() else tensor._version
                self._seen[near] = _Seen(held, one.leaf, tensor, version, tensor.dtype, tensor.data_ptr(), tensor.data)

    def forget(self, name: str) -> None:
        """Know nothing of a tensor, which is to be another one."""
        self._seen.pop(name, None)
        self._values.pop(name, None)

    @torch.no_grad()
    def take(self, own: Iterable[str]) -> None:
        """Take note of all tensors that were written, or forgotten, since.

        Args:
            own: the names with a tensor of their own: some elements of each are kept.
        """
        for name in self._layout.keys() - self._seen.keys():
            self.see(name)
        for name in own:
            if name not in self._values:
                self._values[name] = self._elements(name).clone()

    def check(self, is_torn: Callable[[str], bool]) -> None:
        """Check that all tensors and modules are those that they were; a microsecond a tensor.

        Args:
            is_torn: whether it is known that a tensor is half written.

        Raises:
            IntegrityError: ``model_changed``.
        """
        for name, modules, key, module in self._modules:
            if modules.get(key) is not module:
                raise IntegrityError(
                    f"{key!r} in {name or 'the model'!r} is another module than when the model was checked: make a new "
                    "pool of the model.",
                    code="model_changed",
                )
        for name, (held, leaf, tensor, version, dtype, address, alias) in self._seen.items():
            if (  # spelled out: it is the larger part of what `use` costs
                held.get(leaf) is not tensor
                or tensor.dtype is not dtype
                or tensor.data_ptr() != address
                or not tensor.is_set_to(alias)
                or (version is not None and tensor._version != version)
            ) and not is_torn(name):
                raise _changed(name, self._seen[name].difference() or "it was written to")
        if not self._waits and self._values:
            names = list(self._values)
            self._turn = (self._turn + 1) % len(names)
            self._compare(names[self._turn], is_torn)

    def check_samples(self, is_torn: Callable[[str], bool]) -> None:
        """Check that the elements that were taken note of have the same bytes.

        Of ``n`` elements of a tensor, ``k`` that were changed are found with a probability of ``1 - (1 - k/n) **
        SAMPLES`` or more, and always where they are all, more than ``2 n / SAMPLES`` in a row, or n is at most SAMPLES.

        Raises:
            IntegrityError: ``model_changed``.
        """
        for name in self._values:
            self._compare(name, is_torn)

    @torch.no_grad()
    def _compare(self, name: str, is_torn: Callable[[str], bool]) -> None:
        if not torch.equal(self._elements(name), self._values[name]) and not is_torn(name):
            raise _changed(name, "it holds other values")

    def _elements(self, name: str) -> torch.Tensor:
        """The bytes of the elements of a tensor that are compared."""
        tensor = self._layout[name].get().detach()
        count = tensor.numel()
        if count <= SAMPLES:
            return tensor.reshape(-1).contiguous().view(torch.uint8)
        if name not in self._at:
            self._at[name] = self._drawn(count).to(tensor.device)
        return torch.take(tensor, self._at[name]).view(torch.uint8)

    def _drawn(self, count: int) -> torch.Tensor:
        """One element out of each of `SAMPLES` pieces of the same length: what lies in a row is found surely."""
        where = torch.rand(SAMPLES, generator=self._chance, dtype=torch.float64) + torch.arange(SAMPLES)
        return (where * (count / SAMPLES)).long().clamp_(max=count - 1)


def _in_one_storage(layout: Layout) -> dict[str, tuple[str, ...]]:
    found: dict[int, list[str]] = {}
    for one in layout.values():
        found.setdefault(one.get().untyped_storage().data_ptr(), []).append(one.name)
    return {name: tuple(names) for names in found.values() for name in names}


def _changed(name: str, how: str) -> IntegrityError:
    return IntegrityError(
        f"{name!r} was changed by something else than the pool since the model was checked ({how}): load the base "
        "model again, and make a new pool.",
        code="model_changed",
    )
