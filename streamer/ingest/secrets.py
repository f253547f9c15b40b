"""What a secret looks like, as data: last words of keys, shapes of tokens, and what leads up to a secret within a text.

A shape is here only if its beginning (or a part of it) is fixed and nobody else's: what a random hash, id, version or host name could be
as well is not. Every pattern takes time in proportion to the text: its open repetitions come last or are bounded, or it cannot start anew
within what it has read in vain. Patterns are for ASCII, (?a): nobody writes a token otherwise.
"""

from typing import Final

REDACTED: Final = "***REDACTED***"

# ---- keys

_PASSWORDS: Final = ("password", "passwd", "pwd", "passphrase", "passcode")
_ASKED_AGAIN: Final = (
    "1",
    "2",
    "3",
    "confirm",
    "confirmation",
    "repeat",
    "again",
    "plain",
    "text",
    "plain text",
    "plaintext",
    "value",
)
_OF_SERVICES: Final = ("openai", "anthropic", "gemini", "mistral", "groq", "stripe", "sendgrid", "app", "fernet")

SECRET_NAMES: Final = (
    *_PASSWORDS, *(f"{name} {after}" for name in _PASSWORDS for after in _ASKED_AGAIN),
    "passwords", "pw", "pgpassword", "sshpass",
    *(f"{whose} pass" for whose in ("db", "database", "user", "smtp", "mail", "admin", "root", "redis", "mysql", "postgres")),
    "secret", "secrets", "secret value",
    *(f"{whose} key" for whose in _OF_SERVICES), "secret key base", "client key data", "private key pem",
    *(f"{whose} pat" for whose in ("github", "gh", "gitlab", "devops", "azure")),
    "api key", "api keys", "apikey", "apikeys", "access key", "account key", "auth key", "deploy key", "encryption key", "hmac key", "master key",
    "private key", "private keys", "secret key", "service key", "shared key", "signing key", "ssh key", "webhook key",
    "token", "authtoken", "accesstoken", "refreshtoken", "access tokens", "api tokens", "auth tokens", "refresh tokens", "bearer", "jwt",
    "authorization", "authentication", "auth", "credential", "credentials", "cookie",
)  # fmt: skip
"""Last words of keys whose values are secret."""

WHOLE_SECRET_NAME: Final = "pass"  # noqa: S105
"""A secret's name only if nothing comes before it (`first_pass`), and only of a text (`{"pass": ["test 1"], "fail": []}`)."""

WORDS: Final = (
    "token", "access tokens", "api tokens", "auth tokens", "refresh tokens", "secret", "secrets", "bearer", "jwt",
    "authorization", "authentication", "auth", "credential", "credentials", "cookie",
)  # fmt: skip
"""Those among them that are words for much else, too: counts and settings stay below them, and so does what is common in prose.

`WHOLE_SECRET_NAME` is one, too.
"""

SEVERAL: Final = ("tokens", "cookies")
"""Last words of keys below which only what looks like a secret goes: `{"tokens": {"input": 5}}` says how many there were."""

HARMLESS_NAMES: Final = (
    "page token", "pagination token", "next token", "continuation token", "sync token", "resume token", "fencing token",
    "cancel token", "cancellation token", "design token", "design tokens",
    *(f"{which} token" for which in ("eos", "bos", "pad", "unk", "sep", "cls", "mask", "stop")),
    "no auth", "no password", "no token", "skip auth", "disable auth",
)  # fmt: skip
"""Names that end like a secret's but are not."""

HARMLESS_VALUES: Final = frozenset(
    {"include", "omit", "same-origin", "required", "optional", "none", "enabled", "disabled"}
)
"""What is said below one of the `WORDS` without a secret: `fetch(url, {"credentials": "include"})`."""

MAX_COUNT: Final = 99_999
"""A number up to this, below one of the `WORDS`, is no secret."""

MIN_OF_SEVERAL: Final = 12
"""Characters of a secret below one of `SEVERAL`."""

NAME_HINTS: Final = ("pass", "pwd", "pw", "secret", "key", "token", "bearer", "jwt", "auth", "credential", "cookie")
"""Every name above has one of these, or `SHORT_NAME`."""

SHORT_NAME: Final = "pat[^a-z]"
"""The end of `GH_PAT`. Alone its letters are in `path` and `patch`, and most events would have them."""

REFERENCE_KEYS: Final = frozenset({"type", "secretId", "secretRef", "secretName", "secret_id", "secret_ref", "version"})
"""An object of such keys only says where a secret lies (`{"type":"secret_ref","secretId":…}`) and stays, below any key."""

