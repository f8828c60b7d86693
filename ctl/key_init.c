/*
 * key init: a keyset in the proxy's keystore for one node or profile.
 *
 * Every keyset has a relation key of its own. Keysets of one cluster (one system identifier) share the WAL key, because
 * their nodes exchange WAL: it is copied from one that is there already. An archive that shall not be able to read the
 * nodes' WAL has one of its own.
 */
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common/path.h"
#include "ctl/command.h"
#include "ctl/keyset_make.h"
#include "keymgr/keydir.h"
#include "keymgr/keygen.h"
#include "keymgr/keystore.h"

struct key_init_options {
	struct common_options common;
	const char *method, *kek, *system_identifier, *wal_key_of;
	bool create_kek, own_wal_key, provider_random;
};

static const struct option_def key_init_defs[] = {
    {"method", 'K', OPTION_TEXT, offsetof(struct key_init_options, method), "METHOD",
     "AES128, AES192 or AES256 (default: the cluster's, else AES256)", 0, 0},
    KEK_OPTION(struct key_init_options, "the configuration's for NAME"),
    {"create-kek", 0, OPTION_FLAG, offsetof(struct key_init_options, create_kek), NULL,
     "make the cluster key if its file is not there yet", 0, 0},
    {"own-wal-key", 0, OPTION_FLAG, offsetof(struct key_init_options, own_wal_key), NULL,
     "a WAL key of its own, that opens no other node's WAL: for an archive", 0, 0},
    {"wal-key-of", 0, OPTION_TEXT, offsetof(struct key_init_options, wal_key_of), "KEYSET",
     "the WAL key of this keyset, where the cluster's keysets have several", 0, 0},
    {"system-identifier", 0, OPTION_TEXT, offsetof(struct key_init_options, system_identifier), "NUMBER",
     "the cluster's system identifier (default: asked from a configured node)", 0, 0},
    PROVIDER_RANDOM_OPTION(struct key_init_options),
    COMMON_OPTIONS,
    OPTIONS_END};

/* The folder of a keyset of the same cluster, or "". With wal_key_of: that one. */
static int
relative_find(const char *keystore, uint64_t identifier, const char *wal_key_of, char name[static NAME_MAX + 1],
              struct err *err)
{
	const char *const among[] = {wal_key_of};

	if (keystore_relative(keystore, identifier, wal_key_of != NULL ? among : NULL, 1, name, err) != 0)
		return err->class == ERR_REFUSED && err->hint[0] == '\0'
		           ? err_hint(err, "Say whose the new keyset shall have: --wal-key-of KEYSET, or --own-wal-key.")
		           : -1;
	return wal_key_of == NULL || name[0] != '\0'
	           ? 0
	           : err_set(err, ERR_USAGE, "the keystore has no keyset \"%s\" of this cluster", wal_key_of);
}

/* Open the relative with its own cluster key. */
static struct keyset *
relative_open(const struct key_init_options *o, const char *keystore, const char *name, struct err *err)
{
	char path[PATH_MAX];
	struct source source;
	struct keyset *ks;

	/* --kek is for the new keyset; the relative's cluster key stands in the configuration, if it is another one */
	if (source_find(&source, o->common.config, NULL, NULL, name, err) != 0 &&
	    source_find(&source, o->common.config, o->kek, NULL, name, err) != 0)
		return NULL;
	ks = path_format(path, err, "%s/%s", keystore, name) == 0 ? source_open(&source, path, err) : NULL;
	source_free(&source);
	if (ks == NULL)
		err_context(err, "the cluster's WAL key lies in keyset \"%s\"", name);
	return ks;
}

/* The keyset to be written: a cluster's first, or a further one. shared: the name of the keyset that gave the WAL key.
 */
static struct keyset *
keys_make(const struct key_init_options *o, const char *keystore, uint64_t identifier, char shared[static NAME_MAX + 1],
          struct err *err)
{
	enum key_method method = KEY_AES256;
	struct keyset *relative, *ks = NULL;

