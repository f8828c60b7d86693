/* keydir_change: what writes a key directory: made, replaced, wrapped anew, repaired. keydir.h has the contracts. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "common/durable.h"
#include "common/folder.h"
#include "common/path.h"
#include "keymgr/keydir.h"
#include "keymgr/keydir_files.h"
#include "keymgr/keydir_places.h"
#include "keymgr/keydir_set.h"
#include "walcrypt/secmem.h"

static bool
same_key(const struct data_key *a, const struct data_key *b)
{
	return a->len == b->len && secmem_equal(a->bytes, b->bytes, sizeof(a->bytes));
}

static bool
same_keyset(const struct keyset *a, const struct keyset *b)
{
	if (keyset_method(a) != keyset_method(b) || keyset_system_identifier(a) != keyset_system_identifier(b) ||
	    keyset_nepochs(a) != keyset_nepochs(b) || !same_key(keyset_relation(a), keyset_relation(b)))
		return false;
	for (size_t i = 0; i < keyset_nepochs(a); i++) {
		const struct keyset_epoch *x = keyset_epoch_at(a, i), *y = keyset_epoch_at(b, i);

		if (x->number != y->number || x->after_timeline != y->after_timeline || !same_key(&x->key, &y->key))
			return false;
	}
	return true;
}

/* Make new/, write the set into it, and read it back: what does not open must not become live. */
static int
new_make(const struct keydir_places *p, const struct keyset *ks, const struct kek *kek, const char *reference,
         const struct keydir_info *earlier, const struct keydir_files *earlier_files, struct err *err)
{
	struct keydir_files files;
	struct keyset *again;
	int result = -1;

	if ((!p->has_new && durable_mkdir(p->new, 0700, err) != 0) ||
	    keydir_set_write(p->new, ks, kek, reference, earlier, earlier_files, err) != 0 ||
	    keydir_files_load(p->new, &files, err) != 0)
		return -1;
	if ((again = keydir_set_open(p->new, &files, kek, err)) != NULL)
		result =
		    same_keyset(ks, again) ? 0 : err_set(err, ERR_FAILED, "keys in \"%s\" are not those just written", p->new);
	keyset_free(again);
	keydir_files_free(&files);
	return result;
}

/* Nothing in path but perhaps new/, and in that no keys: a key command may have left a file of its own in it (%d). */
static int
check_empty(const char *path, const struct keydir_places *p, struct err *err)
{
	struct keydir_files files = {0};
	struct folder f;
	const char *name;
	bool empty = true;

	if (folder_open(&f, "directory", path, err) != 0)
		return -1;
	while ((name = folder_next(&f)) != NULL)
		if (strcmp(name, "new") != 0)
			empty = false;
	if (folder_close(&f, 0, err) != 0)
		return -1;
	if (p->has_new && keydir_files_load(p->new, &files, err) != 0)
		return -1;
	for (size_t i = 0; i < files.n; i++)
		if (strstr(files.file[i].name, ".wkey") != NULL || strcmp(files.file[i].name, KEYDIR_JSON) == 0)
			empty = false;
	keydir_files_free(&files);
	if (empty)
		return 0;
	err_set(err, ERR_REFUSED, "key directory \"%s\" exists already and is not empty", path);
	return p->has_live
	           ? -1
	           : err_hint(err, "If it was never finished, clear it: walcrypt-ctl key repair --key-dir %s", path);
}

int
keydir_prepare(const char *path, struct err *err)
{
	struct keydir_places p;
	int fd, result = -1;

	if (!keydir_is_folder(path) && durable_mkdir(path, 0700, err) != 0)
		return -1;
	if ((fd = keydir_lock(path, LOCK_EX, err)) < 0)
		return -1;
	if (keydir_places_look(&p, path, err) != 0)
		goto done;
	if (p.has_live || p.has_old)
		err_set(err, ERR_REFUSED, "key directory \"%s\" exists already", path);
	else if (!p.has_new || durable_remove_dir(p.new, err) == 0)
		result = durable_mkdir(p.new, 0700, err);
done:
	close(fd);
	return result;
}

void
keydir_abandon(const char *path)
{
	struct keydir_places p;
	struct err ignored;

	if (keydir_places_look(&p, path, &ignored) == 0 && !p.has_live && !p.has_old)
		durable_remove_dir(p.new, &ignored);
	rmdir(path);
}

int
keydir_create(const char *path, const struct keyset *ks, const struct kek *kek, const char *reference, struct err *err)
{
	return keydir_create_again(path, ks, NULL, kek, reference, err);
}

int
keydir_create_again(const char *path, const struct keyset *ks, const struct keydir_info *earlier, const struct kek *kek,
                    const char *reference, struct err *err)
{
	struct keydir_places p;
	struct err ignored;
	int fd = -1;

	if (keydir_places_look(&p, path, err) != 0)
		return -1;
	if (!keydir_is_folder(path) && durable_mkdir(path, 0700, err) != 0)
		return -1;
	if ((fd = keydir_lock(path, LOCK_EX, err)) < 0)
		return -1;
	if (keydir_places_look(&p, path, err) != 0 || check_empty(path, &p, err) != 0)
		goto fail;
	if (new_make(&p, ks, kek, reference, earlier, NULL, err) != 0 || durable_rename(p.new, p.live, err) != 0) {
		durable_remove_dir(p.new, &ignored);
		goto fail;
	}
	close(fd);
	return 0;
fail:
	close(fd);
	return -1;
}

