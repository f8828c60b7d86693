/* Old files that become new ones: which is taken, and that nobody else's is written over. */
#include "ctl/reencrypt_spare.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "common/fileio.h"
#include "tests/unit/tap.h"

static char dir[] = "/tmp/spare_testXXXXXX";

/* Paths that live until the sixth one after. */
static const char *
in_dir(const char *name)
{
	static char path[6][128];
	static unsigned next;
	char *p = path[next++ % 6];

	snprintf(p, sizeof(path[0]), "%s/%s", dir, name);
	return p;
}

static ino_t
inode_of(const char *name)
{
	struct stat st;

	return lstat(in_dir(name), &st) == 0 ? st.st_ino : 0;
}

static void
put(struct reencrypt_spares *s, const char *name, size_t len)
{
	int fd = open(in_dir(name), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	struct err err = {0};
	char *data = malloc(len);

	memset(data, 'x', len);
	ok(fd >= 0 && fileio_pwrite(fd, data, len, 0) == 0 && reencrypt_spares_add(s, in_dir(name), len, &err) == 0,
	   "%s is a spare", name);
	free(data);
	close(fd);
}

/* tmp, made of what: "" is none. */
static void
take(struct reencrypt_spares *s, const char *tmp, uint64_t len, const char *what)
{
	ino_t want = what[0] != '\0' ? inode_of(what) : 0;
	int fd = reencrypt_spares_take(s, in_dir(tmp), len);
	struct stat st = {0};

	if (want == 0) {
		ok(fd < 0 && inode_of(tmp) == 0, "nothing for %s", tmp);
		return;
	}
	ok(fd >= 0 && fstat(fd, &st) == 0 && st.st_ino == want && inode_of(tmp) == want, "%s becomes %s", what, tmp);
	ok(inode_of(what) == 0, "and has no other name");
	if (fd >= 0) {
		ok(fileio_pwrite(fd, "new", 3, 0) == 0, "and can be written");
		close(fd);
	}
	unlink(in_dir(tmp));
}

static bool disk_fails;

/* In the place of the C library's: an error in writing the file's earlier bytes. */
int
sync_file_range(int fd, off64_t from, off64_t len, unsigned flags)
{
	if (disk_fails) {
		errno = EIO;
		return -1;
	}
	return (int)syscall(SYS_sync_file_range, fd, from, len, flags);
}

int
main(void)
{
	struct reencrypt_spares s = {0};
	struct err err = {0};
	struct stat st;
	char byte = 0;
	int fd;

	if (mkdtemp(dir) == NULL || mkdir(in_dir("one"), 0700) != 0 || mkdir(in_dir("one2"), 0700) != 0)
		return 1;
	take(&s, "one/a.tmp", 10, "");
	put(&s, "one/10", 10);
	put(&s, "one/30", 30);
	put(&s, "one/20", 20);
	put(&s, "one/5", 5);
	take(&s, "one2/a.tmp", 10, "");
	take(&s, "one/a.tmp", 20, "one/20");
	take(&s, "one/a.tmp", 11, "one/30");
	take(&s, "one/a.tmp", 11, "one/10");

	/* the only one left, and somebody has it, too */
	ok(link(in_dir("one/5"), in_dir("one2/kept")) == 0, "a spare has a hard link");
	take(&s, "one/a.tmp", 5, "");
	ok((fd = open(in_dir("one2/kept"), O_RDONLY | O_CLOEXEC)) >= 0 && fileio_pread(fd, &byte, 1, 4) == 1 &&
	       byte == 'x' && fstat(fd, &st) == 0 && st.st_size == 5 && st.st_nlink == 1,
	   "which is left as it was, and alone");
	close(fd);
	is_int(s.n, 0, "none is left");

	/* a name that leads elsewhere */
	ok(symlink(in_dir("one2/kept"), in_dir("one/link")) == 0 &&
	       reencrypt_spares_add(&s, in_dir("one/link"), 5, &err) == 0,
	   "a symbolic link");
	take(&s, "one/a.tmp", 5, "");
	ok(inode_of("one2/kept") != 0 && inode_of("one/link") == 0, "is removed, not followed");

	put(&s, "one/6", 6);
	disk_fails = true;
	take(&s, "one/a.tmp", 6, "");
	disk_fails = false;
	ok(inode_of("one/6") == 0, "one whose earlier bytes cannot be written is removed");

	put(&s, "one/1", 1);
	put(&s, "one/2", 2);
	put(&s, "one/3", 3);
	unlink(in_dir("one/2"));
	is_int(reencrypt_spares_drop(&s, &err), 0, "the rest is dropped, one of them is gone already");
	ok(inode_of("one/1") == 0 && inode_of("one/3") == 0, "and is removed");
	ok(mkdir(in_dir("one/folder"), 0700) == 0 && reencrypt_spares_add(&s, in_dir("one/folder"), 5, &err) == 0,
	   "one that cannot be removed");
	put(&s, "one/4", 4);
	is_int(reencrypt_spares_drop(&s, &err), -1, "is an error");
	is_err(&err, ERR_FAILED, "could not remove file", "which says so");
	ok(inode_of("one/4") == 0, "and the others are removed all the same");
	reencrypt_spares_free(&s);

	rmdir(in_dir("one/folder"));
	rmdir(in_dir("one"));
	unlink(in_dir("one2/kept"));
	rmdir(in_dir("one2"));
	rmdir(dir);
	return tap_done();
}