	if (o->method != NULL && key_method_parse(o->method, &method) != 0) {
		err_set(err, ERR_USAGE, "method \"%s\" is not AES128, AES192 or AES256", o->method);
		return NULL;
	}
	shared[0] = '\0';
	if (!o->own_wal_key && relative_find(keystore, identifier, o->wal_key_of, shared, err) != 0)
		return NULL;
	if (shared[0] == '\0')
		return keyset_generate(method, identifier, err);
	if ((relative = relative_open(o, keystore, shared, err)) == NULL)
		return NULL;
	if (o->method != NULL && keyset_method(relative) != method) {
		err_set(err, ERR_REFUSED, "the WAL key of keyset \"%s\" is for method %s, not %s", shared,
		        key_method_name(keyset_method(relative)), key_method_name(method));
		err_hint(err, "All keysets of one cluster have one method.");
	} else
		ks = keyset_generate_sharing(relative, identifier, err);
	keyset_free(relative);
	return ks;
}

static int
key_init_run(void *options, const char **args, size_t nargs, struct err *err)
{
	const struct key_init_options *o = options;
	char path[PATH_MAX], new[PATH_MAX], shared[NAME_MAX + 1];
	struct source source = {0};
	struct keyset *ks = NULL;
	struct kek *kek = NULL;
	uint64_t identifier;
	int lock = -1, result = -1;

	(void)nargs;
	if (keyset_name_check(args[0], err) != 0)
		return -1;
	if (o->own_wal_key && o->wal_key_of != NULL)
		return err_set(err, ERR_USAGE, "--own-wal-key and --wal-key-of contradict each other");
	if (source_find(&source, o->common.config, o->kek, NULL, args[0], err) != 0)
		return -1;
	source.conf.provider_random |= o->provider_random;
	if (source.settings == NULL || source.settings->keystore == NULL) {
		err_set(err, ERR_USAGE, "no configuration file names a keystore");
		err_hint(err, "Give --config FILE, the proxy's configuration.");
		goto done;
	}
	if (system_identifier_find(o->system_identifier, source.settings, &identifier, err) != 0 ||
	    (lock = keystore_lock(source.settings->keystore, -1, err)) < 0 ||
	    keyset_place(source.settings->keystore, args[0], path, err) != 0 || path_format(new, err, "%s/new", path) != 0)
		goto done;
	if (keydir_prepare(path, err) != 0)
		goto done;
	if ((kek = source_prepare_new(&source, new, o->create_kek, err)) == NULL ||
	    (ks = keys_make(o, source.settings->keystore, identifier, shared, err)) == NULL ||
	    keydir_create(path, ks, kek, source.reference, err) != 0) {
		keydir_abandon(path);
		goto done;
	}
	keyset_made_print(args[0], ks, source.reference);
	if (shared[0] != '\0')
		printf("The WAL key is the one of keyset \"%s\": nodes of one cluster share it.\n", shared);
	result = 0;
done:
	keyset_free(ks);
	kek_free(kek);
	source_free(&source);
	if (lock >= 0)
		close(lock);
	return result;
}

const struct command command_key_init = {
    .name = "key init",
    .arguments = "NAME [--kek SOURCE] [--create-kek] [--method METHOD] [--own-wal-key | --wal-key-of KEYSET] "
                 "[--system-identifier NUMBER] [--provider-random]",
    .summary = "make a keyset for a standby or an archive in the proxy's keystore",
    .more = "NAME is the keyset that the configuration gives to a node or profile. With keyset = auto there the proxy "
            "makes it by itself.",
    .options = key_init_defs,
    .style = OPTIONS_ALL,
    .min_args = 1,
    .max_args = 1,
    .run = key_init_run,
    .audit = AUDIT_OR_REFUSE,
    .makes_keysets = true,
};
_Static_assert(sizeof(struct key_init_options) <= COMMAND_OPTIONS_MAX, "options fit");
