"""``wattd bench``: what the node reaches on this machine, beside a reference measured in the same run."""