LABELS: Final = ("name", "key", "Name", "Key", "field", "variable", "label", "header", "id", "type")
LABELLED: Final = frozenset({"value", "Value", "default", "defaultValue"})
"""In `{"name": "DB_PASSWORD", "value": …}` the key of the value is what one of the labels says."""

HEADER: Final = r"(?i:authorization|proxy-authorization|cookie|set-cookie|api-?key|x-[\w-]{1,64})"
HEADER_NAME: Final = r"[A-Za-z]{1,16}[0-9]{0,3}(?:-[A-Za-z]{1,16}[0-9]{0,3})+"
"""In a list of headers and values in turn (`rawHeaders` of Node) a value follows its name; in a list of names another name does."""

# ---- tokens

_END = r"(?![A-Za-z0-9_])"
_LETTERS = r"[A-Za-z0-9]"
_WORD = r"[A-Za-z0-9_]"
_DASHED = r"[A-Za-z0-9_-]"
_HEX = r"[0-9a-f]"
_MIXED = (
    r"(?=[A-Za-z_-]{0,64}[0-9])(?:(?=[a-z0-9_-]{0,64}[A-Z])" + _DASHED + r"{40,}"
    r"|(?=" + _DASHED + r"{0,32}?(?:(?=[A-Za-z]{0,15}[0-9])[A-Za-z0-9]{16}"
    r"|(?=[A-Za-z]{0,11}[0-9])(?=[a-z0-9]{0,11}[A-Z])[A-Za-z0-9]{12}))" + _DASHED + r"{16,})"
)
"""Where the beginning is short: 16 letters and digits in a run with some digit, 12 with a capital too, or 40 characters with both.

`sk-learn-1-2-contrib-package` and `sk_skills_2024_report_final` are no keys.
"""

