"""Benchmarks: ``npvae bench``.

- ``machine`` measures the ceilings: what the machine can do at best.
- ``kernels`` and ``gpu`` measure the functions of a backend.
- ``contestants`` has a program of each library for the same training, ``sources`` the data, and ``epochs`` runs them in
  turn, each in its own process.
- ``likelihood`` is a program of its own: importance sampling of log p(x) beside JAX.
- ``report`` prints tables and writes them to files.

Timings on shared machines drift: compare only numbers of one run, and quote medians.
"""
