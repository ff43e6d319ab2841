"""`python -m orsanet_train`, which torchrun starts on every device.

Example: `torchrun --nproc-per-node N -m orsanet_train run …`
"""

from orsanet_train.cli import main

main(prog_name="orsanet-train")
