#include "proxy/keymaker.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/log.h"
#include "common/path.h"
#include "keymgr/audit.h"
#include "keymgr/keygen.h"
#include "keymgr/keystore.h"
#include "proxy/errand.h"

/* For whoever else changes the keystore. */
#define PATIENCE_MS 10000

struct keymaker {
	struct proxy *proxy;
	struct errands *errands;
	atomic_bool stop;
};

struct request {
	struct errand errand;
	struct keymaker *keymaker;
	struct keymaker_order order;
	void (*answered)(void *owner, const struct err *why);
	int rc;
	struct err err;
};

/* A [kek] section as a provider wants it. */
static struct kek_conf
conf_of(const struct request *r, const char *kek)
{
	struct kek_conf conf = {.terminal_fd = -1, .keep = true, .stop = &r->keymaker->stop};

	kek_conf_set(&conf, settings_kek(r->order.site->settings, kek));
	return conf;
}

/* The keyset whose WAL key is the cluster's. Where there are several such keys: the upstream's, or the nodes'. */
static int
relative_find(const struct request *r, char name[static NAME_MAX + 1], struct err *err)
{
	const struct settings *s = r->order.site->settings;
	const char **among;
	size_t n = 0;
	int rc = keystore_relative(s->keystore, r->order.system_identifier, NULL, 0, name, err);

	if (rc == 0 || err->class != ERR_REFUSED)
		return rc;
	if ((among = calloc(s->nnodes + 1, sizeof(*among))) == NULL)
		return err_nomem(err);
	if (r->order.from->settings->keyset != NULL)
		among[n++] = r->order.from->settings->keyset;
	else
		for (size_t i = 0; i < s->nnodes; i++)
			if (!s->nodes[i].profile && s->nodes[i].keyset != NULL)
				among[n++] = s->nodes[i].keyset;
	rc = keystore_relative(s->keystore, r->order.system_identifier, among, n, name, err);
	free(among);
	return rc == 0 ? 0
	               : err_hint(err, "Say whose the new keyset shall have: walcrypt-ctl key init --wal-key-of KEYSET.");
}

/* Whose cluster key a keyset is under: the configuration's for it, or else the new one's. */
static const char *
kek_of(const struct request *r, const char *keyset)
{
	const struct settings *s = r->order.site->settings;

	for (size_t i = 0; i < s->nnodes; i++)
		if (s->nodes[i].keyset != NULL && strcmp(s->nodes[i].keyset, keyset) == 0)
			return s->nodes[i].kek;
	return r->order.node->settings->kek;
}

/* The keys to be written. */
static struct keyset *
keys_make(const struct request *r, struct err *err)
{
	uint64_t identifier = r->order.system_identifier;
	char name[NAME_MAX + 1], path[PATH_MAX];
	struct keyset *relative, *ks;
	struct kek_conf conf;

	if (relative_find(r, name, err) != 0)
		return NULL;
	if (name[0] == '\0')
		return keyset_generate(KEY_AES256, identifier, err);
	conf = conf_of(r, kek_of(r, name));
	if (path_format(path, err, "%s/%s", r->order.site->settings->keystore, name) != 0)
		return NULL;
	if ((relative = keydir_unlock(path, &conf, err)) == NULL) {
		err_context(err, "the cluster's WAL key lies in keyset \"%s\"", name);
		return NULL;
	}
	ks = keyset_generate_sharing(relative, identifier, err);
	keyset_free(relative);
	return ks;
}

/* The keystore is locked, and the keyset is not there. */
static int
keyset_write(const struct request *r, const char *path, struct err *err)
{
	struct kek_conf conf = conf_of(r, r->order.node->settings->kek);
	char new[PATH_MAX], reference[512], described[256];
	struct keyset *ks = NULL;
	struct kek *kek = NULL;
	int rc = -1;

	if (path_format(new, err, "%s/new", path) != 0 || keydir_prepare(path, err) != 0)
		return -1;
	conf.key_dir = new;
	kek_reference(&conf, reference, sizeof(reference));
	/* beside the cluster key, this takes the provider's random bytes in, where it is to give some */
	if ((kek = kek_prepare(&conf, false, NULL, NULL, err)) == NULL)
		err_context(err, "cluster key \"%s\"", r->order.node->settings->kek);
	else if ((ks = keys_make(r, err)) != NULL)
		rc = keydir_create(path, ks, kek, reference, err);
	if (rc == 0) {
		keyset_describe(ks, described);
		log_info("made keyset \"%s\", %s", r->order.node->settings->keyset, described);
	} else
		keydir_abandon(path);
	keyset_free(ks);
	kek_free(kek);
	return rc;
}

