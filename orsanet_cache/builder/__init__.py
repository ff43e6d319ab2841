"""Stage one at work: from a manifest to a store, and the repair of one."""
