/*
 * provider_kmip: the cluster key as a symmetric key of a KMIP server, found by its name: kmip://HOST[:PORT]/NAME.
 *
 * KMIP lets two objects have one name, so a name that stands for several is refused rather than one of them taken; a
 * key that is made is looked for again by its name, which finds out two who make it at once. A key that is not active
 * is not handed out, except revoked ones to whoever asks for that (old backups).
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "keymgr/kmip.h"
#include "keymgr/provider_scheme.h"
#include "keymgr/uri.h"
#include "walcrypt/secmem.h"

#define URI_MAX 4096

struct source {
	char text[URI_MAX], host_port[300];
	const char *name, *version, *revoked;
	struct kmip kmip;
};

static int
source_parse(struct source *s, const char *rest, const struct kek_conf *conf, struct err *err)
{
	struct http_peer *peer = &s->kmip.peer;
	const struct uri_option options[] = {{"ca_file", &peer->ca_file},   {"cert_file", &peer->cert_file},
	                                     {"key_file", &peer->key_file}, {"version", &s->version},
	                                     {"revoked", &s->revoked},      {NULL, NULL}};
	const char *host, *colon;

	if (conf != NULL) {
		peer->ca_file = conf->ca_file;
		peer->cert_file = conf->cert_file;
		peer->key_file = conf->key_file;
	}
	if ((size_t)snprintf(s->text, sizeof(s->text), "%s", rest) >= sizeof(s->text))
		return err_set(err, ERR_USAGE, "key provider is longer than %d bytes", URI_MAX - 1);
	if (uri_server(s->text, "kmip://kms.example/walcrypt?cert_file=...", &host, &s->name, options, err) != 0)
		return -1;
	if (strlen(s->name) > KMIP_NAME_MAX)
		return err_set(err, ERR_USAGE, "the key's name is longer than %d bytes", KMIP_NAME_MAX);
	if (s->version != NULL && (s->version[0] == '\0' || strlen(s->version) > KMIP_UID_MAX))
		return err_set(err, ERR_USAGE, "version= is not the identifier of an object");
	if (s->revoked != NULL && strcmp(s->revoked, "use") != 0) {
		err_set(err, ERR_USAGE, "revoked=%.20s is not known", s->revoked);
		return err_hint(err, "revoked=use takes a key that was revoked, for old backups.");
	}
	colon = strrchr(host, ':');
	if (colon != NULL && strchr(colon, ']') == NULL)
		snprintf(s->host_port, sizeof(s->host_port), "%s", host);
	else
		snprintf(s->host_port, sizeof(s->host_port), "%s:" KMIP_PORT, host);
	peer->host_port = s->host_port;
	return strlen(host) < sizeof(s->host_port) - 8 ? 0 : err_set(err, ERR_USAGE, "the server's name is too long");
}

static int
kmip_check(const char *rest, const struct kek_conf *conf, struct err *err)
{
	struct source *s = calloc(1, sizeof(*s));
	int result;

	if (s == NULL)
		return err_nomem(err);
	result = source_parse(s, rest, conf, err);
	free(s);
	return result;
}

static void
source_close(struct source *s)
{
	if (s != NULL)
		kmip_close(&s->kmip);
	free(s);
}

static struct source *
source_open(const char *rest, const struct kek_conf *conf, struct err *err)
{
	struct source *s = calloc(1, sizeof(*s));

	if (s == NULL) {
		err_nomem(err);
		return NULL;
	}
	s->kmip.peer.deadline_ms = clock_now_ms() + conf->timeout_ms;
	if (source_parse(s, rest, conf, err) != 0)
		goto fail;
	if (s->kmip.peer.cert_file == NULL) {
		err_set(err, ERR_USAGE, "a KMIP server wants to see a client certificate");
		err_hint(err, "cert_file and key_file name the certificate and its key, in the URI or in the [kek] section.");
		goto fail;
	}
	if (kmip_open(&s->kmip, err) == 0)
		return s;
fail:
	source_close(s);
	return NULL;
}

static int
no_such_key(const struct source *s, struct err *err)
{
	err_set(err, ERR_FAILED, "\"%s\" has no key \"%.100s\"%s%s", s->host_port, s->name,
	        s->version != NULL ? " with identifier " : "", s->version != NULL ? s->version : "");
	err->os_errno = ENOENT;
	return -1;
}

static bool
is_destroyed(const struct kmip_attributes *a)
{
	return a->state == KMIP_DESTROYED || a->state == KMIP_DESTROYED_COMPROMISED;
}

/* The one object with the name, of those whose keys have not been destroyed. */
static int
key_find(struct source *s, char uid[static KMIP_UID_MAX + 1], struct kmip_attributes *a, struct err *err)
{
	enum { SAME_NAME_MAX = 16 };
	char uids[SAME_NAME_MAX][KMIP_UID_MAX + 1];
	size_t n = 1, found = 0;

	if (s->version != NULL)
		snprintf(uids[0], sizeof(uids[0]), "%s", s->version);
	else if (kmip_locate(&s->kmip, s->name, uids, SAME_NAME_MAX, &n, err) != 0)
		return -1;
	for (size_t i = 0; i < n; i++) {
		struct kmip_attributes one;

		if (kmip_attributes(&s->kmip, uids[i], s->name, &one, err) != 0)
			return s->version != NULL && err->os_errno == ENOENT ? no_such_key(s, err) : -1;
		if (is_destroyed(&one))
			continue;
		if (strcmp(one.name, s->name) != 0)
			return err_set(err, ERR_FAILED, "the object %s of \"%s\" has the name \"%.100s\", not \"%.100s\"", uids[i],
			               s->host_port, one.name, s->name);
		memcpy(uid, uids[i], sizeof(uids[i]));
		*a = one;
		found++;
	}
	if (found == 0)
		return no_such_key(s, err);
	if (found == 1)
		return 0;
	err_set(err, ERR_REFUSED, "\"%s\" has %zu keys of the name \"%.100s\"", s->host_port, found, s->name);
	return err_hint(err, "Say which by version=IDENTIFIER, or give names that stand for one key each.");
}

