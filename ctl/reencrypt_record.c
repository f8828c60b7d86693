#include "ctl/reencrypt_record.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/path.h"
#include "ctl/json_record.h"

#define FORMAT 1

static const char *const state_names[] = {"converting", "committing"};

int
reencrypt_record_write(const char *datadir, const struct reencrypt_record *r, struct err *err)
{
	char path[PATH_MAX], identifier[24];

	snprintf(identifier, sizeof(identifier), "%" PRIu64, r->system_identifier);
	if (path_format(path, err, "%s/" REENCRYPT_DIR "/record", datadir) != 0)
		return -1;
	return json_record_write(path,
	                         json_pack("{s:i, s:s, s:s, s:s, s:s, s:b, s:s, s:s}", "format", FORMAT, "state",
	                                   state_names[r->state], "system_identifier", identifier, "from", r->from, "to",
	                                   r->to, "wal", (int)r->wal, "keyset", r->keyset, "preload", r->preload),
	                         err);
}

static bool
record_parse(json_t *root, struct reencrypt_record *r)
{
	const char *state, *identifier, *from, *to, *keyset, *preload;
	int format, wal;

	if (json_unpack(root, "{s:i, s:s, s:s, s:s, s:s, s:b, s:s, s:s !}", "format", &format, "state", &state,
	                "system_identifier", &identifier, "from", &from, "to", &to, "wal", &wal, "keyset", &keyset,
	                "preload", &preload) != 0)
		return false;
	r->state = strcmp(state, state_names[REENCRYPT_COMMITTING]) == 0 ? REENCRYPT_COMMITTING : REENCRYPT_CONVERTING;
	r->system_identifier = strtoull(identifier, NULL, 10);
	r->wal = wal != 0;
	if (strcmp(state, state_names[r->state]) != 0 || strlen(from) >= sizeof(r->from) || strlen(to) >= sizeof(r->to) ||
	    strlen(keyset) >= sizeof(r->keyset) || strlen(preload) >= sizeof(r->preload))
		return false;
	memcpy(r->from, from, strlen(from) + 1);
	memcpy(r->to, to, strlen(to) + 1);
	memcpy(r->keyset, keyset, strlen(keyset) + 1);
	memcpy(r->preload, preload, strlen(preload) + 1);
	return true;
}

int
reencrypt_record_read(const char *datadir, struct reencrypt_record *r, struct err *err)
{
	static const char hint[] = "Nothing was changed. Restore that file from a copy.";
	char path[PATH_MAX];
	json_t *root;
	bool good;
	int there;

	memset(r, 0, sizeof(*r));
	if (path_format(path, err, "%s/" REENCRYPT_DIR "/record", datadir) != 0 ||
	    (there = json_record_read(path, FORMAT, hint, &root, err)) < 0)
		return -1;
	if (there == 0)
		return 0;
	good = record_parse(root, r);
	json_decref(root);
	return good ? 1 : json_record_damaged(path, hint, err);
}
