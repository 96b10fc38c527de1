"""Signs somebody in at an OpenID provider as a browser would, and prints their ID token.

Usage: sign_in.py <issuer> <client> <subject>
"""

import sys
from urllib.parse import parse_qs, urlsplit

import requests

issuer, client, subject = sys.argv[1:]
known = requests.get(f"{issuer}/.well-known/openid-configuration", timeout=10).json()
back = "http://127.0.0.1:1/back"
asked = {
    "response_type": "code",
    "client_id": client,
    "redirect_uri": back,
    "scope": "openid profile email",
    "state": "st",
    "nonce": "no",
}
answer = requests.post(
    known["authorization_endpoint"], params=asked, data={"sub": subject}, allow_redirects=False, timeout=10
)
answer.raise_for_status()
came_back = parse_qs(urlsplit(answer.headers["location"]).query)
assert came_back["state"] == ["st"], came_back
tokens = requests.post(
    known["token_endpoint"],
    data={"grant_type": "authorization_code", "code": came_back["code"][0], "redirect_uri": back},
    auth=(client, "secret"),
    timeout=10,
)
tokens.raise_for_status()
print(tokens.json()["id_token"])
