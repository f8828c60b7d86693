/*
 * settings_intern: walcrypt.ini for the files that make it up: settings.c (sections, load, free), settings_table.c (the
 * options), settings_value.c (one value), settings_check.c (what no single value shows).
 */
#ifndef COMMON_SETTINGS_INTERN_H
#define COMMON_SETTINGS_INTERN_H

#include "common/conf.h"
#include "common/settings.h"

bool settings_name_valid(const char *name);
/* path as it stands if absolute, else below the folder of file; to be freed; NULL: out of memory. */
char *settings_path(const char *file, const char *path);
/* Put value into the option's field of object. line 0: a default of ours, which is always valid. */
int settings_value_set(const struct settings_option *o, void *object, const struct conf *c, unsigned line,
                       const char *value, struct err *err);
void settings_list_free(char **list); /* NULL allowed */

/* The file as a whole; fills in what follows from other values. */
int settings_check(struct settings *s, struct err *err);

#endif
