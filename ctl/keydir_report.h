/* keydir_report: what a key directory says about itself, fit for people and for programs. */
#ifndef CTL_KEYDIR_REPORT_H
#define CTL_KEYDIR_REPORT_H

#include <jansson.h>
#include <time.h>

#include "keymgr/keydir.h"

/* Text from a key directory, fit for a terminal: it may come from an enemy, so what is not a printable ASCII character
 * becomes a question mark. out has room for len bytes, NUL included; the text is cut there. */
void keydir_text_plain(const char *text, char *out, size_t len);
/* Days since an epoch's "created", at the time now; -1: not a time. */
int keydir_age_days(const char *created, time_t now);
/* The JSON object of `key show` and `key list`; name NULL: none. A new reference, NULL when out of memory. */
json_t *keydir_json(const char *path, const char *name, const struct keydir_info *info);

#endif
