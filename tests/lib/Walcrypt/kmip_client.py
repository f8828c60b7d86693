"""What the tests have PyKMIP's own client do at a KMIP server: questions on stdin, answers on stdout, a line each.

    kmip_client.py PORT CA CERTIFICATE KEY
    register NAME HEX [active] | get UID | revoke UID | destroy UID
"""
import sys

from kmip.core import enums
from kmip.pie import objects
from kmip.pie.client import ProxyKmipClient

port, ca, certificate, key = sys.argv[1:]
usage = [enums.CryptographicUsageMask.ENCRYPT, enums.CryptographicUsageMask.DECRYPT]


def do(client, what, *arguments):
    if what == "register":
        material = bytes.fromhex(arguments[1])
        uid = client.register(objects.SymmetricKey(enums.CryptographicAlgorithm.AES, 8 * len(material), material, usage, arguments[0]))
        if len(arguments) == 3:
            client.activate(uid)
        return uid
    if what == "get":
        return client.get(arguments[0]).value.hex()
    if what == "revoke":
        client.revoke(enums.RevocationReasonCode.CESSATION_OF_OPERATION, arguments[0])
    elif what == "destroy":
        client.destroy(arguments[0])
    return "done"


with ProxyKmipClient(hostname="127.0.0.1", port=int(port), cert=certificate, key=key, ca=ca, ssl_version="PROTOCOL_TLSv1_2", config="none") as client:
    for line in sys.stdin:
        print(do(client, *line.split()), flush=True)
