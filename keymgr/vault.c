#include "keymgr/vault.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/fileio.h"
#include "common/path.h"
#include "common/wiping.h"
#include "keymgr/provider_scheme.h"
#include "walcrypt/secmem.h"

#define TOKEN_MAX 8192
#define BODY_MAX 65536

static int
hex_value(char c)
{
	return isdigit((unsigned char)c) ? c - '0' : isxdigit((unsigned char)c) ? tolower((unsigned char)c) - 'a' + 10 : -1;
}

/* %XX in place. */
static int
unescape(char *text, struct err *err)
{
	char *to = text;

	for (char *from = text; *from != '\0'; from++) {
		int hi, lo;

		if (*from != '%') {
			*to++ = *from;
			continue;
		}
		if ((hi = hex_value(from[1])) < 0 || (lo = hex_value(from[2])) < 0 || (hi == 0 && lo == 0))
			return err_set(err, ERR_USAGE, "key provider has a %% that is not followed by two hexadecimal digits");
		*to++ = (char)(hi << 4 | lo);
		from += 2;
	}
	*to = '\0';
	return 0;
}

static int
option_set(struct vault *v, const char *name, const char *value, struct err *err)
{
	const struct {
		const char *name, **to;
	} options[] = {{"token_file", &v->token_file},  {"ca_file", &v->peer.ca_file}, {"cert_file", &v->peer.cert_file},
	               {"key_file", &v->peer.key_file}, {"namespace", &v->namespace},  {"version", &v->version}};

	for (size_t i = 0; i < sizeof(options) / sizeof(options[0]); i++)
		if (strcmp(options[i].name, name) == 0) {
			*options[i].to = value;
			return 0;
		}
	err_set(err, ERR_USAGE, "key provider has an unknown option \"%.63s\"", name);
	return err_hint(err, "Known are token_file, ca_file, cert_file, key_file, namespace and version.");
}

/* "//host:port/path?a=b&c=d" or "+http://..."; v->text is cut up. */
static int
source_parse(struct vault *v, const char *rest, struct err *err)
{
	char *text = v->text, *slash, *options, *next;

	if ((size_t)snprintf(v->text, sizeof(v->text), "%s", rest) >= sizeof(v->text))
		return err_set(err, ERR_USAGE, "key provider is longer than %zu bytes", sizeof(v->text) - 1);
	if (strncmp(text, "//", 2) != 0 || (slash = strchr(text + 2, '/')) == NULL || slash == text + 2 || slash[1] == '\0')
		goto shape;
	*slash = '\0';
	v->peer.host_port = text + 2;
	if (strpbrk(v->peer.host_port, "@?#%") != NULL)
		goto shape;
	if ((options = strchr(slash + 1, '?')) != NULL)
		*options++ = '\0';
	if (unescape(slash + 1, err) != 0)
		return -1;
	if ((size_t)snprintf(v->path, sizeof(v->path), "%s", slash + 1) >= sizeof(v->path))
		return err_set(err, ERR_USAGE, "key provider's path is longer than %zu bytes", sizeof(v->path) - 1);
	for (; options != NULL && *options != '\0'; options = next) {
		char *value;

		if ((next = strchr(options, '&')) != NULL)
			*next++ = '\0';
		if ((value = strchr(options, '=')) == NULL)
			goto shape;
		*value++ = '\0';
		if (unescape(value, err) != 0 || option_set(v, options, value, err) != 0)
			return -1;
	}
	return 0;
shape:
	err_set(err, ERR_USAGE, "key provider is not of the form %s", "vault-...://HOST:PORT/PATH");
	return err_hint(err, "For example: vault-kv://vault.example:8200/secret/walcrypt");
}

/* The first line of the token's file. */
static int
token_read(struct vault *v, struct err *err)
{
	char path[PATH_MAX];
	const char *home = getenv("HOME");
	struct stat st;
	ssize_t n;
	int fd;

	if (v->token_file == NULL && path_format(path, err, "%s/.vault-token", home != NULL ? home : "") != 0)
		return -1;
	if (v->token_file != NULL && path_format(path, err, "%s", v->token_file) != 0)
		return -1;
	if ((fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK)) < 0) {
		err_os(err, errno, "could not open token file \"%s\"", path);
		err->os_errno = 0; /* what is missing is not the key */
		err->class = ERR_UNREACHABLE;
		return v->token_file == NULL ? err_hint(err, "token_file names the file that holds the token.") : -1;
	}
	if (fstat(fd, &st) != 0 || (st.st_mode & S_IRWXO) != 0) {
		close(fd);
		err_set(err, ERR_REFUSED, "token file \"%s\" may be read or written by everybody", path);
		return err_hint(err, "chmod o-rwx %s", path);
	}
	n = fileio_read(fd, v->token, TOKEN_MAX);
	close(fd);
	if (n < 0)
		return err_os(err, errno, "could not read token file \"%s\"", path);
	if (n == TOKEN_MAX)
		return err_set(err, ERR_FAILED, "token file \"%s\" holds more than %d bytes", path, TOKEN_MAX - 1);
	v->token[n] = '\0';
	v->token[strcspn(v->token, "\r\n")] = '\0';
	if (v->token[0] == '\0' || strpbrk(v->token, " \t") != NULL)
		return err_set(err, ERR_FAILED, "token file \"%s\" does not begin with a line that is a token", path);
	return 0;
}

