"""What tests and scripts share and kpref itself has no use for: planted defects, emulated arithmetic, test problems."""
