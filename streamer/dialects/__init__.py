"""Foreign activity APIs over our log, so that their clients only change a URL. Each is thin, and knows nothing of the others.

    dialects/praisonai   PraisonAI Platform    /api/v1
    dialects/paperclip   Paperclip             /api
    dialects/evershell   Evershell             /v1/…/activity, /v1/…/audit

A dialect has its routes, reads its parameters, writes an event in its shape and says errors in its way. What it promises, and by which
test, is in docs/dialects.md.
"""

from streamer.dialects.evershell import EVERSHELL
from streamer.dialects.paperclip import PAPERCLIP
from streamer.dialects.praisonai import PRAISONAI

DIALECTS = (PRAISONAI, PAPERCLIP, EVERSHELL)
