"""The prepared format: records, shards, manifest, staging."""
