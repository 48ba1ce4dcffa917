"""The settings that fix the arithmetic: one thread, and the same instructions on every processor.

Torch, NumPy and their libraries read them when they load.
"""

import os
import platform
import sys

# The number of threads decides the order of sums. One per process: work spreads over processes.
THREADS = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "VECLIB_MAXIMUM_THREADS": "1",  # of Apple's Accelerate, NumPy's library on macOS
}


def instructions(machine: str) -> dict[str, str]:
    """The instructions that libraries may use, by the architecture as `platform.machine` has it."""
    match machine.lower():
        case "x86_64" | "amd64":
            # The same on every processor with AVX2, whoever made it: in torch, in its oneDNN and
            # MKL, in the OpenBLAS of NumPy and SciPy, and in NumPy.
            return {
                "ATEN_CPU_CAPABILITY": "avx2",
                "ONEDNN_MAX_CPU_ISA": "AVX2",
                "MKL_CBWR": "COMPATIBLE",
                "OPENBLAS_CORETYPE": "Haswell",
                "NPY_DISABLE_CPU_FEATURES": "X86_V4 AVX512_ICL AVX512_SPR",
            }
        case "aarch64" | "arm64":
            # What all have, in torch and in OpenBLAS. Other libraries still tell processors apart.
            return {"ATEN_CPU_CAPABILITY": "default", "OPENBLAS_CORETYPE": "ARMV8"}
        case _:
            return {"ATEN_CPU_CAPABILITY": "default"}


INSTRUCTIONS = instructions(platform.machine())
ARITHMETIC = THREADS | INSTRUCTIONS

if "torch" in sys.modules and not ARITHMETIC.items() <= os.environ.items():
    raise ImportError("import experiment before torch: it fixes torch's arithmetic")
os.environ.update(ARITHMETIC)