int
vault_check(const char *rest, struct err *err)
{
	struct vault *v = calloc(1, sizeof(*v));
	int result;

	if (v == NULL)
		return err_nomem(err);
	result = source_parse(v, strncmp(rest, "+http:", 6) == 0 ? rest + 6 : rest, err);
	free(v);
	return result;
}

int
vault_open(struct vault *v, const char *rest, const struct kek_conf *conf, struct err *err)
{
	memset(v, 0, sizeof(*v));
	v->token_file = conf->token_file;
	v->namespace = conf->vault_namespace;
	v->peer.ca_file = conf->ca_file;
	v->peer.cert_file = conf->cert_file;
	v->peer.key_file = conf->key_file;
	v->peer.clear = strncmp(rest, "+http:", 6) == 0;
	v->peer.deadline_ms = http_now_ms() + conf->timeout_ms;
	json_set_alloc_funcs(malloc, wiping_free); /* answers hold keys */
	if (source_parse(v, v->peer.clear ? rest + 6 : rest, err) != 0 ||
	    (v->token = secmem_alloc(TOKEN_MAX, err)) == NULL || (v->body = secmem_alloc(BODY_MAX, err)) == NULL)
		return -1;
	return token_read(v, err);
}

void
vault_close(struct vault *v)
{
	secmem_free(v->token);
	secmem_free(v->body);
	memset(v, 0, sizeof(*v));
}

static int
send_once(struct vault *v, const char *method, const char *path, const char *body, struct http_reply *reply,
          struct err *err)
{
	char *token = secmem_alloc(TOKEN_MAX + 32, err), namespace[512], full[4 * VAULT_PATH_MAX];
	const char *headers[5] = {"Content-Type: application/json", "X-Vault-Request: true"};
	int result = -1;

	if (token == NULL)
		return -1;
	snprintf(token, TOKEN_MAX + 32, "X-Vault-Token: %s", v->token);
	headers[2] = token;
	if (v->namespace != NULL) {
		if ((size_t)snprintf(namespace, sizeof(namespace), "X-Vault-Namespace: %s", v->namespace) >=
		    sizeof(namespace)) {
			err_set(err, ERR_USAGE, "namespace is too long");
			goto done;
		}
		headers[3] = namespace;
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

/* The server's own words, if it has some: {"errors": ["..."]}. */
static void
add_detail(struct err *err, const json_t *json)
{
	const json_t *errors = json_object_get(json, "errors");
	const char *first = json_string_value(json_array_get(errors, 0));

	if (first != NULL && !provider_holds_key(first))
		err_detail(err, "It said: %.400s", first);
}

static int
status_error(const struct vault *v, long status, const json_t *json, struct err *err)
{
	const char *host = v->peer.host_port;

	switch (status) {
	case 400:
		err_set(err, ERR_FAILED, "\"%s\" refused the request as malformed", host);
		break;
	case 403:
		err_set(err, ERR_UNREACHABLE, "\"%s\" denies the token access to \"%.100s\"", host, v->path);
		err_hint(err, "The token may have expired, or its policy lacks the path; its file was read again before this.");
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
           unsigned *sent, struct err *err)
{
	char *text = body != NULL ? json_dumps(body, JSON_COMPACT) : NULL;
	struct http_reply answer = {0};
	int result = -1;

	*reply = NULL;
	if (body != NULL && text == NULL)
		return err_nomem(err);
	if (send_once(v, method, path, text, &answer, err) != 0)
		goto done;
	if (answer.status == 403 && (token_read(v, err) != 0 || send_once(v, method, path, text, &answer, err) != 0))
		goto done;
	*status = answer.status;
	*reply = json_loadb(answer.body, answer.len, 0, NULL);
	if (sent != NULL)
		*sent = answer.sent;
	if (*status == 204)
		*status = 200;
	if (*status != 200 && *status != 404)
		status_error(v, *status, *reply, err);
	else if (*status == 200 && answer.len > 0 && *reply == NULL)
		err_set(err, ERR_FAILED, "the answer of \"%s\" is not JSON", v->peer.host_port);
	else
		result = 0;
done:
	if (result != 0) {
		json_decref(*reply);
		*reply = NULL;
	}
	wiping_free(text);
	secmem_wipe(v->body, BODY_MAX);
	return result;
}
