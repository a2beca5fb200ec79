"""Tests of `kpref.checkpoints`, one file an idea; `samples` has the networks that they share."""
