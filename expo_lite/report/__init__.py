"""From run folders to what a person looks at: one HTML page, and the comparison of two runs; never torch."""