TOKENS: Final = (
    # (the beginnings; what follows). A match takes the rest of its word, too.
    ("sk_ pcp_", _MIXED),  # ours, Stripe, Evershell, Clerk; Paperclip
    ("stk_", _DASHED + "{40,}"),  # our tickets
    ("sk-", _MIXED),  # OpenAI, Anthropic, OpenRouter
    ("sk-lf-", "[0-9a-f-]{36}"),  # Langfuse
    ("rk_live_ rk_test_", _LETTERS + "{16,}"),  # Stripe, restricted
    ("whsec_", r"[A-Za-z0-9+/=_-]{16,}"),  # webhooks: Stripe, Standard Webhooks, ours
    ("ghp_ gho_ ghu_ ghs_ ghr_", _LETTERS + "{20,}"),
    ("github_pat_", _WORD + "{20,}"),
    ("glpat- gldt- glrt- glcbt- glptt- glft- glsoat- glimt- glagent- gloas-", r"[A-Za-z0-9_.-]{16,}"),  # GitLab
    ("ATATT3x ATCTT3x", r"[A-Za-z0-9_=-]{40,}"),  # Atlassian
    ("ATBB", _LETTERS + "{28,}"),  # Bitbucket
    ("xoxa- xoxb- xoxe- xoxo- xoxp- xoxr- xoxs- xoxe.xoxb- xoxe.xoxp- xapp-", r"[A-Za-z0-9-]{10,}"),  # Slack
    ("AKIA ASIA ABIA ACCA", "[0-9A-Z]{16}" + _END),  # AWS
    ("ABSK", r"[A-Za-z0-9+/]{100,}={0,2}"),  # AWS Bedrock
    ("AIza", _DASHED + "{35,}"),  # Google
    ("GOCSPX-", _DASHED + "{28,}"),
    ("ya29.", _DASHED + "{20,}"),
    ("1//0", _DASHED + "{40,}"),
    ("npm_", _LETTERS + "{36,}"),
    ("pypi-AgE", _DASHED + "{50,}"),
    ("rubygems_", _HEX + "{48,}"),
    ("dckr_pat_ dckr_oat_", _DASHED + "{20,}"),  # Docker
    ("CLOJARS_", "[a-z0-9]{60,}"),
    ("hf_", "[A-Za-z0-9]{34,}"),  # Hugging Face
    ("api_org_", "[A-Za-z0-9]{34,}"),
    ("gsk_", _LETTERS + "{40,}"),  # Groq
    ("xai-", _LETTERS + "{60,}"),
    ("pplx-", _LETTERS + "{40,}"),  # Perplexity
    ("r8_", _LETTERS + "{37,}"),  # Replicate
    ("tvly-", _DASHED + "{24,}"),  # Tavily
    ("pcsk_", _WORD + "{40,}"),  # Pinecone
    ("lsv2_pt_ lsv2_sk_", _WORD + "{32,}"),  # LangSmith
    ("dop_v1_ doo_v1_ dor_v1_", _HEX + "{64,}"),  # DigitalOcean
    ("shpat_ shpca_ shppa_ shpss_", "[0-9A-Fa-f]{32,}"),  # Shopify
    ("SG.", _DASHED + r"{16,32}\." + _DASHED + "{32,}"),  # SendGrid
    ("xkeysib- xsmtpsib-", _DASHED + "{60,}"),  # Brevo
    ("lin_api_ lin_oauth_", _LETTERS + "{32,}"),  # Linear
    ("ntn_", _LETTERS + "{40,}"),  # Notion
    ("secret_", _LETTERS + "{43,}"),
    ("figd_", _DASHED + "{36,}"),  # Figma
    ("vcp_ vci_ vca_ vcr_ vck_", _DASHED + "{24,}"),  # Vercel
    ("vercel_blob_rw_", _WORD + "{20,}"),
    ("sbp_", _HEX + "{40,}"),  # Supabase
    ("sb_secret_", _DASHED + "{20,}"),
    ("nfp_", _LETTERS + "{36,}"),  # Netlify
    ("rnd_", _LETTERS + "{28,}"),  # Render
    ("HRKU-AA", _DASHED + "{50,}"),  # Heroku
    ("fo1_", _DASHED + "{43,}"),  # Fly.io
    ("fm1a_ fm1r_ fm2_", r"[A-Za-z0-9+/]{100,}={0,3}"),
    ("v1.0-", _HEX + "{24}-" + _HEX + "{146,}"),  # Cloudflare, origin CA
    ("dapi", _HEX + "{32,}"),  # Databricks
    ("glc_ glsa_", r"[A-Za-z0-9+/=_]{32,}"),  # Grafana
    ("hvs. hvb. hvr.", _DASHED + "{20,}"),  # Vault
    ("dp.pt. dp.st. dp.ct. dp.sa. dp.scim. dp.audit.", r"[A-Za-z0-9_.-]{40,}"),  # Doppler
    ("ops_eyJ", r"[A-Za-z0-9+/]{100,}={0,3}"),  # 1Password
    ("AGE-SECRET-KEY-1", "[A-Z0-9]{58,}"),
    ("pul-", _HEX + "{40,}"),  # Pulumi
    ("pscale_tkn_ pscale_pw_ pscale_oauth_", r"[A-Za-z0-9_.=-]{32,}"),  # PlanetScale
    ("tskey-api- tskey-auth- tskey-client- tskey-scim- tskey-webhook-", _DASHED + "{16,}"),  # Tailscale
    ("sha256~", _DASHED + "{43,}"),  # OpenShift
    ("PMAK-", _HEX + "{24}-" + _HEX + "{34,}"),  # Postman
    ("NRAK-", "[A-Z0-9]{27,}"),  # New Relic
    ("sntrys_ sntryu_", r"[A-Za-z0-9+/=_]{60,}"),  # Sentry
    ("dt0c01. dt0s16.", r"[A-Z0-9]{24}\.[A-Z0-9]{64,}"),  # Dynatrace
    ("sqp_ squ_ sqa_", _HEX + "{40,}"),  # SonarQube
    ("bkua_", _HEX + "{40,}"),  # Buildkite
    ("CCIPAT_", _WORD + "{30,}"),  # CircleCI
    ("EZAK EZTK", _LETTERS + "{54,}"),  # EasyPost
    ("sq0atp- sq0csp-", _DASHED + "{22,}"),  # Square
    ("sk.eyJ", _DASHED + r"{20,}\." + _DASHED + "{20,}"),  # Mapbox
    ("shippo_live_ shippo_test_", _HEX + "{40,}"),
    ("duffel_live_ duffel_test_", _DASHED + "{43,}"),
    ("rdme_", "[a-z0-9]{70,}"),  # ReadMe
    ("pnu_", _LETTERS + "{36,}"),  # Prefect
    ("CFPAT-", _DASHED + "{43,}"),  # Contentful
    ("tfp_", r"[A-Za-z0-9_.=-]{59,}"),  # Typeform
)

