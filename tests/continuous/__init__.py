"""Flows of vector fields: a package, as several of its files are named like those of the maps."""
