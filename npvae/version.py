"""The version of the package, where the installer can read it without importing the rest."""

__version__ = "0.2.0"
