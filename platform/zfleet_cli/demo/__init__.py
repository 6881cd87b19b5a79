"""``zfleet demo``: the whole loop on one machine, from building a base to serving experts, with a report."""
