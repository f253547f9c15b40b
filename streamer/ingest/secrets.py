"""What secrets look like, as data: last words of keys, formats of tokens, and what precedes a secret in a text.

A format is listed only if its beginning (or another part) is fixed and unique: formats of random hashes, ids, versions
or host names are not. Every pattern runs in linear time: its unbounded repetitions come last or are possessive, or it
cannot start again within text it has already read. Patterns are for ASCII, (?a), because tokens are ASCII.
"""

from typing import Final

REDACTED: Final = "***REDACTED***"

# ---- keys

REFERENCE_KEYS: Final = frozenset({"type", "secretId", "secretRef", "secretName", "secret_id", "secret_ref", "version"})
"""An object with only these keys refers to a secret's location (`{"type":"secret_ref","secretId":…}`) and stays, below any key."""

FIELDS: Final = frozenset({"field", "attribute", "property", "column"})
LABELS: Final = ("name", "key", "Name", "Key", *sorted(FIELDS), "variable", "label", "header", "id", "type")
LABELLED: Final = frozenset(
    {"value", "Value", "default", "defaultValue", "old_value", "new_value", "oldValue", "newValue", "previous_value", "previousValue"}
)  # fmt: skip
"""In `{"name": "DB_PASSWORD", "value": …}` the value's name is the text of one of these labels."""
CHANGED: Final = LABELLED | {"from", "to", "old", "new", "before", "after", "previous", "current"}
"""The same below `FIELDS`, and below a key that is exactly a secret's name: `{"name": "auth", "from": …}` can be an edge between two things."""

HEADER: Final = r"(?i:authorization|proxy-authorization|cookie|set-cookie|api-?key|x-[\w-]{1,64})"
HEADER_NAME: Final = r"[A-Za-z]{1,16}[0-9]{0,3}(?:-[A-Za-z]{1,16}[0-9]{0,3})+"
"""In a list of alternating headers and values (`rawHeaders` of Node) a value follows its name; in a list of names another name does."""

# ---- tokens

_END = r"(?![A-Za-z0-9_])"
_LETTERS = r"[A-Za-z0-9]"
_WORD = r"[A-Za-z0-9_]"
_DASHED = r"[A-Za-z0-9_-]"
_HEX = r"[0-9a-f]"
_MIXED = (
    r"(?=[A-Za-z_-]{0,64}+[0-9])(?:(?=(?:[A-Za-z0-9]{0,15}+[_-]){0,6}?(?=[A-Za-z]{0,48}+[0-9])"
    r"(?:[A-Za-z0-9]{16}|(?=[a-z0-9]{0,48}+[A-Z])[A-Za-z0-9]{12}))" + _DASHED + r"{16,}+"
    r"|(?=[a-z0-9_-]{0,64}+[A-Z])" + _DASHED + r"{40,}+)"
)
"""For short beginnings: a run of 16 letters and digits with at least one digit, of 12 with also a capital, or 40 characters with both.

`sk-learn-1-2-contrib-package` and `sk_skills_2024_report_final` are not keys.
"""
_OURS = r"(?=[A-Za-z0-9_-]{43}(?![A-Za-z0-9_-]))(?:(?=[a-z0-9_-]{0,42}+[A-Z])|[A-Za-z0-9]{16})" + _DASHED + "++"
"""Our own format, 43 characters of base64, which need not contain a digit; only words with hyphens have no capital."""

