"""``zfleet decompose``: the factors of a base, one Ray task per matrix."""
