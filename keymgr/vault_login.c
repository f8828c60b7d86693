#include "keymgr/vault_login.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/fileio.h"
#include "common/path.h"
#include "keymgr/vault_session.h"
#include "walcrypt/secmem.h"

#define GIVE_BACK_MS 3000
#define KUBERNETES_FILE "/var/run/secrets/kubernetes.io/serviceaccount/token"

/* What a login by each method sends, and what it needs for that. */
static const struct method {
	const char *name, *role_member, *file_member;
	bool needs_role, needs_file;
} methods[] = {
    {"approle", "role_id", "secret_id", true, false}, /* a role may be without a secret id */
    {"jwt", "role", "jwt", false, true},              /* the server may have a default role */
    {"kubernetes", "role", "jwt", true, false},       /* the file has a default */
    {"cert", "name", NULL, false, false},
};

static const struct method *
method_of(const struct vault *v)
{
	for (size_t i = 0; v->login.method != NULL && i < sizeof(methods) / sizeof(methods[0]); i++)
		if (strcmp(methods[i].name, v->login.method) == 0)
			return &methods[i];
	return NULL;
}

int
vault_login_check(const struct vault *v, struct err *err)
{
	const struct method *m = method_of(v);

	if (v->login.method == NULL || strcmp(v->login.method, "token") == 0) {
		if (v->login.role == NULL && v->login.file == NULL && v->login.mount == NULL)
			return 0;
		err_set(err, ERR_USAGE, "key provider has options of a login, but logs in by a token");
		return err_hint(err, "Set login to approle, jwt, kubernetes or cert, or take them away.");
	}
	if (m == NULL) {
		err_set(err, ERR_USAGE, "key provider's login \"%.40s\" is not known", v->login.method);
		return err_hint(err, "Known are token, approle, jwt, kubernetes and cert.");
	}
	if (v->token_file != NULL)
		return err_set(err, ERR_USAGE, "key provider has a token_file, but logs in by %s", m->name);
	if (m->needs_role && v->login.role == NULL) {
		err_set(err, ERR_USAGE, "key provider logs in by %s, but has no login_role", m->name);
		return err_hint(err, "%s", strcmp(m->name, "approle") == 0 ? "It is the role id." : "It is the role's name.");
	}
	if (m->needs_file && v->login.file == NULL)
		return err_set(err, ERR_USAGE, "key provider logs in by %s, but has no login_file", m->name);
	if (m->file_member == NULL && v->login.file != NULL)
		return err_set(err, ERR_USAGE, "key provider has a login_file, but logs in by %s", m->name);
	if (m->file_member == NULL && v->peer.cert_file == NULL)
		return err_set(err, ERR_USAGE, "key provider logs in by %s, but has no cert_file", m->name);
	return 0;
}

/* The first line of a file with a secret in it; forbidden: modes that are refused. */
static int
line_read(const char *path, const char *what, mode_t forbidden, char *out, struct err *err)
{
	struct stat st;
	ssize_t n;
	int fd;

	if ((fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK)) < 0) {
		err_os(err, errno, "could not open %s \"%s\"", what, path);
		err->os_errno = 0; /* what is missing is not the key */
		err->class = ERR_UNREACHABLE;
		return -1;
	}
	if (fstat(fd, &st) != 0 || (st.st_mode & forbidden) != 0) {
		close(fd);
		err_set(err, ERR_REFUSED, "%s \"%s\" may be read or written by everybody", what, path);
		return err_hint(err, "chmod o-rwx %s", path);
	}
	n = fileio_read(fd, out, VAULT_TOKEN_MAX);
	close(fd);
	if (n < 0)
		return err_os(err, errno, "could not read %s \"%s\"", what, path);
	if (n == VAULT_TOKEN_MAX)
		return err_set(err, ERR_FAILED, "%s \"%s\" holds more than %d bytes", what, path, VAULT_TOKEN_MAX - 1);
	out[n] = '\0';
	out[strcspn(out, "\r\n")] = '\0';
	if (out[0] == '\0' || strpbrk(out, " \t") != NULL)
		return err_set(err, ERR_FAILED, "%s \"%s\" does not begin with a line that is a token", what, path);
	return 0;
}