TOKENS: Final = (
    # (the beginnings; what follows). A match includes the rest of its word.
    ("sk_", f"(?:{_MIXED}|{_OURS})"),  # ours (access/manage.py); Stripe, Evershell, Clerk
    ("pcp_", _MIXED),  # Paperclip
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
    ("rnd_", r"(?:[A-Za-z0-9]{28,}|(?=[A-Za-z]{0,64}+[0-9])[A-Za-z0-9]{20,})"),  # Render
    ("HRKU-AA", _DASHED + "{50,}"),  # Heroku
    ("fo1_", rf"(?:{_DASHED}{{40,}}|(?=[A-Za-z_-]{{0,64}}+[0-9]){_DASHED}{{28,}})"),  # Fly.io
    ("fm1a_ fm1r_ fm2_", r"[A-Za-z0-9+/_-]{40,}={0,3}"),
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
    # Cloudflare: https://developers.cloudflare.com/fundamentals/api/get-started/token-formats
    ("cfut_ cfat_ cfk_", _WORD + "{40,}"),
    # NVIDIA: https://docs.nvidia.com/ngc/latest/ngc-user-guide.html
    ("nvapi-", _DASHED + "{40,}"),
    # Sourcegraph: https://sourcegraph.com/docs/cli/how-tos/creating_an_access_token
    ("sgp_", r"(?:(?:[0-9a-f]{16}|local)_)?[0-9a-f]{40,}"),
    ("slk_", _HEX + "{64,}"),
    # PostHog, personal keys and those of feature flags; phc_ is public: https://posthog.com/docs/api
    ("phx_ phs_", _DASHED + "{32,}"),
    # The following ones are in GitHub's list of formats for secret scanning, and in gitleaks' or TruffleHog's rules:
    # https://docs.github.com/en/code-security/secret-scanning/introduction/supported-secret-scanning-patterns
    # https://github.com/gitleaks/gitleaks/blob/master/config/gitleaks.toml
    ("aio_", _LETTERS + "{28}" + _END),  # Adafruit IO
    ("p8e-", "[a-z0-9]{32,}"),  # Adobe
    ("LTAI", _LETTERS + "{20}" + _END),  # Alibaba Cloud
    ("apify_api_", _LETTERS + "{34,}"),  # Apify
    ("AKCp", _LETTERS + "{69,}"),  # JFrog Artifactory
    ("cmVmd", _LETTERS + "{59}" + _END),  # JFrog, reference tokens
    ("csk-", "[a-z0-9]{40,}"),  # Cerebras
    ("dnkey-", r"[A-Z0-9]{26}-[A-Z0-9]{52,}"),  # Defined Networking
    ("e2b_", _HEX + "{40,}"),  # E2B
    ("fc-", _HEX + "{32}" + _END),  # Firecrawl
    ("FLWSECK_TEST- FLWSECK-", "[A-Za-z0-9]{12,}"),  # Flutterwave
    ("fio-u-", _DASHED + "{64,}"),  # Frame.io
    ("pat-na1- pat-na2- pat-eu1- pat-ap1-", "[0-9a-f]{8}-[0-9a-f-]{27,}"),  # HubSpot
    ("signkey-prod- signkey-test- signkey-branch-", _HEX + "{32,}"),  # Inngest
    ("jina_", _LETTERS + "{40,}"),  # Jina AI
    ("napi_", "[a-z0-9]{60,}"),  # Neon
    ("access-sandbox- access-development- access-production-", "[0-9a-f]{8}-[0-9a-f-]{27,}"),  # Plaid
    ("polar_oat_ polar_pat_", _LETTERS + "{32,}"),  # Polar
    ("re_", r"[A-Za-z0-9]{8,16}_[A-Za-z0-9]{20,}"),  # Resend
    ("tgp_v1_", _DASHED + "{40,}"),  # Together AI
    ("tr_prod_ tr_dev_ tr_pat_", _LETTERS + "{20,}"),  # Trigger.dev
    ("vtwn_", _LETTERS + "{28,}"),  # Val Town
    ("xau_", _LETTERS + "{32,}"),  # Xata
    ("zpka_", _WORD + "{32,}"),  # Zuplo
    ("EAACEdEose0cBA", _LETTERS + "{20,}"),  # Meta
    ("EAA", r"[A-Z](?=[A-Za-z]{0,64}+[0-9])[A-Za-z0-9]{60,}+(?![+/=])"),
)

HINTS_OF_SHORT: Final = {
    "re_": "re_[a-z0-9]{8,16}_[a-z0-9]{8}",
    "fc-": "fc-[0-9a-f]{16}",
    "EAA": "eaa[a-z][a-z0-9]{24}",
}
"""For beginnings that are frequent elsewhere: what an event with such a token also contains, in lower case."""

GLUED: Final = (
    "ghp_ gho_ ghu_ ghs_ ghr_ github_pat_ glpat- glrt- xoxb- xoxp- xapp- sk_live_ sk_test_ rk_live_ sk-proj- sk-ant- sk-or-v1- "
    "whsec_ npm_ dckr_pat_ shpat_ dop_v1_ lin_api_ figd_ pscale_tkn_ tskey-auth- glsa_ sntrys_ sntryu_"
)
"""Beginnings that are also detected inside a word (`prefix_ghp_…`), because they are unlikely in words and base64."""

