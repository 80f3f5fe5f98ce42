"""Pictures of what a model sees and says: reconstructions, attention maps, and how they are drawn and written."""