static int
token_read(struct vault *v, struct err *err)
{
	const char *home = getenv("HOME");
	char path[PATH_MAX];

	if (v->token_file != NULL)
		return line_read(v->token_file, "token file", S_IRWXO, v->token, err);
	if (path_format(path, err, "%s/.vault-token", home != NULL ? home : "") != 0)
		return -1;
	return line_read(path, "token file", S_IRWXO, v->token, err) == 0
	           ? 0
	           : err_hint(err, "token_file names the file that holds the token.");
}

/* The token in the answer to a login or to a renewal. */
static int
auth_take(struct vault *v, const json_t *reply, bool renewed, struct err *err)
{
	const json_t *auth = json_object_get(reply, "auth");
	const char *token = json_string_value(json_object_get(auth, "client_token"));
	long lease_s = (long)json_integer_value(json_object_get(auth, "lease_duration"));

	if (token == NULL || token[0] == '\0' || strlen(token) >= VAULT_TOKEN_MAX)
		return err_set(err, ERR_FAILED, "\"%s\" gave no token for the login", v->peer.host_port);
	memcpy(v->token, token, strlen(token) + 1);
	v->own_token = v->own_token || !renewed;
	if (v->keep && method_of(v) != NULL)
		vault_session_put(v, lease_s, json_is_true(json_object_get(auth, "renewable")));
	return 0;
}

static json_t *
login_body(struct vault *v, const struct method *m, struct err *err)
{
	bool kubernetes = strcmp(m->name, "kubernetes") == 0;
	const char *file = v->login.file != NULL ? v->login.file : kubernetes ? KUBERNETES_FILE : NULL;
	char *secret = secmem_alloc(VAULT_TOKEN_MAX, err);
	json_t *body = NULL;

	if (secret == NULL)
		return NULL;
	/* Kubernetes gives every user in the pod the right to read it */
	if (m->file_member != NULL && file != NULL &&
	    line_read(file, "login file", kubernetes ? S_IWOTH : S_IRWXO, secret, err) != 0)
		goto done;
	if ((body = json_object()) == NULL ||
	    (v->login.role != NULL && json_object_set_new(body, m->role_member, json_string(v->login.role)) != 0) ||
	    (secret[0] != '\0' && json_object_set_new(body, m->file_member, json_string(secret)) != 0)) {
		json_decref(body);
		body = NULL;
		err_set(err, ERR_FAILED, "login role or file is not UTF-8");
	}
done:
	secmem_free(secret);
	return body;
}

static int
login_refused(const struct vault *v, const struct method *m, const char *mount, long status, const json_t *reply,
              struct err *err)
{
	if (status != 400 && status != 401 && status != 403 && status != 404)
		return vault_status_error(v, status, reply, err);
	err_set(err, ERR_UNREACHABLE, "\"%s\" refuses the login by %s at \"%.60s\"", v->peer.host_port, m->name, mount);
	if (vault_said(reply) != NULL)
		err_detail(err, "It said: %.400s", vault_said(reply));
	if (strcmp(m->name, "approle") == 0)
		return err_hint(err, "Role id or secret id are wrong, or the secret id has expired or is used up.");
	if (strcmp(m->name, "cert") == 0)
		return err_hint(err, "The certificate in cert_file must be one that a certificate role there trusts.");
	return err_hint(err, "The role must be there, and the token in login_file be valid for it and not have expired.");
}

static int
login_do(struct vault *v, struct err *err)
{
	const struct method *m = method_of(v);
	const char *mount = v->login.mount != NULL ? v->login.mount : m->name;
	char escaped[3 * VAULT_PATH_MAX], path[3 * VAULT_PATH_MAX + 16];
	json_t *body, *reply = NULL;
	int result = -1;
	long status;

	if (http_escape_path(mount, escaped, sizeof(escaped), err) != 0 || (body = login_body(v, m, err)) == NULL)
		return -1;
	snprintf(path, sizeof(path), "auth/%s/login", escaped);
	if (vault_request(v, false, "POST", path, body, &status, &reply, err) == 0)
		result = status == 200 ? auth_take(v, reply, false, err) : login_refused(v, m, mount, status, reply, err);
	json_decref(body);
	json_decref(reply);
	return result;
}

int
vault_login(struct vault *v, struct err *err)
{
	long lease_s, age_s;
	bool renewable;

	if (method_of(v) == NULL)
		return token_read(v, err);
	if (v->keep && (v->kept = vault_session_get(v, &lease_s, &age_s, &renewable)))
		return 0;
	return login_do(v, err);
}

