"""``wattd demo``: a day of a real energy market on four nodes of this machine, checked at the end."""
