"""The subcommands of ``kpref``, one module each: their arguments, and what is printed. `kpref.cli` runs them.

A module has ``add_arguments(parser)`` and ``run(args) -> int``, which returns the exit status.
"""
