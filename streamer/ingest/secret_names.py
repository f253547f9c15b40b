"""Key names that show that a value is secret, as data: last words, words that are often written together, and names that only look similar."""

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
"""Our session's cookie: its value is a credential, although `session` alone is not a secret's name."""

RUN_TOGETHER: Final = (
    "password", "passwd", "passphrase", "passcode", "pwd",
    *(f"{what}key" for what in (
        "api", "access", "account", "auth", "deploy", "encryption", "hmac", "master", "private", "secret", "service", "shared", "signing",
        "ssh", "webhook",
    )),
    "secretkeybase", "passwordhash", "passwordvalue",
)  # fmt: skip
"""Endings of words that name a secret (`dbpassword`, `myapikey`); no other word ends like this."""

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
"""Words with an ending that is too short to decide alone (`compass`, `bypass`, `oauth`)."""

LATER_WORDS: Final = frozenset(
    ("prod", "production", "prd", "dev", "devel", "development", "stg", "stage", "staging", "test", "testing", "qa", "uat", "live", "sandbox",
     "local", "old", "new", "previous", "prev", "current", "next", "backup", "bak", "primary", "secondary", "default", "v")
)  # fmt: skip
"""Suffixes that do not change the meaning of a secret's name (`api_key_prod`, `token_old`, `client_secret_v2`); numbers are suffixes, too."""

MAX_LATER_WORDS: Final = 3

NEVER_FOLLOWED: Final = frozenset({"auth", "authorization", "authentication"})
"""Names whose meaning such a suffix changes: `auth_test` is the result of a test."""

WHOLE_SECRET_NAME: Final = "pass"  # noqa: S105
"""A secret's name only without words before it (`first_pass`), and only for a text (`{"pass": ["test 1"], "fail": []}`)."""

WORDS: Final = (
    "token", "access tokens", "api tokens", "auth tokens", "refresh tokens", "secret", "secrets", "bearer", "jwt",
    "authorization", "authentication", "auth", "credential", "credentials", "cookie", "otp", "otp code", "totp code",
)  # fmt: skip
"""Names that also have harmless uses: below them counts, settings and common prose stay.

`WHOLE_SECRET_NAME` is one of them.
"""

SEVERAL: Final = ("tokens", "cookies")
"""Last words of keys below which only texts that look like a secret are replaced: `{"tokens": {"input": 5}}` is a count."""

HARMLESS_NAMES: Final = (
    "page token", "pagination token", "next token", "continuation token", "sync token", "resume token", "fencing token",
    "cancel token", "cancellation token", "design token", "design tokens",
    *(f"{which} token" for which in ("eos", "bos", "pad", "unk", "sep", "cls", "mask", "stop")),
    "no auth", "no password", "no token", "no secret", "no cookie", "skip auth", "disable auth",
)  # fmt: skip
"""Names that end like a secret's but are not. They can be written in one word (`nextpagetoken`), too."""

HARMLESS_WORDS: Final = frozenset(
    ("oldpwd", "nonsecret", "subtoken", "nontoken", "bytetoken", "pretoken", "betoken", "detoken", "texttoken", "chartoken", "wordtoken",
     "linetoken", "keytoken", "endtoken", "starttoken", "lasttoken", "firsttoken", "prevtoken", "endoftoken")
)  # fmt: skip
"""Words that end like secrets' names but mean something else, mostly parts of texts."""

HARMLESS_VALUES: Final = frozenset(
    {"include", "omit", "same-origin", "required", "optional", "none", "enabled", "disabled"}
)
"""Harmless values below one of the `WORDS`: `fetch(url, {"credentials": "include"})`."""

MAX_COUNT: Final = 99_999
"""A number up to this, below one of the `WORDS`, is not a secret."""

MIN_OF_SEVERAL: Final = 12
"""Minimum length of a secret below one of `SEVERAL`."""

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
"""Every name above contains one of these, or `SHORT_NAME`."""

SHORT_NAME: Final = "pat[^a-z]"
"""The end of `GH_PAT`. The letters alone are in `path` and `patch`, which most events contain."""
