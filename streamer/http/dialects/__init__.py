"""Foreign activity APIs over our log, so that their clients only change a URL. Each is thin and independent of the others.

    praisonai   PraisonAI Platform    /api/v1
    paperclip   Paperclip             /api
    evershell   Evershell             /v1/…/activity, /v1/…/audit

A dialect declares its operations and parameters, encodes events in its format and renders errors. docs/dialects.md lists its promises, each
with its test.
"""

from streamer.http.dialects.evershell import EVERSHELL
from streamer.http.dialects.paperclip import PAPERCLIP
from streamer.http.dialects.praisonai import PRAISONAI

DIALECTS = (PRAISONAI, PAPERCLIP, EVERSHELL)