OTHER_TOKENS: Final = (
    # (what every match contains, in lower case, or one of the `HINT_PATTERNS` does; the format)
    # A JSON Web Token, signed (RFC 7515) or encrypted (RFC 7516). Not after a hyphen: inside a run it would start again at
    # each one.
    ("eyj", rf"(?<!-)eyJ{_DASHED}{{8,}}\.(?:{_DASHED}{{8,}}\.{_DASHED}*|\.{_DASHED}{{8,}}\.{_DASHED}+)(?:\.{_DASHED}+){{0,2}}"),
    (":aa", rf"(?:bot)?[0-9]{{8,10}}:AA{_DASHED}{{32,}}"),  # Telegram's bots, also in their URLs
    ("q~", r"[A-Za-z0-9_~.]{3}[0-9]Q~[A-Za-z0-9_~.-]{31,}"),  # Microsoft Entra
    # A truncated one: its claims are an object, too.
    ("eyj", rf"(?<!-)eyJ{_DASHED}{{8,}}\.eyJ{_DASHED}{{8,}}"),
    ("", r"pat[A-Za-z0-9]{14}\.[0-9a-f]{64}"),  # Airtable
    (".atlasv1.", rf"{_LETTERS}{{14}}\.atlasv1\.[A-Za-z0-9_=-]{{60,}}"),  # Terraform
)  # fmt: skip

# ---- within texts

_PARAMETER = r"[\w-]++=(?:\\*+\"[^\"\\\r\n]*+\\*+\"|[^\s,\"'\\]++)"
"""A header's parameter: `Digest a="b", c=d` (RFC 9110, section 11.4). It can be inside quotes, so its own are escaped."""
_CREDENTIAL = (
    r"(?:(?i:bearer|basic|token|digest|bot|apikey|negotiate)\s+|[A-Za-z][\w-]{0,31}+[ \t]++(?=[^\s,;\"'\\0-9]{0,256}+[0-9]))?"
    r"[^\s,;\"'\\]+"
)
"""A word, with an optional scheme."""
_ARGUMENT = r"[^\s\"'\\$][^\s\"'\\]*"
_UP_TO_P = r"(?: ++(?!-p[\"'=]?\S|-p +[^\s-])[^\s;|&]*+){0,16}+ ++"
"""The arguments of a command before its `-p`."""
_QUOTED = r"[^\"'\\\s]++(?=\\*[\"'])"
"""The rest of a quoted word."""

_SQL_TEXT = r"(?:(?<!\\')(?:[^'\\\r\n]|''|\\[^\r\n]){1,256}+(?=')|(?:[^\"'\\\r\n]|''){1,256}+(?=\\*'))"
"""The rest of a text in SQL, which doubles a quote or escapes it with a backslash."""
_SQL_NAME = _SQL_TEXT.replace("'", '"').replace('\\""', "\\\"'")
_SQL_QUOTE = r"(?:(?i:[ENB]|U&))?\\*'"
_SQL_DOLLARS = r"\$(?P<tag>(?:[A-Za-z_]\w{0,31})?)\$"
"""PostgreSQL can delimit a text with two of these: `$x$secret$x$`."""
_SHELL_LOGIN = "|".join(
    rf"(?<=\b{command} )" for command in ("docker", "podman", "nerdctl", "buildah", "skopeo", "oras", "registry")
)
_SQL_SAYS = "|".join(rf"(?<=\b{word} )" for word in ("with", "encrypted", "set"))

_QUERY = r"(?:(?<=[?&;])|(?<=u0026)|(?<=%26))"
"""Before a name in a query. Its `&` can be escaped: `&amp;`, `\u0026`, `%26`."""

