"""Which videos: lists, tables, folders, shards and layouts, and the names of their labels."""
