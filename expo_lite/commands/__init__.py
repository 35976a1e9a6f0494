"""The command line: one file a verb, with what it prints."""
