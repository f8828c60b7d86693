#include "storage/unlock.h"

#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/fileio.h"
#include "storage/fdtable.h"
#include "storage/process.h"
#include "storage/raw.h"
#include "storage/rewind.h"
#include "storage/run.h"
#include "storage/tempfile.h"
#include "storage/walsource.h"
#include "walcrypt/secmem.h"

/*
 * A packed keyset of 128 epochs has 5,248 bytes. The arena holds the keyset and the ciphers' contexts: eight, and one
 * for each epoch. Every child locks it anew, which copies it, so it is no larger than it has to be.
 */
#define PACKED_MAX 8192
#define PACKED_EPOCH_LEN 40
#define ARENA_LEN(packed_len) (8192 + (packed_len) / PACKED_EPOCH_LEN * 1024)

extern char **environ;

struct keys keys, source_keys;

/* BIN/../lib/walcrypt/libwalcrypt-storage.so -> BIN/walcrypt-ctl */
static int
helper_path(char out[static PATH_MAX], struct err *err)
{
	char path[PATH_MAX], *slash;
	Dl_info info;

	if (dladdr((void *)helper_path, &info) == 0 || realpath(info.dli_fname, path) == NULL)
		return err_os(err, errno, "could not find the storage layer's own file");
	for (int i = 0; i < 3; i++)
		if ((slash = strrchr(path, '/')) != NULL)
			*slash = '\0';
	if (snprintf(out, PATH_MAX, "%s/bin/walcrypt-ctl", path) >= PATH_MAX)
		return err_set(err, ERR_FAILED, "the path of walcrypt-ctl is too long");
	return 0;
}

/* The present environment without LD_PRELOAD; the helper is an ordinary program. NULL when out of memory. */
static char **
helper_environ(void)
{
	size_t n = 0, to = 0;
	char **env;

	while (environ[n] != NULL)
		n++;
	env = calloc(n + 1, sizeof(*env));
	if (env == NULL)
		return NULL;
	for (size_t i = 0; i < n; i++)
		if (strncmp(environ[i], "LD_PRELOAD=", 11) != 0)
			env[to++] = environ[i];
	return env;
}

/* Whose keys to fetch. */
struct owner {
	const char *key_dir;
	const char *data_dir; /* NULL while initdb runs and there is nothing to compare with */
	const char *kek;      /* NULL: what the environment says */
};

/* Start the helper with its stdout into out. A postmaster has all signals blocked; the helper must not. */
static int
helper_start(const struct owner *o, int out, pid_t *pid, struct err *err)
{
	char path[PATH_MAX], dir_option[] = "-D", key_option[] = "--key-dir", kek_option[] = "--kek", command[] = "unlock";
	char *argv[9] = {path, command, key_option, (char *)o->key_dir};
	size_t n = 4;
	posix_spawn_file_actions_t files;
	posix_spawnattr_t attr;
	sigset_t none;
	char **env;
	int rc;

	if (o->data_dir != NULL)
		argv[n++] = dir_option, argv[n++] = (char *)o->data_dir;
	if (o->kek != NULL)
		argv[n++] = kek_option, argv[n++] = (char *)o->kek;
	if (helper_path(path, err) != 0)
		return -1;
	if ((env = helper_environ()) == NULL)
		return err_nomem(err);
	sigemptyset(&none);
	posix_spawn_file_actions_init(&files);
	posix_spawn_file_actions_adddup2(&files, out, STDOUT_FILENO);
	posix_spawnattr_init(&attr);
	posix_spawnattr_setsigmask(&attr, &none);
	posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGMASK);
	rc = posix_spawn(pid, path, &files, &attr, argv, env);
	posix_spawnattr_destroy(&attr);
	posix_spawn_file_actions_destroy(&files);
	free(env);
	return rc == 0 ? 0 : err_os(err, rc, "could not run \"%s\"", path);
}

/* The helper prints its own error, so a failing one ends the program without another word. */
static int
fetch(const struct owner *o, uint8_t packed[static PACKED_MAX], size_t *len, struct err *err)
{
	int fds[2], status = 0;
	ssize_t n;
	pid_t pid, waited;

	if (pipe2(fds, O_CLOEXEC) != 0)
		return err_os(err, errno, "could not make a pipe to walcrypt-ctl");
	if (helper_start(o, fds[1], &pid, err) != 0) {
		raw_close(fds[0]);
		raw_close(fds[1]);
		return -1;
	}
	raw_close(fds[1]);
	n = fileio_read(fds[0], packed, PACKED_MAX);
	raw_close(fds[0]);
	while ((waited = waitpid(pid, &status, 0)) < 0 && errno == EINTR)
		;
	if (waited == pid && WIFEXITED(status) && WEXITSTATUS(status) != 0)
		_exit(1);
	if (waited == pid && WIFSIGNALED(status))
		return err_set(err, ERR_FAILED, "walcrypt-ctl unlock was ended by signal %d", WTERMSIG(status));
	if (n < 0)
		return err_set(err, ERR_FAILED, "could not read the keys from walcrypt-ctl unlock");
	*len = (size_t)n;
	return 0;
}

static int
make_keys(struct keys *k, const uint8_t *packed, size_t len, struct err *err)
{
	return (k->set = keyset_unpack(packed, len, err)) != NULL &&
	               (k->page = page_cipher_new(keyset_relation(k->set), err)) != NULL &&
	               (k->wal = wal_cipher_new(k->set, err)) != NULL
	           ? 0
	           : -1;
}

