"""Whether two answers say the same: from what they are made of to their values."""
