"""Every CUDA kernel compiled for compute capability 9.0, without a GPU: types, unsupported calls, registers, spills.

``python tests/test_ptx.py`` prints the table. The simulator checks none of this: it runs the kernels as Python.
"""

import os
import re
from importlib import util

import numpy as np
import pytest

COMPILERS = all(util.find_spec(name) for name in ("numba_cuda", "nvidia", "cuda")) and util.find_spec("nvidia.cu13")
SIMULATED = os.environ.get("NUMBA_ENABLE_CUDASIM", "0") != "0"

pytestmark = pytest.mark.skipif(
    not COMPILERS or SIMULATED, reason='needs the compilers of pip install "npvae[cuda]", and not the simulator'
)

#: Arguments of each kernel: f is a number in the precision, then arrays of it by their dimensions; B bool, I int64,
#: and arrays of other types.
SIGNATURES = {
    "naive": "f2 B f2 B f2 f1 I B",
    "tiled": "f2 B f2 B f2 f1 I B",
    "registers": "f2 B f2 B f2 f1 I B",
    "delta": "f2 f2 I f1",
    "latent": "f2 f2 f2 B f2 f1",
    "latent_backward": "f2 f2 f2 f2 B f1 f2 f2",
    "log_q": "f2 f2 f2 f1 f1 f2 f2",
    "log_prior": "f2 f1 f2",
    "bernoulli": "f2 f2 f1 f1 f2",
    "gaussian": "f2 f2 f2 f1 f1 f2 f2",
    "gather": "uint8:2 int64:2 int32:1 float64:1 float64:1 f2",
    "gather_float32": "float32:2 int64:2 int32:1 float64:1 float64:1 f2",
    "gather_float64": "float64:2 int64:2 int32:1 float64:1 float64:1 f2",
    "take": "float32:3 int32:1 f2",
    "record_value": "f1 f1 float64:1 int32:1 int32:1",
    "look": "f1 f int32:1",
    "count_step": "int64:1 int32:1",
    "adagrad": "f1 f1 f1 int64:1 f f f I I",
    "sgd": "f1 f1 int64:1 f f I",
    "_multiply_and_add": "float32:1 I",
    "_copy": "float32:1 float32:1",
}


def kernels(dtype):
    """Yield (title, name, kernel, threads of a block) of all kernels in a precision."""
    from npvae.backends import cuda_kernels as module
    from npvae.backends import cuda_product
    from npvae.bench import gpu

    dtype = np.dtype(dtype)
    for step, by_dtype in cuda_product.PRODUCTS.items():
        for kernel, (x, y), (rows, columns) in by_dtype[dtype]:
            yield f"product: {step}, {rows} x {columns} tile, {x} x {y} threads", step, kernel, x * y
    yield "delta", "delta", module.DELTA[dtype], module.LANES * module.DEEP
    for name in ("latent", "latent_backward", "log_q", "log_prior", "bernoulli", "gaussian"):
        yield name, name, getattr(module, name.upper())[dtype], module.THREADS
    for name in ("gather", "gather_float32", "gather_float64"):
        yield name, name, module.gather, module.THREADS
    for name in ("take", "record_value", "look", "count_step", "adagrad", "sgd"):
        yield name, name, getattr(module, name), module.THREADS
    for name in ("_multiply_and_add", "_copy"):
        yield f"ceiling: {name}", name, getattr(gpu, name), gpu.THREADS


def types_of(signature, dtype):
    """Return Numba's types of a signature in ``SIGNATURES``."""
    from numba.cuda import types

    number = getattr(types, dtype)
    plain = {"f": number, "B": types.boolean, "I": types.int64}
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


def main():
    """Print a table of registers, stack and spills."""
    print("| kernel | precision | registers | stack, bytes | spilled, bytes |\n|---|---|---|---|---|")
    for dtype in ("float32", "float64"):
        for title, name, kernel, _ in kernels(dtype):
            row = resources(kernel, types_of(SIGNATURES[name], dtype))
            print(f"| {title} | {dtype} | {' | '.join(map(str, row))} |", flush=True)


if __name__ == "__main__":
    main()
