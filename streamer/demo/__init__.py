"""A workspace that lives: people, agents and bots at work, from a git history and then for ever.

::

    git       commits, and the names that must not be seen
    cast      who plays whom: pseudonyms, and text without a real name
    story     one issue's life as events
    history   the commits' issues, in the order of their times
    living    new issues by the same cast, without end

Everything is determined by the seed and the repository; nothing here knows the server.
"""