static int
state_allows(const struct source *s, const char *uid, const struct kmip_attributes *a, struct err *err)
{
	if (a->state == KMIP_ACTIVE)
		return 0;
	if (a->state == KMIP_DEACTIVATED || a->state == KMIP_COMPROMISED) {
		if (s->revoked != NULL)
			return 0;
		err_set(err, ERR_REFUSED, "the key \"%.100s\", object %s, was revoked", s->name, uid);
		return err_hint(err, "To open what is still under it, for example an old backup, add revoked=use to the URI.");
	}
	err_set(err, ERR_REFUSED, "the key \"%.100s\", object %s, is not active", s->name, uid);
	return err_hint(err, "Activate it on the server. walcrypt-ctl that was cut off while it made it leaves it so.");
}

static int
key_fetch(struct source *s, struct kek *kek, struct err *err)
{
	char uid[KMIP_UID_MAX + 1];
	struct kmip_attributes a;

	if (key_find(s, uid, &a, err) != 0 || state_allows(s, uid, &a, err) != 0 ||
	    kmip_get(&s->kmip, uid, kek->key, err) != 0)
		return -1;
	memcpy(kek->version, uid, sizeof(uid));
	return 0;
}

static int
kmip_fetch(const char *rest, const struct kek_conf *conf, struct kek *kek, struct err *err)
{
	struct source *s = source_open(rest, conf, err);
	int result = s != NULL ? key_fetch(s, kek, err) : -1;

	source_close(s);
	return result;
}

/* Was it made at the same time by somebody else, too? Then ours goes. */
static int
made_alone(struct source *s, const char *uid, struct err *err)
{
	char found[KMIP_UID_MAX + 1];
	struct kmip_attributes a;
	struct err ignored;

	if (key_find(s, found, &a, err) == 0 && strcmp(found, uid) == 0)
		return 0;
	kmip_destroy(&s->kmip, uid, &ignored);
	return -1;
}

static int
kmip_create(const char *rest, const struct kek_conf *conf, const struct kek *kek, struct err *err)
{
	struct source *s = source_open(rest, conf, err);
	char uid[KMIP_UID_MAX + 1];
	struct kmip_attributes a;
	int result = -1;

	if (s == NULL)
		return -1;
	if (s->version != NULL)
		err_set(err, ERR_USAGE, "version= is given, but the key is to be made");
	else if (key_find(s, uid, &a, err) == 0) {
		err_set(err, ERR_REFUSED, "\"%s\" has a key \"%.100s\" already", s->host_port, s->name);
		err_hint(err, "To use it, leave --create-kek away.");
	} else if (err->os_errno == ENOENT && kmip_register(&s->kmip, s->name, kek->key, uid, err) == 0 &&
	           made_alone(s, uid, err) == 0)
		result = kmip_activate(&s->kmip, uid, err);
	source_close(s);
	return result;
}

static const char *
state_name(enum kmip_state state)
{
	return state == KMIP_PRE_ACTIVE    ? "not active yet"
	       : state == KMIP_ACTIVE      ? "active"
	       : state == KMIP_DEACTIVATED ? "revoked"
	       : state == KMIP_COMPROMISED ? "compromised"
	                                   : "";
}

static int
kmip_list(const char *rest, const struct kek_conf *conf, kek_listed *each, void *arg, struct err *err)
{
	char(*uids)[KMIP_UID_MAX + 1] = calloc(KMIP_UIDS_MAX, sizeof(*uids));
	struct source *s = source_open(rest, conf, err);
	struct kmip_attributes a;
	int result = -1;
	size_t n;

	if (s == NULL)
		goto done;
	if (uids == NULL) {
		err_nomem(err);
		goto done;
	}
	if (kmip_locate(&s->kmip, NULL, uids, KMIP_UIDS_MAX, &n, err) != 0)
		goto done;
	for (size_t i = 0; i < n; i++) {
		if (kmip_attributes(&s->kmip, uids[i], NULL, &a, err) != 0)
			goto done;
		if (!is_destroyed(&a))
			each(arg, a.name, uids[i], state_name(a.state));
	}
	result = 0;
done:
	free(uids);
	source_close(s);
	return result;
}

static int
kmip_remove(const char *rest, const struct kek_conf *conf, const char *version, struct err *err)
{
	struct source *s = source_open(rest, conf, err);
	char uid[KMIP_UID_MAX + 1];
	struct kmip_attributes a;
	int result = -1;

	if (s == NULL)
		return -1;
	if (version != NULL)
		s->version = version;
	/* what is active cannot be destroyed */
	if (key_find(s, uid, &a, err) == 0 && (a.state != KMIP_ACTIVE || kmip_revoke(&s->kmip, uid, err) == 0))
		result = kmip_destroy(&s->kmip, uid, err);
	source_close(s);
	return result;
}

const struct provider_scheme provider_kmip = {.name = "kmip",
                                              .check = kmip_check,
                                              .fetch = kmip_fetch,
                                              .create = kmip_create,
                                              .list = kmip_list,
                                              .destroy = kmip_remove};
