"""The build of a store from a manifest, and the repair of a store."""
