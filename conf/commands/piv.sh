#!/bin/sh
# A cluster key that only a smart card opens (PIV: YubiKey and others): random, encrypted to the card's RSA key, kept beside the keys
# as pivpass.key. The first time, in an empty key directory, it is made.
#   PIV_PIN_FILE=/etc/walcrypt/pin   command:/usr/local/share/walcrypt/commands/piv.sh "%d"            PIN from a file
#   command:/usr/local/share/walcrypt/commands/piv.sh "%d" %R "%p"                                     PIN typed on the terminal
# Wants opensc and openssl. PIV_MODULE: PKCS #11 module (opensc's), PIV_ID: the key on the card (03: key management).
# A token that keeps AES keys is better served by pkcs11:.
set -eu
[ $# -ge 1 ] || { echo "usage: piv.sh \"%d\" [%R [\"%p\"]]" >&2; exit 1; }
file=$1/pivpass.key
id=${PIV_ID:-03}
card() { pkcs11-tool --module "${PIV_MODULE:-opensc-pkcs11.so}" --id "$id" "$@"; }
work=$(mktemp -d)
before=
trap 'rm -rf "$work"; [ -z "$before" ] || stty "$before" <&"$2"' EXIT
trap 'exit 1' INT TERM
if [ ! -e "$file" ]; then
	[ ! -e "$1/relation.wkey" ] || { echo "$file is missing, but there are keys: restore it, it opens them" >&2; exit 1; }
	card --read-object --type pubkey --output-file "$work/card.der" >/dev/null
	umask 077
	openssl rand -hex 32 | tr -d '\n' | openssl pkeyutl -encrypt -pubin -keyform DER -inkey "$work/card.der" -out "$file.new"
	sync "$file.new"
	mv "$file.new" "$file"
fi
if [ $# -ge 2 ]; then
	before=$(stty -g <&"$2")
	stty -echo <&"$2"
	printf '%s' "${PROMPT:-${3:-PIN: }}" >&"$2"
	IFS= read -r PIV_PIN <&"$2"
	echo >&"$2"
else
	PIV_PIN=$(cat "${PIV_PIN_FILE:?names the file with the PIN}")
fi
export PIV_PIN
key=$(card --decrypt --mechanism RSA-PKCS --login --pin env:PIV_PIN --input-file "$file")
printf '%s\n' "$key"