GLUED: Final = (
    "ghp_ gho_ ghu_ ghs_ ghr_ github_pat_ glpat- glrt- xoxb- xoxp- xapp- sk_live_ sk_test_ rk_live_ sk-proj- sk-ant- sk-or-v1- "
    "whsec_ npm_ dckr_pat_ shpat_ dop_v1_ lin_api_ figd_ pscale_tkn_ tskey-auth- glsa_ sntrys_ sntryu_"
)
"""Beginnings that are found within a word too (`prefix_ghp_…`): no word and no base64 is likely to have them."""

OTHER_TOKENS: Final = (
    # (what every match has, in lower case; the shape)
    # A JSON Web Token, signed (RFC 7515) or encrypted (RFC 7516). Not after a hyphen: within a run it would start anew at each.
    ("eyj", rf"(?<!-)eyJ{_DASHED}{{8,}}\.(?:{_DASHED}{{8,}}\.{_DASHED}*|\.{_DASHED}{{8,}}\.{_DASHED}+)(?:\.{_DASHED}+){{0,2}}"),
    (":aa", rf"[0-9]{{8,10}}:AA{_DASHED}{{32,}}"),  # Telegram's bots
    ("q~", r"[A-Za-z0-9_~.]{3}[0-9]Q~[A-Za-z0-9_~.-]{31,}"),  # Microsoft Entra
    (".atlasv1.", rf"{_LETTERS}{{14}}\.atlasv1\.[A-Za-z0-9_=-]{{60,}}"),  # Terraform
)  # fmt: skip

# ---- within texts

_PARAMETER = r"[\w-]++=(?:\\*+\"[^\"\\\r\n]*+\\*+\"|[^\s,\"'\\]++)"
"""Of a header: `Digest a="b", c=d` (RFC 9110, section 11.4). It may be within quotes, and so its own escaped."""
_CREDENTIAL = (
    r"(?:(?i:bearer|basic|token|digest|bot|apikey|negotiate)\s+|[A-Za-z][\w-]{0,31}[ \t]++(?=[^\s,;\"'\\]{0,256}[0-9]))?"
    r"[^\s,;\"'\\]+"
)
"""A word, with what may be its scheme."""
_ARGUMENT = r"[^\s\"'\\$][^\s\"'\\]*"

