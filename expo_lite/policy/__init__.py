"""The policy: a 4-bit base model with a LoRA adapter, its sampler and its scorer."""

import logging

# on a CPU with bf16 instructions bitsandbytes asks at import for a kernel that `load.py` switches off
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
