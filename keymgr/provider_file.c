/* provider_file: the cluster key in a file: 64 hex digits, readable by nobody else. For tests, small sites, and mounted
 * secrets. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/durable.h"
#include "keymgr/provider_scheme.h"
#include "walcrypt/secmem.h"

#define FILE_TEXT_MAX 256

/* As libpq does with private keys: 0600 or stricter, and 0640 where root owns it and gives it to a group. */
static int
check_mode(const char *path, const struct stat *st, struct err *err)
{
	mode_t forbidden = st->st_uid == 0 ? S_IWGRP | S_IXGRP | S_IRWXO : S_IRWXG | S_IRWXO;

	if (!S_ISREG(st->st_mode))
		return err_set(err, ERR_REFUSED, "cluster key file \"%s\" is not a regular file", path);
	if (st->st_uid != 0 && st->st_uid != geteuid()) {
		err_set(err, ERR_REFUSED, "cluster key file \"%s\" belongs to another user", path);
		return err_hint(err, "It must be owned by root or by the user that runs this program.");
	}
	if ((st->st_mode & forbidden) != 0) {
		err_set(err, ERR_REFUSED, "cluster key file \"%s\" has mode %04o: others may read or write it", path,
		        (unsigned)st->st_mode & 07777);
		return err_hint(err, "It must be 0600 or stricter (0640 if root owns it): chmod 0600 %s", path);
	}
	return 0;
}

static int
file_fetch(const char *path, const struct kek_conf *conf, struct kek *kek, struct err *err)
{
	char what[300], *text = NULL;
	struct stat st;
	size_t len = 0;
	ssize_t n;
	int fd, result = -1;

	(void)conf; /* a file needs no deadline */
	if ((fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK)) < 0) {
		err_os(err, errno, "could not open cluster key file \"%s\"", path);
		err->class = ERR_UNREACHABLE;
		return -1;
	}
	if (fstat(fd, &st) != 0) {
		err_os(err, errno, "could not stat cluster key file \"%s\"", path);
		goto done;
	}
	if (check_mode(path, &st, err) != 0 || (text = secmem_alloc(FILE_TEXT_MAX, err)) == NULL)
		goto done;
	while (len < FILE_TEXT_MAX && (n = read(fd, text + len, FILE_TEXT_MAX - len)) != 0) {
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0) {
			err_os(err, errno, "could not read cluster key file \"%s\"", path);
			goto done;
		}
		len += (size_t)n;
	}
	snprintf(what, sizeof(what), "cluster key file \"%s\"", path);
	result = provider_parse_key(text, len, false, what, kek, err);
done:
	secmem_free(text);
	close(fd);
	return result;
}

static int
file_create(const char *path, const struct kek_conf *conf, const struct kek *kek, struct err *err)
{
	static const char digits[] = "0123456789abcdef";
	char *text = secmem_alloc(2 * KEK_LEN + 1, err);
	int result;

	(void)conf;
	if (text == NULL)
		return -1;
	for (size_t i = 0; i < KEK_LEN; i++) {
		text[2 * i] = digits[kek->key[i] >> 4];
		text[2 * i + 1] = digits[kek->key[i] & 15];
	}
	text[2 * KEK_LEN] = '\n';
	result = durable_create(path, text, 2 * KEK_LEN + 1, 0600, err);
	if (result != 0 && err->os_errno == EEXIST) {
		err_set(err, ERR_REFUSED, "cluster key file \"%s\" exists already", path);
		err_hint(err, "To use the key in it, leave --create-kek away.");
	}
	secmem_free(text);
	return result;
}

const struct provider_scheme provider_file = {"file", NULL, file_fetch, file_create};
