/*
 * provider_vault_transit: an envelope. The cluster key lies in the key directory as the server's transit engine wrapped
 * it ("vault:v<version of its key>:<base64>"); the transit key never leaves the server.
 *
 * Wrapping asks first whether the transit key is there, because the engine would make one for whoever may create it:
 * at a server that has lost its keys, or under a name with a slip in it, that would go unnoticed. Unwrapping needs no
 * more than the right to decrypt.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/http.h"
#include "keymgr/provider_scheme.h"
#include "keymgr/vault.h"
#include "walcrypt/base64.h"
#include "walcrypt/secmem.h"

#define PREFIX "vault:v"

/* "MOUNT/<what>", escaped, and the key's name. A name has no slash, a mount may have. */
static int
mount_path(const struct vault *v, const char *what, const char **key, char *out, size_t out_len, struct err *err)
{
	char mount[3 * VAULT_PATH_MAX], plain[VAULT_PATH_MAX];
	const char *slash = strrchr(v->path, '/');

	if (slash == NULL) {
		err_set(err, ERR_USAGE, "\"%.100s\" names no key of a transit engine", v->path);
		return err_hint(err, "For example: vault-transit://vault.example:8200/transit/walcrypt");
	}
	snprintf(plain, sizeof(plain), "%.*s", (int)(slash - v->path), v->path);
	if (http_escape_path(plain, mount, sizeof(mount), err) != 0)
		return -1;
	if ((size_t)snprintf(out, out_len, "%s/%s", mount, what) >= out_len)
		return err_set(err, ERR_USAGE, "key provider's path is too long");
	*key = slash + 1;
	return 0;
}

/* "MOUNT/<what>/KEY", escaped. */
static int
operation_path(const struct vault *v, const char *what, char *out, size_t out_len, struct err *err)
{
	char mount[3 * VAULT_PATH_MAX], name[3 * VAULT_PATH_MAX];
	const char *key;

	if (mount_path(v, what, &key, mount, sizeof(mount), err) != 0 ||
	    http_escape_path(key, name, sizeof(name), err) != 0)
		return -1;
	if ((size_t)snprintf(out, out_len, "%s/%s", mount, name) >= out_len)
		return err_set(err, ERR_USAGE, "key provider's path is too long");
	return 0;
}

/* POST to "MOUNT/<what>/KEY"; body is released, NULL is want of memory. */
static int
operation(struct vault *v, const char *what, json_t *body, long *status, json_t **reply, struct err *err)
{
	char path[4 * VAULT_PATH_MAX];
	int result = -1;

	if (body == NULL)
		return err_nomem(err);
	if (operation_path(v, what, path, sizeof(path), err) == 0)
		result = vault_call(v, "POST", path, body, status, reply, err);
	json_decref(body);
	return result;
}

static int
no_key(const struct vault *v, struct err *err)
{
	err_set(err, ERR_FAILED, "\"%s\" has no transit key \"%.100s\"", v->peer.host_port, v->path);
	err->os_errno = ENOENT;
	return err_hint(err, "Name another one, or make it: bao write -f MOUNT/keys/NAME");
}

/* What the server says about the transit key, to be released. */
static json_t *
key_show(struct vault *v, struct err *err)
{
	char path[4 * VAULT_PATH_MAX];
	json_t *reply = NULL, *data;
	long status;

	if (operation_path(v, "keys", path, sizeof(path), err) != 0 ||
	    vault_call(v, "GET", path, NULL, &status, &reply, err) != 0)
		return NULL;
	data = json_incref(json_object_get(reply, "data"));
	if (status == 404 && json_array_size(json_object_get(reply, "errors")) > 0)
		vault_refusal(v, reply, "has no transit engine there", err);
	else if (status == 404)
		no_key(v, err);
	else if (status != 200)
		vault_refusal(v, reply, "does not show the transit key", err);
	else if (!json_is_object(json_object_get(data, "keys"))) {
		err_set(err, ERR_USAGE, "\"%.100s\" is not a key of a transit engine", v->path);
		err_hint(err, "A secret of a KV engine is vault-kv://HOST:PORT/PATH.");
	} else {
		json_decref(reply);
		return data;
	}
	json_decref(data);
	json_decref(reply);
	return NULL;
}

/* The transit key is there and can encrypt and decrypt. */
static int
key_look(struct vault *v, struct err *err)
{
	json_t *data = key_show(v, err);
	int result = -1;

	if (data == NULL)
		return -1;
	if (json_is_false(json_object_get(data, "supports_encryption")) ||
	    json_is_false(json_object_get(data, "supports_decryption")))
		err_set(err, ERR_USAGE, "the transit key \"%.100s\" is of a type that cannot encrypt", v->path);
	else if (json_is_true(json_object_get(data, "derived")))
		err_set(err, ERR_USAGE, "the transit key \"%.100s\" is derived from contexts, which walcrypt has none of",
		        v->path);
	else
		result = 0;
	json_decref(data);
	return result;
}

