#!/bin/sh
# A cluster key in AWS Secrets Manager. The first time, in an empty key directory, a random one is made and stored; the secret's
# name is kept beside the keys, in aws-secret.id.
#   command:/usr/local/share/walcrypt/commands/aws.sh "%d"
# Wants the aws program with credentials that may CreateSecret and GetSecretValue. The key goes through pipes, never through arguments.
set -eu
[ $# = 1 ] || { echo "usage: aws.sh \"%d\"" >&2; exit 1; }
id=$1/aws-secret.id
if [ ! -e "$id" ]; then
	[ ! -e "$1/relation.wkey" ] || { echo "$id is missing, but there are keys: restore it, its secret opens them" >&2; exit 1; }
	name=walcrypt-cluster-key-$(openssl rand -hex 10)
	openssl rand -hex 32 | tr -d '\n' | aws secretsmanager create-secret --name "$name" --secret-string file:///dev/stdin --output text >/dev/null
	umask 077
	printf '%s\n' "$name" >"$id.new"
	sync "$id.new"
	mv "$id.new" "$id"
fi
aws secretsmanager get-secret-value --secret-id "$(cat "$id")" --query SecretString --output text
