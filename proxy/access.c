#include "proxy/access.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/durable.h"
#include "common/fileio.h"
#include "walcrypt/random.h"
#include "walcrypt/secmem.h"

int
access_check_file(int fd, const char *what, const char *path, struct err *err)
{
	struct stat st;

	if (fstat(fd, &st) != 0)
		return err_os(err, errno, "could not look at %s \"%s\"", what, path);
	if (!S_ISREG(st.st_mode) || (st.st_uid != geteuid() && st.st_uid != 0))
		return err_set(err, ERR_REFUSED, "%s \"%s\" is not a plain file of this user or of root", what, path);
	if ((st.st_mode & (st.st_uid == geteuid() ? 077u : 027u)) != 0) {
		err_set(err, ERR_REFUSED, "%s \"%s\" is open to others: mode %04o", what, path, (unsigned)st.st_mode & 07777);
		return err_hint(err, "It is to have mode 0600, or, when root owns it, 0640.");
	}
	return 0;
}

static int
load_users(const struct settings *settings, struct userlist **users, struct err *err)
{
	const char *path = settings->auth_file;
	int fd = open(path, O_RDONLY | O_CLOEXEC), rc = -1;
	char *text = NULL;
	ssize_t n;

	if (fd < 0)
		return err_os(err, errno, "could not open auth_file \"%s\"", path);
	if (access_check_file(fd, "auth_file", path, err) != 0)
		goto out;
	if ((text = malloc(USERLIST_FILE_MAX + 1)) == NULL) {
		err_nomem(err);
		goto out;
	}
	if ((n = fileio_read(fd, text, USERLIST_FILE_MAX + 1)) < 0)
		err_os(err, errno, "could not read auth_file \"%s\"", path);
	else if ((size_t)n > USERLIST_FILE_MAX)
		err_set(err, ERR_USAGE, "auth_file \"%s\" is larger than %u bytes", path, USERLIST_FILE_MAX);
	else if ((*users = userlist_parse(path, text, (size_t)n, err)) != NULL)
		rc = 0;
	if (n > 0)
		secmem_wipe(text, (size_t)n);
out:
	free(text);
	close(fd);
	return rc;
}

int
access_load(const struct settings *settings, struct tls **tls, struct userlist **users, struct err *err)
{
	*tls = NULL;
	*users = NULL;
	if (settings->tls != SETTINGS_TLS_DISABLE && (*tls = tls_new(settings, err)) == NULL)
		return -1;
	return settings->auth == SETTINGS_SCRAM && settings->auth_file != NULL ? load_users(settings, users, err) : 0;
}

int
access_mock(const struct settings *settings, uint8_t out[static VERIFIER_SECRET_LEN], struct err *err)
{
	char path[PATH_MAX];
	uint8_t *data;
	size_t len = 0;

	if (settings->auth != SETTINGS_SCRAM)
		return 0;
	snprintf(path, sizeof(path), "%s/mock", settings->keystore);
	if (access(path, F_OK) != 0) {
		if (random_bytes(out, VERIFIER_SECRET_LEN, err) != 0)
			return -1;
		/* another proxy may have been quicker: what it wrote counts */
		if (durable_create(path, out, VERIFIER_SECRET_LEN, 0600, err) != 0 && err->os_errno != EEXIST)
			return -1;
	}
	if ((data = durable_read(path, VERIFIER_SECRET_LEN, &len, err)) == NULL)
		return -1;
	if (len == VERIFIER_SECRET_LEN)
		memcpy(out, data, len);
	else
		err_set(err, ERR_DAMAGED, "file \"%s\" does not have %d bytes", path, VERIFIER_SECRET_LEN);
	secmem_wipe(data, len);
	free(data);
	if (len == VERIFIER_SECRET_LEN)
		return 0;
	return err_hint(err, "Remove it: the proxy makes another one.");
}