/* "vault:v12:..." -> "12" */
static int
version_of(const char *wrapped, size_t len, char *version, size_t room)
{
	size_t prefix = sizeof(PREFIX) - 1, n = 0;

	if (len <= prefix || memcmp(wrapped, PREFIX, prefix) != 0)
		return -1;
	while (prefix + n < len && wrapped[prefix + n] >= '0' && wrapped[prefix + n] <= '9')
		n++;
	if (n == 0 || n >= room || prefix + n >= len || wrapped[prefix + n] != ':')
		return -1;
	memcpy(version, wrapped + prefix, n);
	version[n] = '\0';
	return 0;
}

static json_t *
plaintext_json(const struct vault *v, const struct kek *kek)
{
	char *text = secmem_alloc(BASE64_LEN(KEK_LEN) + 1, &(struct err){0});
	json_t *body = NULL;

	if (text == NULL)
		return NULL;
	base64_encode(kek->key, KEK_LEN, text);
	body = json_pack("{s:s}", "plaintext", text);
	secmem_free(text);
	if (body != NULL && v->version != NULL)
		json_object_set_new(body, "key_version", json_integer(strtol(v->version, NULL, 10)));
	return body;
}

static int
transit_wrap(const char *rest, const struct kek_conf *conf, struct kek *kek, struct err *err)
{
	json_t *reply = NULL;
	const char *text;
	struct vault v;
	int result = -1;
	long status;
	size_t len;

	if (vault_open(&v, rest, conf, err) != 0 || vault_check_version(&v, err) != 0 || key_look(&v, err) != 0 ||
	    operation(&v, "encrypt", plaintext_json(&v, kek), &status, &reply, err) != 0)
		goto done;
	if (status != 200) {
		vault_refusal(&v, reply, "did not wrap the cluster key", err);
		goto done;
	}
	text = json_string_value(json_object_get(json_object_get(reply, "data"), "ciphertext"));
	len = text != NULL ? strlen(text) : 0;
	if (len > sizeof(kek->wrapped) || version_of(text, len, kek->version, sizeof(kek->version)) != 0) {
		err_set(err, ERR_FAILED, "\"%s\" gave no wrapped key", v.peer.host_port);
		goto done;
	}
	memcpy(kek->wrapped, text, len);
	kek->wrapped_len = len;
	result = 0;
done:
	json_decref(reply);
	vault_close(&v);
	return result;
}

/* Why is it not opened? Of another transit key, of one that the server has no more, changed. */
static int
not_opened(const struct vault *v, const json_t *reply, struct err *err)
{
	const char *why = vault_said(reply);

	if (why != NULL && strstr(why, "encryption key not found") != NULL) {
		no_key(v, err);
		err->os_errno = 0;
		return err_hint(err, "What is encrypted needs this very key: restore the server, or name the one that has it.");
	}
	if (why != NULL && (strstr(why, "disallowed by policy") != NULL || strstr(why, "too old") != NULL)) {
		vault_refusal(v, reply, "no longer opens what this version of the transit key wrapped", err);
		return err_hint(err, "Lower its min_decryption_version, then wrap anew: walcrypt-ctl key move --new-kek ...");
	}
	vault_refusal(v, reply, "did not open the wrapped cluster key", err);
	err->class = ERR_DAMAGED;
	return err_hint(err, "It was wrapped by another transit key, or kek.wrapped is damaged: restore it from a copy.");
}

static int
transit_unwrap(const char *rest, const struct kek_conf *conf, struct kek *kek, struct err *err)
{
	json_t *body, *reply = NULL;
	const json_t *plaintext;
	struct vault v;
	int result = -1;
	long status;

	/* what no transit engine can have written is not sent anywhere */
	if (version_of((const char *)kek->wrapped, kek->wrapped_len, kek->version, sizeof(kek->version)) != 0 ||
	    memchr(kek->wrapped, '\0', kek->wrapped_len) != NULL) {
		err_set(err, ERR_DAMAGED, "the wrapped cluster key is not one of a transit engine");
		return err_hint(err, "Restore kek.wrapped from a copy, or name the provider that wrapped it.");
	}
	if (vault_open(&v, rest, conf, err) != 0)
		goto done;
	if ((body = json_pack("{s:s%}", "ciphertext", (const char *)kek->wrapped, kek->wrapped_len)) == NULL) {
		err_set(err, ERR_DAMAGED, "the wrapped cluster key is not one of a transit engine");
		goto done;
	}
	if (operation(&v, "decrypt", body, &status, &reply, err) != 0)
		goto done;
	if (status == 404)
		vault_refusal(&v, reply, "has no transit engine there", err);
	else if (status != 200)
		not_opened(&v, reply, err);
	else {
		plaintext = json_object_get(json_object_get(reply, "data"), "plaintext");
		if (json_is_string(plaintext) &&
		    base64_decode(json_string_value(plaintext), json_string_length(plaintext), kek->key, KEK_LEN) == KEK_LEN)
			result = 0;
		else
			err_set(err, ERR_FAILED, "what \"%s\" unwrapped is no cluster key of %d bytes", v.peer.host_port, KEK_LEN);
	}
done:
	json_decref(reply);
	vault_close(&v);
	return result;
}

