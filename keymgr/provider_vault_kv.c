/*
 * provider_vault_kv: the cluster key as a secret of a KV engine: member "key", 64 hex digits.
 *
 * Which engine the path belongs to and whether it keeps versions is asked from sys/internal/ui/mounts, which any token
 * may ask about its own paths (it is what the vault program does). Version 2 makes a secret only where there is none
 * (check-and-set 0); version 1 cannot, so there two who make it at once are found out by reading it again. Only status
 * 404 without a trace of the secret means that it is not there: a deleted version is an error, never made anew.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/http.h"
#include "keymgr/provider_scheme.h"
#include "keymgr/vault.h"
#include "walcrypt/secmem.h"

#define MEMBER "key"

struct engine {
	char mount[VAULT_PATH_MAX]; /* with its slash */
	const char *name;           /* of the secret, behind the mount */
	bool versions;
};

static int
engine_find(struct vault *v, struct engine *e, struct err *err)
{
	char escaped[3 * VAULT_PATH_MAX], path[3 * VAULT_PATH_MAX + 64];
	const char *mount, *type, *version;
	json_t *reply = NULL;
	const json_t *data;
	int result = -1;
	long status;

	if (http_escape_path(v->path, escaped, sizeof(escaped), err) != 0)
		return -1;
	snprintf(path, sizeof(path), "sys/internal/ui/mounts/%s", escaped);
	if (vault_call(v, "GET", path, NULL, &status, &reply, err) != 0)
		return -1;
	if (status == 400) {
		vault_refusal(v, reply, "does not say which engine has the secret", err);
		goto done;
	}
	data = json_object_get(reply, "data");
	mount = json_string_value(json_object_get(data, "path"));
	type = json_string_value(json_object_get(data, "type"));
	version = json_string_value(json_object_get(json_object_get(data, "options"), "version"));
	if (status == 404 || mount == NULL || type == NULL) {
		err_set(err, ERR_FAILED, "\"%s\" has no secrets engine for \"%.100s\"", v->peer.host_port, v->path);
		goto done;
	}
	if (strcmp(type, "kv") != 0 && strcmp(type, "generic") != 0) {
		err_set(err, ERR_USAGE, "\"%.100s\" belongs to a secrets engine of type %.40s, not kv", v->path, type);
		goto done;
	}
	if (strncmp(v->path, mount, strlen(mount)) != 0 || v->path[strlen(mount)] == '\0' ||
	    strlen(mount) >= sizeof(e->mount)) {
		err_set(err, ERR_USAGE, "\"%.100s\" names a secrets engine, not a secret", v->path);
		goto done;
	}
	memcpy(e->mount, mount, strlen(mount) + 1);
	e->name = v->path + strlen(mount);
	e->versions = version != NULL && strcmp(version, "2") == 0;
	if (!e->versions && v->version != NULL)
		err_set(err, ERR_USAGE, "version=%s is given, but the engine of \"%.100s\" keeps no versions", v->version,
		        v->path);
	else
		result = 0;
done:
	json_decref(reply);
	return result;
}

/* "MOUNT/<what>NAME", escaped; what, "data/" for example, only where there are versions. */
static int
name_path(const struct engine *e, const char *what, const char *name, char *out, size_t out_len, struct err *err)
{
	char mount[3 * VAULT_PATH_MAX], escaped[3 * VAULT_PATH_MAX] = "", plain[VAULT_PATH_MAX];

	snprintf(plain, sizeof(plain), "%.*s", (int)(strlen(e->mount) - 1), e->mount);
	if (http_escape_path(plain, mount, sizeof(mount), err) != 0 ||
	    (name[0] != '\0' && http_escape_path(name, escaped, sizeof(escaped), err) != 0))
		return -1;
	if ((size_t)snprintf(out, out_len, "%s/%s%s", mount, e->versions ? what : "", escaped) >= out_len)
		return err_set(err, ERR_USAGE, "key provider's path is too long");
	return 0;
}

static int
secret_path(const struct vault *v, const struct engine *e, bool read, char *out, size_t out_len, struct err *err)
{
	char path[4 * VAULT_PATH_MAX];
	bool pinned = read && v->version != NULL;

	if (name_path(e, "data/", e->name, path, sizeof(path), err) != 0 || (pinned && vault_check_version(v, err) != 0))
		return -1;
	if ((size_t)snprintf(out, out_len, "%s%s%s", path, pinned ? "?version=" : "", pinned ? v->version : "") >= out_len)
		return err_set(err, ERR_USAGE, "key provider's path is too long");
	return 0;
}

static int
absent(const struct vault *v, const struct engine *e, const json_t *reply, struct err *err)
{
	if (e->versions && json_is_object(json_object_get(json_object_get(reply, "data"), "metadata"))) {
		err_set(err, ERR_FAILED, "the secret \"%.100s\" was deleted from \"%s\"", v->path, v->peer.host_port);
		return err_hint(err, "Undelete it (vault kv undelete), or name an older version: ?version=NUMBER.");
	}
	err_set(err, ERR_FAILED, "\"%s\" has no secret \"%.100s\"%s%.20s", v->peer.host_port, v->path,
	        v->version != NULL ? " of version " : "", v->version != NULL ? v->version : "");
	err->os_errno = ENOENT;
	return -1;
}

