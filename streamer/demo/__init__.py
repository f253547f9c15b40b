"""Sample activity: people, agents and bots at work, from a git history and then generated indefinitely.

::

    git          commits, and the names to hide
    personas     pseudonyms, and text without real names
    scenario     the events of one issue
    history      the commits' issues, ordered by time
    generator    new issues by the same personas, indefinitely

The seed and the repository determine everything; nothing here depends on the server.
"""