static int
transit_make_key(const char *rest, const struct kek_conf *conf, struct err *err)
{
	json_t *reply = NULL;
	struct vault v;
	int result = -1;
	long status;

	if (vault_open(&v, rest, conf, err) == 0 &&
	    operation(&v, "keys", json_pack("{s:s}", "type", "aes256-gcm96"), &status, &reply, err) == 0)
		result = status == 200 ? 0 : vault_refusal(&v, reply, "did not make the transit key", err);
	json_decref(reply);
	vault_close(&v);
	return result;
}

static int
transit_list(const char *rest, const struct kek_conf *conf, kek_listed *each, void *arg, struct err *err)
{
	char path[4 * VAULT_PATH_MAX], version[24];
	json_t *names = NULL, *name, *data;
	const char *key;
	struct vault v;
	size_t i, mount;
	int result = -1;

	if (vault_open(&v, rest, conf, err) != 0 || mount_path(&v, "keys", &key, path, sizeof(path), err) != 0 ||
	    vault_names(&v, path, &names, err) != 0)
		goto done;
	mount = (size_t)(key - v.path);
	json_array_foreach(names, i, name)
	{
		/* one after the other becomes the key that v is about */
		if (!json_is_string(name) || mount + json_string_length(name) >= sizeof(v.path))
			continue;
		memcpy(v.path + mount, json_string_value(name), json_string_length(name) + 1);
		if ((data = key_show(&v, err)) == NULL)
			goto done;
		snprintf(version, sizeof(version), "%" JSON_INTEGER_FORMAT,
		         json_integer_value(json_object_get(data, "latest_version")));
		each(arg, v.path, version,
		     json_is_true(json_object_get(data, "deletion_allowed")) ? "may be deleted" : "protected from deletion");
		json_decref(data);
	}
	result = 0;
done:
	json_decref(names);
	vault_close(&v);
	return result;
}

static int
transit_destroy(const char *rest, const struct kek_conf *conf, const char *version, struct err *err)
{
	json_t *data = NULL, *reply = NULL;
	char path[4 * VAULT_PATH_MAX];
	struct vault v;
	int result = -1;
	long status;

	(void)version; /* all that it wrapped goes with it */
	if (vault_open(&v, rest, conf, err) != 0 || (data = key_show(&v, err)) == NULL ||
	    operation_path(&v, "keys", path, sizeof(path), err) != 0)
		goto done;
	if (!json_is_true(json_object_get(data, "deletion_allowed"))) {
		err_set(err, ERR_REFUSED, "the transit key \"%.100s\" is protected from deletion", v.path);
		err_hint(err, "Its owner takes that away: bao write MOUNT/keys/NAME/config deletion_allowed=true");
	} else if (vault_call(&v, "DELETE", path, NULL, &status, &reply, err) == 0)
		result = status == 200 ? 0 : vault_refusal(&v, reply, "did not delete the transit key", err);
done:
	json_decref(data);
	json_decref(reply);
	vault_close(&v);
	return result;
}

static int
transit_random(const char *rest, const struct kek_conf *conf, uint8_t *out, size_t len, struct err *err)
{
	char path[4 * VAULT_PATH_MAX];
	const char *key;
	struct vault v;
	int result = -1;

	if (vault_open(&v, rest, conf, err) == 0 && mount_path(&v, "random", &key, path, sizeof(path), err) == 0)
		result = vault_random(&v, path, out, len, err);
	vault_close(&v);
	return result;
}

const struct provider_scheme provider_vault_transit = {.name = "vault-transit",
                                                       .check = vault_check,
                                                       .wrap = transit_wrap,
                                                       .unwrap = transit_unwrap,
                                                       .make_wrapping_key = transit_make_key,
                                                       .keep = vault_scheme_keep,
                                                       .list = transit_list,
                                                       .destroy = transit_destroy,
                                                       .random = transit_random};
