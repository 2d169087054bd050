"""Benchmarks: ``npvae bench``. What the machine can do, what each kernel makes of it, and training epochs beside others.

``machine`` measures the ceilings, ``kernels`` the backend function by function, ``contestants`` has one program of each
library for the same training, and ``epochs`` runs them in turn, each in a process of its own. Timings on shared
machines drift: compare only what one run has measured, and quote medians.
"""
