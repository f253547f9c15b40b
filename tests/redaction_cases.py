"""The corpus of redaction: what goes, and what stays, as data. `R` is what stands for a secret.

Tokens are made up, and written so that scanners of repositories do not take them for real ones: `_` joins two halves.
"""

from typing import Any, NamedTuple

R = "***REDACTED***"


class Case(NamedTuple):
    """An event's fields as they are appended, what must be gone of them, and how they are stored."""

    name: str
    given: dict[str, Any]
    secrets: tuple[str, ...]
    stored: dict[str, Any]


def _(*halves: str) -> str:
    """Join the halves of a token."""
    return "".join(halves)


HEX = "0123456789abcdef" * 12
MIX = "aB3dE5gH7jK9mN1pQ2sT4vW6xY8zA0cF" * 8
CAPS = "A2C4E6G8J1K3M5P7R9T0V2X4Z6B8D1F3" * 4

TOKENS: dict[str, str] = {
    "ours": _("sk_", "Zk3-9vQh_Lw7TtYc2RrXbN8mPqA1sDfGhJkL0zXcVb4"),
    "our ticket": _("stk_", MIX[:43]),
    "Stripe": _("sk_live_", "4eC39HqLyjWDarjtT1zdp7dc"),
    "Stripe test": _("sk_test_", "4eC39HqLyjWDarjtT1zdp7dc"),
    "Stripe restricted": _("rk_live_", "4eC39HqLyjWDarjtT1zdp7dc"),
    "webhook secret": _("whsec_", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"),
    "OpenAI": _("sk-proj-", "abcDEF123456_abcDEF123456-abcDEF"),
    "OpenAI, old": _("sk-", MIX[:48]),
    "Anthropic": _("sk-ant-api03-", "abcDEF123456_abcDEF123456-AA"),
    "OpenRouter": _("sk-or-v1-", HEX[:64]),
    "Paperclip": _("pcp_", HEX[:48]),
    "Paperclip agent": _("pcp_agent_", HEX[:32]),
    "GitHub personal": _("ghp_", "16C7e42F292c6912E7710c838347Ae178B4a"),
    "GitHub OAuth": _("gho_", "16C7e42F292c6912E7710c838347Ae178B4a"),
    "GitHub user": _("ghu_", "16C7e42F292c6912E7710c838347Ae178B4a"),
    "GitHub server": _("ghs_", "16C7e42F292c6912E7710c838347Ae178B4a"),
    "GitHub refresh": _("ghr_", "16C7e42F292c6912E7710c838347Ae178B4a"),
    "GitHub fine-grained": _("github_pat_", "11ABCDEFG0abcdefghijkl_mnopqrstuvwxyz"),
    "GitLab": _("glpat-", "abcDEF123456abcDEF12"),
    "GitLab runner": _("glrt-", "abcDEF123456abcDEF12"),
    "GitLab CI job": _("glcbt-", "64_abcDEF123456abcDEF12"),
    "Atlassian": _("ATATT3x", MIX[:180], "=A1B2C3D4"),
    "Bitbucket": _("ATBB", MIX[:32]),
    "Slack bot": _("xoxb-", "123456789012-abcdefghijkl"),
    "Slack user": _("xoxp-", "123456789012-abcdefghijkl"),
    "Slack app": _("xapp-", "1-A012345-6789012345-abcdef"),
    "Slack rotating": _("xoxe.xoxb-", "1-abcdefghijklmnop"),
    "AWS key id": _("AKIA", "IOSFODNN7EXAMPLE"),
    "AWS temporary key id": _("ASIA", "IOSFODNN7EXAMPLE"),
    "AWS Bedrock": _("ABSK", MIX[:120]),
    "Google API key": _("AIza", "SyD-9tSrke72PouQMnMX-a7eZSW0jkFMBWY"),
    "Google client secret": _("GOCSPX-", MIX[:28]),
    "Google access": _("ya29.", "a0AfH6SMB", MIX[:40]),
    "Google refresh": _("1//0", MIX[:60]),
    "npm": _("npm_", "abcdefghijklmnopqrstuvwxyz0123456789"),
    "PyPI": _("pypi-AgE", "IcHlwaS5vcmc", MIX[:80]),
    "RubyGems": _("rubygems_", HEX[:48]),
    "Docker": _("dckr_pat_", MIX[:27]),
    "Clojars": _("CLOJARS_", HEX[:60]),
    "Hugging Face": _("hf_", "abcdefghijklmnopqrstuvwxyzABCDEFGH"),
    "Hugging Face organisation": _("api_org_", "abcdefghijklmnopqrstuvwxyzABCDEFGH"),
    "Groq": _("gsk_", MIX[:52]),
    "xAI": _("xai-", MIX[:80]),
    "Perplexity": _("pplx-", MIX[:48]),
    "Replicate": _("r8_", MIX[:37]),
    "Tavily": _("tvly-", "dev-", MIX[:32]),
    "Pinecone": _("pcsk_", MIX[:6], "_", MIX[:63]),
    "LangSmith": _("lsv2_pt_", HEX[:32], "_", HEX[:10]),
    "DigitalOcean": _("dop_v1_", HEX[:64]),
    "Shopify": _("shpat_", HEX[:32]),
    "SendGrid": _("SG.", MIX[:22], ".", MIX[:43]),
    "Brevo": _("xkeysib-", HEX[:64], "-", MIX[:16]),
    "Linear": _("lin_api_", MIX[:40]),
    "Notion": _("ntn_", MIX[:46]),
    "Notion, old": _("secret_", MIX[:43]),
    "Figma": _("figd_", MIX[:40]),
    "Vercel": _("vcp_", MIX[:56]),
    "Vercel AI gateway": _("vck_", MIX[:56]),
    "Supabase": _("sbp_", HEX[:40]),
    "Supabase secret key": _("sb_secret_", MIX[:31]),
    "Netlify": _("nfp_", MIX[:36]),
    "Render": _("rnd_", MIX[:28]),
    "Heroku": _("HRKU-AA", MIX[:58]),
    "Fly.io": _("fm2_", MIX[:120], "=="),
    "Cloudflare origin CA": _("v1.0-", HEX[:24], "-", HEX[:146]),
    "Databricks": _("dapi", HEX[:32]),
    "Grafana": _("glsa_", MIX[:32], "_0a1b2c3d"),
    "Vault": _("hvs.", MIX[:90]),
    "Doppler": _("dp.pt.", MIX[:43]),
    "1Password": _("ops_eyJ", MIX[:250]),
    "age": _("AGE-SECRET-KEY-1", CAPS[:58]),
    "Pulumi": _("pul-", HEX[:40]),
    "PlanetScale": _("pscale_tkn_", MIX[:43]),
    "Tailscale": _("tskey-auth-", "kA1b2C3CNTRL-", MIX[:32]),
    "OpenShift": _("sha256~", MIX[:43]),
    "Postman": _("PMAK-", HEX[:24], "-", HEX[:34]),
    "New Relic": _("NRAK-", CAPS[:27]),
    "Sentry": _("sntryu_", HEX[:64]),
    "Dynatrace": _("dt0c01.", CAPS[:24], ".", CAPS[:64]),
    "SonarQube": _("squ_", HEX[:40]),
    "Buildkite": _("bkua_", HEX[:40]),
    "CircleCI": _("CCIPAT_", MIX[:22], "_", HEX[:40]),
    "EasyPost": _("EZAK", MIX[:54]),
    "Square": _("sq0csp-", MIX[:43]),
    "Mapbox": _("sk.", "eyJ", MIX[:60], ".", MIX[:22]),
    "Shippo": _("shippo_live_", HEX[:40]),
    "Duffel": _("duffel_live_", MIX[:43]),
    "ReadMe": _("rdme_", "xn8s9h", HEX[:64]),
    "Prefect": _("pnu_", MIX[:36]),
    "Contentful": _("CFPAT-", MIX[:43]),
    "Typeform": _("tfp_", MIX[:59]),
    "Telegram bot": _("123456789:AA", "HdqTcvCH1vGWJxfSeofSAs0K5PALDsaw1"),
    "Microsoft Entra": _("abc8Q~", MIX[:34]),
    "Terraform": _("AbCdEf12345678", ".atlasv1.", MIX[:67]),
    "JSON Web Token": _("eyJhbGciOiJIUzI1NiJ9.", "eyJzdWIiOiIxMjM0NTY3ODkwIn0.", "dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U"),
    "JSON Web Token, encrypted": _("eyJhbGciOiJkaXIiLCJlbmMiOiJBMjU2R0NNIn0.", ".48V1_ALb6US04U3b.5eym8TW_c8SuK0ltJ3rpYI", ".XFBoMYUZodetZdvT"),
}  # fmt: skip

PLAIN = "Zx9qLm2Wv8Rt4Yp7Kd3N"
"""A secret without a shape."""
GITHUB, OURS, JWT = TOKENS["GitHub personal"], TOKENS["ours"], TOKENS["JSON Web Token"]


def _pem(kind: str) -> str:
    return f"-----BEGIN {kind}-----\nMIIEpAIBAAKCAQEA7bq\nzXcV+/bN8mPqA1==\n-----END {kind}-----"


PEMS = [
    _pem(kind)
    for kind in (
        "PRIVATE KEY",
        "RSA PRIVATE KEY",
        "EC PRIVATE KEY",
        "DSA PRIVATE KEY",
        "ENCRYPTED PRIVATE KEY",
        "OPENSSH PRIVATE KEY",
        "PGP PRIVATE KEY BLOCK",
    )
]

TEXTS_THAT_LOSE: list[tuple[str, str, tuple[str, ...]]] = [
    # (the text, with {} for each secret; its name; its secrets)
    ("deploy --token {} now", "flag", ("hunter",)),
    ("deploy --api-key={} now", "flag with =", ("hunter",)),
    ("deploy --db.password '{}' now", "flag, quoted", ("correct horse",)),
    ('login --password "{}"', "flag, double quotes", ("correct horse",)),
    ("curl -H 'Authorization: {}' https://example.com", "header of curl", ("Bearer abc",)),
    ('curl -H "X-Api-Key: {}" https://example.com', "API key's header", ("abcdef",)),
    ("curl -u ann:{} https://example.com", "user of curl", ("hunter",)),
    ("curl --user 'ann:{}' https://example.com", "user of curl, quoted", ("hunter",)),
    ("export OPENAI_API_KEY={}", "export", ("abc",)),
    ('export DB_PASSWORD="{}"', "export, quoted", ("correct horse",)),
    ("A=1 GH_TOKEN={} make", "variable before a command", ("abc",)),
    ("$env:GH_TOKEN='{}'", "PowerShell", ("abc",)),
    ("docker run -e MYSQL_ROOT_PASSWORD={} mysql", "docker", ("abc",)),
    ("# the database\nDB_HOST=db\nDB_PASSWORD={}\nDB_PORT=5432\n", ".env", ("abc",)),
    ("LANG=C\r\nSMTP_PASS={}\r\nA=b", ".env of Windows", ("abc",)),
    ('[db]\npassword = "{}"\nuser = "ann"', "TOML", ("hunter2",)),
    ("db:\n  user: ann\n  password: {}\n", "YAML", ("hunter2",)),
    ('{{"user":"ann","password":"{}","n":1}}', "JSON in text", ("hunter",)),
    ('{{"apiKey" : "{}"}}', "JSON with spaces", ("abc",)),
    ('{{"password":"{}"}}', "JSON with an escaped quote", ('a\\"b',)),
    ('"{{\\"token\\":\\"{}\\"}}"', "JSON in JSON", ("abc",)),
    ("{{'password': '{}', 'n': 1}}", "Python's repr", ("hunter",)),
    ("https://example.com/?a=1&token={}&b=2", "query", ("abc",)),
    ("https://example.com/?access_token={}", "end of a query", ("abc",)),
    ("user[name]=ann&user[password]={}&x=1", "form", ("abc",)),
    ("Server=db;User Id=sa;Password={};Encrypt=true", "SQL Server", ("hunter",)),
    ("AccountName=x;AccountKey={};EndpointSuffix=y", "Azure storage", ("aGVsbG8/d29y+bGQ==",)),
    ("host=db user=ann password={} dbname=app", "libpq", ("hunter",)),
    ("postgresql://ann:{}@db.example.com/app", "URL", ("hunter",)),
    ("redis://:{}@cache:6379/0", "URL without a user", ("hunter",)),
    ("mongodb+srv://ann:{}@c0.example.net/?w=majority", "mongodb", ("p@ss",)),
    ("amqp://ann:{}@a, then amqp://bob:{}@b", "two URLs", ("hunter", "sesame")),
    ("Authorization: {}", "header", ("Bearer abc.def",)),
    ("authorization={}", "header with =", ("Basic dXNlcjpwYXNz",)),
    ("Proxy-Authorization: {}", "proxy's header", ("Basic dXNlcjpwYXNz",)),
    ("it sent Bearer {}, then left", "bearer", ("abcdefgh12345678",)),
    ("GET / HTTP/1.1\r\nCookie: {}\r\nAccept: */*", "cookies", ("session=abc; theme=dark",)),
    ("Set-Cookie: {}", "set-cookie", ("session=abc; HttpOnly; Path=/",)),
    ("X-Auth-Token: {}\nAccept: */*", "another header", ("abcdef",)),
    ("POST https://hooks.slack.com/services/{}", "Slack's webhook", ("T00000000/B00000000/XXXXXXXXXXXXXXXXXXXXXXXX",)),
    ("https://discord.com/api/webhooks/123456789012345678/{}", "Discord's webhook", (MIX[:68],)),
    ("https://acme.webhook.office.com/webhookb2/{}", "Teams' webhook", (f"{HEX[:32]}@{HEX[:32]}/IncomingWebhook/{HEX[:32]}",)),
    ("https://x.blob.core.windows.net/c/b?sv=2024&sig={}&se=1", "Azure's signature", ("aGVsbG8gd29ybGQgaGVsbG8%2Bx%3D",)),
    ("https://b.s3.amazonaws.com/k?X-Amz-Date=1&X-Amz-Signature={}", "AWS's signature", (HEX[:64],)),
    ("key\n{}\nend", "PEM in a text", (PEMS[1],)),
    ("cut off: {}", "PEM without an end", (PEMS[0][:60],)),
    (f"tokens {{}} and {{}}; {GITHUB[:9]} is none", "two tokens", (GITHUB, OURS)),
    ("“{}”", "typographic quotes", (GITHUB,)),
    ("see ({}).", "brackets", (OURS,)),
    ("密码是{}。", "beside other scripts", (GITHUB,)),
    ("DB_PASSWORD={}.", "end of a sentence", ("hunter",)),
    ("export PGPASSWORD='{}'", "PostgreSQL's password", ("hunter",)),
    ("PGPASSWORD={} psql", "PostgreSQL's password before a command", ("hunter",)),
    ("SSHPASS={} sshpass -e ssh h", "sshpass's variable", ("hunter",)),
    ("sshpass -p {} ssh h", "sshpass's argument", ("hunter",)),
    ("PASS={}; pw={}", "short names", ("hunter", "sesame")),
    ("db_pw: {}", "short name and colon", (PLAIN,)),
    ("GH_PAT={}\ngithubPat: {}", "personal access token", ("abc", PLAIN)),
    ("X-Api-Key:{}", "header without a blank", (PLAIN,)),
    ("X-Auth-Token:{}\r\nAccept:*/*", "another header without a blank", (PLAIN,)),
    ("apikey:{}", "API key without a blank", (PLAIN,)),
    ("{{apiKey:'{}',n:1}}", "JavaScript", (PLAIN,)),
    ("the api key: {}", "two words", (PLAIN,)),
    ("Secret Key = {}", "two words and =", (PLAIN,)),
    ("<a><password>{}</password><user>ann</user></a>", "XML", ("correct horse",)),
    ('<db:apiKey type="x">{}</db:apiKey>', "XML with a name space and attributes", ("abc",)),
    (':user => "ann", :password => "{}"', "Ruby", ("hunter",)),
    ("['password' => '{}', 'n' => 1]", "PHP", ("hunter",)),
    ('password := "{}"', "Go", ("hunter",)),
    ("db:\n  password:\n    {}\n  user: ann", "YAML, next line", (PLAIN,)),
    ("password: |\n  {}", "YAML, block", (PLAIN,)),
    ("password: >-\r\n  '{}'\r\n", "YAML, folded and quoted", (PLAIN,)),
    ("docker login -u ann -p {} example.com", "docker login", ("hunter",)),
    ("podman login example.com -p '{}'", "podman login", ("hunter",)),
    ("mysql -u root -p{} app", "mysql", ("hunter",)),
    ("mysqldump -h db -p'{}' app > x.sql", "mysqldump", ("hunter",)),
    ("aws configure set aws_secret_access_key {}", "aws configure", (PLAIN,)),
    ("aws configure set profile.ann.aws_session_token '{}'", "aws configure, profile", (PLAIN,)),
    ("machine h login u password {}", "netrc", ("hunter",)),
    ("machine h\n  login u\n  password {}\nmachine i", "netrc on lines", ("hunter",)),
    ("git clone https://{}@github.com/a.git", "token for a user", (PLAIN,)),
    ("https://{}@example.com/", "hex for a user", (HEX[:40],)),
    ("Authorization: {}\nAccept: */*", "digest", (f'Digest username="ann", realm="b c", qop=auth, response="{PLAIN}"',)),
    ("curl -H 'authorization: {}' https://x", "AWS's header",
     (f"AWS4-HMAC-SHA256 Credential=AK/20260101/x, SignedHeaders=host;x-date, Signature={HEX[:64]}",)),
    ('"Authorization: {}" was sent', "digest in quotes", (f'Digest username=\\"ann\\", response=\\"{PLAIN}\\"',)),
    ("Authorization: {} and more", "a scheme of one's own", (f"GenieKey {PLAIN}",)),
    ("?X-Amz-Signature={}", "AWS's signature and a token", (HEX[:64] + "sk_" + MIX[:20],)),
    ("prefix_{} and x{}", "glued to a word", (GITHUB, GITHUB)),
    ("v{}", "glued, another", (TOKENS["GitLab"],)),
    ("{}", "Langfuse", (_("sk-lf-", "01234567-89ab-cdef-0123-456789abcdef"),)),
]  # fmt: skip
NESTED: Any = {"password": "hunter2"}
NESTED_CLEAN: Any = {"password": R}
for _level in range(14):  # an object and a list each: 30 levels with details
    NESTED, NESTED_CLEAN = {"a": [NESTED]}, {"a": [NESTED_CLEAN]}

SERVICE_ACCOUNT = {
    "type": "service_account",
    "project_id": "acme",
    "private_key_id": HEX[:40],
    "private_key": PEMS[0],
    "client_email": "bot@acme.iam.gserviceaccount.com",
    "token_uri": "https://oauth2.googleapis.com/token",
}

DETAILS: list[tuple[str, Any, tuple[str, ...], Any]] = [
    # (name; details given; secrets; details stored)
    ("env, value by value", {"env": {"PLAIN": "x", "DB_PASSWORD": "hunter2", "LANG": "C"}}, ("hunter2",),
     {"env": {"PLAIN": "x", "DB_PASSWORD": R, "LANG": "C"}}),
    ("env as a list", {"env": ["PLAIN=x", "DB_PASSWORD=correct horse battery", "PWD=/srv"]}, ("correct horse", "battery"),
     {"env": ["PLAIN=x", f"DB_PASSWORD={R}", "PWD=/srv"]}),
    ("env as Kubernetes has it",
     {"env": [{"name": "PLAIN", "value": "x"}, {"name": "DB_PASSWORD", "value": "hunter2"},
              {"name": "API_KEY", "valueFrom": {"secretKeyRef": {"name": "db", "key": "api-key"}}}]}, ("hunter2",),
     {"env": [{"name": "PLAIN", "value": "x"}, {"name": "DB_PASSWORD", "value": R},
              {"name": "API_KEY", "valueFrom": {"secretKeyRef": {"name": "db", "key": "api-key"}}}]}),
    ("env as text", {"env": "A=1\nAPI_KEY=abc def\n"}, ("abc",), {"env": f"A=1\nAPI_KEY={R} def\n"}),
    ("env with a token in a harmless name", {"env": {"URL": f"https://x/?k={GITHUB}"}}, (GITHUB,), {"env": {"URL": f"https://x/?k={R}"}}),
    ("adapterConfig", {"adapterConfig": {"model": "us.anthropic.claude-x", "apiKey": "abc", "maxTokens": 4096,
                                         "headers": [{"Authorization": "Bearer x"}]}}, ("abc", "Bearer x"),
     {"adapterConfig": {"model": "us.anthropic.claude-x", "apiKey": R, "maxTokens": 4096, "headers": [{"Authorization": R}]}}),
    ("adapterConfig with env", {"adapterConfig": {"env": {"OPENAI_API_KEY": {"type": "plain", "value": "abc"}, "A": {"type": "plain", "value": "b"}}}},
     ("abc",), {"adapterConfig": {"env": {"OPENAI_API_KEY": R, "A": {"type": "plain", "value": "b"}}}}),
    ("a reference with more in it", {"api_key": {"type": "secret_ref", "secretId": "s1", "value": "hunter2"}}, ("hunter2",), {"api_key": R}),
    ("a token in a reference", {"api_key": {"secretId": GITHUB}}, (GITHUB,), {"api_key": {"secretId": R}}),
    ("argv", {"argv": ["deploy", "--token", "hunter2", "--verbose"]}, ("hunter2",), {"argv": ["deploy", "--token", R, "--verbose"]}),
    ("argv with =", {"argv": ["deploy", "--password=correct horse"]}, ("correct", "horse"), {"argv": ["deploy", f"--password={R}"]}),
    ("argv of curl", {"cmd": ["/usr/bin/curl", "-u", "ann:hunter2", "-H", "X-Api-Key: abc", "https://x"]}, ("hunter2", "abc"),
     {"cmd": ["/usr/bin/curl", "-u", f"ann:{R}", "-H", f"X-Api-Key: {R}", "https://x"]}),
    ("commandArgs", {"commandArgs": ["--api-key", "abc", 5]}, ("abc",), {"commandArgs": ["--api-key", R, 5]}),
    ("headers", {"headers": {"Authorization": "Bearer x", "Cookie": "a=b", "Accept": "*/*"}}, ("Bearer x", "a=b"),
     {"headers": {"Authorization": R, "Cookie": R, "Accept": "*/*"}}),
    ("headers as pairs of objects", {"headers": [{"name": "Cookie", "value": "a=b"}, {"name": "Accept", "value": "*/*"}]}, ("a=b",),
     {"headers": [{"name": "Cookie", "value": R}, {"name": "Accept", "value": "*/*"}]}),
    ("tags", {"Tags": [{"Key": "db_password", "Value": "hunter2"}]}, ("hunter2",), {"Tags": [{"Key": "db_password", "Value": R}]}),
    ("nested 30 deep", NESTED, ("hunter2",), NESTED_CLEAN),
    ("in lists of lists", {"a": [[[f"x {GITHUB} y"]]]}, (GITHUB,), {"a": [[[f"x {R} y"]]]}),
    ("in a key", {f"key {GITHUB}": 1}, (GITHUB,), {f"key {R}": 1}),
    ("in two keys", {GITHUB: 1, OURS: 2, "a": 3}, (GITHUB, OURS), {R: 1, f"{R} 2": 2, "a": 3}),
    ("in a key that says so", {"TOKEN=abc": 1}, ("abc",), {f"TOKEN={R}": 1}),
    ("a whole object", {"credentials": {"user": "ann", "pin": 1234}}, ("1234",), {"credentials": R}),
    ("a whole list", {"secrets": ["a-one", "a-two"]}, ("a-one", "a-two"), {"secrets": R}),
    ("a number", {"passcode": 918273}, ("918273",), {"passcode": R}),
    ("nothing in a secret's place", {"password": "", "token": None, "secret": False, "jwt": "x-secret"}, ("x-secret",),
     {"password": "", "token": None, "secret": False, "jwt": R}),
    ("service account", {"account": SERVICE_ACCOUNT}, ("MIIEpAIBAAKCAQEA7bq",), {"account": {**SERVICE_ACCOUNT, "private_key": R}}),
    ("service account as text", {"file": f'{{"private_key_id": "{HEX[:8]}", "private_key": "-----BEGIN PRIVATE KEY-----\\nMIIEpAI\\n"}}'},
     ("MIIEpAI",), {"file": f'{{"private_key_id": "{HEX[:8]}", "private_key": "{R}'}),
    ("_previous", {"password": "hunter3", "_previous": {"password": "hunter2"}}, ("hunter2", "hunter3"),
     {"password": R, "_previous": {"password": R}}),
    ("a token in the name of an entry", {"env": [f"{GITHUB}_TOKEN=abc"]}, (GITHUB, "abc"), {"env": [f"{R}={R}"]}),
    ("tokens in a list", {"tokens": [PLAIN, "word", 5]}, (PLAIN,), {"tokens": [R, "word", 5]}),
    ("tokens in an object", {"tokens": {"access": PLAIN, "input": 512, "secret": "abc"}}, (PLAIN, "abc"), {"tokens": {"access": R, "input": 512, "secret": R}}),
    ("cookies in an object", {"cookies": {"sid": PLAIN, "theme": "dark"}}, (PLAIN,), {"cookies": {"sid": R, "theme": "dark"}}),
    ("cookies, deep", {"cookies": [{"name": "sid", "v": [f"a {GITHUB}", PLAIN]}]}, (GITHUB, PLAIN), {"cookies": [{"name": "sid", "v": [f"a {R}", R]}]}),
    ("API keys in a list", {"apikeys": ["hunter2"]}, ("hunter2",), {"apikeys": R}),
    ("raw headers", {"rawHeaders": ["Host", "h", "X-Api-Key", PLAIN, "Accept", "*/*", "Cookie", "a=b"]}, (PLAIN, "a=b"),
     {"rawHeaders": ["Host", "h", "X-Api-Key", R, "Accept", "*/*", "Cookie", R]}),
    ("headers in pairs", {"headers": [["authorization", f"Basic {PLAIN}"], ["accept", "a/b"], ["X-Api-Key", PLAIN]]}, (PLAIN,),
     {"headers": [["authorization", R], ["accept", "a/b"], ["X-Api-Key", R]]}),
    ("labels",
     {"a": [{"field": "password", "value": "abc"}, {"variable": "DB_PASSWORD", "value": "abc"}, {"type": "password", "value": "abc"},
            {"label": "Password", "value": "abc"}, {"name": "API_KEY", "default": "abc"}, {"id": "password", "value": "abc"},
            {"header": "Authorization", "value": "abc"}, {"type": "secret", "value": "abc"}]}, ("abc",),
     {"a": [{"field": "password", "value": R}, {"variable": "DB_PASSWORD", "value": R}, {"type": "password", "value": R},
            {"label": "Password", "value": R}, {"name": "API_KEY", "default": R}, {"id": "password", "value": R},
            {"header": "Authorization", "value": R}, {"type": "secret", "value": R}]}),
    ("a long number for a token", {"token": 918273, "authToken": -100000}, ("918273", "100000"), {"token": R, "authToken": R}),
    ("a small number for a password", {"password": 5, "pw": 7}, ('"password":5', '"pw":7'), {"password": R, "pw": R}),
    ("a working directory is none of another's", {"db_pwd": "/abc", "pwd": "abc"}, ("/abc", "abc"), {"db_pwd": R, "pwd": R}),
    ("auth is a secret's name", {"auth": "hunter2"}, ("hunter2",), {"auth": R}),
]  # fmt: skip

SECRET_KEYS = [
    "password",
    "Password",
    "PASSWORD",
    "db_password",
    "dbPassword",
    "user.passwd",
    "pwd",
    "passphrase",
    "DB_PASS",
    "smtpPass",
    "secret",
    "client_secret",
    "clientSecret",
    "CLIENT-SECRET",
    "jwt_secret",
    "api_key",
    "apiKey",
    "APIKey",
    "APIKEY",
    "X-Api-Key",
    "OPENAI_API_KEY",
    "AWS_SECRET_ACCESS_KEY",
    "privateKey",
    "token",
    "access_token",
    "accessToken",
    "refreshToken",
    "GH_TOKEN",
    "csrfToken",
    "session_token",
    "id_token",
    "authorization",
    "Proxy-Authorization",
    "basic_auth",
    "bearer",
    "jwt",
    "credential",
    "credentials",
    "cookie",
    "Set-Cookie",
    "signing_key",
    "ssh-key",
    "encryptionKey",
    "deploy_key",
    "hmacKey",
    "accessTokens",
    "PGPASSWORD",
    "SSHPASS",
    "pw",
    "db_pw",
    "MYSQL_PWD",
    "REDISCLI_AUTH",
    "password1",
    "password2",
    "passwd1",
    "password_confirmation",
    "passwordConfirm",
    "passwordPlain",
    "passwordText",
    "OPENAI_KEY",
    "openaiKey",
    "SECRET_KEY_BASE",
    "APP_KEY",
    "FERNET_KEY",
    "GITHUB_PAT",
    "GH_PAT",
    "gh-pat",
    "GH_PAT_",
    "client-key-data",
    "privateKeyPem",
    "secret_value",
    "clientSecretValue",
    "apikeys",
]
SECRET_KEYS_OF_TEXTS = ["pass", "PASS"]

HARMLESS_KEYS = [
    "author",
    "authors",
    "authored_by",
    "authority",
    "authorId",
    "co_author",
    "authorType",
    "maxTokens",
    "max_tokens",
    "output_tokens",
    "inputTokens",
    "token_count",
    "tokens",
    "tokenizer",
    "tokenize",
    "totalTokens",
    "next_page_token",
    "nextPageToken",
    "continuationToken",
    "syncToken",
    "resume_token",
    "key",
    "issueKey",
    "issue_key",
    "primaryKey",
    "foreign_key",
    "publicKey",
    "keyboard",
    "keywords",
    "monkey",
    "hotkey",
    "sortKey",
    "partitionKey",
    "keyCode",
    "cacheKey",
    "passed",
    "passive",
    "compass",
    "bypass",
    "passengers",
    "secretary",
    "secretId",
    "secretRef",
    "secretName",
    "cookies_enabled",
    "authType",
    "authMethod",
    "tokenType",
    "passwordResetRequired",
    "password_changed_at",
    "private_key_id",
    "access_key_id",
    "model",
    "version",
    "status",
    "host",
    "sha",
    "id",
    "OLDPWD",
    "SSH_AUTH_SOCK",
    "no_auth",
    "first_pass",
    "renderPass",
    "eos_token",
    "bosToken",
    "pad_token",
    "design_token",
    "designTokens",
    "pagination_token",
    "cancelToken",
    "fencing_token",
    "file_path",
    "filePath",
    "dispatch",
    "pat",
    "compat",
    "auth0",
    "licenseKey",
]

HARMLESS_TEXTS = [
    "1.2.3", "v1.2.3-rc.1+build.5", "2.0.0-alpha.1+sha.5114f85", "10.0.0.1", "2001:db8::1", "0.0.0.0:8080", "192.168.1.0/24",
    "api.example.com", "www.example.com", "db-primary.eu-west-1.internal", "https://example.com/a/b?c=d#e", "http://localhost:8080/x@y",
    "https://ann@example.com/", "git@example.com:org/repo.git", "ssh://git@example.com:22/org/repo.git",
    "us.anthropic.claude-x", "us.anthropic.claude-sonnet-4-20250514-v1:0", "gpt-5.1-codex", "gpt-4o-mini-2024-07-18", "claude-opus-4-5",
    "gemini-2.5-pro-preview-05-06", "meta-llama/Llama-3.3-70B-Instruct", "01937f0e-7b1c-7a33-8b5e-3f1d2c4b5a69",
    "d41d8cd98f00b204e9800998ecf8427e", "9fceb02d0ae598e95dc970b74767f19372d61af8", "sha256:" + "0af" * 21 + "b", HEX[:64], HEX[:128],
    "PAP-42", "see PAP-42 and ENG-1234", "issue_abc123", "agent_eng1", "run_9", "ws_1", "company_xyz", "user-123",
    "2026-11-21T06:22:04.123456Z", "2026-11-21 06:22", "3.14", "-1e10", "true", "null",
    "/srv/app/src/main.py", "C:\\Users\\ann\\token.txt", "src/auth/token_store.py", "~/.ssh/config", "./secrets/README.md",
    "arn:aws:s3:::my-bucket/key", "arn:aws:secretsmanager:us-east-1:123456789012:secret:prod/db-AbCdEf", "ann@example.com",
    "+49 30 1234567", "(555) 010-9999", "4111 1111", "author", "authorization was refused", "the password is wrong", "wrong password",
    "bearer of bad news", "the bearer certificate", "a basic test", "Token expired", "token: expired", "password: required",
    "secret santa", "the secret of success", "the key to success: work", "key: PAP-42", "key=PAP-42", "primaryKey=id", "author=bob",
    "authorType: human", "tokens: 4096", "max_tokens=4096", "total_tokens: 123456", "token_type=bearer", "grant_type=authorization_code",
    "passed=12 failed=0", "pass: 12345678", "def f(api_key: str, password: str | None) -> None", "api_key: string", "cookies are on",
    "if token == expected", "TOKEN=$TOKEN", "TOKEN=${TOKEN}", 'deploy --token "$GITHUB_TOKEN"', "API_KEY=<your key>", "password=null",
    "auth=false", "PWD=/home/ann", "cd $PWD && make", "--no-auth now", "git commit --author ann",
    "curl -u ann https://example.com", "docker run -u 1000:1000 alpine", "curl https://example.com/x", "cookie: chocolate",
    "task-force", "risk-adjusted-return-on-capital", "sk-learn", "sk-learn-contrib-estimator-package", "sk-loading-container-wide",
    "sk_circle_container_wrapper", "desk_1234567890abcdefgh", "disk-0123456789abcdefghijkl", "ask_1234567890abcdefghij",
    "task_0123456789abcdef0123", "btn-primary hotkey-badge token-list", "pcp_agent_configuration_default",
    "eyJust a word", "eyJhbGciOiJIUzI1NiJ9", "-----BEGIN CERTIFICATE-----\nMIID\n-----END CERTIFICATE-----",
    "-----BEGIN PUBLIC KEY-----\nMFkw\n-----END PUBLIC KEY-----", "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabg ann@x",
    "ghp_short", "glpat-x", "AKIA", "AKIAIOSFODNN7EXAMPLEBUTLONGER", "xoxo-love", "hf_model", "npm_lifecycle_event", "secret_santa_list",
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==",
    "SK" + HEX[:32], "AC" + HEX[:32], "key-" + HEX[:32], "SG.1", "sha256~x", "v1.0-beta", "hvs.x", "ya29", "1//0", "https://x/?sig=1",
    "Unexpected token: 12345678", "Unexpected token: 12345678.", "Token: PAP-1234567", "Fix token: v1.2.3-beta", "secret: k8s-secret-name",
    "Invalid token: (PAP-1234567)", "password: process.env.DB_PASS1", "api_key=os.environ['API_KEY']", "apiKey: process.env.KEY_1234567",
    "api_key = os.getenv('API_KEY_1')", "password = ENV['DB_PASS1']", "token=5", "line 3, token=12345",
    "sk_skills_2024_report_final", "sk-learn-1-2-contrib-package", "sk-internationalization-2-package", "sk_report_2024_final_version_of_the_whole_team_12",
    "pwd=/home/a", "pwd: /home/a1234567", "https://a-quite-long-user-name-2@example.com/", "https://svc-deploy-1@example.com/", "git@github.com",
    "docker run -p 8080:80 nginx", "docker login -u ann", "docker login example.com && mkdir -p a/b", "mysql -p app", "mysql -p3306:3306",
    "mysql -p$PASS app", "docker login -p $PASS", "mkdir -p mysql", "aws configure set region eu-west-1",
    "machine learning and login password rules", "the secret key to success", "api key: none", "secrets:\n  db_pass1:\n    key: x",
    "Unexpected token:\n  at file12345.js:12", "tokens => tokens.map(f)", "token => token.id12345", "std::token::kind12345", "token:abcdefg1",
    "<token></token>", "<password> </password>", "<password>$PASS</password>", "<tokens>512</tokens>", "a < b, password > c </x",
    "authorization was denied, user=ann", "xghp_short", "upward", "a path/patch: x", "see PAT",
    "https://hooks.slack.com/", "", " ", "\0", "naïve café", "密码", "🔑", R, f"password={R}", f"Authorization: {R}",
]  # fmt: skip

HARMLESS_DETAILS: dict[str, Any] = {
    "a reference below a secret's name": {
        "env": {"OPENAI_API_KEY": {"type": "secret_ref", "secretId": "01937f0e-7b1c-7a33", "version": 3}}
    },
    "a reference by name": {
        "adapterConfig": {"token": {"secretRef": {"name": "db"}}, "secretId": "s_1", "secretRef": "s_2"}
    },
    "booleans and null": {
        "password": None,
        "hasPassword": True,
        "token": False,
        "auth": None,
        "passwordResetRequired": True,
    },
    "counts": {"usage": {"inputTokens": 12, "outputTokens": 34, "cacheReadTokens": 5, "maxTokens": 4096}},
    "a type of token": {"tokenType": "bearer", "authType": "oauth2", "grantType": "password"},
    "a labelled value": {"name": "author", "value": "bob"},
    "an issue's key": {"key": "PAP-42", "value": "x"},
    "a directory": {
        "env": {
            "PWD": "/srv/app",
            "OLDPWD": "/srv",
            "HOME": "/root",
            "PATH": "/bin:/usr/bin",
            "SSH_AUTH_SOCK": "/tmp/s",
        }
    },
    "arguments": {
        "argv": ["make", "-u", "ann:x", "--no-auth", "now", "--max-tokens", "5", "--token", "$TOKEN", "--author", "ann"]
    },
    "numbers": {"version": 1.5, "port": 8080, "token_count": 7, "seq": 2**53},
    "words of a list": {"fields": ["password", "token", "email"], "scopes": ["auth", "secrets"]},
    "settings below a word": {
        "a": [{"credentials": word} for word in ("include", "omit", "same-origin")],
        "authentication": "required",
        "auth": "none",
    },
    "counts below a word": {
        "fencing_token": 7,
        "token": 5,
        "secrets": 3,
        "tokens": 2**40,
        "pass": 12,
        "cookie": -1.5,
        "said": "pass=12 fail=3",
    },
    "tokens of models": {"tokens": {"input": 512, "output": 34, "by": ["gpt-5", "short1"]}, "eos_token": "</s>"},
    "tests that passed": {"pass": ["test 1", {"a": "b"}], "fail": []},
    "lists of names": {
        "allow": ["Authorization", "X-Api-Key", "Cookie", "Content-MD5"],
        "pair": ["X-Api-Key", "X-Amz-Content-Sha256"],
        "odd": ["a", "X-Api-Key", "x1234567"],
    },
    "a type of syntax": {"type": "token", "value": "foo"},
    "working directories": {"pwd": "/home/a", "PWD": "C:\\a"},
    "a public key": {
        "publicKey": "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE",
        "jwks": {"keys": [{"kty": "RSA", "kid": "1"}]},
    },
}


def _gone() -> list[Case]:
    cases = [
        Case(f"token: {name}", {"details": {"v": token}}, (token,), {"details": {"v": R}})
        for name, token in TOKENS.items()
    ]
    cases += [
        Case(
            f"token in a sentence: {name}",
            {"description": f"used {token}, twice"},
            (token,),
            {"description": f"used {R}, twice"},
        )
        for name, token in TOKENS.items()
    ]
    cases += [
        Case(f"PEM {n}", {"details": {"v": pem}}, ("MIIEpAIBAAKCAQEA7bq",), {"details": {"v": R}})
        for n, pem in enumerate(PEMS)
    ]
    for template, name, secrets in TEXTS_THAT_LOSE:
        text, clean = template.format(*secrets), template.format(*[R] * len(secrets))
        given = {"details": {"log": text}, "description": text}
        cases.append(Case(f"text: {name}", given, secrets, {"details": {"log": clean}, "description": clean}))
    cases += [
        Case(f"details: {name}", {"details": given}, secrets, {"details": clean})
        for name, given, secrets, clean in DETAILS
    ]
    cases += [
        Case(f"key: {key}", {"details": {key: "hunter2"}}, ("hunter2",), {"details": {key: R}})
        for key in SECRET_KEYS + SECRET_KEYS_OF_TEXTS
    ]
    cases += [
        Case("changes", {"changes": {"password": {"from": "hunter2", "to": "hunter3"}, "url": {"to": f"x {GITHUB}"}, f"n {OURS}": {"from": 1}}},
             ("hunter2", "hunter3", GITHUB, OURS),
             {"changes": {"password": {"from": R, "to": R}, "url": {"to": f"x {R}"}, f"n {R}": {"from": 1}}}),
        Case("changes by _previous", {"details": {"apiKey": "hunter3", "_previous": {"apiKey": "hunter2"}}}, ("hunter2", "hunter3"),
             {"details": {"apiKey": R, "_previous": {"apiKey": R}}, "changes": {"apiKey": {"from": R, "to": R}}}),
        Case("actor", {"actor": {"type": GITHUB, "id": f"a {GITHUB}", "name": f"n {OURS}", "role": JWT, "on_behalf_of": GITHUB, "ip": GITHUB}},
             (GITHUB, OURS, JWT), {"actor": {"type": R, "id": f"a {R}", "name": f"n {R}", "role": R, "on_behalf_of": R, "ip": R}}),
        Case("entity", {"entity": {"type": "auth", "id": GITHUB, "identifier": OURS, "name": "https://u:hunter2@x"}}, (GITHUB, OURS, "hunter2"),
             {"entity": {"type": "auth", "id": R, "identifier": R, "name": f"https://u:{R}@x"}}),
        Case("ids", {"agent_id": GITHUB, "run_id": f"r {OURS}", "task_id": JWT}, (GITHUB, OURS, JWT), {"agent_id": R, "run_id": f"r {R}", "task_id": R}),
        Case("action", {"action": f"a.{GITHUB}"}, (GITHUB,), {"action": f"a.{R}"}),
        Case("a description that the server made", {"actor": {"type": "user", "id": "u", "name": GITHUB}}, (GITHUB,), {}),
    ]  # fmt: skip
    return cases


def _kept() -> list[Case]:
    cases = [
        Case(f"stays: {text[:40]!r} of {len(text)}", {"details": {"v": [text]}}, (), {"details": {"v": [text]}})
        for text in HARMLESS_TEXTS
    ]
    cases += [
        Case(f"key stays: {key}", {"details": {key: "hunter2"}}, (), {"details": {key: "hunter2"}})
        for key in HARMLESS_KEYS
    ]
    cases += [
        Case(f"stays: {name}", {"details": details}, (), {"details": details})
        for name, details in HARMLESS_DETAILS.items()
    ]
    cases += [
        Case("an entity's type", {"entity": {"type": "token", "id": "token:12345678", "identifier": "auth-1", "name": "API key"}}, (),
             {"entity": {"type": "token", "id": "token:12345678", "identifier": "auth-1", "name": "API key"}}),
        Case("an action", {"action": "token.created"}, (), {"action": "token.created"}),
    ]  # fmt: skip
    return cases


GONE = _gone()
KEPT = _kept()
