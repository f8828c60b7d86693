/*
 * reencrypt_spare: old files whose new ones are whole and durable, kept to be written over as the next new files: so
 * blocks are neither freed nor allocated, and what they held under the old key is overwritten.
 *
 * A spare keeps its name X, which beside X.walcrypt-new means "to be removed", until the moment it becomes another
 * file's Y.walcrypt-tmp. Both names say that its bytes are worth nothing, so whichever of them a crash leaves, and
 * whatever is in it, a run that goes on removes it. X and Y are in one folder: the fsync that makes Y.walcrypt-new
 * durable takes X away for good, too, and no crash leaves a whole new file under X.
 */
#ifndef CTL_REENCRYPT_SPARE_H
#define CTL_REENCRYPT_SPARE_H

#include <stddef.h>
#include <stdint.h>

#include "common/err.h"

struct reencrypt_spares {
	struct reencrypt_spare *spare;
	size_t n, room;
};

/* path is an old file that nothing needs any more: its new one is durable, name and all. */
int reencrypt_spares_add(struct reencrypt_spares *s, const char *path, uint64_t len, struct err *err);
/* Make the one in tmp's folder that fits len best the file tmp, which must not exist. Its descriptor, or -1: there is
 * none, or none that is ours alone (a hard link: the other name keeps the old file). */
int reencrypt_spares_take(struct reencrypt_spares *s, const char *tmp, uint64_t len);
/* Remove those that are left. All are tried; -1 with the first error. */
int reencrypt_spares_drop(struct reencrypt_spares *s, struct err *err);
/* After that. */
void reencrypt_spares_free(struct reencrypt_spares *s);

#endif
