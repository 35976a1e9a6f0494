"""The paper's claims: a plan of runs, what must be true of them, and the report."""