LEADS: Final = (
    # (what each match begins with, in lower case; the part that stays; the part that is replaced). A fixed-text search
    # finds the beginning, and the pattern is tried only there.
    (
        "-----begin ",
        "",
        r"-----BEGIN [A-Z0-9 ]{0,64}+(?:(?<=PRIVATE KEY)|(?<=PRIVATE KEY BLOCK))-----[\s\S]*?(?:-----END [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----|\Z)",
    ),
    ("putty-user-key-file-", "", r"PuTTY-User-Key-File-[0-9]{1,2}: [\s\S]*?(?:Private-MAC: ?[0-9a-f]{0,128}+|\Z)"),
    (
        "authorization",
        r"(?i:\bauthorization\s*[:=]\s*)",
        rf"[A-Za-z][\w-]{{0,31}}[ \t]++{_PARAMETER}(?:[ \t]*+,[ \t]*+{_PARAMETER})*+[^\s,;\"'\\]*+|{_CREDENTIAL}",
    ),
    ("bearer", r"(?i:\bbearer(?:\s+|%20|\+))(?=[^\s,;\"'0-9._~+/=-]*+[0-9._~+/=-])", r"[A-Za-z0-9._~+/=-]{12,}"),
    ("cookie", r"(?i:\bcookie\s*:\s*)", r"[^\s=;,\"'\\]{1,64}+=[^\r\n\"'\\]*"),
    ("login ", rf"(?:{_SHELL_LOGIN})login{_UP_TO_P}-p[ =]*[\"']?", _ARGUMENT),
    ("mysql", rf"\bmysql\w{{0,16}}+{_UP_TO_P}-p[\"']?(?![0-9]{{1,5}}:[0-9])", _ARGUMENT),
    ("mariadb", rf"\bmariadb[\w-]{{0,16}}+{_UP_TO_P}-p[\"']?(?![0-9]{{1,5}}:[0-9])", _ARGUMENT),
    ("sshpass -p", r"\bsshpass -p ?[\"']?", _ARGUMENT),
    ("configure set ", r"\bconfigure set [\w.-]{0,64}?aws_(?:secret_access_key|session_token)[ \t]++[\"']?", _ARGUMENT),
    ("machine", r"\bmachine\s++\S{1,256}+\s++login\s++\S{1,256}+\s++password\s++", _ARGUMENT),  # netrc
    # SQL: CREATE USER a PASSWORD 'x', ALTER ROLE a WITH ENCRYPTED PASSWORD 'x', PASSWORD('x'), IDENTIFIED BY 'x'.
    ("password", r"(?i:\bpassword(?:\s*+=\s*+|\s++|\s*+\(\s*+))" + _SQL_QUOTE, _QUOTED),
    ("password", rf"(?i:(?:{_SQL_SAYS})password(?:\s*+=\s*+|\s++)){_SQL_QUOTE}", _SQL_TEXT),
    ("password", r"\bPASSWORD\s++" + _SQL_QUOTE, _SQL_TEXT),
    (
        "password",
        r"(?i:\bpassword(?:\s*+=\s*+|\s++|\s*+\(\s*+))" + _SQL_DOLLARS,
        r"(?:[^$\r\n]|\$(?!(?P=tag)\$)){1,256}+(?=\$(?P=tag)\$)",
    ),
    ("password for ", r"(?i:(?<=\bset )password for \S{1,256}+\s*+=\s*+)\\*'", _SQL_TEXT),
    (
        "identified",
        r"(?i:\bidentified\s++(?:with\s++\S{1,64}+\s++)?(?:by|as)\s++(?:(?:password|values)\s++)?)\\*[\"']",
        rf"(?:(?<=')(?:{_SQL_TEXT})|(?<=\")(?:{_SQL_NAME}))",
    ),
    ("identified by ", r"\bIDENTIFIED BY ", r"(?!(?i:password|values) )[^\s\"'\\;]+"),
    ("hooks.slack.com/", r"hooks\.slack\.com/(?:services|workflows|triggers)/", r"[A-Za-z0-9/_+-]{16,}"),
    ("discord", r"\bdiscord(?:app)?\.com/api/(?:v[0-9]{1,2}/)?webhooks/[0-9]{1,32}/", r"[A-Za-z0-9_-]{30,}"),
    (".webhook.office.com/", r"\.webhook\.office\.com/webhookb2/", r"[A-Za-z0-9@/_-]{30,}"),
    ("sig=", rf"{_QUERY}sig=", r"[A-Za-z0-9%+/=_-]{20,}"),  # Azure's shared access signatures
    # AWS' signatures of version 2, Google's, and CloudFront's, also in its cookies.
    ("signature=", rf"(?:{_QUERY}|(?<=CloudFront-))(?i:signature=)", r"[A-Za-z0-9%+/=_~-]{20,}"),
    ("x-amz-signature=", r"(?i:\bx-amz-signature=)", r"[0-9A-Fa-f]{32,}[\w-]*+"),
    ("x-goog-signature=", r"(?i:\bx-goog-signature=)", r"[0-9A-Fa-f]{32,}[\w-]*+"),
    # Our page's links and cookie.
    ("#sign-in=", r"#sign-in=", _DASHED + "{20,}"),
    ("streamer_session=", r"streamer_session=", _DASHED + "{20,}"),
)

