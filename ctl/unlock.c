/*
 * unlock: the storage layer's helper. It runs before a server or a tool touches an encrypted file and writes the packed
 * keyset to the pipe that is its stdout; what goes wrong it says itself, in one line, because the server then does not
 * start.
 */
#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "ctl/command.h"
#include "ctl/layer.h"
#include "walcrypt/secmem.h"

struct unlock_options {
	struct common_options common;
	const char *keydir, *datadir, *kek;
};

static const struct option_def unlock_defs[] = {
    {"key-dir", 0, OPTION_TEXT, offsetof(struct unlock_options, keydir), "DIR", "key directory", 0, 0},
    {"pgdata", 'D', OPTION_TEXT, offsetof(struct unlock_options, datadir), "DIR",
     "data directory that the keys must belong to", 0, 0},
    KEK_OPTION(struct unlock_options, "WALCRYPT_KEK"),
    COMMON_OPTIONS,
    OPTIONS_END};

static int
keyset_send(const struct keyset *ks, struct err *err)
{
	size_t len, sent = 0;
	uint8_t *packed = keyset_pack(ks, &len, err);
	ssize_t n;

	if (packed == NULL)
		return -1;
	while (sent < len) {
		n = write(STDOUT_FILENO, packed + sent, len - sent);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0) {
			err_os(err, errno, "could not hand the keys over");
			break;
		}
		sent += (size_t)n;
	}
	secmem_free(packed);
	return sent == len ? 0 : -1;
}

/* While initdb runs, its staged keys belong to no cluster yet: there is nothing to compare. */
static bool
is_bound(const struct unlock_options *o, const struct keyset *ks)
{
	return o->datadir != NULL && (keyset_system_identifier(ks) != 0 || getenv("WALCRYPT_KEYDIR") == NULL);
}

static int
unlock_run(void *options, const char **args, size_t nargs, struct err *err)
{
	const struct unlock_options *o = options;
	struct keyset *ks = NULL;
	struct source source;
	struct stat st;
	int result = -1;

	(void)args;
	(void)nargs;
	if (o->keydir == NULL)
		return err_set(err, ERR_USAGE, "--key-dir is missing");
	/* keys go into a pipe and nowhere else: never onto a terminal or into a file */
	if (fstat(STDOUT_FILENO, &st) != 0 || (!S_ISFIFO(st.st_mode) && !S_ISSOCK(st.st_mode)))
		return err_set(err, ERR_REFUSED, "unlock is run by the storage layer, with a pipe for its output");
	if (source_find(&source, o->common.config, o->kek, o->datadir, NULL, err) != 0)
		return -1;
	if ((ks = source_open(&source, o->keydir, err)) != NULL &&
	    (!is_bound(o, ks) || keyset_check_datadir(ks, o->datadir, err) == 0) && keyset_send(ks, err) == 0)
		result = 0;
	keyset_free(ks);
	source_free(&source);
	return result;
}

const struct command command_unlock = {
    .name = "unlock",
    .arguments = "--key-dir DIR [-D DIR]",
    .options = unlock_defs,
    .run = unlock_run,
    .audit = AUDIT_IF_WRITABLE,
};
_Static_assert(sizeof(struct unlock_options) <= COMMAND_OPTIONS_MAX, "options fit");
