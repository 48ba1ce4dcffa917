"""Settings that fix the arithmetic: one thread, and the same instructions on every processor.

Torch, NumPy and their libraries read them when they load. A process that loads one of them earlier
may compute with other instructions, so what computes a result calls `prove`.
"""

import os
import platform
import sys
from collections.abc import Iterator

from threadpoolctl import threadpool_info

from experiment.stage.errors import UserError

# The number of threads decides the order of sums. One per process; work is split over processes.
THREADS = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "VECLIB_MAXIMUM_THREADS": "1",  # of Apple's Accelerate, NumPy's library on macOS
}


def instructions(machine: str) -> dict[str, str]:
    """Limits on the libraries' instructions, for an architecture as named by `platform.machine`."""
    match machine.lower():
        case "x86_64" | "amd64":
            # The same on every processor with AVX2, from any vendor: in torch, its oneDNN and MKL,
            # the OpenBLAS of NumPy and SciPy, and NumPy itself.
            return {
                "ATEN_CPU_CAPABILITY": "avx2",
                "ONEDNN_MAX_CPU_ISA": "AVX2",
                "MKL_CBWR": "COMPATIBLE",
                "OPENBLAS_CORETYPE": "Haswell",
                "NPY_DISABLE_CPU_FEATURES": "X86_V4 AVX512_ICL AVX512_SPR",
            }
        case "aarch64" | "arm64":
            # The common baseline, in torch and OpenBLAS. Other libraries still adapt to processors.
            return {"ATEN_CPU_CAPABILITY": "default", "OPENBLAS_CORETYPE": "ARMV8"}
        case _:
            return {"ATEN_CPU_CAPABILITY": "default"}


INSTRUCTIONS = instructions(platform.machine())
ARITHMETIC = THREADS | INSTRUCTIONS

os.environ.update(ARITHMETIC)


def prove() -> None:
    """Raise UserError if a loaded library computes with other threads or instructions."""
    if found := ", ".join(_differences()):
        raise UserError(
            f"this process computes with {found}: a library was loaded before the settings, or "
            "changed since; allowed: `import experiment` first of all, a Dask worker started with "
            "--preload-nanny experiment, no change of the threads"
        )


def _differences() -> Iterator[str]:
    for library in threadpool_info():
        if library["num_threads"] != 1:
            yield f"{library['num_threads']} threads of {library['prefix']}"
        core, wanted = library.get("architecture"), INSTRUCTIONS.get("OPENBLAS_CORETYPE")
        if core and wanted and core.lower() != wanted.lower():
            yield f"OpenBLAS for {core}, not {wanted}"
    if numpy := sys.modules.get("numpy"):
        features = numpy._core._multiarray_umath.__cpu_features__
        for name in INSTRUCTIONS.get("NPY_DISABLE_CPU_FEATURES", "").split():
            if features.get(name):
                yield f"NumPy for {name}"
    if torch := sys.modules.get("torch"):
        if torch.get_num_threads() != 1:
            yield f"{torch.get_num_threads()} threads of torch"
        capability = torch.backends.cpu.get_cpu_capability()
        if INSTRUCTIONS["ATEN_CPU_CAPABILITY"] not in (capability.lower(), "default"):
            yield f"torch for {capability}"
