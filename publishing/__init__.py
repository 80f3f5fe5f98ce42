"""What goes to the Hub: the publication, its check in a clean process, the upload."""
