#include "ctl/reencrypt_target.h"

#include <stdlib.h>
#include <string.h>

#include "common/durable.h"
#include "common/path.h"
#include "ctl/keydir_choice.h"
#include "ctl/layer.h"
#include "keymgr/keydir.h"
#include "keymgr/keygen.h"

static bool
is_clear(const struct reencrypt_target *t)
{
	return strcmp(t->name, "none") == 0;
}

static bool
is_fresh(const struct reencrypt_target *t)
{
	return strcmp(t->name, "new") == 0;
}

static bool
is_path(const struct reencrypt_target *t)
{
	return strchr(t->name, '/') != NULL;
}

/* The configuration's [kek] section for a keyset of the keystore; NULL: it does not say. strdup'ed. */
static int
kek_of_keyset(const struct reencrypt_target *t, char **kek, struct err *err)
{
	struct settings *settings;

	*kek = NULL;
	if (settings_find(t->config, false, &settings, err) != 0)
		return -1;
	for (size_t i = 0; settings != NULL && i < settings->nnodes && *kek == NULL; i++)
		if (settings->nodes[i].keyset != NULL && settings->nodes[i].kek != NULL &&
		    strcmp(settings->nodes[i].keyset, t->name) == 0 && (*kek = strdup(settings->nodes[i].kek)) == NULL)
			err_nomem(err);
	settings_free(settings);
	return 0;
}

/* --to-kek, else the configuration for the keyset's name, else what the present keys are opened with. WALCRYPT_KEK is
 * the present keys', so it does not come before the configuration here. */
static int
source_choose(struct reencrypt_target *t, const char *datadir, struct err *err)
{
	bool named = !is_path(t) && !is_fresh(t);
	char *configured = NULL;
	const char *kek = t->kek;
	int result;

	if (kek == NULL && named && kek_of_keyset(t, &configured, err) != 0)
		return -1;
	if (kek == NULL)
		kek = configured != NULL ? configured : t->from_kek;
	result = source_find(&t->source, t->config, kek, named ? NULL : datadir, named ? t->name : NULL, err);
	free(configured);
	return result;
}

static int
fresh_make(struct reencrypt_target *t, const struct keyset *from, uint64_t identifier, struct err *err)
{
	enum key_method method = KEY_AES256;

	if (t->method != NULL && key_method_parse(t->method, &method) != 0)
		return err_set(err, ERR_USAGE, "method \"%s\" is not AES128, AES192 or AES256", t->method);
	if (from != NULL && t->method != NULL && keyset_method(from) != method) {
		err_set(err, ERR_REFUSED, "the WAL key is for method %s, not %s", key_method_name(keyset_method(from)),
		        key_method_name(method));
		return err_hint(
		    err, "A new relation key shares the WAL key of the present keys. Re-encrypt to \"none\" first to have "
		         "a new WAL key.");
	}
	if (source_stir(&t->source, err) != 0)
		return -1;
	t->keys = from != NULL ? keyset_generate_sharing(from, identifier, err) : keyset_generate(method, identifier, err);
	return t->keys != NULL ? 0 : -1;
}

int
reencrypt_target_open(struct reencrypt_target *t, const char *datadir, const struct keyset *from,
                      const struct datadir_control *control, struct err *err)
{
	struct keydir_choice choice = {.config = t->config};
	char path[PATH_MAX];

	if (t->method != NULL && !is_fresh(t))
		return err_set(err, ERR_USAGE, "--method goes with --to=new");
	if (is_clear(t))
		return 0;
	*(is_path(t) ? &choice.keydir : &choice.name) = t->name;
	if ((!is_fresh(t) && keydir_named(&choice, path, err) != 0) || source_choose(t, datadir, err) != 0)
		return -1;
	if (is_fresh(t))
		return fresh_make(t, from, control->system_identifier, err);
	if ((t->files = calloc(1, sizeof(*t->files))) == NULL)
		return err_nomem(err);
	if ((t->keys = source_open(&t->source, path, err)) == NULL || keydir_load_files(path, t->files, err) != 0)
		return -1;
	return keyset_check_cluster(t->keys, control, datadir, err);
}

/* A set that is there already is taken over as it is, with whatever a key command keeps beside the keys. */
static int
files_store(struct reencrypt_target *t, const char *keydir, struct err *err)
{
	char path[PATH_MAX];

	if (durable_mkdir(keydir, 0700, err) != 0 || path_format(path, err, "%s/live", keydir) != 0 ||
	    durable_mkdir(path, 0700, err) != 0)
		return -1;
	for (size_t i = 0; i < t->files->n; i++)
		if (path_format(path, err, "%s/live/%s", keydir, t->files->file[i].name) != 0 ||
		    durable_write(path, t->files->file[i].data, t->files->file[i].len, 0600, err) != 0)
			return -1;
	return 0;
}

static int
fresh_store(struct reencrypt_target *t, const char *keydir, struct err *err)
{
	char path[PATH_MAX];
	struct kek *kek;
	int result;

	/* new/ is where %d points, so that a key command can leave a file of its own */
	if (durable_mkdir(keydir, 0700, err) != 0 || path_format(path, err, "%s/new", keydir) != 0 ||
	    durable_mkdir(path, 0700, err) != 0 || (kek = source_prepare(&t->source, path, false, NULL, NULL, err)) == NULL)
		return -1;
	result = keydir_create(keydir, t->keys, kek, t->source.reference, err);
	kek_free(kek);
	return result;
}

int
reencrypt_target_store(struct reencrypt_target *t, const char *keydir, struct err *err)
{
	struct keyset *again;

	if (t->keys == NULL)
		return 0;
	if ((is_fresh(t) ? fresh_store : files_store)(t, keydir, err) != 0 ||
	    (again = source_open(&t->source, keydir, err)) == NULL)
		return -1;
	keyset_free(again);
	return 0;
}

int
reencrypt_target_reopen(struct reencrypt_target *t, const char *datadir, const char *keydir, struct err *err)
{
	if (is_clear(t))
		return 0;
	if (source_choose(t, datadir, err) != 0)
		return -1;
	return (t->keys = source_open(&t->source, keydir, err)) != NULL ? 0 : -1;
}

void
reencrypt_target_close(struct reencrypt_target *t)
{
	if (t->files != NULL)
		keydir_files_free(t->files);
	free(t->files);
	keyset_free(t->keys);
	source_free(&t->source);
}
