"""What one can run behind the `videomae` command; each module has a `main(argv)` and is imported only when called."""
