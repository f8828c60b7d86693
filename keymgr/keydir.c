#include "keymgr/keydir.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "common/durable.h"
#include "keymgr/keydir_files.h"
#include "keymgr/keydir_set.h"
#include "walcrypt/secmem.h"

#define LOCK_PATIENCE_MS 10000

/* The three folders, and which of them are there. */
struct places {
	char live[PATH_MAX], new[PATH_MAX], old[PATH_MAX];
	bool has_live, has_new, has_old;
};

static bool
is_folder(const char *path)
{
	struct stat st;

	return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

static int
places_look(struct places *p, const char *path, struct err *err)
{
	if (strlen(path) > PATH_MAX - 64)
		return err_os(err, ENAMETOOLONG, "could not use key directory \"%s\"", path);
	snprintf(p->live, sizeof(p->live), "%s/live", path);
	snprintf(p->new, sizeof(p->new), "%s/new", path);
	snprintf(p->old, sizeof(p->old), "%s/old", path);
	p->has_live = is_folder(p->live);
	p->has_new = is_folder(p->new);
	p->has_old = is_folder(p->old);
	return 0;
}

/* A kernel lock on the folder itself: it leaves no file behind, and a process that dies lets it go. -1: not to be had.
 */
static int
lock(const char *path, int how, struct err *err)
{
	int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (fd < 0)
		return err_os(err, errno, "could not open key directory \"%s\"", path);
	for (int waited = 0; flock(fd, how | LOCK_NB) != 0; waited += 20) {
		if (errno != EWOULDBLOCK && errno != EINTR) {
			err_os(err, errno, "could not lock key directory \"%s\"", path);
			close(fd);
			return -1;
		}
		if (waited >= LOCK_PATIENCE_MS) {
			close(fd);
			err_set(err, ERR_REFUSED, "key directory \"%s\" is being changed by another process", path);
			return err_hint(err, "Wait until it is done.");
		}
		nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL);
	}
	return fd;
}

/* Only live/ may be there. */
static int
check_settled(const char *path, const struct places *p, struct err *err)
{
	if (p->has_new || p->has_old) {
		err_set(err, ERR_REFUSED, "a change of the keys in \"%s\" was cut off", path);
		return err_hint(err, "Finish or undo it: walcrypt-ctl key repair --key-dir %s", path);
	}
	if (!p->has_live) {
		err_set(err, ERR_FAILED, "there is no key directory \"%s\"", p->live);
		err->os_errno = ENOENT;
		return -1;
	}
	return 0;
}

/* Lock, look, load live/; the lock's descriptor, to be closed, or -1. */
static int
settled_load(const char *path, int how, struct places *p, struct keydir_files *files, struct err *err)
{
	int fd;

	if (places_look(p, path, err) != 0)
		return -1;
	if (!p->has_live && !p->has_new && !p->has_old)
		return check_settled(path, p, err);
	if ((fd = lock(path, how, err)) < 0)
		return -1;
	/* what it looked like before we had the lock does not count */
	if (places_look(p, path, err) != 0 || check_settled(path, p, err) != 0 ||
	    keydir_files_load(p->live, files, err) != 0) {
		close(fd);
		return -1;
	}
	return fd;
}

bool
keydir_exists(const char *path)
{
	struct places p;
	struct err ignored;

	return places_look(&p, path, &ignored) == 0 && p.has_live;
}

int
keydir_read_info(const char *path, struct keydir_info *info, struct err *err)
{
	struct keydir_files files;
	struct places p;
	int fd, result;

	if ((fd = settled_load(path, LOCK_SH, &p, &files, err)) < 0)
		return -1;
	result = keydir_set_info(p.live, &files, info, err);
	keydir_files_free(&files);
	close(fd);
	return result;
}

struct keyset *
keydir_open(const char *path, const struct kek *kek, struct err *err)
{
	struct keydir_files files;
	struct places p;
	struct keyset *ks;
	int fd;

	if ((fd = settled_load(path, LOCK_SH, &p, &files, err)) < 0)
		return NULL;
	ks = keydir_set_open(p.live, &files, kek, err);
	keydir_files_free(&files);
	close(fd);
	return ks;
}

