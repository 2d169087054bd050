"""Every CUDA kernel compiled for compute capability 9.0, without a GPU: types, unsupported calls, registers, spills.

``python tests/test_ptx.py`` writes the data of the table in docs/cuda.md. The simulator checks none of this: it runs
the kernels as Python.
"""

import csv
import os
import re
from importlib import util
from pathlib import Path

import numpy as np
import pytest

COMPILERS = all(util.find_spec(name) for name in ("numba_cuda", "nvidia", "cuda")) and util.find_spec("nvidia.cu13")
DATA = Path(__file__).parents[1] / "docs" / "results" / "cuda-kernels.csv"
SIMULATED = os.environ.get("NUMBA_ENABLE_CUDASIM", "0") != "0"

pytestmark = pytest.mark.skipif(
    not COMPILERS or SIMULATED, reason='needs the compilers of pip install "npvae[cuda]", and not the simulator'
)

#: Arguments of each kernel: f is a number in the precision, then arrays of it by their dimensions; B bool, I int64,
#: D float64, and arrays of other types.
SIGNATURES = {
    "naive": "f1 B f1 B I f2 f1 I B f1",
    "tiled": "f1 B f1 B I f2 f1 I B f1",
    "registers": "f1 B f1 B I f2 f1 I B f1",
    "delta": "f1 f1 I",
    "latent": "f2 f2 f2 B f2 f1",
    "latent_backward": "f2 f2 f2 f2 B f1 f2 f2",
    "log_q": "f2 f2 f2 f1 f1 f2 f2",
    "log_prior": "f2 f1 f2",
    "bernoulli": "f2 f2 f1 f1 f2 B",
    "gaussian": "f2 f2 f2 f1 f1 f2 f2 B",
    "mixed": "f2 f2 f2 f2 f1 f1 f2 f2 f2 B",
    "gather": "uint8:2 int64:1 float64:1 float64:1 f2",
    "gather_float32": "float32:2 int64:1 float64:1 float64:1 f2",
    "gather_float64": "float64:2 int64:1 float64:1 float64:1 f2",
    "binarize": "f2 uint64:1 f2",
    "fill_missing": "f2 f2",
    "record_value": "f1 f1 float64:1 int32:1 int32:1",
    "count_step": "int64:1 int32:1",
    "plan_step": "int64:1 float64:1 D I I I I",
    "update": "f1 f1 f1 f1 f1 int64:1 int32:1 float64:1 f f I B",
    "norm": "f1 f1",
    "shrink": "f1 f1 f",
    "_multiply_and_add": "float32:1 I",
    "_copy": "float32:1 float32:1",
}


def kernels(dtype):
    """Yield (title, name, kernel, threads of a block) of all kernels in a precision: whatever the modules hold."""
    from numba.cuda.dispatcher import CUDADispatcher

    from npvae.backends import cuda_kernels as module
    from npvae.backends import cuda_product
    from npvae.bench import gpu

    def is_kernel(thing):
        return isinstance(thing, CUDADispatcher) and not thing.targetoptions.get("device")

    dtype = np.dtype(dtype)
    for step, by_dtype in cuda_product.PRODUCTS.items():
        for _, (kernel, block, (rows, columns)) in by_dtype[dtype]:
            threads = int(np.prod(block))
            yield f"product: {step}, {rows} x {columns} tile, {threads} threads", step, kernel, threads
    for name, kernel in module.UPDATES.items():
        yield f"update: {name}", "update", kernel, module.THREADS
    for name, thing in vars(module).items():
        kernel = thing.get(dtype) if isinstance(thing, dict) else thing
        if is_kernel(kernel):
            for variant in (name for name in SIGNATURES if re.fullmatch(rf"{kernel.__name__}(_float\d\d)?", name)):
                yield variant, variant, kernel, module.THREADS
            assert kernel.__name__ in SIGNATURES, f"{kernel.__name__} needs a row in SIGNATURES"
    for name, kernel in vars(gpu).items():
        if is_kernel(kernel):
            yield f"ceiling: {name}", name, kernel, gpu.THREADS


def types_of(signature, dtype):
    """Return Numba's types of a signature in ``SIGNATURES``."""
    from numba.cuda import types

    number = getattr(types, dtype)
    plain = {"f": number, "B": types.boolean, "I": types.int64, "D": types.float64}
    found = []
    for word in signature.split():
        if word in plain:
            found.append(plain[word])
        else:
            name, ndim = word.split(":") if ":" in word else (dtype, word[1:])
            found.append(types.Array(getattr(types, name), int(ndim), "C"))
    return tuple(found)


def resources(kernel, signature):
    """Compile a kernel to machine code; return (registers, bytes of stack, bytes spilled) of a thread."""
    import numba.cuda.dispatcher
    from cuda.core import Linker, LinkerOptions, ObjectCode
    from numba import cuda

    class Device:  # Numba asks the current one
        id, compute_capability = 0, (9, 0)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(numba.cuda.dispatcher, "get_current_device", Device)
        ptx, _ = cuda.compile_ptx(kernel.py_func, signature, cc=(9, 0))
    linker = Linker(ObjectCode.from_ptx(ptx.encode()), options=LinkerOptions(arch="sm_90", ptxas_options=["-v"]))
    linker.link("cubin")
    log = linker.get_info_log()
    stack, stores, loads = map(int, re.search(
        r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", log).groups())  # fmt: skip
    return int(re.search(r"Used (\d+) registers", log).group(1)), stack, stores + loads


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_kernel_compiles_and_none_spills(dtype):
    """Nor do the products keep in memory what is meant for registers, in the precision that trains.

    A processor has 65536 registers for the threads of its blocks, of which there must be at least one.
    """
    seen = set()
    for title, name, kernel, threads in kernels(dtype):
        registers, stack, spilled = resources(kernel, types_of(SIGNATURES[name], dtype))
        assert spilled == 0 and registers * threads <= 65536, title
        if dtype == "float32":
            assert stack == 0 and registers <= 128, title
        seen.add(name)
    assert seen == set(SIGNATURES)


def test_the_docs_list_every_kernel():
    with open(DATA, newline="", encoding="utf-8") as file:
        listed = [(row["kernel"], row["precision"]) for row in csv.DictReader(file)]
    assert listed == [(title, dtype) for dtype in ("float32", "float64") for title, *_ in kernels(dtype)]


def main():
    """Write registers, stack and spills of each kernel to the data file; ``python docs/tables.py`` shows it."""
    rows = [("kernel", "precision", "registers", "stack, bytes", "spilled, bytes")]
    for dtype in ("float32", "float64"):
        for title, name, kernel, _ in kernels(dtype):
            rows.append((title, dtype, *resources(kernel, types_of(SIGNATURES[name], dtype))))
            print(*rows[-1], flush=True)
    with open(DATA, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)


if __name__ == "__main__":
    main()
