/* provider_file: the cluster key in a file: 64 hex digits, readable by nobody else. For tests, small sites, and mounted
 * secrets. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/durable.h"
#include "common/fileio.h"
#include "common/folder.h"
#include "common/hex.h"
#include "common/path.h"
#include "keymgr/provider_scheme.h"
#include "keymgr/secretfile.h"
#include "walcrypt/secmem.h"

#define FILE_TEXT_MAX 256

static int
file_fetch(const char *path, const struct kek_conf *conf, struct kek *kek, struct err *err)
{
	char *text = secmem_alloc(FILE_TEXT_MAX, err), what[300];
	int result = -1;
	size_t len;

	(void)conf; /* a file needs no deadline */
	snprintf(what, sizeof(what), "cluster key file \"%s\"", path);
	if (text != NULL && secretfile_read(path, "cluster key file", text, FILE_TEXT_MAX, &len, err) == 0)
		result = provider_parse_key(text, len, false, what, kek, err);
	else if (text != NULL && err->os_errno == ENOENT)
		err_hint(err,
		         "If it is lost, put its copy back; without one, keys of a walcrypt-ctl key backup open without it.");
	secmem_free(text);
	return result;
}

static int
file_create(const char *path, const struct kek_conf *conf, const struct kek *kek, struct err *err)
{
	char *text = secmem_alloc(2 * KEK_LEN + 1, err);
	int result;

	(void)conf;
	if (text == NULL)
		return -1;
	hex_encode(kek->key, KEK_LEN, text);
	text[2 * KEK_LEN] = '\n';
	result = durable_create(path, text, 2 * KEK_LEN + 1, 0600, err);
	if (result != 0 && err->os_errno == EEXIST) {
		err_set(err, ERR_REFUSED, "cluster key file \"%s\" exists already", path);
		err_hint(err, "To use the key in it, leave --create-kek away.");
	}
	secmem_free(text);
	return result;
}

/* Is there a key in it? Whoever may read it otherwise. */
static bool
holds_key(int fd, struct err *err)
{
	char *text = secmem_alloc(FILE_TEXT_MAX, err);
	struct kek *kek = text != NULL ? secmem_alloc(sizeof(*kek), err) : NULL;
	ssize_t n = kek != NULL ? fileio_read(fd, text, FILE_TEXT_MAX) : -1;
	bool result = n > 0 && n < FILE_TEXT_MAX && provider_parse_key(text, (size_t)n, false, "it", kek, err) == 0;

	kek_free(kek);
	secmem_free(text);
	return result;
}

/* The key files beside PATH. */
static int
file_list(const char *path, const struct kek_conf *conf, kek_listed *each, void *arg, struct err *err)
{
	char folder[PATH_MAX], file[PATH_MAX];
	struct err ignored;
	struct folder f;
	const char *name;

	(void)conf;
	if (path_absolute(folder, path, err) != 0)
		return -1;
	*(strrchr(folder, '/') + 1) = '\0';
	if (folder_open(&f, "directory", folder, err) != 0)
		return -1;
	while ((name = folder_next(&f)) != NULL) {
		struct stat st;
		int fd = path_format(file, &ignored, "%s%s", folder, name) == 0
		             ? open(file, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY)
		             : -1;

		if (fd >= 0 && fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && holds_key(fd, &ignored))
			each(arg, file, "",
			     secretfile_check(file, "cluster key file", fd, &ignored) == 0 ? "" : "refused: for its owner or mode");
		if (fd >= 0)
			close(fd);
	}
	return folder_close(&f, 0, err);
}

static int
file_destroy(const char *path, const struct kek_conf *conf, const char *version, struct err *err)
{
	char folder[PATH_MAX];

	(void)conf;
	(void)version;
	if (path_absolute(folder, path, err) != 0)
		return -1;
	if (unlink(path) != 0)
		return err_os(err, errno, "could not remove cluster key file \"%s\"", path);
	*strrchr(folder, '/') = '\0';
	return durable_fsync_dir(folder[0] != '\0' ? folder : "/", err);
}

const struct provider_scheme provider_file = {
    .name = "file", .fetch = file_fetch, .create = file_create, .list = file_list, .destroy = file_destroy};