HINTS: Final = (
    "-----begin", "authorization", "bearer", "cookie", " -p", "aws_se", "password", "hooks.slack.com", "/webhooks/", "webhook.office.com",
    "sig=", "signature=", "putty-user-key-file-", "#sign-in=", "streamer_session", "curl", "kty", "://", "</",
)  # fmt: skip
HINT_PATTERNS: Final = (
    r"identified[\x00-\x7f]{1,8}(?:by|as|with)", r"basic(?:\s|[+]|%20|\\{1,8}[nrt]){1,4}[a-z0-9+/]{6}", r":\\+/", r"pat[a-z0-9]{14}\.[0-9a-f]{16}",
)  # fmt: skip
"""Every text in which one of the rules for texts finds something contains one of these, in lower case; also if it is encoded as JSON."""

CURL_USER: Final = (r"-(?<![^\s\"']-)(?:u|-user)[ \t=]*[\"']?[^\s:\"']{1,256}+:", r"[^\s\"'\\]+")
"""The part that stays and the secret, in a text with `curl`."""

JWK: Final = (r"[\"'](?:d|p|q|dp|dq|qi|k)\\*[\"']\s*+:\s*+\\*[\"']", r"[A-Za-z0-9_-]{8,}")
"""The part that stays and the secret, in a text with `kty`: a private key in JSON (RFC 7518, section 6)."""

JWK_SECRETS: Final = frozenset({"d", "p", "q", "dp", "dq", "qi", "k", "oth"})
"""The secret members of an object with `kty`."""

BASIC: Final = r"(?i:\bbasic(?:\s++|%20|\+))([A-Za-z0-9+/]{6,1024}+={0,2}+)"
"""A possible credential of RFC 7617: it is one if it decodes to `user:password`."""

URL: Final = r"(?P<scheme>:\\*/\\*/)(?P<user>[^\s/:@\"'<>\\?#\[]*+)(?P<after>[:@])"
"""The beginning of a URL that may have a password, or a token as its user."""
PORT: Final = r"(?:[0-9]{1,5}|\$\{?\w{1,64}+\}?|\{\w{0,64}+\}|<[\w-]{0,64}+>)(?=\\?[/?#,;|)\]}\s\"'<>\\]|\Z)"
"""The text after the colon of a URL without a user."""
URL_SECOND: Final = rf"[^\s/:@\"'<>\\?#\[]{{1,64}}+:(?!{PORT})([^\s/@\"'<>\\]{{1,256}}+)(?=@)"
"""The text after an `@` that is part of the user: `://ann@example.com:password@db`."""
URL_END: Final = r"[\s\"'<>`]"
TOKEN_USER: Final = r"(?=[^0-9]{0,64}+[0-9])(?=(?:[A-Za-z0-9]{0,15}+[^A-Za-z0-9]){0,8}+[A-Za-z0-9]{16})\S{16,}"  # noqa: S105
"""A random user name: a token passed to `git clone`."""

