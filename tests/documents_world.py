"""Folders in which the documents' snippets run: what a snippet names is there, tiny; and what is changed about a command.

`PLACES` says how each name is made. A document gets the names that stand in its snippets and no others, so nothing is used
that it does not show.
"""

NOT_RUN: tuple = ()
PRELUDE: dict = {}
SHORT: dict = {}


def lay_out(folder, document, results=True):
    pass