static int
open_keys(const char *key_dir, const char *data_dir, struct err *err)
{
	const struct owner own = {.key_dir = key_dir, .data_dir = data_dir};
	char source_dir[PATH_MAX];
	const struct owner source = {
	    .key_dir = source_dir, .data_dir = rewind_dirs.source, .kek = getenv("WALCRYPT_SOURCE_KEK")};
	uint8_t packed[PACKED_MAX], source_packed[PACKED_MAX];
	size_t len = 0, source_len = 0, arena;
	int rc = -1;

	if (secmem_hook_private_openssl(err) != 0)
		return -1;
	if (fetch(&own, packed, &len, err) != 0)
		goto done;
	arena = ARENA_LEN(len);
	if (rewind_dirs.source_encrypted) {
		if (snprintf(source_dir, sizeof(source_dir), "%s/pg_cryptokeys", rewind_dirs.source) >=
		    (int)sizeof(source_dir)) {
			err_set(err, ERR_USAGE, "the path of the source's key directory is too long");
			goto done;
		}
		if (fetch(&source, source_packed, &source_len, err) != 0)
			goto done;
		arena += ARENA_LEN(source_len);
	}
	if (secmem_init(arena, err) == 0 && make_keys(&keys, packed, len, err) == 0 &&
	    (!rewind_dirs.source_encrypted || make_keys(&source_keys, source_packed, source_len, err) == 0))
		rc = 0;
done:
	secmem_wipe(packed, sizeof(packed));
	secmem_wipe(source_packed, sizeof(source_packed));
	return rc;
}

/* Is there a key directory? Its absence is the mistake that people make, so it gets its own words. */
static void
need_key_dir(const char *key_dir, const char *data_dir)
{
	char live[PATH_MAX];
	struct stat st;
	struct err err;

	if (snprintf(live, sizeof(live), "%s/live", key_dir) < (int)sizeof(live) && stat(live, &st) == 0)
		return;
	if (snprintf(live, sizeof(live), "%s/old", key_dir) < (int)sizeof(live) && stat(live, &st) == 0)
		return; /* a key change was cut off: the helper says what to do */
	err_set(&err, ERR_REFUSED, "data directory \"%s\" is not encrypted: it has no pg_cryptokeys", data_dir);
	err_hint(&err, "Start it without the storage layer (LD_PRELOAD), or make an encrypted directory with "
	               "\"walcrypt-ctl initdb\" or \"walcrypt-ctl build\".");
	process_die(&err);
}

/* Where the passphrase stands that the process was started with: the server copies its environment and keeps the first
 * one, which /proc shows. */
static struct {
	char *value;
	size_t len;
} passphrase;

__attribute__((constructor)) static void
passphrase_find(void)
{
	if ((passphrase.value = getenv("PGENCRYPTIONKEY")) != NULL)
		passphrase.len = strlen(passphrase.value);
}

static void
env_drop(const char *name)
{
	char *value = getenv(name);

	if (value != NULL)
		secmem_wipe(value, strlen(value));
	unsetenv(name);
}

static void
passphrase_drop(void)
{
	if (passphrase.value != NULL)
		secmem_wipe(passphrase.value, passphrase.len);
	env_drop("PGENCRYPTIONKEY");
}

/* The terminal that a key command asked on: the server must not keep it. */
static void
terminal_drop(void)
{
	const char *number = getenv("WALCRYPT_TTY");
	int fd = number != NULL ? (int)strtol(number, NULL, 10) : -1;

	if (fd > STDERR_FILENO && isatty(fd) == 1)
		close(fd);
	env_drop("WALCRYPT_TTY");
}

/* Opens the keys of data_dir, or of WALCRYPT_KEYDIR while initdb runs and there is nothing to compare with. */
static void
unlock_dir(const char *data_dir)
{
	const char *staged = getenv("WALCRYPT_KEYDIR");
	char key_dir[PATH_MAX];
	struct err err;

	if (snprintf(key_dir, sizeof(key_dir), "%s%s", staged != NULL ? staged : data_dir,
	             staged != NULL ? "" : "/pg_cryptokeys") >= (int)sizeof(key_dir)) {
		err_set(&err, ERR_USAGE, "the path of the key directory is too long");
		process_die(&err);
	}
	need_key_dir(key_dir, data_dir);
	if (open_keys(key_dir, staged != NULL ? NULL : data_dir, &err) != 0 || run_map(&err) != 0)
		process_die(&err);
}

void
unlock_server(void)
{
	char data_dir[PATH_MAX - 16];
	struct err err;

	if (keys.set != NULL)
		return;
	if (getcwd(data_dir, sizeof(data_dir)) == NULL) {
		err_os(&err, errno, "could not tell the data directory");
		process_die(&err);
	}
	if (process_learn(&err) != 0 || walsource_init(&err) != 0)
		process_die(&err);
	unlock_dir(data_dir);
	fdtable_root(data_dir);
	/* archive_command, restore_command and their like are ordinary programs */
	env_drop("LD_PRELOAD");
	env_drop("WALCRYPT_KEK");
	env_drop("WALCRYPT_SOURCE_KEK");
	passphrase_drop();
	terminal_drop();
	if (tempfile_init(keyset_relation(keys.set), &err) != 0 || (!process_under_postmaster() && run_begin(&err) != 0))
		process_die(&err);
}

void
unlock_tool(void)
{
	const char *data_dir = getenv("WALCRYPT_DATADIR");
	struct err err;

	if (data_dir == NULL && getenv("WALCRYPT_KEYDIR") == NULL) {
		err_set(&err, ERR_USAGE, "WALCRYPT_DATADIR is not set: the storage layer does not know whose keys to use");
		err_hint(&err, "Run the program with \"walcrypt-ctl exec -D DIRECTORY -- PROGRAM ...\".");
		process_die(&err);
	}
	unlock_dir(data_dir != NULL ? data_dir : "");
	passphrase_drop();
	if (run_begin(&err) != 0)
		process_die(&err);
}