/* live/ is settled and locked, files are its: new/ is written and opened, and takes its place. */
static int
swap(const char *path, const struct keydir_places *p, const struct keydir_files *files, const struct keyset *ks,
     const struct kek *kek, const char *reference, struct err *err)
{
	struct keydir_info info;
	struct err ignored;

	if (keydir_set_info(p->live, files, &info, err) != 0)
		return -1;
	if (new_make(p, ks, kek, reference, &info, files, err) != 0) {
		durable_remove_dir(p->new, &ignored);
		return -1;
	}
	/* from here on keydir_repair finishes: CFE's states */
	if (durable_rename(p->live, p->old, err) == 0 && durable_rename(p->new, p->live, err) == 0 &&
	    durable_remove_dir(p->old, err) == 0)
		return 0;
	err->class = ERR_MIDWAY;
	return err_hint(err, "Finish or undo the change: walcrypt-ctl key repair --key-dir %s", path);
}

int
keydir_replace(const char *path, const struct keyset *ks, const struct kek *kek, const char *reference, struct err *err)
{
	struct keydir_files files;
	struct keydir_places p;
	const char *folder;
	int fd, result;

	if ((fd = keydir_lock_load(path, LOCK_EX, &p, &folder, &files, err)) < 0)
		return -1;
	if ((result = keydir_check_settled(path, &p, err)) == 0)
		result = swap(path, &p, &files, ks, kek, reference, err);
	keydir_files_free(&files);
	close(fd);
	return result;
}

int
keydir_rewrap_begin(const char *path, bool make_new, struct keydir_rewrap *r, struct err *err)
{
	struct keydir_places p;

	if (path_format(r->path, err, "%s", path) != 0 || path_format(r->new, err, "%s/new", path) != 0 ||
	    (r->lock = keydir_lock(path, LOCK_EX, err)) < 0)
		return -1;
	r->made_new = false;
	if (keydir_places_look(&p, path, err) != 0 || keydir_check_settled(path, &p, err) != 0 ||
	    (make_new && durable_mkdir(r->new, 0700, err) != 0)) {
		close(r->lock);
		return -1;
	}
	r->made_new = make_new;
	return 0;
}

void
keydir_rewrap_end(struct keydir_rewrap *r)
{
	struct err ignored;

	if (r->made_new)
		durable_remove_dir(r->new, &ignored);
	close(r->lock);
}

struct keyset *
keydir_rewrap_read(struct keydir_rewrap *r, const struct kek *kek, struct err *err)
{
	struct keydir_files files;
	struct keydir_places p;
	struct keyset *ks;

	if (keydir_places_look(&p, r->path, err) != 0 || keydir_files_load(p.live, &files, err) != 0)
		return NULL;
	ks = keydir_set_open(p.live, &files, kek, err);
	keydir_files_free(&files);
	return ks;
}

int
keydir_rewrap_write(struct keydir_rewrap *r, const struct keyset *ks, const struct kek *new_kek, const char *reference,
                    struct err *err)
{
	struct keydir_files files;
	struct keydir_places p;
	int result;

	if (keydir_places_look(&p, r->path, err) != 0 || keydir_files_load(p.live, &files, err) != 0)
		return -1;
	/* once new/ has become live/ nobody may take it away */
	r->made_new = false;
	result = swap(r->path, &p, &files, ks, new_kek, reference, err);
	keydir_files_free(&files);
	return result;
}

int
keydir_rewrap(struct keydir_rewrap *r, const struct kek *kek, const struct kek *new_kek, const char *reference,
              struct err *err)
{
	struct keyset *ks = keydir_rewrap_read(r, kek, err);
	int result = ks != NULL ? keydir_rewrap_write(r, ks, new_kek, reference, err) : -1;

	keyset_free(ks);
	return result;
}

int
keydir_repair(const char *path, const char **did, struct err *err)
{
	struct keydir_places p;
	int fd, result = 0;

	if ((fd = keydir_lock(path, LOCK_EX, err)) < 0)
		return -1;
	if (keydir_places_look(&p, path, err) != 0) {
		close(fd);
		return -1;
	}
	if (p.has_live && p.has_new && !p.has_old) {
		*did = "the new keys were not in force yet: removed them, the keys are as before the change";
		result = durable_remove_dir(p.new, err);
	} else if (!p.has_live && p.has_new && p.has_old && keydir_looks_whole(p.new)) {
		*did = "the new keys were complete: put them in force and removed the old ones";
		result = durable_rename(p.new, p.live, err) != 0 || durable_remove_dir(p.old, err) != 0 ? -1 : 0;
	} else if (!p.has_live && p.has_new && p.has_old && keydir_looks_whole(p.old)) {
		*did = "the new keys are incomplete: put the old ones back in force";
		result = durable_rename(p.old, p.live, err) != 0 || durable_remove_dir(p.new, err) != 0 ? -1 : 0;
	} else if (p.has_live && !p.has_new && p.has_old) {
		*did = "the new keys are in force: removed the old ones";
		result = durable_remove_dir(p.old, err);
	} else if (!p.has_live && p.has_new && !p.has_old) {
		*did = "the key directory was never finished: removed what there was";
		result = durable_remove_dir(p.new, err);
	} else if (p.has_live && !p.has_new && !p.has_old)
		*did = "nothing to do";
	else {
		err_set(err, ERR_REFUSED, "key directory \"%s\" is in a state that no cut-off change leaves behind", path);
		err_detail(err, "live/ is %s, new/ is %s, old/ is %s.", p.has_live ? "there" : "missing",
		           p.has_new ? "there" : "missing", p.has_old ? "there" : "missing");
		result = err_hint(err, "Nothing was changed. Restore the key directory from a copy.");
	}
	close(fd);
	return result;
}