static int
secret_read(struct vault *v, const struct engine *e, struct kek *kek, struct err *err)
{
	char path[4 * VAULT_PATH_MAX], what[256];
	const json_t *data, *member;
	json_t *reply = NULL;
	int result = -1;
	long status;

	if (secret_path(v, e, true, path, sizeof(path), err) != 0 ||
	    vault_call(v, "GET", path, NULL, &status, &reply, err) != 0)
		return -1;
	if (status == 404) {
		absent(v, e, reply, err);
		goto done;
	}
	if (status != 200) {
		vault_refusal(v, reply, "does not give the secret", err);
		goto done;
	}
	data = json_object_get(reply, "data");
	if (e->versions) {
		json_int_t version = json_integer_value(json_object_get(json_object_get(data, "metadata"), "version"));

		snprintf(kek->version, sizeof(kek->version), "%" JSON_INTEGER_FORMAT, version);
		data = json_object_get(data, "data");
	}
	if ((member = json_object_get(data, MEMBER)) == NULL || !json_is_string(member)) {
		err_set(err, ERR_FAILED, "the secret \"%.100s\" has no text member \"%s\"", v->path, MEMBER);
		goto done;
	}
	snprintf(what, sizeof(what), "the secret \"%.100s\"", v->path);
	result = provider_parse_key(json_string_value(member), json_string_length(member), false, what, kek, err);
done:
	json_decref(reply);
	return result;
}

static int
kv_fetch(const char *rest, const struct kek_conf *conf, struct kek *kek, struct err *err)
{
	struct engine e;
	struct vault v;
	int result = -1;

	if (vault_open(&v, rest, conf, err) == 0 && engine_find(&v, &e, err) == 0)
		result = secret_read(&v, &e, kek, err);
	vault_close(&v);
	return result;
}

static json_t *
secret_json(const struct engine *e, const struct kek *kek)
{
	static const char digits[] = "0123456789abcdef";
	char text[2 * KEK_LEN];
	json_t *data;

	for (size_t i = 0; i < KEK_LEN; i++) {
		text[2 * i] = digits[kek->key[i] >> 4];
		text[2 * i + 1] = digits[kek->key[i] & 15];
	}
	data = json_pack("{s:s%}", MEMBER, text, sizeof(text));
	secmem_wipe(text, sizeof(text));
	return e->versions ? json_pack("{s:{s:i}, s:o}", "options", "cas", 0, "data", data) : data;
}

/* Whose key is it now? A request that was sent twice may have met its own first copy. */
static int
secret_compare(struct vault *v, const struct engine *e, const struct kek *kek, struct err *err)
{
	struct kek *now = secmem_alloc(sizeof(*now), err);
	int result = -1;

	if (now == NULL || secret_read(v, e, now, err) != 0)
		;
	else if (secmem_equal(now->key, kek->key, KEK_LEN))
		result = 0;
	else {
		err_set(err, ERR_REFUSED, "the secret \"%.100s\" exists already", v->path);
		err_hint(err, "To use the key in it, leave --create-kek away.");
	}
	secmem_free(now);
	return result;
}

static int
kv_create(const char *rest, const struct kek_conf *conf, const struct kek *kek, struct err *err)
{
	char path[4 * VAULT_PATH_MAX];
	json_t *body = NULL, *reply = NULL;
	struct kek *there = NULL;
	struct engine e;
	struct vault v;
	int result = -1;
	long status;

	if (vault_open(&v, rest, conf, err) != 0 || engine_find(&v, &e, err) != 0 ||
	    secret_path(&v, &e, false, path, sizeof(path), err) != 0)
		goto done;
	if (v.version != NULL) {
		err_set(err, ERR_USAGE, "version= is given, but the secret is to be made");
		goto done;
	}
	/* for engines without check-and-set, and for a clear word with the others */
	if ((there = secmem_alloc(sizeof(*there), err)) == NULL)
		goto done;
	if (secret_read(&v, &e, there, err) == 0) {
		err_set(err, ERR_REFUSED, "the secret \"%.100s\" exists already", v.path);
		err_hint(err, "To use the key in it, leave --create-kek away.");
		goto done;
	}
	if (err->os_errno != ENOENT)
		goto done;
	if ((body = secret_json(&e, kek)) == NULL) {
		err_nomem(err);
		goto done;
	}
	if (vault_call(&v, "POST", path, body, &status, &reply, err) != 0 && err->class != ERR_FAILED)
		goto done;
	result = secret_compare(&v, &e, kek, err);
done:
	json_decref(body);
	json_decref(reply);
	secmem_free(there);
	vault_close(&v);
	return result;
}

