"""Every setting with its bounds, and the models by name; nothing here waits for torch."""
