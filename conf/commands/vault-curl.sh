#!/bin/sh
# A cluster key from Vault or OpenBao with curl and jq, printed as encryptionkey=, as the key set-up commands of 2016 did.
#   command:/usr/local/share/walcrypt/commands/vault-curl.sh https://vault.example:8200 /run/walcrypt/token secret/data/walcrypt
# The secret's member "key" holds 64 hexadecimal digits; the path is the API's. VAULT_CACERT: the authority. The token reaches curl through
# a pipe. vault-kv: does the same and tells faults apart.
set -eu
[ $# = 3 ] || { echo "usage: vault-curl.sh ADDRESS TOKEN-FILE PATH" >&2; exit 1; }
token=$(cat "$2")
reply=$(printf 'X-Vault-Token: %s\n' "$token" |
	curl --silent --show-error --fail --proto '=https,http' --max-time 20 ${VAULT_CACERT:+--cacert "$VAULT_CACERT"} --header @- "$1/v1/$3")
key=$(printf '%s' "$reply" | jq -er '.data.data.key // .data.key')
printf 'encryptionkey=%s\n' "$key"
