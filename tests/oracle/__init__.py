"""Tests of the oracle; a package, because names of its files repeat those of its neighbours."""
