"""From a reply to what its answer is made of: boxes, one spelling, names, words, units."""