int
vault_login_again(struct vault *v, bool *changed, struct err *err)
{
	*changed = true;
	if (method_of(v) == NULL)
		return token_read(v, err);
	/* one that was got a moment ago would be the same again */
	if (!(*changed = v->kept && !v->own_token))
		return 0;
	vault_session_drop(v);
	v->kept = false;
	return login_do(v, err);
}

void
vault_login_end(struct vault *v)
{
	json_t *reply = NULL;
	struct err ignored;
	long status;

	if (!v->own_token || v->kept)
		return;
	v->own_token = false;
	v->peer.deadline_ms = clock_now_ms() + GIVE_BACK_MS;
	vault_request(v, true, "POST", "auth/token/revoke-self", NULL, &status, &reply, &ignored);
	json_decref(reply);
}

/* How long the token is lent for in all, how long it still has, in seconds; *lease_s 0: for ever. */
static int
token_look(struct vault *v, long *lease_s, long *left_s, bool *renewable, struct err *err)
{
	json_t *reply = NULL;
	const json_t *data;
	long status;

	if (vault_call(v, "GET", "auth/token/lookup-self", NULL, &status, &reply, err) != 0)
		return -1;
	data = json_object_get(reply, "data");
	*left_s = (long)json_integer_value(json_object_get(data, "ttl"));
	*lease_s = (long)json_integer_value(json_object_get(data, "creation_ttl"));
	*renewable = json_is_true(json_object_get(data, "renewable"));
	if (*left_s == 0 || *lease_s < *left_s)
		*lease_s = *left_s;
	json_decref(reply);
	return status == 200 ? 0
	                     : err_set(err, ERR_FAILED, "\"%s\" does not say how long the token lasts", v->peer.host_port);
}

static int
renew(struct vault *v, long *lease_s, struct err *err)
{
	json_t *body = json_object(), *reply = NULL;
	int result = -1;
	long status;

	if (body == NULL)
		return err_nomem(err);
	if (vault_call(v, "POST", "auth/token/renew-self", body, &status, &reply, err) == 0) {
		*lease_s = (long)json_integer_value(json_object_get(json_object_get(reply, "auth"), "lease_duration"));
		result =
		    status == 200 ? auth_take(v, reply, true, err) : vault_refusal(v, reply, "did not renew the token", err);
	}
	json_decref(body);
	json_decref(reply);
	return result;
}

static int
ends_soon(const struct vault *v, long left_s, struct err *err)
{
	err_set(err, ERR_REFUSED, "the token for \"%s\" ends in %ld s and cannot be renewed for longer", v->peer.host_port,
	        left_s);
	return err_hint(err, "Until there is another one in its file, a reload and a start will find no cluster key.");
}

static int
keep(struct vault *v, int *again_s, struct err *err)
{
	long lease_s = 0, age_s = 0, left_s;
	bool renewable = false, file = method_of(v) == NULL;

	*again_s = VAULT_KEEP_MAX_S;
	if (file && token_look(v, &lease_s, &left_s, &renewable, err) != 0)
		return -1;
	if (!file) {
		if (!vault_session_get(v, &lease_s, &age_s, &renewable))
			return 0; /* it was not kept, for want of memory */
		left_s = lease_s - age_s;
	}
	if (lease_s == 0)
		return 0;
	/* renewed from half of its time on, so that there are several tries */
	if (left_s <= (lease_s + 1) / 2) {
		long had_s = left_s;

		if (renewable && renew(v, &left_s, err) != 0)
			return -1;
		if (file && left_s <= had_s && left_s < lease_s / 4 + 1)
			return ends_soon(v, left_s, err);
		if (!file && left_s <= had_s) {
			vault_session_drop(v);
			if (login_do(v, err) != 0)
				return -1;
			left_s = lease_s;
		}
	}
	*again_s = left_s / 3 < 1 ? 1 : left_s / 3 < VAULT_KEEP_MAX_S ? (int)(left_s / 3) : VAULT_KEEP_MAX_S;
	return 0;
}

int
vault_scheme_keep(const char *rest, const struct kek_conf *conf, int *again_s, struct err *err)
{
	struct vault v;
	int result = vault_open(&v, rest, conf, err) == 0 ? keep(&v, again_s, err) : -1;

	vault_close(&v);
	return result;
}
