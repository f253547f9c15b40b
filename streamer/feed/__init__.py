"""The feed: the log on this node, as frames in order without a gap. It knows no sockets and no bytes.

channels  opens a channel for each followed workspace, hears of commits, and flushes channels in windows
channel   a workspace's recent frames and the listeners that follow them (pure)
gaps      fills gaps from the log, and asks it every second how far it is
tail      the ring of recent frames (pure)
session   one reader's progress: REPLAY -> LIVE <-> CATCH_UP -> CLOSED (pure)
reasons   why the server ends a connection or a subscription (pure)
"""
