#include "keymgr/vault.h"

#include <ctype.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "common/wiping.h"
#include "keymgr/provider_scheme.h"
#include "keymgr/uri.h"
#include "keymgr/vault_login.h"
#include "walcrypt/base64.h"
#include "walcrypt/secmem.h"

#define BODY_MAX 65536

/* "//host:port/path?a=b&c=d", cut up in v->text. */
static int
source_parse(struct vault *v, const char *rest, struct err *err)
{
	const struct uri_option options[] = {{"token_file", &v->token_file},
	                                     {"ca_file", &v->peer.ca_file},
	                                     {"cert_file", &v->peer.cert_file},
	                                     {"key_file", &v->peer.key_file},
	                                     {"login", &v->login.method},
	                                     {"login_mount", &v->login.mount},
	                                     {"login_role", &v->login.role},
	                                     {"login_file", &v->login.file},
	                                     {"namespace", &v->namespace},
	                                     {"version", &v->version},
	                                     {NULL, NULL}};
	const char *path;

	if ((size_t)snprintf(v->text, sizeof(v->text), "%s", rest) >= sizeof(v->text))
		return err_set(err, ERR_USAGE, "key provider is longer than %zu bytes", sizeof(v->text) - 1);
	if (uri_server(v->text, "vault-kv://vault.example:8200/secret/walcrypt", &v->peer.host_port, &path, options, err) !=
	    0)
		return -1;
	if ((size_t)snprintf(v->path, sizeof(v->path), "%s", path) >= sizeof(v->path))
		return err_set(err, ERR_USAGE, "key provider's path is longer than %zu bytes", sizeof(v->path) - 1);
	return 0;
}

/* conf, then the URI, which goes before it. */
static int
describe(struct vault *v, const char *rest, const struct kek_conf *conf, struct err *err)
{
	memset(v, 0, sizeof(*v));
	v->token_file = conf->token_file;
	v->namespace = conf->vault_namespace;
	v->login = (struct vault_login_options){conf->login, conf->login_mount, conf->login_role, conf->login_file};
	v->peer.ca_file = conf->ca_file;
	v->peer.cert_file = conf->cert_file;
	v->peer.key_file = conf->key_file;
	v->peer.clear = strncmp(rest, "+http:", 6) == 0;
	v->peer.stop = conf->stop;
	v->keep = conf->keep;
	return source_parse(v, v->peer.clear ? rest + 6 : rest, err) != 0 ? -1 : vault_login_check(v, err);
}

int
vault_check(const char *rest, const struct kek_conf *conf, struct err *err)
{
	struct vault *v = calloc(1, sizeof(*v));
	int result;

	if (v == NULL)
		return err_nomem(err);
	result = describe(v, rest, conf, err);
	free(v);
	return result;
}

/* Answers hold keys. */
static void
wipe_json(void)
{
	json_set_alloc_funcs(malloc, wiping_free);
}

int
vault_open(struct vault *v, const char *rest, const struct kek_conf *conf, struct err *err)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;

	pthread_once(&once, wipe_json);
	if (describe(v, rest, conf, err) != 0)
		return -1;
	v->peer.deadline_ms = clock_now_ms() + conf->timeout_ms;
	if ((v->token = secmem_alloc(VAULT_TOKEN_MAX, err)) == NULL || (v->body = secmem_alloc(BODY_MAX, err)) == NULL)
		return -1;
	return vault_login(v, err);
}

void
vault_close(struct vault *v)
{
	vault_login_end(v);
	secmem_free(v->token);
	secmem_free(v->body);
	memset(v, 0, sizeof(*v));
}

static int
send_once(struct vault *v, bool with_token, const char *method, const char *path, const char *body,
          struct http_reply *reply, struct err *err)
{
	char *token = secmem_alloc(VAULT_TOKEN_MAX + 32, err), namespace[512], full[4 * VAULT_PATH_MAX];
	const char *headers[5] = {"Content-Type: application/json", "X-Vault-Request: true"};
	size_t n = 2;
	int result = -1;

	if (token == NULL)
		return -1;
	snprintf(token, VAULT_TOKEN_MAX + 32, "X-Vault-Token: %s", v->token);
	if (with_token)
		headers[n++] = token;
	if (v->namespace != NULL) {
		if (strpbrk(v->namespace, "\r\n") != NULL ||
		    (size_t)snprintf(namespace, sizeof(namespace), "X-Vault-Namespace: %s", v->namespace) >=
		        sizeof(namespace)) {
			err_set(err, ERR_USAGE, "namespace is too long, or holds a line break");
			goto done;
		}
		headers[n++] = namespace;
	}
	if ((size_t)snprintf(full, sizeof(full), "/v1/%s", path) >= sizeof(full)) {
		err_set(err, ERR_USAGE, "key provider's path is too long");
		goto done;
	}
	*reply = (struct http_reply){.body = v->body, .room = BODY_MAX};
	result = http_call(&v->peer, method, full, headers, body, reply, err);
done:
	secmem_free(token);
	return result;
}