/* A secret's newest version and what has become of it. */
static int
secret_tell(struct vault *v, const struct engine *e, const char *name, const char *shown, kek_listed *each, void *arg,
            struct err *err)
{
	char path[4 * VAULT_PATH_MAX], version[24];
	const json_t *data, *newest;
	json_t *reply = NULL;
	long status;

	if (!e->versions) {
		each(arg, shown, "", "");
		return 0;
	}
	if (name_path(e, "metadata/", name, path, sizeof(path), err) != 0 ||
	    vault_call(v, "GET", path, NULL, &status, &reply, err) != 0)
		return -1;
	data = json_object_get(reply, "data");
	snprintf(version, sizeof(version), "%" JSON_INTEGER_FORMAT,
	         json_integer_value(json_object_get(data, "current_version")));
	newest = json_object_get(json_object_get(data, "versions"), version);
	if (status == 200) /* else it has gone meanwhile */
		each(arg, shown, version,
		     json_is_true(json_object_get(newest, "destroyed"))                 ? "destroyed"
		     : json_string_length(json_object_get(newest, "deletion_time")) > 0 ? "deleted"
		                                                                        : "");
	json_decref(reply);
	return 0;
}

/* The secrets in the folder that PATH is in. */
static int
kv_list(const char *rest, const struct kek_conf *conf, kek_listed *each, void *arg, struct err *err)
{
	char path[4 * VAULT_PATH_MAX], folder[VAULT_PATH_MAX], name[VAULT_PATH_MAX], shown[2 * VAULT_PATH_MAX];
	json_t *names = NULL, *one;
	const char *slash;
	struct engine e;
	struct vault v;
	int result = -1;
	size_t i, len;

	if (vault_open(&v, rest, conf, err) != 0 || engine_find(&v, &e, err) != 0)
		goto done;
	slash = strrchr(e.name, '/');
	len = slash != NULL ? (size_t)(slash - e.name) : 0;
	memcpy(folder, e.name, len);
	folder[len] = '\0';
	if (name_path(&e, "metadata/", folder, path, sizeof(path), err) != 0 || vault_names(&v, path, &names, err) != 0)
		goto done;
	json_array_foreach(names, i, one)
	{
		const char *text = json_string_value(one);

		/* what ends with a slash is a folder */
		if (text == NULL || text[0] == '\0' || text[strlen(text) - 1] == '/' ||
		    (size_t)snprintf(name, sizeof(name), "%s%s%s", folder, len > 0 ? "/" : "", text) >= sizeof(name))
			continue;
		snprintf(shown, sizeof(shown), "%s%s", e.mount, name);
		if (secret_tell(&v, &e, name, shown, each, arg, err) != 0)
			goto done;
	}
	result = 0;
done:
	json_decref(names);
	vault_close(&v);
	return result;
}

/* One version, or the secret with all that is known of it. */
static int
kv_destroy(const char *rest, const struct kek_conf *conf, const char *version, struct err *err)
{
	json_t *body = NULL, *reply = NULL;
	char path[4 * VAULT_PATH_MAX];
	struct engine e;
	struct vault v;
	int result = -1;
	long status;

	if (vault_open(&v, rest, conf, err) != 0 || engine_find(&v, &e, err) != 0)
		goto done;
	if (version != NULL)
		v.version = version;
	if (vault_check_version(&v, err) != 0 || name_path(&e, "metadata/", e.name, path, sizeof(path), err) != 0 ||
	    vault_call(&v, "GET", path, NULL, &status, &reply, err) != 0)
		goto done;
	if (status == 404) {
		absent(&v, &e, NULL, err);
		goto done;
	}
	json_decref(reply);
	reply = NULL;
	if (v.version != NULL) {
		if ((body = json_pack("{s:[i]}", "versions", (int)strtol(v.version, NULL, 10))) == NULL)
			err_nomem(err);
		else if (name_path(&e, "destroy/", e.name, path, sizeof(path), err) == 0 &&
		         vault_call(&v, "POST", path, body, &status, &reply, err) == 0)
			result = 0;
	} else if (vault_call(&v, "DELETE", path, NULL, &status, &reply, err) == 0)
		result = 0;
	if (result == 0 && status != 200)
		result = vault_refusal(&v, reply, "did not destroy the secret", err);
done:
	json_decref(body);
	json_decref(reply);
	vault_close(&v);
	return result;
}

static int
kv_random(const char *rest, const struct kek_conf *conf, uint8_t *out, size_t len, struct err *err)
{
	struct vault v;
	int result = -1;

	if (vault_open(&v, rest, conf, err) == 0)
		result = vault_random(&v, "sys/tools/random", out, len, err);
	vault_close(&v);
	return result;
}

const struct provider_scheme provider_vault_kv = {.name = "vault-kv",
                                                  .check = vault_check,
                                                  .fetch = kv_fetch,
                                                  .create = kv_create,
                                                  .keep = vault_scheme_keep,
                                                  .list = kv_list,
                                                  .destroy = kv_destroy,
                                                  .random = kv_random};