int
keydir_load_files(const char *path, struct keydir_files *files, struct err *err)
{
	struct keydir_info info;
	struct places p;
	int fd;

	memset(files, 0, sizeof(*files));
	if ((fd = settled_load(path, LOCK_SH, &p, files, err)) < 0)
		return -1;
	close(fd);
	/* a base backup must not carry half a set */
	if (keydir_set_info(p.live, files, &info, err) != 0) {
		keydir_files_free(files);
		return -1;
	}
	return 0;
}

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
new_make(const struct places *p, const struct keyset *ks, const struct kek *kek, const char *reference,
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
check_empty(const char *path, const struct places *p, struct err *err)
{
	struct keydir_files files = {0};
	DIR *dir = opendir(path);
	struct dirent *entry;
	bool empty = true;

	if (dir == NULL)
		return err_os(err, errno, "could not open directory \"%s\"", path);
	while ((entry = readdir(dir)) != NULL)
		if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0 && strcmp(entry->d_name, "new") != 0)
			empty = false;
	closedir(dir);
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
keydir_create(const char *path, const struct keyset *ks, const struct kek *kek, const char *reference, struct err *err)
{
	struct places p;
	struct err ignored;
	int fd = -1;

	if (places_look(&p, path, err) != 0)
		return -1;
	if (!is_folder(path) && durable_mkdir(path, 0700, err) != 0)
		return -1;
	if ((fd = lock(path, LOCK_EX, err)) < 0)
		return -1;
	if (places_look(&p, path, err) != 0 || check_empty(path, &p, err) != 0)
		goto fail;
	if (new_make(&p, ks, kek, reference, NULL, NULL, err) != 0 || durable_rename(p.new, p.live, err) != 0) {
		durable_remove_dir(p.new, &ignored);
		goto fail;
	}
	close(fd);
	return 0;
fail:
	close(fd);
	return -1;
}

int
keydir_replace(const char *path, const struct keyset *ks, const struct kek *kek, const char *reference, struct err *err)
{
	struct keydir_files files;
	struct keydir_info info;
	struct places p;
	struct err ignored;
	int fd, result = -1;

	if ((fd = settled_load(path, LOCK_EX, &p, &files, err)) < 0)
		return -1;
	if (keydir_set_info(p.live, &files, &info, err) != 0)
		goto done;
	if (new_make(&p, ks, kek, reference, &info, &files, err) != 0) {
		durable_remove_dir(p.new, &ignored);
		goto done;
	}
	/* from here on keydir_repair finishes: CFE's states */
	if (durable_rename(p.live, p.old, err) != 0 || durable_rename(p.new, p.live, err) != 0 ||
	    durable_remove_dir(p.old, err) != 0) {
		err->class = ERR_MIDWAY;
		err_hint(err, "Finish or undo the change: walcrypt-ctl key repair --key-dir %s", path);
		goto done;
	}
	result = 0;
done:
	keydir_files_free(&files);
	close(fd);
	return result;
}

/* Is the set in this folder whole, as far as one can see without the cluster key? */
static bool
looks_whole(const char *folder)
{
	struct keydir_files files;
	struct keydir_info info;
	struct err ignored;
	bool whole;

	if (keydir_files_load(folder, &files, &ignored) != 0)
		return false;
	whole = keydir_set_info(folder, &files, &info, &ignored) == 0;
	keydir_files_free(&files);
	return whole;
}

int
keydir_repair(const char *path, const char **did, struct err *err)
{
	struct places p;
	int fd, result = 0;

	if ((fd = lock(path, LOCK_EX, err)) < 0)
		return -1;
	if (places_look(&p, path, err) != 0) {
		close(fd);
		return -1;
	}
	if (p.has_live && p.has_new && !p.has_old) {
		*did = "the new keys were not in force yet: removed them, the keys are as before the change";
		result = durable_remove_dir(p.new, err);
	} else if (!p.has_live && p.has_new && p.has_old && looks_whole(p.new)) {
		/* new/ was written, fsynced and opened before live/ went away */
		*did = "the new keys were complete: put them in force and removed the old ones";
		result = durable_rename(p.new, p.live, err) != 0 || durable_remove_dir(p.old, err) != 0 ? -1 : 0;
	} else if (!p.has_live && p.has_new && p.has_old && looks_whole(p.old)) {
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
