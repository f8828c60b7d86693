/*
 * passphrase: a passphrase from a file, a descriptor or the terminal; never from the command line or the environment,
 * which others can read.
 */
#ifndef KEYMGR_PASSPHRASE_H
#define KEYMGR_PASSPHRASE_H

#include <stdbool.h>
#include <stddef.h>

#include "common/err.h"

#define PASSPHRASE_MAX 1023 /* bytes */
#define PASSPHRASE_NEW_MIN 8

struct passphrase {
	size_t len;
	char text[PASSPHRASE_MAX + 1];
};

struct passphrase_source {
	const char *file;   /* its first line; mode and owner as of a cluster key's file; NULL: not from a file */
	int fd;             /* the first line that comes from this descriptor; below 0: not from one */
	const char *prompt; /* else: asked on the terminal with this, echo off */
	int tty;            /* the terminal; 0: /dev/tty */
	int timeout_ms;     /* longest time to wait for what is typed; 0: any */
};

/*
 * In secmem; passphrase_free. fresh: it is to be a new one: on a terminal it is asked for twice, and fewer than
 * PASSPHRASE_NEW_MIN bytes are refused. ERR_USAGE where there is none (no terminal, empty, too long, two that differ,
 * interrupted), ERR_REFUSED for the file's mode. The terminal is as it was when it returns.
 */
struct passphrase *passphrase_get(const struct passphrase_source *s, bool fresh, struct err *err);
void passphrase_free(struct passphrase *p); /* wipes; NULL allowed */

#endif
