"""What `videomae doctor` looks at: the installation, model folders, data."""
