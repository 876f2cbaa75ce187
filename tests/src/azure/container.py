"""Makes a container, which a store's client cannot: `container.py URL ACCOUNT KEY CONTAINER`."""

import base64
import email.utils
import hashlib
import hmac
import sys
import urllib.request

url, account, key, container = sys.argv[1:]
version, date = "2021-08-06", email.utils.formatdate(usegmt=True)
# https://learn.microsoft.com/rest/api/storageservices/authorize-with-shared-key
signed = "\n".join(
    ["PUT"] + [""] * 11
    + [f"x-ms-date:{date}", f"x-ms-version:{version}", f"/{account}/{account}/{container}", "restype:container"]
)
mac = hmac.new(base64.b64decode(key), signed.encode(), hashlib.sha256).digest()
headers = {
    "x-ms-date": date,
    "x-ms-version": version,
    "Authorization": f"SharedKey {account}:{base64.b64encode(mac).decode()}",
}
request = urllib.request.Request(f"{url}/{container}?restype=container", method="PUT", headers=headers)
with urllib.request.urlopen(request, timeout=10) as answer:
    print(answer.status)
