"""Spectra of the operators of the K-P flow."""

from kpref.spectra.eigen import Eigen, eigh
from kpref.spectra.kernel import KernelSpectrum, kernel_spectrum

__all__ = ["Eigen", "KernelSpectrum", "eigh", "kernel_spectrum"]