int
vault_request(struct vault *v, bool with_token, const char *method, const char *path, const json_t *body, long *status,
              json_t **reply, struct err *err)
{
	char *text = body != NULL ? json_dumps(body, JSON_COMPACT) : NULL;
	struct http_reply answer = {0};
	int result = -1;

	*reply = NULL;
	if (body != NULL && text == NULL)
		return err_nomem(err);
	if (send_once(v, with_token, method, path, text, &answer, err) != 0)
		goto done;
	*status = answer.status == 204 ? 200 : answer.status;
	*reply = json_loadb(answer.body, answer.len, 0, NULL);
	if (*status == 200 && answer.len > 0 && *reply == NULL)
		err_set(err, ERR_FAILED, "the answer of \"%s\" is not JSON", v->peer.host_port);
	else
		result = 0;
done:
	wiping_free(text);
	secmem_wipe(v->body, BODY_MAX);
	return result;
}

/* {"errors": ["..."]} */
const char *
vault_said(const json_t *reply)
{
	const char *first = json_string_value(json_array_get(json_object_get(reply, "errors"), 0));

	return first != NULL && !provider_holds_key(first) ? first : NULL;
}

static void
add_detail(struct err *err, const json_t *reply)
{
	const char *first = vault_said(reply);

	if (first != NULL)
		err_detail(err, "It said: %.400s", first);
}

int
vault_refusal(const struct vault *v, const json_t *reply, const char *what, struct err *err)
{
	err_set(err, ERR_FAILED, "\"%s\" %s: \"%.100s\"", v->peer.host_port, what, v->path);
	add_detail(err, reply);
	return -1;
}

int
vault_check_version(const struct vault *v, struct err *err)
{
	if (v->version == NULL ||
	    (v->version[0] != '\0' && strlen(v->version) < 10 && strspn(v->version, "0123456789") == strlen(v->version)))
		return 0;
	return err_set(err, ERR_USAGE, "version \"%.40s\" is not a number", v->version);
}

int
vault_status_error(const struct vault *v, long status, const json_t *json, struct err *err)
{
	const char *host = v->peer.host_port;

	switch (status) {
	case 403:
		err_set(err, ERR_UNREACHABLE, "\"%s\" denies the token access to \"%.100s\"", host, v->path);
		err_hint(err, v->own_token || v->kept
		                  ? "The policies that the login gives lack the path."
		                  : "The token may have expired, or its policy lacks the path; its file was read again before "
		                    "this.");
		break;
	case 429:
		err_set(err, ERR_UNREACHABLE, "\"%s\" has too many requests", host);
		break;
	case 503:
		err_set(err, ERR_UNREACHABLE, "\"%s\" is sealed or in maintenance", host);
		err_hint(err, "Unseal it and try again.");
		break;
	default:
		if (status >= 300 && status < 400) {
			err_set(err, ERR_UNREACHABLE, "\"%s\" sends the request elsewhere, which is not followed", host);
			return err_hint(err, "Name the active server, or the load balancer that finds it.");
		}
		err_set(err, ERR_UNREACHABLE, "\"%s\" answered with status %ld", host, status);
	}
	add_detail(err, json);
	return -1;
}

int
vault_call(struct vault *v, const char *method, const char *path, const json_t *body, long *status, json_t **reply,
           struct err *err)
{
	bool changed = false;

	if (vault_request(v, true, method, path, body, status, reply, err) != 0)
		return -1;
	if (*status == 403) {
		if (vault_login_again(v, &changed, err) != 0)
			goto fail;
		if (changed) {
			json_decref(*reply);
			if (vault_request(v, true, method, path, body, status, reply, err) != 0)
				return -1;
		}
	}
	if (*status == 200 || *status == 400 || *status == 404)
		return 0;
	vault_status_error(v, *status, *reply, err);
fail:
	json_decref(*reply);
	*reply = NULL;
	return -1;
}

int
vault_random(struct vault *v, const char *path, uint8_t *out, size_t len, struct err *err)
{
	char full[4 * VAULT_PATH_MAX];
	json_t *body = json_object(), *reply = NULL;
	const json_t *bytes;
	int result = -1;
	long status;

	if (body == NULL)
		return err_nomem(err);
	if ((size_t)snprintf(full, sizeof(full), "%s/%zu", path, len) >= sizeof(full))
		err_set(err, ERR_USAGE, "key provider's path is too long");
	else if (vault_call(v, "POST", full, body, &status, &reply, err) == 0) {
		bytes = json_object_get(json_object_get(reply, "data"), "random_bytes");
		if (status != 200)
			vault_refusal(v, reply, "gives no random bytes", err);
		else if (!json_is_string(bytes) ||
		         base64_decode(json_string_value(bytes), json_string_length(bytes), out, len) != (int)len)
			err_set(err, ERR_FAILED, "\"%s\" did not give %zu random bytes", v->peer.host_port, len);
		else
			result = 0;
	}
	json_decref(body);
	json_decref(reply);
	return result;
}

int
vault_names(struct vault *v, const char *path, json_t **names, struct err *err)
{
	char full[4 * VAULT_PATH_MAX];
	json_t *reply = NULL;
	int result = 0;
	long status;

	*names = NULL;
	if ((size_t)snprintf(full, sizeof(full), "%s?list=true", path) >= sizeof(full))
		return err_set(err, ERR_USAGE, "key provider's path is too long");
	if (vault_call(v, "GET", full, NULL, &status, &reply, err) != 0)
		return -1;
	if (status == 200)
		*names = json_incref(json_object_get(json_object_get(reply, "data"), "keys"));
	else if (status != 404 || json_array_size(json_object_get(reply, "errors")) > 0)
		result = vault_refusal(v, reply, "does not list its keys", err);
	json_decref(reply);
	return result;
}
