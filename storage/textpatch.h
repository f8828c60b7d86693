/*
 * textpatch: the code of one of the server's exported functions, replaced in this process (and what it forks) only.
 *
 * The server calls its own functions directly, so that no preloaded library can take their place by name. Where the
 * layer cannot do without, a jump is written over the function's beginning; the page of program text becomes a private
 * copy of this process. On x86-64 only, and not where a security policy forbids to change program text.
 */
#ifndef STORAGE_TEXTPATCH_H
#define STORAGE_TEXTPATCH_H

#include <stdint.h>

#include "common/err.h"

#define TEXTPATCH_LEN 12 /* mov rax, address; jmp rax */

struct textpatch {
	uint8_t *at; /* NULL: not in place */
	uint8_t saved[TEXTPATCH_LEN];
};

/* Calls of the program's function `name` go to replacement, which must have its type. ERR_REFUSED when the program does
 * not export it, or it is too short, or its code may not be changed; nothing was changed then. */
int textpatch_set(struct textpatch *p, const char *name, void (*replacement)(void), struct err *err);
/* Put the function's own code back. No-op when not in place. */
int textpatch_restore(struct textpatch *p, struct err *err);

#endif
