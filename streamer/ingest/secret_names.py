"""Which names of keys say that a value is secret, as data: last words, words that are often written together, and what only looks like one."""

from typing import Final

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
    "hash",
    "digest",
)
_OF_SERVICES: Final = ("openai", "anthropic", "gemini", "mistral", "groq", "stripe", "sendgrid", "app", "fernet")

SECRET_NAMES: Final = (
    *_PASSWORDS, *(f"{name} {after}" for name in _PASSWORDS for after in _ASKED_AGAIN),
    "pass word", "pass phrase", "pass code", "passwords", "pw", "pgpassword", "sshpass",
    *(f"{whose} pass" for whose in ("db", "database", "user", "smtp", "mail", "admin", "root", "redis", "mysql", "postgres")),
    "secret", "secrets", "secret value",
    *(f"{whose} key" for whose in _OF_SERVICES), "secret key base", "client key data", "private key pem",
    *(f"{whose} pat" for whose in ("github", "gh", "gitlab", "devops", "azure")),
    "api key", "api keys", "apikey", "apikeys", "access key", "account key", "auth key", "deploy key", "encryption key", "hmac key", "master key",
    "private key", "private keys", "secret key", "service key", "shared key", "signing key", "ssh key", "webhook key",
    "token", "authtoken", "accesstoken", "refreshtoken", "access tokens", "api tokens", "auth tokens", "refresh tokens", "bearer", "jwt",
    "authorization", "authentication", "auth", "credential", "credentials", "cookie", "otp", "otp code", "totp code",
)  # fmt: skip
"""Last words of keys whose values are secret."""

OWN_COOKIE: Final = "streamer_session"
"""Our session's cookie: its value is a credential, whatever `session` says elsewhere."""

RUN_TOGETHER: Final = (
    "password", "passwd", "passphrase", "passcode", "pwd",
    *(f"{what}key" for what in (
        "api", "access", "account", "auth", "deploy", "encryption", "hmac", "master", "private", "secret", "service", "shared", "signing",
        "ssh", "webhook",
    )),
    "secretkeybase", "passwordhash", "passwordvalue",
)  # fmt: skip
"""What a word may end with and name a secret (`dbpassword`, `myapikey`): no other word ends so."""

WORDS_RUN_TOGETHER: Final = (
    "token", "secret", "cookie", "credential", "credentials", "jwt",
    *(f"{what}tokens" for what in ("access", "api", "auth", "refresh")),
)  # fmt: skip
"""The same for the `WORDS`: `clientsecret`, `accesstoken`."""

_WHOSE: Final = (
    "db", "database", "user", "smtp", "mail", "email", "admin", "root", "redis", "mysql", "postgres", "pg", "mongo", "ftp", "ldap", "login",
)  # fmt: skip
SHORT_RUN_TOGETHER: Final = frozenset(
    (*(f"{whose}{what}" for whose in _WHOSE for what in ("pass", "pw")),
     *(f"{what}auth" for what in ("basic", "http", "proxy", "registry", "docker")), "proxyauthorization")
)  # fmt: skip
"""Words that end with too little to tell by it alone (`compass`, `bypass`, `oauth`)."""

LATER_WORDS: Final = frozenset(
    ("prod", "production", "prd", "dev", "devel", "development", "stg", "stage", "staging", "test", "testing", "qa", "uat", "live", "sandbox",
     "local", "old", "new", "previous", "prev", "current", "next", "backup", "bak", "primary", "secondary", "default", "v")
)  # fmt: skip
"""What may follow a secret's name and changes nothing (`api_key_prod`, `token_old`, `client_secret_v2`); so may numbers."""

MAX_LATER_WORDS: Final = 3

NEVER_FOLLOWED: Final = frozenset({"auth", "authorization", "authentication"})
"""Names after which such a word makes another one: `auth_test` says how a test ended."""

WHOLE_SECRET_NAME: Final = "pass"  # noqa: S105
"""A secret's name only if nothing comes before it (`first_pass`), and only of a text (`{"pass": ["test 1"], "fail": []}`)."""

WORDS: Final = (
    "token", "access tokens", "api tokens", "auth tokens", "refresh tokens", "secret", "secrets", "bearer", "jwt",
    "authorization", "authentication", "auth", "credential", "credentials", "cookie", "otp", "otp code", "totp code",
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
    "no auth", "no password", "no token", "no secret", "no cookie", "skip auth", "disable auth",
)  # fmt: skip
"""Names that end like a secret's but are not. They may be written in one word (`nextpagetoken`), too."""

HARMLESS_WORDS: Final = frozenset(
    ("oldpwd", "nonsecret", "subtoken", "nontoken", "bytetoken", "pretoken", "betoken", "detoken", "texttoken", "chartoken", "wordtoken",
     "linetoken", "keytoken", "endtoken", "starttoken", "lasttoken", "firsttoken", "prevtoken", "endoftoken")
)  # fmt: skip
"""Words that end as secrets' names do and are something else: pieces of text, mostly."""

HARMLESS_VALUES: Final = frozenset(
    {"include", "omit", "same-origin", "required", "optional", "none", "enabled", "disabled"}
)
"""What is said below one of the `WORDS` without a secret: `fetch(url, {"credentials": "include"})`."""

MAX_COUNT: Final = 99_999
"""A number up to this, below one of the `WORDS`, is no secret."""

MIN_OF_SEVERAL: Final = 12
"""Characters of a secret below one of `SEVERAL`."""

NAME_HINTS: Final = (
    "pass",
    "pwd",
    "pw",
    "secret",
    "key",
    "token",
    "bearer",
    "jwt",
    "auth",
    "credential",
    "cookie",
    "otp",
    OWN_COOKIE,
)
"""Every name above has one of these, or `SHORT_NAME`."""

SHORT_NAME: Final = "pat[^a-z]"
"""The end of `GH_PAT`. Alone its letters are in `path` and `patch`, and most events would have them."""