LEADS: Final = (
    # (what every match has, in lower case; what stays; what goes)
    (
        "-----begin",
        "",
        r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----[\s\S]*?(?:-----END [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----|\Z)",
    ),
    (
        "authorization",
        r"(?i:\bauthorization\s*[:=]\s*)",
        rf"[A-Za-z][\w-]{{0,31}}[ \t]++{_PARAMETER}(?:[ \t]*+,[ \t]*+{_PARAMETER})*+[^\s,;\"'\\]*+|{_CREDENTIAL}",
    ),
    ("bearer", r"(?i:\bbearer\s+)(?=[^\s,;\"']*[0-9._~+/=-])", r"[A-Za-z0-9._~+/=-]{12,}"),
    ("cookie", r"(?i:\bcookie\s*:\s*)", r"[^\s=;,\"'\\]{1,256}=[^\r\n\"'\\]*"),
    ("://", r"://[^\s/:@]*:", r"[^\s/?#\"']+(?=@)"),
    # A user name that no one chose: how a token is given to `git clone`.
    ("://", r"://(?=[^\s/:@]{0,32}?[A-Za-z0-9]{16})(?=[^\s/:@0-9]{0,64}[0-9])", r"[^\s/:@?#\"'\\]{16,}(?=@)"),
    (
        " -p",
        r"\b(?:docker|podman|nerdctl|buildah|skopeo|oras|registry) login [^\r\n;|&]{0,256}?(?<= )-p[ =]*[\"']?",
        _ARGUMENT,
    ),
    (" -p", r"\b(?:mysql\w{0,16}|mariadb[\w-]{0,16})(?= )[^\r\n;|&]{0,256}? -p[\"']?(?![0-9]{1,5}:[0-9])", _ARGUMENT),
    (" -p", r"\bsshpass -p ?[\"']?", _ARGUMENT),
    ("aws_se", r"\bconfigure set [\w.-]{0,64}?aws_(?:secret_access_key|session_token)[ \t]++[\"']?", _ARGUMENT),
    ("password", r"\bmachine\s++\S{1,256}\s++login\s++\S{1,256}\s++password\s++", _ARGUMENT),  # netrc
    ("curl", r"(?:^|(?<=[\s\"']))(?:-u|--user)[ \t=]*[\"']?[^\s:\"']{1,256}:", r"[^\s\"'\\]+"),
    ("hooks.slack.com", r"hooks\.slack\.com/(?:services|workflows|triggers)/", r"[A-Za-z0-9/_+-]{16,}"),
    ("/webhooks/", r"\bdiscord(?:app)?\.com/api/(?:v[0-9]{1,2}/)?webhooks/[0-9]{1,32}/", r"[A-Za-z0-9_-]{30,}"),
    ("webhook.office.com", r"\.webhook\.office\.com/webhookb2/", r"[A-Za-z0-9@/_-]{30,}"),
    ("sig=", r"(?<=[?&])sig=", r"[A-Za-z0-9%+/=_-]{20,}"),  # Azure's shared access signatures
    ("-signature=", r"(?i:\bx-(?:amz|goog)-signature=)", r"[0-9A-Fa-f]{32,}[\w-]*+"),
)

NAMED: Final = (
    r"(?<![\w.-])(?:"
    r"(?P<flag>--[\w.-]++)(?:[ \t]++|=)"  # --token x
    r"|(?P<name>(?:(?i:api|secret|access|private|account|signing|encryption)[ ](?=(?i:key)\b))?+[\w.-]++)(?=[ \t]*+[\\\"'\]:=])(?:"
    r"\\*[\"']\s*+(?::|=>)\s*+"  # "token": "x", and the same within a text of JSON
    r"|\]?=(?![=>])"  # TOKEN=x, user[token]=x
    r"|(?P<below>:[ \t]*+(?:[|>][+-]?[ \t]*+)?\r?\n[ \t]++)"  # in YAML the value may be on the next line
    r"|(?P<loose>:[ \t]++|[ \t]++=[ \t]++)"  # token: x, token = x
    r"|(?P<arrow>[ \t]*+(?::=|=>)[ \t]*+(?=\\*[\"']))"  # password := "x", :password => "x"
    r"|(?P<tight>(?<=[A-Za-z]):(?![\s:/]))"  # X-Api-Key:x
    r"))"
)
"""A name within a text, up to where its value begins."""

VALUE: Final = (
    r"\"(?P<double>(?:\\.|[^\"\\])*+)"
    r"|'(?P<single>(?:\\.|[^'\\])*+)"
    r"|(?P<quote>\\+[\"'])(?P<escaped>.*?)(?=(?P=quote)|\Z)"
    r"|(?P<bare>(?:\\(?![\"'])|[^\s\"'&;\\])++)"
)
"""What a name is given within a text: quoted, or up to white space, a quote, `&` or `;`."""

ELEMENT: Final = r"(<([A-Za-z][\w.:-]{0,63})(?:\s[^<>]*+)?>)([^<>]+)(?=</)"
"""`<password>x</password>`: what stays, the name, the value."""

STAND_INS: Final = (
    r"\$\{\w+\}|\$[A-Z_][A-Z0-9_]*|\$\(.*|%\w+%|\{+\w*\}*|\[+|<[\w .-]*>?"
    r"|(?i:true|false|null|none|nil|undefined)|--.*"
    r"|(?:process\.env|import\.meta\.env|os\.(?:environ|getenv)|System\.getenv|(?:std::)?env::var|ENV\[|(?:get)?env\().*"
)
"""Values within a text that only stand for one: a variable, a place to fill in, nothing, code that reads one."""
MAX_STAND_IN: Final = 128

LOOSE_LENGTH: Final = 7
MAX_LOOSE: Final = 256
"""After `name: ` the rest may be prose. What is taken for a secret there has so many characters, one of them a digit, and is no URL."""

PROSE: Final = (
    r"[(\[]*(?:[0-9]+|[A-Z][A-Z0-9]{0,15}-[0-9]+|v?[0-9]+(?:\.[0-9]+)+(?:[+-][\w.+-]*)?"
    r"|[a-z]{1,16}[0-9]{0,2}[a-z]{0,16}(?:[_.-][a-z]{1,16}[0-9]{0,2}[a-z]{0,16})+)[.,:)\]]*"
)
"""After `token: ` and the other `WORDS` none of these is a secret: a number, an issue's key, a version, words with hyphens."""

WORKING_DIRECTORY: Final = r"(?:/|[A-Za-z]:\\).*"
"""The value of `PWD` and of `pwd` in environments and logs; any other is a password."""
MAX_DIRECTORY: Final = 512
