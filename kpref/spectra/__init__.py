"""Spectra, traces and dimensions of the operators of the K-P flow, and comparisons of them."""

from kpref.spectra.closed_form import kernel_unit_average, kernel_unit_matrix, kernel_unit_trace
from kpref.spectra.comparison import TaskAlignment, alignment, principal_angles, task_alignment
from kpref.spectra.density import SpectralDensity, spectral_density
from kpref.spectra.diagonals import Diagonal, diagonal
from kpref.spectra.dimensions import effective_dimension, kernel_effective_dimension, operator_norm
from kpref.spectra.eigen import Eigen, eigh
from kpref.spectra.estimate import Estimate
from kpref.spectra.exact_spectrum import KernelSpectrum, kernel_spectrum
from kpref.spectra.exact_traces import ntk_trace_exact, propagator_gram_trace
from kpref.spectra.inverses import inverse
from kpref.spectra.lanczos import NoConvergence
from kpref.spectra.lyapunov import Lyapunov, lyapunov_exponents, propagator_growth, trial_norms
from kpref.spectra.schmidt import SchmidtSpectrum, schmidt_spectrum
from kpref.spectra.schmidt_sampling import SchmidtSketch, effective_schmidt_rank, schmidt_sketch
from kpref.spectra.singular import Singular, svd
from kpref.spectra.traces import adjoint_trace, frobenius_squared, trace

__all__ = [
    "Diagonal",
    "Eigen",
    "Estimate",
    "KernelSpectrum",
    "Lyapunov",
    "NoConvergence",
    "SchmidtSketch",
    "SchmidtSpectrum",
    "Singular",
    "SpectralDensity",
    "TaskAlignment",
    "adjoint_trace",
    "alignment",
    "diagonal",
    "effective_dimension",
    "effective_schmidt_rank",
    "eigh",
    "frobenius_squared",
    "inverse",
    "kernel_effective_dimension",
    "kernel_spectrum",
    "kernel_unit_average",
    "kernel_unit_matrix",
    "kernel_unit_trace",
    "lyapunov_exponents",
    "ntk_trace_exact",
    "operator_norm",
    "principal_angles",
    "propagator_gram_trace",
    "propagator_growth",
    "schmidt_sketch",
    "schmidt_spectrum",
    "spectral_density",
    "svd",
    "task_alignment",
    "trace",
    "trial_norms",
]
