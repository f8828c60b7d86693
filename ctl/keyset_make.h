/* keyset_make: what every command does that puts a new keyset into the keystore: key init, import, restore. */
#ifndef CTL_KEYSET_MAKE_H
#define CTL_KEYSET_MAKE_H

#include <limits.h>

#include "ctl/source.h"

/* ERR_USAGE when it cannot be a keyset's name. */
int keyset_name_check(const char *name, struct err *err);
/* given: what --system-identifier says; NULL: asked from the configured nodes. */
int system_identifier_find(const char *given, const struct settings *settings, uint64_t *identifier, struct err *err);
/* The keyset NAME's path in the keystore; ERR_REFUSED when there is one. */
int keyset_place(const char *keystore, const char *name, char path[static PATH_MAX], struct err *err);
/* Say that it is made. */
void keyset_made_print(const char *name, const struct keyset *ks, const char *reference);
/* source_prepare for a new key directory; what was made at the provider is said. NULL with err. */
struct kek *source_prepare_new(struct source *source, const char *live, bool create, struct err *err);

#endif
