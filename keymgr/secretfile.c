#include "keymgr/secretfile.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/fileio.h"
#include "walcrypt/secmem.h"

int
secretfile_check(const char *path, const char *what, int fd, struct err *err)
{
	mode_t forbidden;
	struct stat st;

	if (fstat(fd, &st) != 0)
		return err_os(err, errno, "could not stat %s \"%s\"", what, path);
	forbidden = !S_ISREG(st.st_mode) ? 0 : st.st_uid == 0 ? S_IWGRP | S_IXGRP | S_IRWXO : S_IRWXG | S_IRWXO;
	if (st.st_uid != 0 && st.st_uid != geteuid()) {
		err_set(err, ERR_REFUSED, "%s \"%s\" belongs to another user", what, path);
		return err_hint(err, "It must be owned by root or by the user that runs this program.");
	}
	if ((st.st_mode & forbidden) != 0) {
		err_set(err, ERR_REFUSED, "%s \"%s\" has mode %04o: others may read or write it", what, path,
		        (unsigned)st.st_mode & 07777);
		return err_hint(err, "It must be 0600 or stricter (0640 if root owns it): chmod 0600 %s", path);
	}
	return 0;
}

int
secretfile_read(const char *path, const char *what, char *text, size_t room, size_t *len, struct err *err)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK), result = -1;
	struct stat st;
	ssize_t n;

	if (fd < 0) {
		err_os(err, errno, "could not open %s \"%s\"", what, path);
		err->class = ERR_UNREACHABLE;
		return -1;
	}
	if (secretfile_check(path, what, fd, err) != 0)
		;
	else if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode))
		err_set(err, ERR_REFUSED, "%s \"%s\" is not a regular file", what, path);
	else if ((n = fileio_read(fd, text, room)) < 0)
		err_os(err, errno, "could not read %s \"%s\"", what, path);
	else if ((size_t)n == room)
		err_set(err, ERR_FAILED, "%s \"%s\" holds more than %zu bytes", what, path, room - 1);
	else {
		text[n] = '\0';
		*len = (size_t)n;
		result = 0;
	}
	close(fd);
	if (result != 0)
		secmem_wipe(text, room);
	return result;
}

int
secretfile_line(const char *path, const char *what, char *text, size_t room, struct err *err)
{
	size_t len;

	if (secretfile_read(path, what, text, room, &len, err) != 0)
		return -1;
	if (len > 0 && text[len - 1] == '\n')
		text[--len] = '\0';
	if (len > 0 && text[len - 1] == '\r')
		text[--len] = '\0';
	if (len > 0 && strlen(text) == len && strchr(text, '\n') == NULL)
		return 0;
	secmem_wipe(text, room);
	return err_set(err, ERR_FAILED, "%s \"%s\" does not hold one line", what, path);
}
