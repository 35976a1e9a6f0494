"""Pages and tables of run folders: one HTML page, and the comparison of two runs; never torch."""
