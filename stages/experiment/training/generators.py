"""Global random generators that belong to one replicate."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from numpy.random import MT19937, mtrand


class Generators:
    """The global generators of torch, NumPy and Python, as one replicate alone would find them.

    Code that draws from them inside `active` gets numbers that depend on the seed and on its own
    earlier draws, whatever other replicates draw in the meantime and in whichever process.
    """

    def __init__(self, seed: int) -> None:
        outside = _states()
        torch.manual_seed(seed)
        mtrand.set_bit_generator(MT19937(seed))
        random.seed(seed)
        self._own = _states()
        _restore(outside)

    @contextmanager
    def active(self, *, advance: bool = True) -> Iterator[None]:
        """Put the generators in place, and the outer ones back at the end.

        Args:
            advance: whether the next use goes on after the draws of this one, or repeats them.

        """
        outside = _states()
        _restore(self._own if advance else copy.deepcopy(self._own))
        try:
            yield
        finally:
            if advance:
                self._own = _states()
            _restore(outside)


def _states() -> tuple[Any, ...]:
    # NumPy's generator is exchanged as an object, since copying its state would take 0.1 ms.
    on_gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    return torch.get_rng_state(), mtrand.get_bit_generator(), random.getstate(), on_gpus


def _restore(states: tuple[Any, ...]) -> None:
    torch.set_rng_state(states[0])
    mtrand.set_bit_generator(states[1])
    random.setstate(states[2])
    torch.cuda.set_rng_state_all(states[3])
