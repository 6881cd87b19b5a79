"""``zfleet demo``: the whole loop on one machine, with a report: on the lab base, or on a pretrained one."""