_FIRST_OF_TWO = r"(?i:api|secret|access|private|account|signing|encryption)[ ](?=(?i:key)\b)"
NAMED: Final = (
    r"(?<![\w.-])(?:"
    r"(?P<flag>--(?=[\w.-]*?(?:{hints}))[\w.-]++)(?:[ \t]++|=)"  # --token x
    # The form is checked first, then whether the name can be a secret's: most matches of the form are not.
    rf"|(?=(?:{_FIRST_OF_TWO})?+[\w.-]++[ \t]*+[\\\"'\]:=])(?=(?:{_FIRST_OF_TWO})?+[\w.-]*?(?:{{hints}}))"
    rf"(?P<name>(?P<header>(?i:x-))?+(?:{_FIRST_OF_TWO})?+[\w.-]++)(?:"
    r"\\*[\"']\s*+(?::|=>)\s*+"  # "token": "x", and the same in JSON inside a text
    r"|\]?=(?![=>\s&;])(?:(?=(?P<plain>[A-Za-z0-9/_+-]{1,64}+)[\s&;]))?+"  # TOKEN=x, user[token]=x
    r"|(?P<below>:[ \t]*+(?:[|>][+-]?[ \t]*+)?\r?\n[ \t]++)(?=[\\\"']*+\S{7})"  # in YAML the value can be on the next line
    r"|(?P<loose>:[ \t]++|[ \t]++=[ \t]++)(?(header)|(?=[\\\"']*+\S{7}|[\"'][^\"'\\\r\n]{7}))"  # token: x, token = x
    r"|(?P<arrow>[ \t]*+(?::=|=>)[ \t]*+(?=\\*[\"']))"  # password := "x", :password => "x"
    r"|(?P<tight>(?<=[A-Za-z]):(?=[\\\"']*+[^\s:/]{7}))"  # X-Api-Key:x
    r"))"
)
"""A name in a text, up to the beginning of its value; `{hints}` are substrings of secrets' names."""

DOUBLE: Final = r"[^\"\\]*+(?:(?:\\.|(?<!=\")\"\"(?=[^\s,:;)\]}&]))[^\"\\]*+)*+"
SINGLE: Final = r"[^'\\]*+(?:(?:\\.|(?<!=')''(?=[^\s,;)\]}&]))[^'\\]*+)*+"
"""The text between quotes; SQL doubles a single quote, and so do connection strings."""

STRING_PREFIX: Final = r"(?:\$|[fFrRbBuUN]{1,2})(?=[\"'][^\s\"',:;)\]}])"
"""Prefixes of quotes in some languages: `f'x'`, `$'x'`. (In JSON one of these signs follows a quote.)"""

BARE: Final = (
    r"[^\s\"'&;\\]*+(?:(?!{line_end}|\\{1,4}[nrt][ \t]*+(?:export )?[A-Za-z_][\w.-]{0,64}+=)\\++(?![\"']) ?+"
    r"[^\s\"'&;\\]*+)*+"
)
"""An unquoted value: up to white space without a backslash, a quote, `&` or `;`, and in JSON up to an escaped line end."""

BRACED: Final = r"\{(?=[^{}]{0,256}+\})(?=\w*+(?:[^\w}]|\}\})|[^}]*?[0-9])(?:[^}\r\n]|\}\}){1,256}+\}(?=[;\s\"'\\]|\Z)"
"""A value of ODBC's connection strings; a placeholder (`{token}`) has neither digits nor signs."""

ELEMENT: Final = (
    r"(<(?=[\w.:-]{0,63}?(?:{hints}))([A-Za-z][\w.:-]{0,63}+)(?:\s[^<>]*+)?>(?:\s{0,64}+<!\[CDATA\[)?+)"
    r"((?<=CDATA\[)(?:[^\]]|\](?!\]>)){1,512}+(?=\]\]>)|[^<>]++(?=</))"
)
"""`<password>x</password>`: the part that stays, the name, the value; `{hints}` are substrings of secrets' names."""

ENCODED: Final = (
    r"((?:%(?:25)?(?:26|3[Ff])|(?<![\w.%-]))([A-Za-z][\w.-]{0,63}+)%(?:25)?3[Dd])"
    r"((?:[^\s\"'&;<>\\%]|%(?!(?:25)?26)){1,256}+)"
)
"""`password%3Dx`: the part that stays, the name, the value."""

