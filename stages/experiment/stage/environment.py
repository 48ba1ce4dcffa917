"""Settings that fix the arithmetic: one thread, and the same instructions on every processor.

Torch, NumPy and their libraries read them when they load.
"""

import os
import platform
import sys

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

if "torch" in sys.modules and not ARITHMETIC.items() <= os.environ.items():
    raise ImportError("import experiment before torch: it fixes torch's arithmetic")
os.environ.update(ARITHMETIC)