static int
keyset_make(const struct request *r, const char *path, struct err *err)
{
	const struct settings *s = r->order.site->settings;
	const char *words[] = {r->order.node->settings->keyset};
	struct err unrecorded = {0};
	struct audit audit;
	int lock, rc = -1;

	if ((lock = keystore_lock(s->keystore, PATIENCE_MS, err)) < 0)
		return -1;
	/* walcrypt-ctl, or another proxy, may have been faster */
	if (keydir_exists(path))
		rc = 0;
	else if (audit_begin(&audit, s->audit_log, "proxy: keyset made", words, 1, err) == 0) {
		rc = keyset_write(r, path, err);
		if (audit_end(&audit, rc != 0 ? err : NULL, &unrecorded) != 0)
			log_err(LOG_WARNING, &unrecorded, NULL);
	}
	close(lock);
	return rc;
}

/* Sessions that began with another configuration than the one of now need the keys, too, and so does the console. */
static void
publish(const struct request *r)
{
	struct site *now = proxy_site(r->keymaker->proxy);

	site_adopt(now, r->order.site);
	site_unref(now);
}

static void
run(struct errand *e)
{
	struct request *r = (struct request *)e;
	const struct settings_node *n = r->order.node->settings;
	char path[PATH_MAX];

	/* two sessions may have asked */
	if (!site_lacks_keys(r->order.node))
		return;
	if ((r->rc = path_format(path, &r->err, "%s/%s", r->order.site->settings->keystore, n->keyset)) == 0 &&
	    !keydir_exists(path)) {
		if (r->order.make)
			r->rc = keyset_make(r, path, &r->err);
		else {
			r->rc = err_set(&r->err, ERR_REFUSED, "\"%s\" has no keys yet", n->name);
			err_sqlstate(&r->err, "55000");
			err_hint(&r->err, "Its first base backup makes them (keyset = auto); walcrypt-ctl key init %s does, too.",
			         n->keyset);
			return;
		}
	}
	if (r->rc == 0 && (r->rc = site_open_keys(r->order.site, r->order.node, &r->err)) == 0)
		publish(r);
	if (r->rc != 0) {
		err_context(&r->err, "the keys of \"%s\"", n->name);
		err_sqlstate(&r->err, "55000");
	}
}

static void
deliver(struct errand *e)
{
	struct request *r = (struct request *)e;

	r->answered(e->owner, r->rc != 0 ? &r->err : NULL);
}

static void
request_free(struct errand *e)
{
	struct request *r = (struct request *)e;

	site_unref(r->order.site);
	free(r);
}

static const struct errand_kind kind = {run, deliver, request_free};

struct keymaker *
keymaker_new(struct proxy *proxy, struct err *err)
{
	struct keymaker *k = calloc(1, sizeof(*k));

	if (k == NULL) {
		err_nomem(err);
		return NULL;
	}
	k->proxy = proxy;
	if ((k->errands = errands_new(err)) != NULL)
		return k;
	free(k);
	return NULL;
}

void
keymaker_stop(struct keymaker *k)
{
	if (k == NULL)
		return;
	k->stop = true;
	errands_stop(k->errands);
}

void
keymaker_free(struct keymaker *k)
{
	if (k == NULL)
		return;
	errands_free(k->errands);
	free(k);
}

struct errand *
keymaker_ask(struct keymaker *k, struct worker *worker, const struct keymaker_order *order,
             void (*answered)(void *owner, const struct err *why), void *owner, struct err *err)
{
	struct request *r = calloc(1, sizeof(*r));

	if (r == NULL) {
		err_nomem(err);
		return NULL;
	}
	r->errand = (struct errand){.kind = &kind, .worker = worker, .owner = owner};
	r->keymaker = k;
	r->order = *order;
	site_ref(r->order.site);
	r->answered = answered;
	return errand_send(k->errands, &r->errand, err) == 0 ? &r->errand : NULL;
}
