"""The page for a browser, its answers, the files of a Space, and the demo."""
