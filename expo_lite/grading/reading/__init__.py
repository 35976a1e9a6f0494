"""The parts of a reply's answer: boxes, one spelling, names, words, units."""
