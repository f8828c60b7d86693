#include "ctl/reencrypt_record.h"

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/durable.h"
#include "common/path.h"

#define FORMAT 1
#define RECORD_MAX 65536

static const char *const state_names[] = {"converting", "committing"};

int
reencrypt_record_write(const char *datadir, const struct reencrypt_record *r, struct err *err)
{
	char path[PATH_MAX], identifier[24], *text;
	json_t *root;
	int result;

	snprintf(identifier, sizeof(identifier), "%" PRIu64, r->system_identifier);
	root = json_pack("{s:i, s:s, s:s, s:s, s:s, s:b, s:s, s:s}", "format", FORMAT, "state", state_names[r->state],
	                 "system_identifier", identifier, "from", r->from, "to", r->to, "wal", (int)r->wal, "keyset",
	                 r->keyset, "preload", r->preload);
	text = root != NULL ? json_dumps(root, JSON_INDENT(2)) : NULL;
	json_decref(root);
	if (text == NULL)
		return err_nomem(err);
	result = path_format(path, err, "%s/" REENCRYPT_DIR "/record", datadir) != 0
	             ? -1
	             : durable_write(path, text, strlen(text), 0600, err);
	free(text);
	return result;
}

static bool
record_parse(const char *text, size_t len, struct reencrypt_record *r, int *format)
{
	const char *state, *identifier, *from, *to, *keyset, *preload;
	json_t *root = json_loadb(text, len, JSON_REJECT_DUPLICATES, NULL);
	bool good = false;
	int wal;

	*format = FORMAT;
	if (root == NULL)
		return false;
	if (json_unpack(root, "{s:i}", "format", format) != 0 || *format != FORMAT ||
	    json_unpack(root, "{s:i, s:s, s:s, s:s, s:s, s:b, s:s, s:s !}", "format", format, "state", &state,
	                "system_identifier", &identifier, "from", &from, "to", &to, "wal", &wal, "keyset", &keyset,
	                "preload", &preload) != 0)
		goto done;
	r->state = strcmp(state, state_names[REENCRYPT_COMMITTING]) == 0 ? REENCRYPT_COMMITTING : REENCRYPT_CONVERTING;
	r->system_identifier = strtoull(identifier, NULL, 10);
	r->wal = wal != 0;
	good = strcmp(state, state_names[r->state]) == 0 && strlen(from) < sizeof(r->from) && strlen(to) < sizeof(r->to) &&
	       strlen(keyset) < sizeof(r->keyset) && strlen(preload) < sizeof(r->preload);
	if (good) {
		memcpy(r->from, from, strlen(from) + 1);
		memcpy(r->to, to, strlen(to) + 1);
		memcpy(r->keyset, keyset, strlen(keyset) + 1);
		memcpy(r->preload, preload, strlen(preload) + 1);
	}
done:
	json_decref(root);
	return good;
}

int
reencrypt_record_read(const char *datadir, struct reencrypt_record *r, struct err *err)
{
	char path[PATH_MAX];
	uint8_t *data;
	size_t len;
	int format;
	bool good;

	memset(r, 0, sizeof(*r));
	if (path_format(path, err, "%s/" REENCRYPT_DIR "/record", datadir) != 0)
		return -1;
	if ((data = durable_read(path, RECORD_MAX, &len, err)) == NULL)
		return err->os_errno == ENOENT ? 0 : -1;
	good = record_parse((const char *)data, len, r, &format);
	free(data);
	if (good)
		return 1;
	if (format != FORMAT)
		return err_set(err, ERR_REFUSED, "\"%s\" has format %d, which this version of walcrypt-ctl does not know", path,
		               format);
	err_set(err, ERR_DAMAGED, "\"%s\" is damaged", path);
	return err_hint(err, "Nothing was changed. Restore that file from a copy.");
}
