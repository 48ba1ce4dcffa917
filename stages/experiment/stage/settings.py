"""The settings that fix the arithmetic: one thread, and the same instructions on every processor.

Torch, NumPy and their libraries read them when they load.
"""

import os
import sys

# The number of threads decides the order of sums. One per process: work spreads over processes.
THREADS = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
# The same instructions on every x86-64 processor with AVX2, whoever made it: in torch, in its
# oneDNN and MKL, in the OpenBLAS of NumPy and SciPy, and in NumPy.
INSTRUCTIONS = {
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_CBWR": "COMPATIBLE",
    "OPENBLAS_CORETYPE": "Haswell",
    "NPY_DISABLE_CPU_FEATURES": "X86_V4 AVX512_ICL AVX512_SPR",
}
ARITHMETIC = THREADS | INSTRUCTIONS

if "torch" in sys.modules and not ARITHMETIC.items() <= os.environ.items():
    raise ImportError("import experiment before torch: it fixes torch's arithmetic")
os.environ.update(ARITHMETIC)
