"""Global random generators that belong to one replicate."""

from __future__ import annotations

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
        gpus = range(torch.cuda.device_count() if torch.cuda.is_initialized() else 0)
        self._states: tuple[Any, ...] = (
            torch.Generator().manual_seed(seed).get_state(),
            MT19937(seed),
            random.Random(seed).getstate(),
            [torch.Generator(f"cuda:{gpu}").manual_seed(seed).get_state() for gpu in gpus],
        )

    @contextmanager
    def active(self) -> Iterator[None]:
        """Put the generators in place, and the outer ones back at the end."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    def _exchange(self) -> None:
        on_gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
        # NumPy's generator is exchanged as an object, since copying its state would take 0.1 ms.
        outside = torch.get_rng_state(), mtrand.get_bit_generator(), random.getstate(), on_gpus
        torch.set_rng_state(self._states[0])
        mtrand.set_bit_generator(self._states[1])
        random.setstate(self._states[2])
        torch.cuda.set_rng_state_all(self._states[3])
        self._states = outside
