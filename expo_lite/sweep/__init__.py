"""Many runs as one plan: carried out, goes on after a kill, and compared; the paper's claims are such a plan."""
