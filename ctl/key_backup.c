/*
 * key backup, key restore: the keystore's keysets in a file under a passphrase. The file and the passphrase are all
 * that a restore needs: neither the key service nor the configuration of before.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/path.h"
#include "ctl/command.h"
#include "ctl/keydir_choice.h"
#include "ctl/keyfolder.h"
#include "ctl/keyset_make.h"
#include "ctl/layer.h"
#include "keymgr/keybackup.h"
#include "keymgr/keygen.h"
#include "keymgr/keystore.h"

#define PASSPHRASE_OPTIONS(type)                                                                                       \
	{"passphrase-file",                                                                                                \
	 0,                                                                                                                \
	 OPTION_TEXT,                                                                                                      \
	 offsetof(type, passphrase_file),                                                                                  \
	 "FILE",                                                                                                           \
	 "its first line is the passphrase (default: asked on the terminal)",                                              \
	 0,                                                                                                                \
	 0},                                                                                                               \
	{                                                                                                                  \
		"passphrase-fd", 0, OPTION_TEXT, offsetof(type, passphrase_fd), "NUMBER",                                      \
		    "the first line that comes from this descriptor is the passphrase", 0, 0                                   \
	}

struct key_backup_options {
	struct common_options common;
	const char *datadir, *kek, *as, *passphrase_file, *passphrase_fd;
};

static const struct option_def key_backup_defs[] = {
    {"pgdata", 'D', OPTION_TEXT, offsetof(struct key_backup_options, datadir), "DIR",
     "the keys of that data directory, instead of keysets of the keystore", 0, 0},
    {"as", 0, OPTION_TEXT, offsetof(struct key_backup_options, as), "NAME",
     "with -D: what the keyset is called in the backup (default: datadir)", 0, 0},
    KEK_OPTION(struct key_backup_options, "the configuration's"),
    PASSPHRASE_OPTIONS(struct key_backup_options),
    COMMON_OPTIONS,
    OPTIONS_END};

static struct passphrase *
passphrase_ask(const char *file, const char *fd, bool fresh, struct err *err)
{
	struct passphrase_source s = {
	    .file = file, .fd = -1, .prompt = fresh ? "Passphrase for the backup: " : "Passphrase of the backup: "};
	char *end = NULL;

	if (fd != NULL) {
		s.fd = (int)strtol(fd, &end, 10);
		if (file != NULL || *end != '\0' || end == fd || s.fd < 0 || s.fd > 1023) {
			err_set(err, ERR_USAGE,
			        "--passphrase-fd takes the number of a descriptor, and no --passphrase-file beside it");
			return NULL;
		}
	}
	return passphrase_get(&s, fresh, err);
}

/* Locked memory for as many keys as there will be. */
static int
room_make(const struct keydir_info *info, size_t n, struct err *err)
{
	size_t nepochs = 0;

	for (size_t i = 0; i < n; i++)
		nepochs += info[i].nepochs;
	return keys_protect(keybackup_room(n, nepochs), err);
}

static int
entry_open(struct keybackup_entry *e, const struct keyfolder_choice *c, const char *name, struct err *err)
{
	struct keyfolder f;
	int result = -1;

	if (keyfolder_open(&f, c, false, err) == 0) {
		snprintf(e->name, sizeof(e->name), "%s", name);
		e->info = f.info;
		e->keys = f.keys;
		f.keys = NULL;
		result = 0;
	}
	keyfolder_close(&f);
	return result;
}

/* The key directories' infos first, as they say how much memory to lock. */
static int
entries_open(const struct key_backup_options *o, const char *keystore, const char *const *names, size_t n,
             struct keybackup *b, struct err *err)
{
	struct keydir_info *info = calloc(n, sizeof(*info));
	char datadir[PATH_MAX], path[PATH_MAX];
	int result = -1;

	if (info == NULL || (b->entry = calloc(n, sizeof(*b->entry))) == NULL) {
		err_nomem(err);
		goto done;
	}
	for (size_t i = 0; i < n; i++) {
		struct keydir_choice one = {
		    .name = o->datadir == NULL ? names[i] : NULL, .datadir = o->datadir, .config = o->common.config};

		if (keydir_named(&one, path, err) != 0 || keydir_read_info(path, &info[i], err) != 0)
			goto done;
	}
	if (room_make(info, n, err) != 0 || (o->datadir != NULL && path_absolute(datadir, o->datadir, err) != 0))
		goto done;
	for (; b->n < n; b->n++) {
		struct keyfolder_choice c = {.config = o->common.config,
		                             .keystore = keystore,
		                             .name = o->datadir == NULL ? names[b->n] : NULL,
		                             .datadir = o->datadir != NULL ? datadir : NULL,
		                             .kek = o->kek};

		if (entry_open(&b->entry[b->n], &c, names[b->n], err) != 0)
			goto done;
	}
	result = 0;
done:
	free(info);
	return result;
}

