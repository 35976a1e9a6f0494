"""The policy: a 4-bit base model with a LoRA adapter, its sampler and its scorer."""