_QUOTES = r"[\\\"']{0,8}+"
_SPACE = r"(?:\s|\\{1,4}[nrt]){0,64}+"
_IS = rf"{_QUOTES}[ \t]{{0,8}}+[:=][ \t]{{0,8}}+"
_VALUE = rf"(?<![\w.-]){_QUOTES}(?i:value|default|defaultValue)"
_LITERAL = r"(?=[fFrRbBuU]{0,2}\\{0,8}[\"'])"
_NAME = r"([A-Za-z][\w.-]{0,63}+)"
_LINE = r"(?:(?<![\s\S])|(?<=[\n:])|(?<=\\[nrt]))[ \t]{0,16}+"
_ONE_WORD = r"(?=[\"']|[^\s\"'\\]{1,256}+[ \t]*+(?:[\r\n\"'\\]|\Z))"

GIVEN: Final = (
    # (what each match contains, in lower case; the name, and everything up to its value)
    # Labels, as in an object: `- name: DB_PASSWORD\n  value: x`, `<property name="password" value="x"/>`, JSON.
    (
        "value",
        rf"\b(?i:name|key|field|variable|label|header){_IS}{_QUOTES}{_NAME}{_QUOTES}(?:,|{_SPACE}){_SPACE}{_VALUE}{_IS}(?=\S)",
    ),
    # As in Python: os.environ['API_KEY'] = 'x'.
    *(
        (f"{of}[", rf"(?i:{of})\[\\*[\"']{_NAME}\\*[\"']\][ \t]{{0,8}}+=[ \t]{{0,8}}+{_LITERAL}")
        for of in ("env", "environ", "headers", "config", "secrets", "settings")
    ),
    # As in C and Python: setenv('API_KEY', 'x').
    *(
        (f"{call}(", rf"(?i:{call})\({_SPACE}\\*[\"']{_NAME}\\*[\"'],{_SPACE}{_LITERAL}")
        for call in ("setenv", "putenv", "environ.setdefault", "setenvironmentvariable")
    ),
    # A Dockerfile's `ENV DB_PASSWORD x`, and shells'
    ("env ", rf"{_LINE}ENV[ \t]++{_NAME}[ \t]++{_ONE_WORD}"),
    *((f"{word} ", rf"\b{word}[ \t]++{_NAME}[ \t]++{_ONE_WORD}") for word in ("setenv", "setx", "set -x", "set -gx")),
)
"""Assignments in a text in other forms than `name=value`."""

STAND_INS: Final = (
    r"\$\{\w+\}|\$[A-Z_][A-Z0-9_]*|\$\(.*|%\w+%|\{+\w*\}*|\[+|<[\w .-]*>?"
    r"|(?i:true|false|null|none|nil|undefined)|--.*"
    r"|(?i:bearer|basic|token|bot)\s\$?\{[^{}]{1,64}\}{1,2}"
    r"|(?:process\.env|import\.meta\.env|os\.(?:environ|getenv)|System\.getenv|(?:std::)?env::var|ENV\[|(?:get)?env\().*"
)
"""Placeholders in a text: a variable, a blank to fill in, an empty value, code that reads a value."""
MAX_STAND_IN: Final = 128
FIRST_OF_STAND_INS: Final = frozenset("$%{[<-tTbBfFnNuUpPiIoOsSeEgG")
"""First characters of all of them."""

LOOSE_LENGTH: Final = 7
MAX_LOOSE: Final = 256
"""After `name: ` the rest may be prose.

There a secret has up to this many characters, one of them a digit, and is not a URL.
"""

MIXED_WORD: Final = r"(?<!\S)(?=[^\s0-9]{0,64}+[0-9])(?=[^\sA-Z]{0,64}+[A-Z])(?=[^\sa-z]{0,64}+[a-z])\S{7}"
"""A word that makes a quoted text with spaces a password."""

PROSE: Final = (
    r"[(\[]*(?:[0-9]+|[A-Z][A-Z0-9]{0,15}-[0-9]+|v?[0-9]+(?:\.[0-9]+)+(?:[+-][\w.+-]*)?"
    r"|[a-z]{1,16}[0-9]{0,2}[a-z]{0,16}(?:[_.-][a-z]{1,16}[0-9]{0,2}[a-z]{0,16})+)[.,:)\]]*"
)
"""After `token: ` and the other `WORDS`, these are not secrets: a number, an issue's key, a version, words with hyphens."""

WORKING_DIRECTORY: Final = r"(?:/|[A-Za-z]:\\).*"
"""The value of `PWD` and `pwd` in environments and logs; any other value is a password."""
MAX_DIRECTORY: Final = 512