static void
entries_print(const struct keybackup *b)
{
	char keys[256], created[sizeof(b->entry->info.epochs->created)];

	for (size_t i = 0; i < b->n; i++) {
		const struct keybackup_entry *e = &b->entry[i];

		keyset_describe(e->keys, keys);
		snprintf(created, sizeof(created), "%s", e->info.epochs[e->info.nepochs - 1].created);
		printf("keyset \"%s\": %s, of %s; system identifier %" PRIu64 "\n", e->name, keys, created,
		       keyset_system_identifier(e->keys));
	}
}

static int
key_backup_run(void *options, const char **args, size_t nargs, struct err *err)
{
	const struct key_backup_options *o = options;
	const char *as = o->as != NULL ? o->as : "datadir";
	const char *const *names = nargs > 1 ? args + 1 : &as;
	struct keystore_names all = {0};
	struct passphrase *p = NULL;
	struct keybackup b = {0};
	const char **list = NULL;
	char keystore[PATH_MAX] = "";
	size_t n = nargs > 1 ? nargs - 1 : 1;
	int lock = -1, result = -1;

	if (o->datadir != NULL ? nargs > 1 : o->as != NULL)
		return err_set(err, ERR_USAGE, "-D DIR --as NAME is instead of keysets of the keystore");
	if (keyset_name_check(as, err) != 0)
		return -1;
	if (access(args[0], F_OK) == 0)
		return err_set(err, ERR_REFUSED, "\"%s\" exists already", args[0]);
	if (o->datadir == NULL &&
	    (keystore_find(o->common.config, keystore, err) != 0 || (lock = keystore_lock(keystore, -1, err)) < 0))
		goto done;
	if (o->datadir == NULL && nargs == 1) {
		if (keystore_names(keystore, &all, err) != 0)
			goto done;
		if ((n = all.n) == 0) {
			err_set(err, ERR_REFUSED, "keystore \"%s\" has no keysets", keystore);
			goto done;
		}
		if ((list = calloc(n, sizeof(*list))) == NULL) {
			err_nomem(err);
			goto done;
		}
		for (size_t i = 0; i < n; i++)
			list[i] = all.name[i];
		names = list;
	}
	if (entries_open(o, keystore, names, n, &b, err) != 0 ||
	    (p = passphrase_ask(o->passphrase_file, o->passphrase_fd, true, err)) == NULL ||
	    keybackup_write(args[0], &b, p, err) != 0)
		goto done;
	entries_print(&b);
	printf("Written to \"%s\", read back and compared. Who has it and the passphrase has the keys: keep them apart.\n",
	       args[0]);
	result = 0;
done:
	passphrase_free(p);
	keybackup_free(&b);
	keystore_names_free(&all);
	free(list);
	if (lock >= 0)
		close(lock);
	return result;
}

const struct command command_key_backup = {
    .name = "key backup",
    .arguments = "FILE [NAME... | -D DIR [--as NAME]] [--kek SOURCE] [--passphrase-file FILE | --passphrase-fd NUMBER]",
    .summary = "write keysets into a file under a passphrase, which opens without the key service",
    .more = "Without NAMEs it is the whole keystore. Make one whenever keysets or epochs were added.",
    .options = key_backup_defs,
    .style = OPTIONS_ALL,
    .min_args = 1,
    .max_args = 256,
    .run = key_backup_run,
    .audit = AUDIT_OR_REFUSE,
};
_Static_assert(sizeof(struct key_backup_options) <= COMMAND_OPTIONS_MAX, "options fit");

struct key_restore_options {
	struct common_options common;
	const char *keystore, *kek, *passphrase_file, *passphrase_fd;
	bool create_kek, list;
};

static const struct option_def key_restore_defs[] = {
    {"keystore", 0, OPTION_TEXT, offsetof(struct key_restore_options, keystore), "FOLDER",
     "where to (default: the configuration's)", 0, 0},
    {"list", 'l', OPTION_FLAG, offsetof(struct key_restore_options, list), NULL, "show what it holds, change nothing",
     0, 0},
    KEK_OPTION(struct key_restore_options, "the configuration's for each keyset"),
    {"create-kek", 0, OPTION_FLAG, offsetof(struct key_restore_options, create_kek), NULL,
     "make the cluster key if its provider can and has none yet", 0, 0},
    PASSPHRASE_OPTIONS(struct key_restore_options),
    COMMON_OPTIONS,
    OPTIONS_END};

static bool
is_meant(const char *name, const char *const *names, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (strcmp(name, names[i]) == 0)
			return true;
	return n == 0;
}

/* Nothing there may be lost: the keystore is empty, or has none of the named ones. */
static int
check_free(const struct keybackup *b, const char *keystore, const char *const *names, size_t n, struct err *err)
{
	struct keystore_names there;
	char path[PATH_MAX];
	int result = keystore_names(keystore, &there, err);

	for (size_t i = 0; result == 0 && i < n; i++) {
		size_t j = 0;

		while (j < b->n && strcmp(b->entry[j].name, names[i]) != 0)
			j++;
		if (j == b->n) {
			err_set(err, ERR_USAGE, "the backup has no keyset \"%.63s\"", names[i]);
			result = err_hint(err, "walcrypt-ctl key restore FILE --list shows what it has.");
		}
	}
	for (size_t i = 0; result == 0 && i < b->n; i++)
		if (is_meant(b->entry[i].name, names, n) &&
		    (result = path_format(path, err, "%s/%s", keystore, b->entry[i].name)) == 0 && access(path, F_OK) == 0) {
			err_set(err, ERR_REFUSED, "keyset \"%s\" exists already in \"%s\"", b->entry[i].name, keystore);
			result = err_hint(
			    err, "Nothing is overwritten: restore into an empty keystore, or name the keysets that are missing.");
		}
	if (result == 0 && n == 0 && there.n > 0) {
		err_set(err, ERR_REFUSED, "keystore \"%s\" is not empty: it has keyset \"%s\"", keystore, there.name[0]);
		result = err_hint(err, "Name the keysets to restore beside it: walcrypt-ctl key restore FILE NAME...");
	}
	keystore_names_free(&there);
	return result;
}

/* One keyset under its cluster key of today. */
static int
entry_restore(const struct key_restore_options *o, const struct keybackup_entry *e, const char *keystore,
              struct err *err)
{
	struct source source;
	char path[PATH_MAX], new[PATH_MAX];
	struct kek *kek = NULL;
	int result = -1;

	if (source_find(&source, o->common.config, o->kek, NULL, e->name, err) != 0)
		return -1;
	if (path_format(path, err, "%s/%s", keystore, e->name) == 0 && path_format(new, err, "%s/new", path) == 0 &&
	    (kek = source_prepare_new(&source, new, o->create_kek, err)) != NULL &&
	    keydir_create_again(path, e->keys, &e->info, kek, source.reference, err) == 0) {
		printf("Restored keyset \"%s\", under the cluster key of %s.\n", e->name, source.reference);
		result = 0;
	}
	kek_free(kek);
	source_free(&source);
	return result == 0 ? 0 : err_context(err, "keyset \"%s\"", e->name);
}

static int
key_restore_run(void *options, const char **args, size_t nargs, struct err *err)
{
	const struct key_restore_options *o = options;
	const char *const *names = args + 1;
	char keystore[PATH_MAX];
	struct passphrase *p = NULL;
	struct keybackup b = {0};
	size_t done = 0;
	int lock = -1, result = -1;

	/* what it holds is not known before it is open: room for hundreds of keysets */
	if (keys_protect(keybackup_room(256, 4096), err) != 0 ||
	    (p = passphrase_ask(o->passphrase_file, o->passphrase_fd, false, err)) == NULL ||
	    keybackup_read(args[0], p, &b, err) != 0)
		goto done;
	if (o->list) {
		entries_print(&b);
		result = 0;
		goto done;
	}
	if ((o->keystore != NULL ? path_absolute(keystore, o->keystore, err)
	                         : keystore_find(o->common.config, keystore, err)) != 0 ||
	    (lock = keystore_lock(keystore, -1, err)) < 0 || check_free(&b, keystore, names, nargs - 1, err) != 0)
		goto done;
	for (size_t i = 0; i < b.n; i++) {
		if (!is_meant(b.entry[i].name, names, nargs - 1))
			continue;
		if (entry_restore(o, &b.entry[i], keystore, err) != 0) {
			if (done > 0) {
				err->class = ERR_MIDWAY;
				err_hint(err, "%zu keysets are restored; name those that are missing.", done);
			}
			goto done;
		}
		done++;
	}
	printf("Data directories keep their key directories: walcrypt-ctl key sync -D DIR gives them this cluster key.\n");
	result = 0;
done:
	passphrase_free(p);
	keybackup_free(&b);
	if (lock >= 0)
		close(lock);
	return result;
}

const struct command command_key_restore = {
    .name = "key restore",
    .arguments = "FILE [NAME...] [--list] [--keystore FOLDER] [--kek SOURCE] [--create-kek] [--passphrase-file FILE | "
                 "--passphrase-fd NUMBER]",
    .summary = "put keysets of a backup into an empty keystore, under the cluster key of today",
    .more = "It needs nothing of what was there before: neither the key service nor the configuration.",
    .options = key_restore_defs,
    .style = OPTIONS_ALL,
    .min_args = 1,
    .max_args = 256,
    .run = key_restore_run,
    .audit = AUDIT_OR_REFUSE,
    .makes_keysets = true,
    .keystore = offsetof(struct key_restore_options, keystore),
};
_Static_assert(sizeof(struct key_restore_options) <= COMMAND_OPTIONS_MAX, "options fit");
